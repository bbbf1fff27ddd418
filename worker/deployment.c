#include "worker/deployment.h"

#include <stdlib.h>

#include "common/log.h"

static const struct conf_credential *find_credential(const struct conf *conf, const char *name)
{
    for (unsigned i = 0; i < conf->credentials_count; i++)
        if (strcmp(conf->credentials[i].name, name) == 0)
            return &conf->credentials[i];
    return NULL;
}

static bool starts(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* What is wrong with a base URL, NULL if nothing is. */
static const char *check_url(const struct conf *conf, const char *url)
{
    bool http = starts(url, "http://");
    if (!http && !starts(url, "https://"))
        return "base_url does not begin with https:// or http://";
    if (http && !conf->worker.http)
        return "base_url is http: and worker.http does not allow it";
    if (strpbrk(url, "@?# \t\r\n"))
        return "base_url holds a user, a query, a fragment or a blank";
    return NULL;
}

static char *without_last_slash(const char *url)
{
    size_t len = strlen(url);
    while (len && url[len - 1] == '/')
        len--;
    return strndup(url, len);
}

/* *ret_why: NULL when the deployment can be called. ERR_NOMEM. */
static enum err reach(const struct conf *conf, const struct conf_deployment *row, struct deployment *deployment,
                      const char **ret_why)
{
    const struct conf_credential *credential = find_credential(conf, row->credential);
    *ret_why = "its credential is not among the settings";
    if (!credential)
        return ERR_OK;
    *ret_why = check_url(conf, credential->base_url);
    if (*ret_why)
        return ERR_OK;
    deployment->base_url = without_last_slash(credential->base_url);
    if (!deployment->base_url)
        return ERR_NOMEM;
    if (!credential->key_file[0] || !deployment->provider->key_header)
        return ERR_OK;
    enum err e = secret_load(credential->key_file, &deployment->key, ret_why);
    if (e)
        return e == ERR_NOMEM ? e : ERR_OK;
    *ret_why = NULL;
    deployment->key_header = secret_join(deployment->provider->key_header, deployment->key);
    return deployment->key_header ? ERR_OK : ERR_NOMEM;
}

static void release(struct deployment *deployment)
{
    free(deployment->base_url);
    secret_free(&deployment->key);
    secret_free(&deployment->key_header);
}

static enum err load(const struct conf *conf, const struct conf_deployment *row, struct deployment *deployment,
                     const char **ret_why)
{
    *deployment = (struct deployment){
        .name = row->name, .model = row->model, .provider = provider_find(row->provider), .hash = conf_deployment_hash(row)};
    *ret_why = deployment->provider ? NULL : "there is no such provider";
    bool network = deployment->provider && deployment->provider->build;
    return network ? reach(conf, row, deployment, ret_why) : ERR_OK;
}

enum err deployments_load(const struct conf *conf, struct deployments *ret_deployments)
{
    AUTO(deployments_free)
    struct deployments deployments = {.list = calloc(conf->deployments_count + 1, sizeof(struct deployment))};
    if (!deployments.list)
        return ERR_NOMEM;
    for (unsigned i = 0; i < conf->deployments_count; i++) {
        struct deployment *deployment = &deployments.list[deployments.count];
        const char *why = NULL;
        enum err e = load(conf, &conf->deployments[i], deployment, &why);
        if (!e && !why) {
            deployments.count++;
            continue;
        }
        release(deployment);
        if (e)
            return e;
        log_event(LOG_DEPLOYMENT_OFF, "deployment=%s why=%s", log_str(span_str(conf->deployments[i].name)),
                  log_str(span_str(why)));
    }
    *ret_deployments = deployments;
    deployments = (struct deployments){0}; /* NOLINT(clang-analyzer-deadcode.DeadStores): AUTO looks at it */
    return ERR_OK;
}

void deployments_free(struct deployments *deployments)
{
    for (size_t i = 0; i < deployments->count; i++)
        release(&deployments->list[i]);
    free(deployments->list);
    *deployments = (struct deployments){0};
}

const struct deployment *deployments_find(const struct deployments *deployments, struct span name)
{
    for (size_t i = 0; i < deployments->count; i++)
        if (span_is(name, deployments->list[i].name))
            return &deployments->list[i];
    return NULL;
}
