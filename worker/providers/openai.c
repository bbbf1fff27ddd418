/* openai: POST /chat/completions, as OpenAI (platform.openai.com/docs/api-reference/chat, read 2026-11-20) and the many servers
 * that speak it do: DeepSeek, OpenRouter, vLLM, Azure, llama.cpp, Ollama's /v1. What they do differently is said where it is
 * met.
 *
 * A stream is whole when a finish_reason and then [DONE] have come; nothing else proves it. An answer in one piece is whole
 * when its JSON is. Any object with a non-null `error` is a failure, also under status 200 and amid a stream. */
#include <stdlib.h>
#include <stdio.h>

#include "worker/answer.h"
#include "worker/providers.h"
#include "worker/sse.h"

struct openai {
    bool stream; /* how the answer comes; the reply's Content-Type decides */
    bool done;   /* [DONE] */
    struct sse sse;
    struct json_out whole; /* an answer in one piece */
    struct answer answer;
    struct provider_usage usage;
    /* lent to the parser's callback during feed and end */
    const struct provider_sink *sink;
    struct provider_failure *failure;
};

static const struct span none = {0};

static void *create(const struct provider_call *call)
{
    struct openai *openai = calloc(1, sizeof *openai);
    if (!openai)
        return NULL;
    openai->stream = call->stream;
    answer_init(&openai->answer, call);
    sse_init(&openai->sse, 0);
    return openai;
}

static void destroy(void *state)
{
    struct openai *openai = state;
    sse_done(&openai->sse);
    json_out_done(&openai->whole);
    answer_done(&openai->answer);
    free(openai);
}

/* ---- the request ---- */

static bool reserved(const char *name)
{
    static const char *const names[] = {"model", "messages", "stream", "stream_options"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Several answers to one request would be paid and then dropped. */
static bool asks_for_several(const cJSON *params)
{
    const cJSON *n = json_get(params, "n");
    return cJSON_IsNumber(n) && n->valuedouble > 1;
}

static void put_messages(struct json_out *body, const cJSON *messages, const char *prompt)
{
    json_lit(body, "\"messages\":");
    if (messages) {
        json_tree(body, messages);
        return;
    }
    json_lit(body, "[{\"role\":\"user\",\"content\":");
    json_str(body, span_str(prompt));
    json_lit(body, "}]");
}

static bool build(void *state, const struct provider_call *call, struct provider_request *request,
                  struct provider_failure *failure)
{
    const cJSON *messages = json_get(call->request, "messages");
    const cJSON *params = json_get(call->request, "params");
    const char *prompt = json_text(call->request, "prompt");
    if (messages ? !cJSON_IsArray(messages) : !prompt)
        return provider_fail(failure, KIND_CLIENT, none, "the request has neither an array of messages nor a prompt");
    if (params && !cJSON_IsObject(params) && !cJSON_IsNull(params))
        return provider_fail(failure, KIND_CLIENT, none, "params must be an object");
    if (cJSON_IsObject(params) && asks_for_several(params))
        return provider_fail(failure, KIND_CLIENT, none, "n above 1 is not supported: submit several jobs");

    struct json_out *body = &request->body;
    snprintf(request->path, sizeof request->path, "/chat/completions");
    json_lit(body, "{\"model\":");
    json_str(body, span_str(call->model));
    json_lit(body, ",");
    put_messages(body, messages, prompt);
    const cJSON *param;
    if (cJSON_IsObject(params))
        cJSON_ArrayForEach(param, params)
        {
            if (reserved(param->string))
                continue;
            json_lit(body, ",");
            json_str(body, span_str(param->string));
            json_lit(body, ":");
            json_tree(body, param);
        }
    if (call->stream)
        json_lit(body, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    json_lit(body, "}");
    if (body->failed)
        return provider_fail(failure, KIND_WORKER, none, "no memory for the request");
    return true;
}

/* ---- errors ---- */

static bool one_of(const char *text, const char *const *names)
{
    for (; text && *names; names++)
        if (strcmp(text, *names) == 0)
            return true;
    return false;
}

static const char *const quota_names[] = {"insufficient_quota",
                                          "credit_balance_exhausted",
                                          "organization_spend_limit_exceeded",
                                          "project_spend_limit_exceeded",
                                          "organization_usage_limit_exceeded",
                                          "billing_hard_limit_reached",
                                          "billing_not_active",
                                          NULL};
static const char *const throttle_names[] = {"rate_limit_exceeded", "rate_limit_error", "slow_down",
                                             "too_many_requests",   "RateLimitError",   NULL};
static const char *const auth_names[] = {"invalid_api_key",        "authentication_error", "permission_error",
                                         "invalid_authentication", "account_deactivated",  NULL};
static const char *const client_names[] = {
    "invalid_request_error",    "context_length_exceeded", "model_not_found", "not_found_error", "content_filter",
    "content_policy_violation", "BadRequestError",         "NotFoundError",   "invalid_prompt",  NULL};

/* status 0: the error came in an answer with status 200. */
static enum kind kind_of_error(unsigned status, const char *type, const char *code, bool retry_after)
{
    if (one_of(code, quota_names) || one_of(type, quota_names))
        return KIND_QUOTA;
    if (code && strcmp(code, "slow_down") == 0) /* was 503 before it was 429 */
        return KIND_THROTTLED;
    if (status)
        return provider_kind_of_status(status, retry_after);
    if (one_of(code, throttle_names) || one_of(type, throttle_names))
        return KIND_THROTTLED;
    if (one_of(code, auth_names) || one_of(type, auth_names))
        return KIND_AUTH;
    if (one_of(code, client_names) || one_of(type, client_names))
        return KIND_CLIENT;
    return KIND_OVERLOAD;
}

/* `code` as a number, or as digits in a string (OpenRouter, vLLM, Azure): an HTTP status. 0 otherwise. */
static unsigned status_of_code(const cJSON *code)
{
    int64_t number = 0;
    if (cJSON_IsString(code) && strlen(code->valuestring) == 3)
        number = strtol(code->valuestring, NULL, 10);
    else if (!json_int(code, &number))
        return 0;
    return number >= 300 && number <= 599 ? (unsigned)number : 0;
}

/* The error object of a reply: {"error":{…}}, {"error":"…"}, vLLM's {"object":"error",…}, {"detail":"…"}. NULL: none. */
static const cJSON *find_error(const cJSON *tree)
{
    if (!cJSON_IsObject(tree))
        return NULL;
    const cJSON *error = json_get(tree, "error");
    if (error && !cJSON_IsNull(error))
        return error;
    const char *object = json_text(tree, "object");
    return object && strcmp(object, "error") == 0 ? tree : NULL;
}

static const char *message_of(const cJSON *error)
{
    if (cJSON_IsString(error))
        return error->valuestring;
    if (!cJSON_IsObject(error))
        return NULL;
    const char *message = json_text(error, "message");
    return message ? message : json_text(error, "detail");
}

/* status: of the reply; 0 when that was a success. evidence: what to show when the error says nothing. Returns false. */
static bool fail_by_error(struct provider_failure *failure, unsigned status, const cJSON *error, bool retry_after,
                          struct span evidence)
{
    const char *type = NULL, *code = NULL, *message = message_of(error);
    unsigned coded = 0;
    if (cJSON_IsObject(error)) {
        type = json_text(error, "type");
        code = json_text(error, "code");
        coded = status ? 0 : status_of_code(json_get(error, "code"));
    }
    enum kind kind = kind_of_error(status ? status : coded, type, code, retry_after);
    struct span said = message && message[0] ? span_str(message) : evidence;
    char words[ANSWER_NAME_MAX];
    provider_text(words, sizeof words, span_str(code ? code : type ? type : ""));
    if (status)
        return provider_fail(failure, kind, said, "HTTP %u%s%s", status, words[0] ? " " : "", words);
    return provider_fail(failure, kind, said, "an error in the answer%s%s", words[0] ? ", " : "", words);
}

static void classify(unsigned status, struct span body, bool retry_after, struct provider_failure *failure)
{
    AUTO(json_free) cJSON *tree = NULL;
    const cJSON *error = NULL;
    if (json_parse(body, &tree, NULL) == ERR_OK) {
        error = find_error(tree);
        if (!error)
            error = tree; /* {"message":…}, {"detail":…} */
    }
    fail_by_error(failure, status, error, retry_after, body);
}

/* ---- the answer ---- */

static bool bad_frame(struct openai *openai, struct span evidence, const char *what)
{
    return provider_bad_frame(openai->failure, evidence, what);
}

static bool no_memory(struct openai *openai)
{
    return provider_fail(openai->failure, KIND_WORKER, none, "no memory for the answer");
}

static bool keep(struct openai *openai, struct json_out *part, struct span text)
{
    return answer_keep(&openai->answer, part, text, openai->failure);
}

static uint64_t count(const cJSON *object, const char *name)
{
    int64_t value;
    const cJSON *item = cJSON_IsObject(object) ? json_get(object, name) : NULL;
    return item && json_int(item, &value) && value > 0 ? (uint64_t)value : 0;
}

/* prompt_tokens contains the cached ones; completion_tokens contains the reasoning. Servers that send usage with every chunk
 * send running totals: the last one counts. */
static void take_usage(struct openai *openai, const cJSON *usage)
{
    if (!cJSON_IsObject(usage) || (!json_get(usage, "prompt_tokens") && !json_get(usage, "completion_tokens")))
        return;
    uint64_t prompt = count(usage, "prompt_tokens");
    uint64_t cached = count(json_get(usage, "prompt_tokens_details"), "cached_tokens");
    if (!cached)
        cached = count(usage, "prompt_cache_hit_tokens"); /* DeepSeek */
    cached = MIN(cached, prompt);
    openai->usage = (struct provider_usage){.known = true,
                                            .input_tokens = prompt - cached,
                                            .cached_tokens = cached,
                                            .output_tokens = count(usage, "completion_tokens")};
}

static bool take_text(struct openai *openai, const cJSON *content)
{
    AUTO(json_out_done) struct json_out joined = {0};
    struct span text;
    if (cJSON_IsString(content)) {
        text = span_str(content->valuestring);
    } else {
        provider_content(&joined, content);
        text = provider_held(&joined);
    }
    if (text.len == 0)
        return true;
    if (!keep(openai, &openai->answer.content, text))
        return false;
    openai->sink->text(openai->sink->arg, text);
    return true;
}

static bool take_reasoning(struct openai *openai, const cJSON *delta)
{
    const char *text = json_text(delta, "reasoning_content"); /* DeepSeek, vLLM */
    if (!text)
        text = json_text(delta, "reasoning"); /* OpenRouter */
    if (!text || !text[0])
        return true;
    if (!keep(openai, &openai->answer.reasoning, span_str(text)))
        return false;
    openai->sink->reasoning(openai->sink->arg, span_str(text));
    return true;
}

static bool take_refusal(struct openai *openai, const cJSON *delta)
{
    const char *text = json_text(delta, "refusal");
    if (!text || !text[0])
        return true;
    if (!keep(openai, &openai->answer.refusal, span_str(text)))
        return false;
    openai->sink->text(openai->sink->arg, span_str(text));
    return true;
}

/* The tool call a piece belongs to: by index; where a server gives none, an id that is new begins the next one. NULL: `failure`
 * says why. */
static struct answer_tool *tool_of(struct openai *openai, const cJSON *piece)
{
    int64_t index = -1;
    const char *id = json_text(piece, "id");
    const cJSON *given = json_get(piece, "index");
    if (given && !cJSON_IsNull(given) && (!json_int(given, &index) || index < 0 || index >= ANSWER_TOOLS_MAX)) {
        bad_frame(openai, none, "a tool call with an index that makes no sense");
        return NULL;
    }
    struct answer *a = &openai->answer;
    struct answer_tool *last = a->tools_count ? &a->tools[a->tools_count - 1] : NULL;
    if (index < 0 && last && (!id || !id[0] || span_is(provider_held(&last->id), id)))
        return last;
    for (unsigned i = 0; index >= 0 && i < a->tools_count; i++)
        if (a->tools[i].index == index)
            return &a->tools[i];
    return answer_add_tool(a, (int)index, openai->failure);
}

/* The arguments of a call: pieces of JSON text; from servers that send them as an object, the object's text. */
static bool take_arguments(struct openai *openai, struct answer_tool *tool, const cJSON *arguments, struct span *ret_piece)
{
    size_t before = tool->arguments.len;
    if (cJSON_IsString(arguments)) {
        if (!keep(openai, &tool->arguments, span_str(arguments->valuestring)))
            return false;
    } else if (cJSON_IsObject(arguments)) {
        AUTO(json_out_done) struct json_out text = {0};
        json_tree(&text, arguments);
        if (text.failed)
            return no_memory(openai);
        if (!keep(openai, &tool->arguments, provider_held(&text)))
            return false;
    }
    *ret_piece = tool->arguments.len == before ? none : span_of(tool->arguments.data + before, tool->arguments.len - before);
    return true;
}

static bool take_tool(struct openai *openai, const cJSON *piece, const cJSON *function)
{
    if (!cJSON_IsObject(piece))
        return bad_frame(openai, none, "a tool call that is no object");
    struct answer_tool *tool = tool_of(openai, piece);
    if (!tool)
        return false;
    const char *id = json_text(piece, "id");
    const char *name = cJSON_IsObject(function) ? json_text(function, "name") : NULL;
    struct span new_id = none, new_name = none, arguments = none;
    if (id && id[0] && !tool->id.len) {
        new_id = span_str(id);
        if (!keep(openai, &tool->id, new_id))
            return false;
    }
    if (name && name[0] && !tool->name.len) {
        new_name = span_str(name);
        if (!keep(openai, &tool->name, new_name))
            return false;
    }
    if (cJSON_IsObject(function) && !take_arguments(openai, tool, json_get(function, "arguments"), &arguments))
        return false;
    if (new_id.len || new_name.len || arguments.len)
        openai->sink->tool(openai->sink->arg, (unsigned)(tool - openai->answer.tools), new_id, new_name, arguments);
    return true;
}

static bool take_tools(struct openai *openai, const cJSON *delta)
{
    const cJSON *pieces = json_get(delta, "tool_calls"), *piece;
    if (cJSON_IsArray(pieces))
        cJSON_ArrayForEach(piece, pieces)
        {
            if (!take_tool(openai, piece, cJSON_IsObject(piece) ? json_get(piece, "function") : NULL))
                return false;
        }
    const cJSON *function = json_get(delta, "function_call"); /* before tools there was one function */
    if (!cJSON_IsObject(function))
        return true;
    openai->answer.function = true;
    return take_tool(openai, function, function);
}

/* A delta of a stream, or the message of an answer in one piece: they have the same members. */
static bool take_message(struct openai *openai, const cJSON *message)
{
    if (!cJSON_IsObject(message))
        return true;
    return take_reasoning(openai, message) && take_text(openai, json_get(message, "content")) &&
           take_refusal(openai, message) && take_tools(openai, message);
}

static bool take_choice(struct openai *openai, const cJSON *choice)
{
    int64_t index;
    const cJSON *given = json_get(choice, "index");
    if (given && json_int(given, &index) && index != 0)
        return true;
    if (!take_message(openai, json_get(choice, openai->stream ? "delta" : "message")))
        return false;
    const char *reason = json_text(choice, "finish_reason");
    if (!reason || !reason[0])
        return true;
    if (strcmp(reason, "error") == 0) /* OpenRouter */
        return provider_fail(openai->failure, KIND_OVERLOAD, none, "the answer ended in an error");
    answer_finish(&openai->answer, reason);
    return true;
}

/* A chunk of a stream, or the whole answer. */
static bool take_object(struct openai *openai, const cJSON *object)
{
    answer_name_model(&openai->answer, json_text(object, "model"));
    const cJSON *choices = json_get(object, "choices"), *choice;
    if (choices && !cJSON_IsArray(choices) && !cJSON_IsNull(choices))
        return bad_frame(openai, none, "choices is not an array");
    if (cJSON_IsArray(choices))
        cJSON_ArrayForEach(choice, choices)
        {
            if (!cJSON_IsObject(choice))
                return bad_frame(openai, none, "a choice is not an object");
            if (!take_choice(openai, choice))
                return false;
            take_usage(openai, json_get(choice, "usage")); /* Moonshot */
        }
    take_usage(openai, json_get(object, "usage"));
    return true;
}

static enum err take_event(void *arg, struct span name, struct span data)
{
    struct openai *openai = arg;
    if (openai->done)
        return ERR_OK;
    if (span_is(data, "[DONE]")) {
        openai->done = true;
        if (openai->answer.finished)
            return ERR_OK;
        provider_fail(openai->failure, KIND_STREAM_CUT, none, "the stream ended without a finish_reason");
        return ERR_MALFORMED;
    }
    AUTO(json_free) cJSON *tree = NULL;
    struct json_fault fault = {0};
    enum err e = json_parse(data, &tree, &fault);
    if (e == ERR_NOMEM) {
        no_memory(openai);
        return ERR_MALFORMED;
    }
    if (e || !cJSON_IsObject(tree)) {
        bad_frame(openai, data, fault.what ? fault.what : "a chunk is not a JSON object");
        return ERR_MALFORMED;
    }
    const cJSON *error = find_error(tree);
    if (!error && span_is(name, "error"))
        error = tree;
    bool fine = error ? fail_by_error(openai->failure, 0, error, false, data) : take_object(openai, tree);
    return fine ? ERR_OK : ERR_MALFORMED;
}

static bool head(void *state, struct span type)
{
    struct openai *openai = state;
    static const char json[] = "application/json";
    if (openai->stream && type.len >= strlen(json) && memcmp(type.data, json, strlen(json)) == 0)
        openai->stream = false; /* a server that cannot stream answers in one piece */
    return openai->stream;
}

/* What the parser's error was, unless the callback has said more. */
static bool fed(struct openai *openai, enum err e)
{
    if (e == ERR_LIMIT)
        return bad_frame(openai, none, "a line of the stream is longer than 1 MiB");
    if (e == ERR_NOMEM)
        return no_memory(openai);
    return e == ERR_OK;
}

static bool feed(void *state, struct span bytes, const struct provider_sink *sink, struct provider_failure *failure)
{
    struct openai *openai = state;
    openai->sink = sink;
    openai->failure = failure;
    if (openai->stream)
        return fed(openai, sse_feed(&openai->sse, bytes, take_event, openai));
    openai->whole.max = SIZE_MAX; /* transfer has the bound */
    json_raw(&openai->whole, bytes);
    return openai->whole.failed ? provider_fail(failure, KIND_WORKER, none, "no memory for the answer") : true;
}

static bool proven(const void *state)
{
    const struct openai *openai = state;
    return openai->stream && openai->done && openai->answer.finished;
}

static bool end_whole(struct openai *openai)
{
    AUTO(json_free) cJSON *tree = NULL;
    struct json_fault fault = {0};
    struct span body = provider_held(&openai->whole);
    enum err e = json_parse(body, &tree, &fault);
    if (e == ERR_NOMEM)
        return no_memory(openai);
    if (e && provider_cut_short(body, fault.at))
        return provider_fail(openai->failure, KIND_STREAM_CUT, none, "the answer ends before its JSON does");
    if (e)
        return bad_frame(openai, body, fault.what ? fault.what : "the answer is not JSON");
    const cJSON *error = find_error(tree);
    if (error)
        return fail_by_error(openai->failure, 0, error, false, body);
    const cJSON *choices = cJSON_IsObject(tree) ? json_get(tree, "choices") : NULL;
    if (!cJSON_IsArray(choices) || !cJSON_IsObject(choices->child))
        return bad_frame(openai, body, "the answer has no choices");
    return take_object(openai, tree);
}

static bool end(void *state, const struct provider_sink *sink, struct json_out *result, struct provider_failure *failure)
{
    struct openai *openai = state;
    openai->sink = sink;
    openai->failure = failure;
    if (openai->stream && !fed(openai, sse_end(&openai->sse, take_event, openai)))
        return false;
    if (openai->stream && !proven(openai))
        return provider_fail(failure, KIND_STREAM_CUT, none, "the stream ended without [DONE]");
    if (!openai->stream && !end_whole(openai))
        return false;
    return answer_put(&openai->answer, "openai", result, failure);
}

static void usage(const void *state, struct provider_usage *usage)
{
    const struct openai *openai = state;
    *usage = openai->usage;
}

const struct provider provider_openai = {
    .name = "openai",
    .key_header = "Authorization: Bearer ",
    .create = create,
    .destroy = destroy,
    .build = build,
    .head = head,
    .feed = feed,
    .proven = proven,
    .end = end,
    .usage = usage,
    .classify = classify,
};
