#include "api/routes.h"

#include "api/dialects/dialects.h"
#include "api/handlers/handlers.h"

static const struct route {
    enum http_method method;
    const char *path; /* {id} stands for one segment */
    handler *handle;
    unsigned role;                    /* bits of enum role_bits, all needed; 0: anyone */
    const struct exchange_form *form; /* how it says what went wrong; NULL: as the native routes do */
} routes[] = {
    {HTTP_POST, "/v1/jobs", handle_submit, MAY_USE, NULL},
    {HTTP_GET, "/v1/jobs", handle_list, MAY_USE, NULL},
    {HTTP_GET, "/v1/history", handle_history, MAY_USE, NULL},
    {HTTP_POST, "/v1/jobs/bulk", handle_bulk, MAY_USE, NULL},
    {HTTP_GET, "/v1/jobs/{id}", handle_show, MAY_USE, NULL},
    {HTTP_DELETE, "/v1/jobs/{id}", handle_delete, MAY_USE, NULL},
    {HTTP_PATCH, "/v1/jobs/{id}", handle_patch, MAY_USE, NULL},
    {HTTP_POST, "/v1/jobs/{id}/cancel", handle_cancel, MAY_USE, NULL},
    {HTTP_POST, "/v1/jobs/{id}/retry", handle_retry, MAY_USE, NULL},
    {HTTP_GET, "/v1/jobs/{id}/events", handle_events, MAY_USE, NULL},
    {HTTP_GET, "/v1/stats", handle_stats, MAY_USE, NULL},
    {HTTP_GET, "/health", handle_health, 0, NULL},
    {HTTP_GET, "/livez", handle_livez, 0, NULL},
    {HTTP_GET, "/readyz", handle_readyz, 0, NULL},

    {HTTP_POST, "/api/chat", handle_queue_submit, MAY_USE, &queue_form},
    {HTTP_GET, "/api/job/{id}", handle_queue_job, MAY_USE, &queue_form},
    {HTTP_GET, "/api/queue/stats", handle_queue_stats, MAY_USE, &queue_form},
    {HTTP_GET, "/stream/status/{id}", handle_queue_stream, MAY_USE, &queue_form},
};

/* *ret_id gets the segment that {id} stood for. */
static bool matches(const char *pattern, struct span path, struct span *ret_id)
{
    size_t at = 0;
    for (; *pattern; pattern++) {
        if (*pattern != '{') {
            if (at == path.len || path.data[at++] != (uint8_t)*pattern)
                return false;
            continue;
        }
        size_t from = at;
        while (at < path.len && path.data[at] != '/')
            at++;
        if (at == from)
            return false;
        *ret_id = span_of(path.data + from, at - from);
        pattern = strchr(pattern, '}');
    }
    return at == path.len;
}

static const char *const method_names[] = {
    [HTTP_GET] = "GET",     [HTTP_HEAD] = "HEAD",     [HTTP_POST] = "POST",       [HTTP_PUT] = "PUT",
    [HTTP_PATCH] = "PATCH", [HTTP_DELETE] = "DELETE", [HTTP_OPTIONS] = "OPTIONS",
};

/* The methods that `path` takes, for Allow; empty: there is no such path. "GET" brings "HEAD". */
static void methods_of(struct span path, char *out, size_t size)
{
    struct span id;
    size_t len = 0;
    out[0] = '\0';
    for (size_t i = 0; i < ARRAY_COUNT(routes); i++) {
        if (!matches(routes[i].path, path, &id))
            continue;
        const char *also = routes[i].method == HTTP_GET ? ", HEAD" : "";
        const char *name = method_names[routes[i].method];
        assert(len + strlen(name) + strlen(also) + 3 <= size);
        len += (size_t)(stpcpy(stpcpy(stpcpy(out + len, len ? ", " : ""), name), also) - (out + len));
    }
}

static void refuse_method(struct exchange *x, const struct request *r, const char *allow)
{
    struct json_out body = {0};
    if (r->method == HTTP_OPTIONS) {
        exchange_reply(x, &(struct reply){.status = 204, .allow = allow});
        return;
    }
    exchange_error_body(x, &(struct fault){.error = ERR_METHOD}, &body);
    exchange_reply(x, &(struct reply){.status = 405, .body = span_of(body.data, body.len), .allow = allow, .final = true});
    json_out_done(&body);
}

static void refuse(struct exchange *x, const struct request *r)
{
    char allow[96];
    if (r->head->options_star) {
        exchange_reply(x, &(struct reply){.status = 204, .allow = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"});
        return;
    }
    methods_of(r->path, allow, sizeof allow);
    if (allow[0])
        refuse_method(x, r, allow);
    else
        exchange_fail_with(x, ERR_NO_ROUTE);
}

static const struct route *find(const struct request *r, struct span *ret_id)
{
    enum http_method method = r->method == HTTP_HEAD ? HTTP_GET : r->method;
    for (size_t i = 0; i < ARRAY_COUNT(routes); i++)
        if (routes[i].method == method && matches(routes[i].path, r->path, ret_id))
            return &routes[i];
    return NULL;
}

void routes_serve(struct api *api, struct exchange *x, const struct request *request)
{
    struct visit visit = {.request = request};
    const struct route *route = find(request, &visit.id);
    if (!route) {
        refuse(x, request);
        return;
    }
    x->form = route->form;
    enum err e = route->role ? auth_check(api->conf, request->head, &visit.caller) : ERR_OK;
    if (!e && (visit.caller.roles & route->role) != route->role)
        e = ERR_FORBIDDEN;
    if (e)
        exchange_fail_with(x, e);
    else
        route->handle(api, x, &visit);
}
