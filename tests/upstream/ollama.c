/* Ollama: /api/chat and the list of models.
 *
 * A stream is one JSON object per line; the last one says done: true, why, and the counters. Streaming is what a caller gets
 * who does not say. A tool call comes whole, its arguments as an object, after the tokens, which are then the model's thinking.
 */
#include "tests/upstream/protocol.h"

#include <string.h>
#include <time.h>

/* --- reading ---------------------------------------------------------------------------------- */

static const char *read_messages(struct ask *a)
{
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(a->doc, "messages"), *m;
    if (!cJSON_IsArray(messages))
        return "messages must be an array";
    a->prompt = "";
    cJSON_ArrayForEach(m, messages)
    {
        const char *role = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "role"));
        const char *content = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "content"));
        if (!role || !content)
            return "json: every message needs a role and a content that is a string";
        a->input_bytes += strlen(content);
        if (strcmp(role, "user") == 0)
            a->prompt = content;
    }
    a->prompt_len = strlen(a->prompt);
    return NULL;
}

static const char *read_chat(struct ask *a, const char *body, size_t len)
{
    a->doc = cJSON_ParseWithLength(body, len);
    if (!cJSON_IsObject(a->doc))
        return "invalid JSON";
    a->model = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(a->doc, "model"));
    if (!a->model)
        return "model is required";
    a->stream = !cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(a->doc, "stream"));
    const cJSON *tool = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(a->doc, "tools"), 0);
    const cJSON *function = cJSON_GetObjectItemCaseSensitive(tool, "function");
    a->tool = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(function, "name"));
    return read_messages(a);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* What every object begins with: model, time, and a message up to its first member's text. */
static void add_message(struct bytes *out, const struct ask *a, const struct answer *w, const char *member)
{
    char at[64];
    time_t created = (time_t)w->created;
    struct tm tm;
    if (!strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%S.000000Z", gmtime_r(&created, &tm)))
        at[0] = '\0';
    bytes_puts(out, "{\"model\":");
    bytes_string(out, a->model);
    bytes_puts(out, ",\"created_at\":\"");
    bytes_puts(out, at);
    bytes_puts(out, "\",\"message\":{\"role\":\"assistant\",");
    bytes_puts(out, member);
}

static const char *text_member(const struct answer *w)
{
    return w->tool_call ? "\"content\":\"\",\"thinking\":\"" : "\"content\":\"";
}

static void add_tool(struct bytes *out, const struct ask *a, const struct answer *w)
{
    bytes_puts(out, "\"tool_calls\":[{\"function\":{\"name\":");
    bytes_string(out, a->tool ? a->tool : "lookup");
    bytes_puts(out, ",\"arguments\":{\"call\":");
    bytes_number(out, (int64_t)w->number);
    bytes_puts(out, ",\"model\":");
    bytes_string(out, a->model);
    bytes_puts(out, "}}}]");
}

/* Counters that are zero are left out. */
static void add_done(struct bytes *out, const struct answer *w)
{
    bytes_puts(out, ",\"done\":true,\"done_reason\":\"");
    bytes_puts(out, w->cut_short ? "length" : "stop");
    bytes_puts(out, "\",\"total_duration\":4883583458,\"load_duration\":1334875");
    if (w->usage && w->prompt_tokens) {
        bytes_puts(out, ",\"prompt_eval_count\":");
        bytes_number(out, w->prompt_tokens);
    }
    if (w->usage && w->completion_tokens) {
        bytes_puts(out, ",\"eval_count\":");
        bytes_number(out, w->completion_tokens);
    }
    bytes_puts(out, ",\"eval_duration\":4535599000}");
}

static void whole_open(struct bytes *out, const struct ask *a, const struct answer *w)
{
    add_message(out, a, w, text_member(w));
}

static void whole_close(struct bytes *out, const struct ask *a, const struct answer *w)
{
    bytes_puts(out, "\"");
    if (w->tool_call) {
        bytes_puts(out, ",");
        add_tool(out, a, w);
    }
    bytes_puts(out, "}");
    add_done(out, w);
}

static void stream_open(struct bytes *out, const struct ask *a, const struct answer *w)
{
    (void)out, (void)a, (void)w; /* a stream begins with its first token */
}

static void token_open(struct bytes *out, const struct ask *a, const struct answer *w)
{
    add_message(out, a, w, text_member(w));
}

static void token_close(struct bytes *out, const struct ask *a, const struct answer *w)
{
    (void)a;
    bytes_puts(out, "\"},\"done\":false}");
    bytes_puts(out, w->eol);
}

static void stream_end(struct bytes *out, const struct ask *a, const struct answer *w)
{
    if (w->tool_call) {
        add_message(out, a, w, "\"content\":\"\",");
        add_tool(out, a, w);
        bytes_puts(out, "},\"done\":false}");
        bytes_puts(out, w->eol);
    }
    add_message(out, a, w, "\"content\":\"\"}");
    add_done(out, w);
    bytes_puts(out, w->eol);
}

static void error_object(struct bytes *out, const char *type, const char *code, const char *message)
{
    (void)type, (void)code;
    bytes_puts(out, "{\"error\":");
    bytes_string(out, message);
    bytes_puts(out, "}");
}

static void stream_error(struct bytes *out, const struct fault *f, const struct answer *w)
{
    error_object(out, f->type, f->code, f->message);
    bytes_puts(out, w->eol);
}

/* There are no comments: a blank line is what a parser must skip. */
static void stream_comment(struct bytes *out, const struct answer *w)
{
    bytes_puts(out, w->eol);
}

static void stream_malformed(struct bytes *out, const struct answer *w)
{
    bytes_puts(out, "{\"model\":\"echo\",\"message\":{\"role\":\"assistant\",\"cont");
    bytes_puts(out, w->eol);
}

const struct protocol ollama_chat = {
    .method = "POST",
    .path = "/api/chat",
    .stream_type = "application/x-ndjson",
    .read = read_chat,
    .whole_open = whole_open,
    .whole_close = whole_close,
    .stream_open = stream_open,
    .token_open = token_open,
    .token_close = token_close,
    .stream_end = stream_end,
    .stream_error = stream_error,
    .stream_comment = stream_comment,
    .stream_malformed = stream_malformed,
    .error = error_object,
};

/* --- the list of models ----------------------------------------------------------------------- */

static const char *read_nothing(struct ask *a, const char *body, size_t len)
{
    (void)body, (void)len;
    a->model = a->prompt = "";
    return NULL;
}

/* The text goes into the family of the one model, so that every fault works here too. */
static void tags_open(struct bytes *out, const struct ask *a, const struct answer *w)
{
    (void)a, (void)w;
    bytes_puts(out, "{\"models\":[{\"name\":\"echo:latest\",\"model\":\"echo:latest\",\"size\":1,\"digest\":\"0\","
                    "\"details\":{\"format\":\"gguf\",\"family\":\"");
}

static void tags_close(struct bytes *out, const struct ask *a, const struct answer *w)
{
    (void)a, (void)w;
    bytes_puts(out, "\"}}]}");
}

const struct protocol ollama_tags = {
    .method = "GET",
    .path = "/api/tags",
    .read = read_nothing,
    .whole_open = tags_open,
    .whole_close = tags_close,
    .error = error_object,
};
