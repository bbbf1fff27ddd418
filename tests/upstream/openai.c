/* OpenAI Chat Completions, and the list of models.
 *
 * A stream is "data:" lines only, without event names; usage comes in one last chunk, only when it
 * was asked for, after the finish reason; "[DONE]" proves the end. */
#include "tests/upstream/protocol.h"

#include <string.h>

/* --- reading ---------------------------------------------------------------------------------- */

/* Text of one part of a message: {"type":"text","text":"…"}; other parts have none. */
static const char *part_text(const cJSON *part)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(part, "text"));
    return text ? text : "";
}

static size_t content_length(const cJSON *content)
{
    const char *text = cJSON_GetStringValue(content);
    if (text)
        return strlen(text);
    size_t n = 0;
    const cJSON *part;
    cJSON_ArrayForEach(part, content) n += strlen(part_text(part));
    return n;
}

static void join_parts(struct ask *a, const cJSON *content)
{
    char *end = a->joined = must_alloc(a->prompt_len + 1);
    const cJSON *part;
    cJSON_ArrayForEach(part, content) end = stpcpy(end, part_text(part));
    *end = '\0';
    a->prompt = a->joined;
}

static const char *read_messages(struct ask *a)
{
    const cJSON *messages = cJSON_GetObjectItemCaseSensitive(a->doc, "messages"), *m, *last = NULL;
    if (!cJSON_IsArray(messages))
        return "'messages' must be an array";
    cJSON_ArrayForEach(m, messages)
    {
        const char *role = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "role"));
        const cJSON *content = cJSON_GetObjectItemCaseSensitive(m, "content");
        if (!role)
            return "every message needs a role";
        a->input_bytes += content_length(content);
        if (strcmp(role, "user") == 0)
            last = content;
    }
    a->prompt_len = content_length(last);
    a->prompt = cJSON_GetStringValue(last);
    if (!a->prompt)
        join_parts(a, last);
    return NULL;
}

static const char *read_chat(struct ask *a, const char *body, size_t len)
{
    a->doc = cJSON_ParseWithLength(body, len);
    if (!cJSON_IsObject(a->doc))
        return "the body is not a JSON object";
    a->model = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(a->doc, "model"));
    if (!a->model)
        return "'model' must be a string";
    a->stream = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(a->doc, "stream"));
    const cJSON *options = cJSON_GetObjectItemCaseSensitive(a->doc, "stream_options");
    a->wants_usage = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(options, "include_usage"));
    const cJSON *tool = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(a->doc, "tools"), 0);
    const cJSON *function = cJSON_GetObjectItemCaseSensitive(tool, "function");
    a->tool = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(function, "name"));
    return read_messages(a);
}

/* --- writing ---------------------------------------------------------------------------------- */

static const char *finish_reason(const struct answer *w)
{
    return w->tool_call ? "tool_calls" : w->cut_short ? "length" : "stop";
}

static void add_usage(struct bytes *out, const struct answer *w)
{
    bytes_puts(out, "{\"prompt_tokens\":");
    bytes_number(out, w->prompt_tokens);
    bytes_puts(out, ",\"completion_tokens\":");
    bytes_number(out, w->completion_tokens);
    bytes_puts(out, ",\"total_tokens\":");
    bytes_number(out, w->prompt_tokens + w->completion_tokens);
    bytes_puts(out, ",\"prompt_tokens_details\":{\"cached_tokens\":0,\"cache_write_tokens\":0},"
                    "\"completion_tokens_details\":{\"reasoning_tokens\":0}}");
}

static void add_tool(struct bytes *out, const struct ask *a, const struct answer *w)
{
    bytes_puts(out, "\"id\":\"call_");
    bytes_number(out, (int64_t)w->number);
    bytes_puts(out, "\",\"type\":\"function\",\"function\":{\"name\":");
    bytes_string(out, a->tool ? a->tool : "lookup");
    bytes_puts(out, ",\"arguments\":\"");
}

/* What every object begins with: identity, kind, time and model. */
static void add_identity(struct bytes *out, const char *object, const struct ask *a, const struct answer *w)
{
    bytes_puts(out, "{\"id\":\"chatcmpl-");
    bytes_number(out, (int64_t)w->number);
    bytes_puts(out, "\",\"object\":\"");
    bytes_puts(out, object);
    bytes_puts(out, "\",\"created\":");
    bytes_number(out, w->created);
    bytes_puts(out, ",\"model\":");
    bytes_string(out, a->model);
}

static void whole_open(struct bytes *out, const struct ask *a, const struct answer *w)
{
    add_identity(out, "chat.completion", a, w);
    bytes_puts(out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",");
    if (w->tool_call) {
        bytes_puts(out, "\"content\":null,\"refusal\":null,\"tool_calls\":[{");
        add_tool(out, a, w);
    } else {
        bytes_puts(out, "\"refusal\":null,\"content\":\"");
    }
}

static void whole_close(struct bytes *out, const struct ask *a, const struct answer *w)
{
    (void)a;
    bytes_puts(out, w->tool_call ? "\"}}]}" : "\"}");
    bytes_puts(out, ",\"finish_reason\":\"");
    bytes_puts(out, finish_reason(w));
    bytes_puts(out, "\"}]");
    if (w->usage) {
        bytes_puts(out, ",\"usage\":");
        add_usage(out, w);
    }
    bytes_puts(out, ",\"service_tier\":\"default\"}");
}

/* One event of a stream: begin, the caller's own part, end. */
static void chunk_begin(struct bytes *out, const struct ask *a, const struct answer *w)
{
    bytes_puts(out, "data: ");
    add_identity(out, "chat.completion.chunk", a, w);
}

static void chunk_end(struct bytes *out, const struct answer *w)
{
    bytes_puts(out, "}");
    bytes_puts(out, w->eol);
    bytes_puts(out, w->eol);
}

/* "usage":null stands in every chunk but the last of a caller who asked for usage. */
static void choice_end(struct bytes *out, const struct ask *a, const struct answer *w)
{
    bytes_puts(out, a->wants_usage && w->usage ? "}],\"usage\":null" : "}]");
    chunk_end(out, w);
}

static void stream_open(struct bytes *out, const struct ask *a, const struct answer *w)
{
    chunk_begin(out, a, w);
    bytes_puts(out, ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":");
    bytes_puts(out, w->tool_call ? "null}" : "\"\"}");
    bytes_puts(out, ",\"finish_reason\":null");
    choice_end(out, a, w);
    if (!w->tool_call)
        return;
    chunk_begin(out, a, w);
    bytes_puts(out, ",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,");
    add_tool(out, a, w);
    bytes_puts(out, "\"}}]},\"finish_reason\":null");
    choice_end(out, a, w);
}

static void token_open(struct bytes *out, const struct ask *a, const struct answer *w)
{
    chunk_begin(out, a, w);
    bytes_puts(out, ",\"choices\":[{\"index\":0,\"delta\":{");
    bytes_puts(out, w->tool_call ? "\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"" : "\"content\":\"");
}

static void token_close(struct bytes *out, const struct ask *a, const struct answer *w)
{
    bytes_puts(out, w->tool_call ? "\"}}]}" : "\"}");
    bytes_puts(out, ",\"finish_reason\":null");
    choice_end(out, a, w);
}

static void stream_end(struct bytes *out, const struct ask *a, const struct answer *w)
{
    chunk_begin(out, a, w);
    bytes_puts(out, ",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"");
    bytes_puts(out, finish_reason(w));
    bytes_puts(out, "\"");
    choice_end(out, a, w);
    if (a->wants_usage && w->usage) {
        chunk_begin(out, a, w);
        bytes_puts(out, ",\"choices\":[],\"usage\":");
        add_usage(out, w);
        chunk_end(out, w);
    }
    bytes_puts(out, "data: [DONE]");
    bytes_puts(out, w->eol);
    bytes_puts(out, w->eol);
}

static void error_object(struct bytes *out, const char *type, const char *code, const char *message)
{
    bytes_puts(out, "{\"error\":{\"message\":");
    bytes_string(out, message);
    bytes_puts(out, ",\"type\":");
    bytes_string(out, type);
    bytes_puts(out, ",\"param\":null,\"code\":");
    bytes_string(out, code);
    bytes_puts(out, "}}");
}

static void stream_error(struct bytes *out, const struct fault *f, const struct answer *w)
{
    bytes_puts(out, "data: ");
    error_object(out, f->type, f->code, f->message);
    bytes_puts(out, w->eol);
    bytes_puts(out, w->eol);
}

static void stream_comment(struct bytes *out, const struct answer *w)
{
    bytes_puts(out, ": keep-alive");
    bytes_puts(out, w->eol);
    bytes_puts(out, w->eol);
}

static void stream_malformed(struct bytes *out, const struct answer *w)
{
    bytes_puts(out, "data: {\"id\":\"chatcmpl-");
    bytes_number(out, (int64_t)w->number);
    bytes_puts(out, "\",\"choices\":[{\"index\":0,\"delta\":{\"cont");
    bytes_puts(out, w->eol);
    bytes_puts(out, w->eol);
}

const struct protocol openai_chat = {
    .method = "POST",
    .path = "/v1/chat/completions",
    .stream_type = "text/event-stream; charset=utf-8",
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

/* The text goes into the description of the one model, so that every fault works here too. */
static void models_open(struct bytes *out, const struct ask *a, const struct answer *w)
{
    (void)a, (void)w;
    bytes_puts(out, "{\"object\":\"list\",\"data\":[{\"id\":\"echo\",\"object\":\"model\",\"created\":1,"
                    "\"owned_by\":\"quern-upstream\",\"description\":\"");
}

static void models_close(struct bytes *out, const struct ask *a, const struct answer *w)
{
    (void)a, (void)w;
    bytes_puts(out, "\"}]}");
}

const struct protocol openai_models = {
    .method = "GET",
    .path = "/v1/models",
    .read = read_nothing,
    .whole_open = models_open,
    .whole_close = models_close,
    .error = error_object,
};
