#include "broker/settings.h"

#include <stdio.h>
#include <stdlib.h>

#include "broker/port.h"

void settings_done(struct settings *settings)
{
    free(settings->deployments);
    free(settings->routes);
    free(settings->indexes);
    *settings = (struct settings){0};
}

static void copy_numbers(struct sched_settings *to, const struct conf *conf)
{
    const __typeof__(conf->broker) *b = &conf->broker;
    to->jobs_max = b->jobs_max;
    to->bytes_max = b->bytes_max;
    to->tenant_jobs_max = b->tenant_jobs_max;
    to->tenant_bytes_max = b->tenant_bytes_max;
    to->body_cache_bytes = b->body_cache_bytes;
    to->lease_ms = (msec)b->lease_ms;
    to->heartbeat_ms = MIN(to->heartbeat_ms, to->lease_ms / PORT_SILENCE); /* else healthy workers' leases would lapse */
    to->return_ms = (msec)b->return_ms;
    to->head_start_ms = (msec)b->head_start_ms;
    to->max_wait_ms = (msec)b->max_wait_ms;
    to->timeout_ms = (msec)b->timeout_ms;
    to->backoff_base_ms = (msec)b->backoff_base_ms;
    to->backoff_cap_ms = (msec)b->backoff_cap_ms;
    to->result_ttl_ms = (msec)b->result_ttl_ms;
    to->failed_ttl_ms = (msec)b->failed_ttl_ms;
    to->max_attempts = (uint32_t)b->max_attempts;
    to->crash_max = (uint32_t)b->crash_max;
}

static bool find_deployment(const struct conf *conf, const char *name, uint32_t *ret_index)
{
    for (unsigned i = 0; i < conf->deployments_count; i++)
        if (strcmp(conf->deployments[i].name, name) == 0) {
            *ret_index = i;
            return true;
        }
    return false;
}

static void make_deployments(const struct conf *conf, struct settings *s)
{
    for (unsigned i = 0; i < conf->deployments_count; i++) {
        const struct conf_deployment *row = &conf->deployments[i];
        s->deployments[i] = (struct sched_deployment){.name = row->name,
                                                      .model = row->model,
                                                      .hash = conf_deployment_hash(row),
                                                      .concurrency = (uint32_t)MIN(row->concurrency, UINT32_MAX)};
    }
    s->sched.deployments = s->deployments;
    s->sched.deployments_count = conf->deployments_count;
}

static enum err make_routes(const struct conf *conf, struct settings *s, struct conf_fault *fault)
{
    uint32_t *index = s->indexes;
    for (unsigned i = 0; i < conf->routes_count; i++) {
        const struct conf_route *row = &conf->routes[i];
        s->routes[i] =
            (struct sched_route){.name = row->name, .deployments = index, .deployments_count = row->deployments_count};
        for (unsigned j = 0; j < row->deployments_count; j++)
            if (!find_deployment(conf, row->deployments[j], index++)) {
                snprintf(fault->text, sizeof fault->text, "routes.%s: there is no deployment %s", row->name,
                         row->deployments[j]);
                return ERR_SETTINGS;
            }
    }
    s->sched.routes = s->routes;
    s->sched.routes_count = conf->routes_count;
    return ERR_OK;
}

enum err settings_make(const struct conf *conf, struct settings *ret_settings, struct conf_fault *fault)
{
    struct settings s = {.sched = sched_defaults};
    size_t names = 1;
    for (unsigned i = 0; i < conf->routes_count; i++)
        names += conf->routes[i].deployments_count;
    s.deployments = calloc(conf->deployments_count + 1, sizeof *s.deployments);
    s.routes = calloc(conf->routes_count + 1, sizeof *s.routes);
    s.indexes = calloc(names, sizeof *s.indexes);
    enum err e = s.deployments && s.routes && s.indexes ? ERR_OK : ERR_NOMEM;
    copy_numbers(&s.sched, conf);
    if (e == ERR_OK) {
        make_deployments(conf, &s);
        e = make_routes(conf, &s, fault);
    }
    if (e != ERR_OK) {
        settings_done(&s);
        return e;
    }
    *ret_settings = s;
    return ERR_OK;
}
