#include <stdio.h>

#include "api/handlers/handlers.h"

static void refuse(struct exchange *x, enum err e, const char *param, const char *message)
{
    exchange_fail(x, &(struct fault){.error = e, .param = param, .message = message});
}

static struct query_param *find(struct query_param *params, size_t count, struct span name)
{
    for (size_t i = 0; params && i < count; i++)
        if (span_is(name, params[i].name))
            return &params[i];
    return NULL;
}

static bool read_one(struct exchange *x, struct query_param *params, size_t count, struct span name, struct span value)
{
    uint8_t text[QUERY_VALUE_BYTES];
    size_t len = 0;
    if (name.len < sizeof text && http_unescape(name, true, text, &len)) {
        exchange_fail_with(x, ERR_BAD_REQUEST);
        return false;
    }
    text[MIN(len, sizeof text - 1)] = '\0';
    struct query_param *param = len && utf8_valid(span_of(text, len)) ? find(params, count, span_of(text, len)) : NULL;
    if (!param) {
        refuse(x, ERR_UNKNOWN_FIELD, len && utf8_valid(span_of(text, len)) ? (char *)text : NULL,
               "there is no such query parameter");
        return false;
    }
    if (param->given || value.len >= sizeof text || http_unescape(value, true, text, &len)) {
        refuse(x, ERR_INVALID, param->name, param->given ? "is given twice" : "is not understood");
        return false;
    }
    memcpy(param->value, text, len);
    param->value[len] = '\0';
    param->given = true;
    return true;
}

bool query_read(struct exchange *x, struct span query, struct query_param *params, size_t count)
{
    struct span name, value;
    while (http_next_param(&query, &name, &value))
        if (!read_one(x, params, count, name, value))
            return false;
    return true;
}

bool query_wait(struct api *api, struct exchange *x, const struct query_param *param, msec *ret_wait_ms)
{
    char message[128];
    msec max = (msec)api->conf->api.wait_max_ms;
    *ret_wait_ms = 0;
    if (!param->given || (spec_duration(span_str(param->value), ret_wait_ms) && *ret_wait_ms <= max))
        return true;
    snprintf(message, sizeof message, "must be a time such as 30s or 500ms, at most %lld ms", (long long)max);
    refuse(x, ERR_INVALID, param->name, message);
    return false;
}
