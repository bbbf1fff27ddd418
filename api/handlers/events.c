/* GET /v1/jobs/{id}/events */
#include "api/handlers/handlers.h"
#include "api/stream.h"

/* Where to go on. The header is what an EventSource sends when it comes again, while its URL still says where it began: so the
 * header wins. false: x was answered. */
static bool read_position(struct exchange *x, const struct http_head *head, const struct query_param *after,
                          struct position *ret_position)
{
    struct span last = {0};
    unsigned count = 0;
    (void)http_find(head, "last-event-id", &last, &count);
    bool from_query = !last.len && after->given;
    struct span text = from_query ? span_str(after->value) : last;
    *ret_position = (struct position){0};
    if (count <= 1 && ((!text.len && !from_query) || position_parse(text, ret_position)))
        return true;
    exchange_fail(x, &(struct fault){.error = ERR_BAD_REQUEST,
                                     .param = from_query ? "after" : "Last-Event-ID",
                                     .message = count > 1 ? "is given twice" : "must be a position such as 2-8841"});
    return false;
}

void handle_events(struct api *api, struct exchange *x, const struct visit *v)
{
    struct query_param params[] = {{.name = "after"}};
    struct position from;
    if (query_read(x, v->request->query, params, ARRAY_COUNT(params)) && read_position(x, v->request->head, &params[0], &from))
        stream_open(api, x, v->caller.tenant, v->id, &from, &stream_sse);
}
