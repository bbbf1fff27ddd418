/* POST /v1/jobs */
#include "api/handlers/submit.h"

#include "api/errand.h"
#include "api/handlers/handlers.h"
#include "common/clock.h"

bool submit_is_type(const struct http_head *head, const char *wanted)
{
    struct span type;
    if (!http_find(head, "content-type", &type, NULL))
        return false;
    const uint8_t *semicolon = type.len ? memchr(type.data, ';', type.len) : NULL;
    if (semicolon)
        type.len = (size_t)(semicolon - type.data);
    return http_same(span_trim(type), wanted);
}

bool submit_is_json(const struct http_head *head)
{
    struct span type, origin;
    if (!http_find(head, "content-type", &type, NULL))
        return !http_find(head, "origin", &origin, NULL);
    return submit_is_type(head, "application/json");
}

void submit_refuse(struct exchange *x, enum err e, const struct spec_fault *fault)
{
    exchange_fail(x, &(struct fault){.error = e,
                                     .param = fault->param[0] ? fault->param : NULL,
                                     .message = fault->message[0] ? fault->message : NULL});
}

bool submit_parse(struct exchange *x, struct span body, cJSON **ret_root)
{
    struct json_fault json = {0};
    struct spec_fault fault = {0};
    enum err e = json_parse(body, ret_root, &json);
    if (e == ERR_BAD_JSON)
        spec_say_json(&fault, &json);
    if (e)
        submit_refuse(x, e, &fault);
    return !e;
}

void submit_job(struct api *api, struct exchange *x, const struct visit *v, const struct submit_way *way)
{
    struct spec_caller caller = {.tenant = v->caller.tenant,
                                 .request_id = span_str(x->request_id),
                                 .trace = span_str(x->trace),
                                 .wall_ms = clock_wall()};
    struct spec_fault fault = {.param = "Idempotency-Key", .message = "is given twice"};
    struct submission *submission = NULL;
    unsigned keys = 0;
    (void)http_find(v->request->head, "idempotency-key", &caller.idempotency_key, &keys);
    enum err e = keys > 1 ? ERR_INVALID : spec_read(way->body, &caller, &submission, &fault);
    if (!e) {
        errand_submit(api, x, v->caller.tenant, &submission, way->wait_ms, way->style);
        return;
    }
    if (way->rename)
        way->rename(fault.param, sizeof fault.param);
    submit_refuse(x, e, &fault);
}

void handle_submit(struct api *api, struct exchange *x, const struct visit *v)
{
    struct query_param params[] = {{.name = "wait"}};
    struct submit_way way = {.body = v->request->body, .style = &job_native};
    if (!submit_is_json(v->request->head))
        exchange_fail_with(x, ERR_MEDIA_TYPE);
    else if (query_read(x, v->request->query, params, ARRAY_COUNT(params)) && query_wait(api, x, &params[0], &way.wait_ms))
        submit_job(api, x, v, &way);
}
