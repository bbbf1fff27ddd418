/* POST /v1/jobs/bulk: many submits in one body, NDJSON or an array, each answered in its place. A line's fault refuses that
 * line only; what was accepted is accepted, whatever becomes of the others. */
#include <stdio.h>
#include <stdlib.h>

#include "api/errand.h"
#include "api/find.h"
#include "api/handlers/handlers.h"
#include "api/handlers/submit.h"
#include "common/clock.h"

#define LINES_MAX 10000

struct line {
    struct bulk *bulk;
    struct asked *asked; /* outstanding, or NULL */
    struct id id;
    enum err error;
    uint8_t state, ack;
    bool existing;
    uint32_t retry_after_ms;
    struct spec_fault *fault; /* more of the error than its code; owned. NULL: nothing */
};

struct bulk {
    const struct server *server;
    struct exchange *x;
    bool array; /* answered as it came */
    bool begun; /* every line was sent: answers may complete it */
    uint32_t count, left;
    struct line lines[];
};

static void bulk_free(struct bulk *bulk)
{
    for (uint32_t i = 0; i < bulk->count; i++) {
        ask_leave(&bulk->lines[i].asked);
        free(bulk->lines[i].fault);
    }
    free(bulk);
}

/* ---- the answer ---- */

static void put_text(struct json_out *out, const char *name, const char *value)
{
    json_printf(out, ",\"%s\":", name);
    if (value && value[0])
        json_str(out, span_str(value));
    else
        json_lit(out, "null");
}

/* As for a single job: the broker's word, else how long the trouble has lasted. */
static msec comeback_ms(const struct line *line)
{
    int status = err_http_status(line->error);
    return line->retry_after_ms             ? line->retry_after_ms
           : status == 429 || status == 503 ? server_patience(line->bulk->server)
                                            : 0;
}

static void put_error(struct json_out *out, const struct line *line)
{
    const struct spec_fault *f = line->fault;
    msec retry_after_ms = comeback_ms(line);
    json_printf(out, "{\"error\":{\"code\":\"%s\"", err_name(line->error));
    put_text(out, "message", f && f->message[0] ? f->message : err_sentence(line->error));
    put_text(out, "param", f ? f->param : NULL);
    if (retry_after_ms)
        json_printf(out, ",\"retry_after_ms\":%lld", (long long)retry_after_ms);
    json_lit(out, "}}");
}

static void put_line(struct json_out *out, const struct line *line)
{
    char id[ID_TEXT_LEN + 1];
    if (line->error) {
        put_error(out, line);
        return;
    }
    id_print(&line->id, id);
    json_printf(out, "{\"id\":\"%s\"", id);
    put_text(out, "status", line->state ? state_name(line->state) : NULL); /* of a key's first job that has ended: ask for it */
    json_printf(out, ",\"ack\":\"%s\"%s}", ack_name(line->ack ? line->ack : ACK_STORED),
                line->existing ? ",\"existing\":true" : "");
}

static void write_lines(struct json_out *out, const struct bulk *bulk)
{
    json_lit(out, bulk->array ? "[" : "");
    for (uint32_t i = 0; i < bulk->count; i++) {
        json_lit(out, bulk->array && i ? "," : "");
        put_line(out, &bulk->lines[i]);
        json_lit(out, bulk->array ? "" : "\n");
    }
    json_lit(out, bulk->array ? "]" : "");
}

static void finish(struct bulk *bulk)
{
    struct exchange *x = bulk->x;
    AUTO(json_out_done) struct json_out out = {0};
    x->left = NULL;
    write_lines(&out, bulk);
    bool array = bulk->array;
    bulk_free(bulk);
    if (out.failed)
        exchange_fail_with(x, ERR_NOMEM); /* what was accepted stays accepted: the callers' keys tell */
    else
        exchange_reply(x, &(struct reply){.status = 200,
                                          .type = array ? "application/json" : "application/x-ndjson",
                                          .body = span_of(out.data, out.len)});
}

static void settle(struct line *line)
{
    struct bulk *bulk = line->bulk;
    if (--bulk->left == 0 && bulk->begun)
        finish(bulk);
}

/* ---- the lines ---- */

/* The fault is kept where there is memory for it; its code always. */
static void keep_fault(struct line *line, enum err error, const struct spec_fault *fault)
{
    line->error = error;
    if (!fault->param[0] && !fault->message[0])
        return;
    line->fault = malloc(sizeof *fault);
    if (line->fault)
        *line->fault = *fault;
}

static void keep_refusal(struct line *line, const struct msg_ack *ack)
{
    struct spec_fault fault = {0};
    const char *param = find_told_param(ack->error);
    snprintf(fault.param, sizeof fault.param, "%s", param ? param : "");
    snprintf(fault.message, sizeof fault.message, "%.*s", SPAN_ARG(ack->detail));
    keep_fault(line, find_told(ack->error), &fault);
    line->retry_after_ms = ack->retry_after_ms;
}

static void on_ack(void *owner, enum err error, const struct frame *frame)
{
    struct line *line = owner;
    line->asked = NULL;
    line->error = error;
    if (!error && frame->ack.error) {
        keep_refusal(line, &frame->ack);
    } else if (!error) {
        const struct msg_ack *ack = &frame->ack;
        line->id = ack->id;
        line->existing = ack->existing;
        line->state = ack->state;
        line->ack = ack->ack;
    }
    settle(line);
}

static void send_line(struct api *api, struct line *line, struct span text, const struct spec_caller *caller)
{
    struct submission *submission = NULL;
    struct spec_fault fault = {0};
    enum err e = spec_read(text, caller, &submission, &fault);
    if (e) {
        keep_fault(line, e, &fault);
        line->bulk->left--;
        return;
    }
    e = errand_name_job(api, caller->tenant, &line->id);
    if (!e)
        e = ask_submit(api->ask, &submission, &line->id, false, on_ack, line, &line->asked);
    submission_free(&submission);
    if (e) {
        line->error = e;
        line->bulk->left--;
    }
}

static bool is_blank(struct span line)
{
    return span_trim(line).len == 0;
}

/* The next line that is not blank; false: there is none. */
static bool next_line(struct span *text, struct span *ret_line)
{
    while (text->len) {
        const uint8_t *end = memchr(text->data, '\n', text->len);
        size_t len = end ? (size_t)(end - text->data) : text->len;
        *ret_line = span_of(text->data, len);
        *text = span_of(text->data + len + (end != NULL), text->len - len - (end != NULL));
        if (!is_blank(*ret_line))
            return true;
    }
    return false;
}

static size_t count_lines(struct span text)
{
    struct span line;
    size_t count = 0;
    while (next_line(&text, &line))
        count++;
    return count;
}

static void send_lines(struct api *api, struct bulk *bulk, struct span text, const struct spec_caller *caller)
{
    struct span line;
    for (uint32_t i = 0; next_line(&text, &line); i++)
        send_line(api, &bulk->lines[i], line, caller);
}

static void send_items(struct api *api, struct bulk *bulk, const cJSON *array, const struct spec_caller *caller)
{
    uint32_t i = 0;
    for (const cJSON *item = array->child; item; item = item->next, i++) {
        AUTO(json_out_done) struct json_out text = {0};
        json_tree(&text, item);
        if (text.failed) {
            bulk->lines[i].error = ERR_NOMEM;
            bulk->left--;
        } else {
            send_line(api, &bulk->lines[i], span_of(text.data, text.len), caller);
        }
    }
}

/* ---- the request ---- */

/* The caller has gone: what is on its way is seen through all the same. */
static void on_left(struct exchange *x, bool gone)
{
    if (gone)
        bulk_free(x->owner);
}

/* NULL: x was answered. */
static struct bulk *begin(struct api *api, struct exchange *x, size_t count, bool array)
{
    char message[96];
    snprintf(message, sizeof message, "must have 1 to %d jobs, and has %zu", LINES_MAX, count);
    if (count == 0 || count > LINES_MAX) {
        exchange_fail(x, &(struct fault){.error = ERR_INVALID, .message = message});
        return NULL;
    }
    struct bulk *bulk = calloc(1, sizeof *bulk + count * sizeof bulk->lines[0]);
    if (!bulk) {
        exchange_fail_with(x, ERR_NOMEM);
        return NULL;
    }
    bulk->server = api->server;
    bulk->x = x;
    bulk->array = array;
    bulk->count = bulk->left = (uint32_t)count;
    for (uint32_t i = 0; i < bulk->count; i++)
        bulk->lines[i].bulk = bulk;
    x->left = on_left;
    x->owner = bulk;
    return bulk;
}

static bool is_ndjson(const struct http_head *head)
{
    return submit_is_type(head, "application/x-ndjson") || submit_is_type(head, "application/jsonl");
}

static void take_array(struct api *api, struct exchange *x, struct span body, const struct spec_caller *caller)
{
    AUTO(json_free) cJSON *root = NULL;
    if (!submit_parse(x, body, &root))
        return;
    if (!cJSON_IsArray(root)) {
        exchange_fail(x, &(struct fault){.error = ERR_INVALID, .message = "the body must be an array of jobs, or NDJSON"});
        return;
    }
    struct bulk *bulk = begin(api, x, (size_t)cJSON_GetArraySize(root), true);
    if (!bulk)
        return;
    send_items(api, bulk, root, caller);
    bulk->begun = true;
    if (!bulk->left)
        finish(bulk);
}

static void take_lines(struct api *api, struct exchange *x, struct span body, const struct spec_caller *caller)
{
    struct bulk *bulk = begin(api, x, count_lines(body), false);
    if (!bulk)
        return;
    send_lines(api, bulk, body, caller);
    bulk->begun = true;
    if (!bulk->left)
        finish(bulk);
}

void handle_bulk(struct api *api, struct exchange *x, const struct visit *v)
{
    const struct http_head *head = v->request->head;
    struct spec_caller caller = {.tenant = v->caller.tenant,
                                 .request_id = span_str(x->request_id),
                                 .trace = span_str(x->trace),
                                 .wall_ms = clock_wall()};
    struct span key;
    if (!query_read(x, v->request->query, NULL, 0))
        return;
    if (http_find(head, "idempotency-key", &key, NULL))
        exchange_fail(x, &(struct fault){.error = ERR_INVALID,
                                         .param = "Idempotency-Key",
                                         .message = "is for one job: give each its idempotency_key"});
    else if (is_ndjson(head))
        take_lines(api, x, v->request->body, &caller);
    else if (submit_is_json(head))
        take_array(api, x, v->request->body, &caller);
    else
        exchange_fail_with(x, ERR_MEDIA_TYPE);
}
