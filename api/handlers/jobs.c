/* GET, PATCH and DELETE /v1/jobs/{id}, POST /v1/jobs/{id}/cancel and /retry */
#include "api/errand.h"
#include "api/handlers/handlers.h"
#include "api/handlers/submit.h"
#include "common/clock.h"

void handle_show(struct api *api, struct exchange *x, const struct visit *v)
{
    struct query_param params[] = {{.name = "wait"}};
    msec wait_ms;
    if (query_read(x, v->request->query, params, ARRAY_COUNT(params)) && query_wait(api, x, &params[0], &wait_ms))
        errand_start(api, x, v->caller.tenant, ERRAND_SHOW, v->id, wait_ms, &job_native);
}

void handle_cancel(struct api *api, struct exchange *x, const struct visit *v)
{
    if (query_read(x, v->request->query, NULL, 0))
        errand_start(api, x, v->caller.tenant, ERRAND_CANCEL, v->id, 0, &job_native);
}

void handle_delete(struct api *api, struct exchange *x, const struct visit *v)
{
    struct query_param params[] = {{.name = "forget"}};
    if (!query_read(x, v->request->query, params, ARRAY_COUNT(params)))
        return;
    bool forget = strcmp(params[0].value, "1") == 0 || strcmp(params[0].value, "true") == 0;
    if (params[0].given && !forget) {
        exchange_fail(x, &(struct fault){.error = ERR_INVALID, .param = "forget", .message = "must be 1, or not given"});
        return;
    }
    errand_start(api, x, v->caller.tenant, forget ? ERRAND_FORGET : ERRAND_CANCEL, v->id, 0, &job_native);
}

void handle_retry(struct api *api, struct exchange *x, const struct visit *v)
{
    if (query_read(x, v->request->query, NULL, 0))
        errand_start(api, x, v->caller.tenant, ERRAND_RETRY, v->id, 0, &job_native);
}

void handle_patch(struct api *api, struct exchange *x, const struct visit *v)
{
    struct spec_caller caller = {.tenant = v->caller.tenant, .wall_ms = clock_wall()};
    struct spec_fault fault;
    struct spec_change change;
    if (!query_read(x, v->request->query, NULL, 0))
        return;
    enum err e =
        submit_is_json(v->request->head) ? spec_read_change(v->request->body, &caller, &change, &fault) : ERR_MEDIA_TYPE;
    if (e == ERR_MEDIA_TYPE)
        exchange_fail_with(x, e);
    else if (e)
        submit_refuse(x, e, &fault);
    else
        errand_patch(api, x, v->caller.tenant, v->id, change.priority, change.deadline, &job_native);
}
