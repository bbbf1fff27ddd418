#include "api/job.h"

#include "common/clock.h"

/* ,"name": */
static void put_key(struct json_out *out, const char *name)
{
    json_lit(out, ",\"");
    json_lit(out, name);
    json_lit(out, "\":");
}

static void put_name(struct json_out *out, const char *name, const char *value)
{
    put_key(out, name);
    if (value[0])
        json_str(out, span_str(value));
    else
        json_lit(out, "null");
}

static void put_text(struct json_out *out, const char *name, struct span value)
{
    put_key(out, name);
    if (value.len)
        json_str(out, value);
    else
        json_lit(out, "null");
}

static void put_time(struct json_out *out, const char *name, msec at)
{
    char text[CLOCK_TEXT_LEN + 1] = "";
    if (at > 0)
        clock_print(at, text);
    put_name(out, name, text);
}

static void put_status(struct json_out *out, unsigned http_status)
{
    if (http_status)
        json_printf(out, ",\"http_status\":%u", http_status);
    else
        json_lit(out, ",\"http_status\":null");
}

static void put_attempt(struct json_out *out, const struct rec_attempt *a)
{
    json_printf(out, "{\"run\":%u", a->run);
    put_text(out, "deployment", a->deployment);
    put_time(out, "started_at", a->started_at);
    put_time(out, "ended_at", a->ended_at);
    if (a->first_token_ms)
        json_printf(out, ",\"first_token_ms\":%u", a->first_token_ms);
    if (a->kind) {
        json_lit(out, ",\"error\":{\"class\":");
        json_str(out, span_str(kind_name(a->kind)));
        put_text(out, "message", a->message);
        put_status(out, a->http_status);
        json_lit(out, "}");
    }
    json_lit(out, "}");
}

static void put_attempts(struct json_out *out, const struct rec_attempt *attempts, uint32_t count)
{
    json_lit(out, ",\"attempts\":[");
    for (uint32_t i = 0; i < count; i++) {
        json_lit(out, i ? "," : "");
        put_attempt(out, &attempts[i]);
    }
    json_lit(out, "]");
}

static void put_id(struct json_out *out, const struct id *id)
{
    char text[ID_TEXT_LEN + 1];
    id_print(id, text);
    json_printf(out, "\"id\":\"%s\"", text);
}

static void put_display(struct json_out *out, struct span display)
{
    if (display.len > 2 && display.data[0] == '{') {
        json_lit(out, ",");
        json_raw(out, span_of(display.data + 1, display.len - 2));
    }
}

static void open_job(struct json_out *out, const struct id *id, unsigned state, unsigned reason, unsigned progress,
                     unsigned priority, struct span queue, unsigned class)
{
    json_lit(out, "{");
    put_id(out, id);
    put_name(out, "status", state_name(state));
    put_name(out, "reason", reason_name(reason));
    json_printf(out, ",\"progress\":%u,\"priority\":%u", progress, priority ? priority : 5);
    put_name(out, "class", class_name(class ? class : CLASS_STANDARD));
    put_text(out, "queue", queue);
}

void job_from_view(struct json_out *out, const struct id *id, const struct rec_view *v, struct span display)
{
    open_job(out, id, v->state, v->reason, v->progress, v->priority, v->queue, v->class);
    put_display(out, display);
    put_time(out, "created_at", v->created_at);
    put_time(out, "started_at", v->started_at);
    put_time(out, "completed_at", 0);
    json_printf(out, ",\"attempt\":%u,\"max_attempts\":%u", v->attempt, v->max_attempts);
    put_time(out, "retry_at", v->retry_at);
    json_lit(out, ",\"result\":null,\"usage\":null,\"error\":null");
    put_attempts(out, v->attempts, v->attempts_count);
    json_lit(out, "}");
}

static void put_usage(struct json_out *out, const struct rec_usage *u)
{
    if (!u->source) {
        json_lit(out, ",\"usage\":null");
        return;
    }
    json_printf(out,
                ",\"usage\":{\"input_tokens\":%u,\"output_tokens\":%u,\"cached_tokens\":%u,\"cost\":null,\"source\":\"%s\"}",
                u->input_tokens, u->output_tokens, u->cached_tokens, usage_name(u->source));
}

static void put_error(struct json_out *out, const struct rec_ended *r)
{
    if (!r->kind || r->state == STATE_COMPLETED || r->state == STATE_CANCELLED) {
        json_lit(out, ",\"error\":null");
        return;
    }
    json_printf(out, ",\"error\":{\"code\":\"%s\",\"class\":\"%s\"", kind_name(r->kind), kind_name(r->kind));
    put_text(out, "message", r->message);
    put_status(out, r->http_status);
    put_text(out, "provider", r->deployment);
    json_lit(out, "}");
}

unsigned job_ended_progress(const struct rec_ended *ended)
{
    return ended->state == STATE_COMPLETED ? 100 : ended->run ? 10 : 0;
}

static void open_ended(struct json_out *out, const struct id *id, const struct rec_ended *r, struct span body)
{
    open_job(out, id, r->state, REASON_NONE, job_ended_progress(r), r->spec.priority, r->spec.queue, r->spec.class);
    put_display(out, span_of(body.data, r->display_bytes));
    put_time(out, "created_at", r->created_at);
    put_time(out, "started_at", r->started_at);
    put_time(out, "completed_at", r->completed_at);
    json_printf(out, ",\"attempt\":%u,\"max_attempts\":%u,\"retry_at\":null", r->attempt, r->spec.max_attempts);
}

enum err job_from_ended(struct json_out *out, const struct id *id, const struct rec_ended *r, struct span body)
{
    if (r->display_bytes > body.len || r->result_bytes > body.len - r->display_bytes)
        return ERR_CORRUPT;
    struct span result = span_of(body.data + r->display_bytes, r->result_bytes);
    if (result.len && json_check(result, NULL)) /* it becomes part of our own JSON */
        return ERR_CORRUPT;
    open_ended(out, id, r, body);
    json_lit(out, ",\"result\":");
    if (result.len)
        json_raw(out, result);
    else
        json_lit(out, "null");
    put_usage(out, &r->usage);
    put_error(out, r);
    put_attempts(out, r->attempts, r->attempts_count);
    json_lit(out, "}");
    return ERR_OK;
}

void job_summary(struct json_out *out, const struct id *id, const struct rec_ended *ended, struct span body)
{
    open_ended(out, id, ended, body);
    put_usage(out, &ended->usage);
    put_error(out, ended);
    json_lit(out, "}");
}

void job_cancelled(struct json_out *out, const struct id *id)
{
    json_lit(out, "{");
    put_id(out, id);
    put_name(out, "status", state_name(STATE_CANCELLED));
    json_lit(out, "}");
}

void job_accepted(struct json_out *out, const struct id *id, unsigned state, unsigned ack)
{
    char text[ID_TEXT_LEN + 1];
    id_print(id, text);
    const char *const parts[] = {"{\"id\":\"",
                                 text,
                                 "\",\"status\":\"",
                                 state_name(state),
                                 "\",\"ack\":\"",
                                 ack_name(ack ? ack : ACK_STORED),
                                 "\",\"urls\":{\"self\":\"/v1/jobs/",
                                 text,
                                 "\",\"events\":\"/v1/jobs/",
                                 text,
                                 "/events\",\"cancel\":\"/v1/jobs/",
                                 text,
                                 "/cancel\"}}"};
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++)
        json_lit(out, parts[i]);
}

const struct job_style job_native = {
    .accepted_status = 202,
    .accepted = job_accepted,
    .view = job_from_view,
    .ended = job_from_ended,
    .cancelled = job_cancelled,
};
