/* Who is calling. Without keys in the settings the api is open: whatever key or token a caller shows, or none, it is tenant
 * `default` and may do everything. Tenant, role and scopes never come from the body. */
#pragma once

#include "api/http.h"
#include "common/conf.h"

/* What a route may ask for; a caller holds a set. */
enum role_bits {
    MAY_USE = 1 << 0,     /* submit, read and cancel the tenant's own jobs */
    MAY_OPERATE = 1 << 1, /* approve, pause, drain */
    MAY_ADMIN = 1 << 2,   /* keys, settings, numbers of all tenants */
};

struct caller {
    struct span tenant; /* at most PROTO_TENANT_BYTES; lent for the handler's call */
    unsigned roles;
};

/* ERR_UNAUTHENTICATED: a key is needed, or the one shown is none of ours. */
MUST_USE enum err auth_check(const struct conf *conf, const struct http_head *head, struct caller *ret_caller);
