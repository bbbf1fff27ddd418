/* POST /v1/jobs */
#include "api/errand.h"
#include "api/handlers/handlers.h"
#include "common/clock.h"

/* application/json, whatever its parameters; or no type at all, unless a web page sent it: a page of another site may post
 * forms and untyped bodies to us without asking, but its browser says so in Origin. */
static bool is_json(const struct http_head *head)
{
    struct span type, origin;
    if (!http_find(head, "content-type", &type, NULL))
        return !http_find(head, "origin", &origin, NULL);
    const uint8_t *semicolon = type.len ? memchr(type.data, ';', type.len) : NULL;
    if (semicolon)
        type.len = (size_t)(semicolon - type.data);
    return http_same(span_trim(type), "application/json");
}

static void refuse(struct exchange *x, enum err e, const struct spec_fault *fault)
{
    exchange_fail(x, &(struct fault){.error = e,
                                     .param = fault->param[0] ? fault->param : NULL,
                                     .message = fault->message[0] ? fault->message : NULL});
}

void handle_submit(struct api *api, struct exchange *x, const struct visit *v)
{
    struct query_param params[] = {{.name = "wait"}};
    const struct http_head *head = v->request->head;
    msec wait_ms;
    if (!is_json(head)) {
        exchange_fail_with(x, ERR_MEDIA_TYPE);
        return;
    }
    if (!query_read(x, v->request->query, params, ARRAY_COUNT(params)) || !query_wait(api, x, &params[0], &wait_ms))
        return;

    struct spec_caller caller = {.tenant = v->caller.tenant,
                                 .request_id = span_str(x->request_id),
                                 .trace = span_str(x->trace),
                                 .wall_ms = clock_wall()};
    struct spec_fault fault = {.param = "Idempotency-Key", .message = "is given twice"};
    struct submission *submission = NULL;
    unsigned keys = 0;
    (void)http_find(head, "idempotency-key", &caller.idempotency_key, &keys);
    enum err e = keys > 1 ? ERR_INVALID : spec_read(v->request->body, &caller, &submission, &fault);
    if (e)
        refuse(x, e, &fault);
    else
        errand_submit(api, x, v->caller.tenant, &submission, wait_ms);
}
