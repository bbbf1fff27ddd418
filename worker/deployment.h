/* The deployments this child can call: settings, adapter and key together. One that lacks something is left out, with a line in
 * the log that says what; the others are served. */
#pragma once

#include "common/conf.h"
#include "worker/providers.h"
#include "worker/secret.h"

struct deployment {
    const char *name, *model; /* model: asked for instead of the job's when not empty */
    const struct provider *provider;
    char *base_url;                  /* without a slash at its end; NULL for an adapter without a network */
    struct secret *key, *key_header; /* NULL: no key is sent */
    uint64_t hash;                   /* conf_deployment_hash */
};

struct deployments {
    struct deployment *list;
    size_t count;
};

/* conf is lent until deployments_free. ERR_NOMEM. */
MUST_USE enum err deployments_load(const struct conf *conf, struct deployments *ret_deployments);
void deployments_free(struct deployments *deployments);

/* NULL: not served. */
const struct deployment *deployments_find(const struct deployments *deployments, struct span name);
