/* The queue front end: a prompt with a conversation's history becomes a job; its state is one of the five words that queue
 * libraries for browsers know. Shapes: API.md, section 3.
 *
 *   waiting    pending, whatever the reason, but for …
 *   delayed    … scheduled, and retrying
 *   active     processing
 *   completed
 *   failed     failed, cancelled, expired */
#include "api/dialects/dialects.h"

#include <inttypes.h>
#include <stdio.h>

#include "api/errand.h"
#include "api/handlers/handlers.h"
#include "api/handlers/stats.h"
#include "api/handlers/submit.h"
#include "api/stream.h"

static const char *state_word(unsigned state, unsigned reason)
{
    switch (state) {
    case STATE_PENDING:
        return reason == REASON_SCHEDULED ? "delayed" : "waiting";
    case STATE_RETRYING:
        return "delayed";
    case STATE_PROCESSING:
        return "active";
    case STATE_COMPLETED:
        return "completed";
    default:
        return "failed";
    }
}

static void open_job(struct json_out *out, const struct id *id, const char *state, unsigned progress)
{
    char text[ID_TEXT_LEN + 1];
    id_print(id, text);
    json_printf(out, "\"jobId\":\"%s\",\"state\":\"%s\",\"progress\":%u", text, state, progress);
}

/* --- one job --- */

static void write_accepted(struct json_out *out, const struct id *id, unsigned state, unsigned ack)
{
    char text[ID_TEXT_LEN + 1];
    id_print(id, text);
    json_printf(out, "{\"success\":true,\"jobId\":\"%s\",\"message\":\"Task queued successfully\"}", text);
}

static void write_view(struct json_out *out, const struct id *id, const struct rec_view *view, struct span display)
{
    json_lit(out, "{");
    open_job(out, id, state_word(view->state, view->reason), view->progress);
    json_lit(out, ",\"result\":null}");
}

/* What there is to say of a job that did not complete. */
static void put_failure(struct json_out *out, const struct rec_ended *ended)
{
    json_lit(out, "{\"success\":false,\"error\":");
    json_str(out, ended->message.len             ? ended->message
                  : ended->state != STATE_FAILED ? span_str(state_name(ended->state))
                                                 : span_str(kind_name(ended->kind)));
}

/* result: the job's result JSON, of which the content is shown. */
static enum err put_result(struct json_out *out, const struct rec_ended *ended, struct span result)
{
    AUTO(json_free) cJSON *tree = NULL;
    json_lit(out, ",\"result\":");
    if (ended->state != STATE_COMPLETED) {
        put_failure(out, ended);
    } else {
        enum err e = json_parse(result, &tree, NULL);
        if (e)
            return e == ERR_NOMEM ? e : ERR_CORRUPT;
        const char *content = json_text(tree, "content");
        json_lit(out, "{\"success\":true,\"response\":");
        json_str(out, span_str(content ? content : ""));
    }
    json_printf(out, ",\"timestamp\":%lld}", (long long)ended->completed_at);
    return ERR_OK;
}

static enum err put_ended(struct json_out *out, const struct id *id, const struct rec_ended *ended, struct span body)
{
    if (ended->display_bytes > body.len || ended->result_bytes > body.len - ended->display_bytes)
        return ERR_CORRUPT;
    open_job(out, id, state_word(ended->state, REASON_NONE), job_ended_progress(ended));
    return put_result(out, ended, span_of(body.data + ended->display_bytes, ended->result_bytes));
}

static enum err write_ended(struct json_out *out, const struct id *id, const struct rec_ended *ended, struct span body)
{
    json_lit(out, "{");
    enum err e = put_ended(out, id, ended, body);
    json_lit(out, "}");
    return e;
}

static const struct job_style job_queue = {
    .accepted_status = 200,
    .accepted = write_accepted,
    .view = write_view,
    .ended = write_ended,
};

void handle_queue_job(struct api *api, struct exchange *x, const struct visit *v)
{
    if (query_read(x, v->request->query, NULL, 0))
        errand_start(api, x, v->caller.tenant, ERRAND_SHOW, v->id, 0, &job_queue);
}

/* --- submitting --- */

struct chat {
    const cJSON *prompt, *user, *history, *priority;
};

static bool refuse(struct exchange *x, enum err e, const char *param, const char *message)
{
    exchange_fail(x, &(struct fault){.error = e, .param = param, .message = message});
    return false;
}

/* false: x was answered. */
static bool read_chat(struct exchange *x, const cJSON *root, struct chat *chat)
{
    const struct {
        const char *name;
        const cJSON **value;
    } fields[] = {{"prompt", &chat->prompt},
                  {"userId", &chat->user},
                  {"conversationHistory", &chat->history},
                  {"priority", &chat->priority}};
    if (!cJSON_IsObject(root))
        return refuse(x, ERR_INVALID, NULL, "the body must be an object");
    for (const cJSON *v = root->child; v; v = v->next) {
        size_t i = 0;
        while (i < ARRAY_COUNT(fields) && strcmp(v->string, fields[i].name) != 0)
            i++;
        if (i == ARRAY_COUNT(fields))
            return refuse(x, ERR_UNKNOWN_FIELD, v->string, "there is no such field");
        *fields[i].value = v;
    }
    if (!cJSON_IsString(chat->prompt) || !chat->prompt->valuestring[0])
        return refuse(x, ERR_INVALID, "prompt", "must be a string that is not empty");
    if (chat->history && !cJSON_IsArray(chat->history))
        return refuse(x, ERR_INVALID, "conversationHistory", "must be an array of messages");
    return true;
}

/* The same as a native submit: the history's messages, then the prompt as the user's. */
static void write_native(struct json_out *out, const struct chat *chat)
{
    json_lit(out, "{\"messages\":[");
    for (const cJSON *m = chat->history ? chat->history->child : NULL; m; m = m->next) {
        json_tree(out, m);
        json_lit(out, ",");
    }
    json_lit(out, "{\"role\":\"user\",\"content\":");
    json_str(out, span_str(chat->prompt->valuestring));
    json_lit(out, "}]");
    if (chat->user) {
        json_lit(out, ",\"user_id\":");
        json_tree(out, chat->user);
    }
    if (chat->priority) {
        json_lit(out, ",\"priority\":");
        json_tree(out, chat->priority);
    }
    json_lit(out, "}");
}

static void rename_field(char *param, size_t size)
{
    char native[160];
    snprintf(native, sizeof native, "%s", param);
    if (strncmp(native, "messages", 8) == 0)
        snprintf(param, size, "conversationHistory%.120s", native + 8);
    else if (strcmp(native, "user_id") == 0)
        snprintf(param, size, "userId");
}

void handle_queue_submit(struct api *api, struct exchange *x, const struct visit *v)
{
    AUTO(json_free) cJSON *root = NULL;
    AUTO(json_out_done) struct json_out native = {0};
    struct chat chat = {0};
    if (!query_read(x, v->request->query, NULL, 0))
        return;
    if (!submit_is_json(v->request->head)) {
        exchange_fail_with(x, ERR_MEDIA_TYPE);
        return;
    }
    if (!submit_parse(x, v->request->body, &root) || !read_chat(x, root, &chat))
        return;
    write_native(&native, &chat);
    if (native.failed) {
        exchange_fail_with(x, ERR_NOMEM);
        return;
    }
    submit_job(api, x, v,
               &(struct submit_way){.body = span_of(native.data, native.len), .style = &job_queue, .rename = rename_field});
}

/* --- numbers --- */

static void write_stats(struct json_out *out, const struct msg_stats_answer *s)
{
    uint64_t waiting = stats_number(s, "waiting"), active = stats_number(s, "active"),
             failed = stats_number(s, "failed") + stats_number(s, "cancelled") + stats_number(s, "expired");
    json_printf(out,
                "{\"waiting\":%" PRIu64 ",\"active\":%" PRIu64 ",\"completed\":%" PRIu64 ",\"failed\":%" PRIu64
                ",\"total\":%" PRIu64 "}",
                waiting, active, stats_number(s, "completed"), failed, waiting + active);
}

void handle_queue_stats(struct api *api, struct exchange *x, const struct visit *v)
{
    if (query_read(x, v->request->query, NULL, 0))
        stats_ask(api, x, v->caller.tenant, write_stats);
}

/* --- following --- */

static void open_status(struct json_out *out)
{
    json_lit(out, "data: {\"type\":\"status\",");
}

static void say_status(struct json_out *out, const struct stream_place *place, const struct stream_status *s)
{
    open_status(out);
    open_job(out, place->id, state_word(s->state, s->reason), s->progress);
    json_lit(out, "}\n\n");
}

static void say_progress(struct json_out *out, const struct stream_place *place, unsigned percent)
{
    open_status(out);
    open_job(out, place->id, "active", percent);
    json_lit(out, "}\n\n");
}

static enum err say_done(struct json_out *out, const struct stream_place *place, const struct rec_ended *ended,
                         struct span body)
{
    open_status(out);
    enum err e = put_ended(out, place->id, ended, body);
    json_lit(out, "}\n\n");
    return e;
}

static const struct stream_style stream_queue = {
    .type = "text/event-stream",
    .beat = ":\n\n",
    .status = say_status,
    .progress = say_progress,
    .done = say_done,
};

void handle_queue_stream(struct api *api, struct exchange *x, const struct visit *v)
{
    if (query_read(x, v->request->query, NULL, 0))
        stream_open(api, x, v->caller.tenant, v->id, &(struct position){0}, &stream_queue);
}

/* --- what went wrong --- */

static void write_fault(struct json_out *out, const struct exchange *x, const struct fault *f)
{
    json_lit(out, "{\"success\":false,\"error\":");
    json_str(out, span_str(f->message ? f->message : err_sentence(f->error)));
    json_printf(out, ",\"code\":\"%s\"", err_name(f->error));
    exchange_put_fault(out, x, f);
    json_lit(out, "}");
}

const struct exchange_form queue_form = {.fault = write_fault};
