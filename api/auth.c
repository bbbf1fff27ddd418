#include "api/auth.h"

enum err auth_check(const struct conf *conf, const struct http_head *head, struct caller *ret_caller)
{
    *ret_caller = (struct caller){.tenant = span_str("default"), .roles = MAY_USE | MAY_OPERATE | MAY_ADMIN};
    return ERR_OK;
}
