/* ollama: POST /api/chat, as Ollama does (its API documentation and source of 2026-08-21). A stream is NDJSON: pieces of
 * the message, then an object with `done: true`, which alone proves the end; an answer in one piece is that object. A line with
 * `error` is a failure, also under status 200.
 *
 * Jobs are put in the words of OpenAI, whichever provider they go to, so what Ollama calls otherwise is translated: settings of
 * the model into `options`, response_format into `format`, images into base64 without their URL, a call's arguments into an
 * object and back. What it has no word for is refused, since it would ignore it in silence. Its own words pass as they are. */
#include <stdio.h>
#include <stdlib.h>

#include "worker/answer.h"
#include "worker/ndjson.h"
#include "worker/providers.h"

struct ollama {
    bool stream; /* how the answer comes; the reply's Content-Type decides */
    bool done;
    bool ending; /* no more bytes will come */
    struct ndjson ndjson;
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
    struct ollama *ollama = calloc(1, sizeof *ollama);
    if (!ollama)
        return NULL;
    ollama->stream = call->stream;
    answer_init(&ollama->answer, call);
    ndjson_init(&ollama->ndjson, 0);
    return ollama;
}

static void destroy(void *state)
{
    struct ollama *ollama = state;
    ndjson_done(&ollama->ndjson);
    json_out_done(&ollama->whole);
    answer_done(&ollama->answer);
    free(ollama);
}

/* ---- the request: messages ---- */

static bool refuse(struct provider_failure *failure, const char *what)
{
    return provider_fail(failure, KIND_CLIENT, none, "%s", what);
}

static void put_member(struct json_out *out, const char *name, const cJSON *value)
{
    json_lit(out, ",");
    json_str(out, span_str(name));
    json_lit(out, ":");
    json_tree(out, value);
}

/* {"type":"image_url","image_url":{"url":"data:image/png;base64,…"}}: what is behind the comma. NULL: another kind of image. */
static const char *image_of(const cJSON *part)
{
    const cJSON *image = json_get(part, "image_url");
    const char *url = cJSON_IsObject(image) ? json_text(image, "url") : json_text(part, "image_url");
    const char *data = url && strncmp(url, "data:", 5) == 0 ? strchr(url, ',') : NULL;
    return data && data - url >= 7 && strncmp(data - 7, ";base64", 7) == 0 ? data + 1 : NULL;
}

static bool put_parts(struct json_out *out, const cJSON *parts, bool may_have_images, struct provider_failure *failure)
{
    AUTO(json_out_done) struct json_out text = {0};
    AUTO(json_out_done) struct json_out images = {0};
    const cJSON *part;
    provider_content(&text, parts);
    cJSON_ArrayForEach(part, parts)
    {
        const char *type = cJSON_IsObject(part) ? json_text(part, "type") : NULL;
        if (type && strcmp(type, "text") == 0)
            continue;
        const char *data = type && strcmp(type, "image_url") == 0 ? image_of(part) : NULL;
        if (!data || !may_have_images)
            return refuse(failure, "Ollama takes text and images as base64 data URLs, no other parts of a message");
        json_lit(&images, images.len ? "," : "");
        json_str(&images, span_str(data));
    }
    json_lit(out, ",\"content\":");
    json_str(out, provider_held(&text));
    if (images.len) {
        json_lit(out, ",\"images\":[");
        json_raw(out, provider_held(&images));
        json_lit(out, "]");
    }
    out->failed = out->failed || text.failed || images.failed;
    return true;
}

/* A call that the model made before: its arguments as an object. */
static bool put_call(struct json_out *out, const cJSON *call, struct provider_failure *failure)
{
    AUTO(json_free) cJSON *parsed = NULL;
    const cJSON *function = cJSON_IsObject(call) ? json_get(call, "function") : NULL;
    const cJSON *arguments = cJSON_IsObject(function) ? json_get(function, "arguments") : NULL;
    const char *name = cJSON_IsObject(function) ? json_text(function, "name") : NULL;
    bool no_json = false;
    if (cJSON_IsString(arguments)) {
        enum err e = arguments->valuestring[0] ? json_parse(span_str(arguments->valuestring), &parsed, NULL) : ERR_OK;
        if (e == ERR_NOMEM)
            return provider_fail(failure, KIND_WORKER, none, "no memory for the request");
        no_json = e;
        arguments = parsed;
    }
    if (!name || no_json || (arguments && !cJSON_IsObject(arguments)))
        return refuse(failure, "a tool call in a message needs function.name, and arguments that are a JSON object");
    json_lit(out, "{\"function\":{\"name\":");
    json_str(out, span_str(name));
    json_lit(out, ",\"arguments\":");
    if (arguments)
        json_tree(out, arguments);
    else
        json_lit(out, "{}");
    json_lit(out, "}");
    if (json_text(call, "id")) {
        json_lit(out, ",\"id\":");
        json_str(out, span_str(json_text(call, "id")));
    }
    json_lit(out, "}");
    return true;
}

static bool put_calls(struct json_out *out, const cJSON *calls, struct provider_failure *failure)
{
    const cJSON *call;
    const char *between = ",\"tool_calls\":[";
    cJSON_ArrayForEach(call, calls)
    {
        json_lit(out, between);
        if (!put_call(out, call, failure))
            return false;
        between = ",";
    }
    if (between[1])
        return true; /* there are none */
    json_lit(out, "]");
    return true;
}

/* The function whose call had that id, in any message before. NULL: none. Known gap: it looks from the beginning for each
 * answer, so a conversation of 8 000 messages that are calls and answers takes 0.9 s here; an index by id would close it. */
static const char *function_called(const cJSON *messages, const cJSON *until, const char *id)
{
    const cJSON *message, *call;
    cJSON_ArrayForEach(message, messages)
    {
        if (message == until)
            return NULL;
        const cJSON *calls = cJSON_IsObject(message) ? json_get(message, "tool_calls") : NULL;
        cJSON_ArrayForEach(call, calls)
        {
            const char *called = cJSON_IsObject(call) ? json_text(call, "id") : NULL;
            const cJSON *function = called ? json_get(call, "function") : NULL;
            if (called && strcmp(called, id) == 0 && cJSON_IsObject(function))
                return json_text(function, "name");
        }
    }
    return NULL;
}

static bool put_message_member(struct json_out *out, const cJSON *messages, const cJSON *message, const cJSON *member,
                               struct provider_failure *failure)
{
    const char *name = member->string;
    if (strcmp(name, "role") == 0 || (strcmp(name, "reasoning") == 0 && json_get(message, "thinking")))
        return true;
    if (strcmp(name, "content") == 0 && cJSON_IsArray(member))
        return put_parts(out, member, !json_get(message, "images"), failure);
    if (strcmp(name, "content") == 0 && cJSON_IsNull(member)) { /* beside calls */
        json_lit(out, ",\"content\":\"\"");
        return true;
    }
    if (strcmp(name, "tool_calls") == 0 && cJSON_IsArray(member))
        return put_calls(out, member, failure);
    if (strcmp(name, "tool_call_id") == 0 && cJSON_IsString(member) && !json_get(message, "tool_name")) {
        const char *function = function_called(messages, message, member->valuestring);
        if (function) {
            json_lit(out, ",\"tool_name\":");
            json_str(out, span_str(function));
        }
    }
    put_member(out, strcmp(name, "reasoning") == 0 ? "thinking" : name, member);
    return true;
}

static bool put_messages(struct json_out *out, const cJSON *messages, struct provider_failure *failure)
{
    const cJSON *message, *member;
    const char *between = "";
    cJSON_ArrayForEach(message, messages)
    {
        const char *role = cJSON_IsObject(message) ? json_text(message, "role") : NULL;
        if (!role)
            return refuse(failure, "every message must be an object with a role");
        json_lit(out, between);
        json_lit(out, "{\"role\":");
        json_str(out, span_str(strcmp(role, "developer") == 0 ? "system" : role));
        cJSON_ArrayForEach(member, message)
        {
            if (!put_message_member(out, messages, message, member, failure))
                return false;
        }
        json_lit(out, "}");
        between = ",";
    }
    return true;
}

/* ---- the request: params ---- */

static bool one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(name, *names) != 0)
        names++;
    return *names;
}

/* Ollama's own words beside the model's options. */
static const char *const own[] = {"format", "think", "keep_alive", "logprobs", "top_logprobs", "truncate", "shift", NULL};
/* The model's options, which OpenAI's names are mostly the same as. */
static const char *const options[] = {"temperature",
                                      "top_p",
                                      "top_k",
                                      "min_p",
                                      "seed",
                                      "stop",
                                      "num_predict",
                                      "num_ctx",
                                      "num_keep",
                                      "num_batch",
                                      "num_gpu",
                                      "main_gpu",
                                      "num_thread",
                                      "typical_p",
                                      "repeat_last_n",
                                      "repeat_penalty",
                                      "presence_penalty",
                                      "frequency_penalty",
                                      "penalize_newline",
                                      "use_mmap",
                                      "numa",
                                      NULL};
/* What OpenAI calls otherwise. */
static const struct {
    const char *theirs, *own;
} translated[] = {{"max_completion_tokens", "num_predict"},
                  {"max_tokens", "num_predict"},
                  {"response_format", "format"},
                  {"reasoning_effort", "think"}};
/* Set by us, or of no meaning here: they change nothing in the answer. */
static const char *const ours[] = {"model", "messages",    "stream", "stream_options",      "user", "options",
                                   "tools", "tool_choice", "n",      "parallel_tool_calls", NULL};

/* A parameter's name in Ollama. */
static const char *own_name(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(translated); i++)
        if (strcmp(name, translated[i].theirs) == 0)
            return translated[i].own;
    return name;
}

static bool gives(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_IsObject(object) ? json_get(object, name) : NULL;
    return item && !cJSON_IsNull(item);
}

/* Said already: in Ollama's own word, which counts, or in another that means the same. */
static bool said_twice(const cJSON *params, const cJSON *param)
{
    const char *name = own_name(param->string);
    if (one_of(name, options) && gives(json_get(params, "options"), name))
        return true;
    if (name != param->string && gives(params, name))
        return true;
    for (const cJSON *before = params->child; before != param; before = before->next)
        if (!cJSON_IsNull(before) && strcmp(own_name(before->string), name) == 0)
            return true;
    return false;
}

/* response_format: {"type":"json_schema","json_schema":{"schema":…}}, json_object, text. */
static bool put_format(struct json_out *out, const cJSON *format, struct provider_failure *failure)
{
    const char *type = cJSON_IsObject(format) ? json_text(format, "type") : NULL;
    const cJSON *schema = cJSON_IsObject(format) ? json_get(format, "json_schema") : NULL;
    schema = cJSON_IsObject(schema) ? json_get(schema, "schema") : NULL;
    if (type && strcmp(type, "json_object") == 0)
        json_lit(out, ",\"format\":\"json\"");
    else if (type && strcmp(type, "json_schema") == 0 && cJSON_IsObject(schema))
        put_member(out, "format", schema);
    else if (!type || strcmp(type, "text") != 0)
        return refuse(failure, "response_format must be of type text, json_object, or json_schema with a schema");
    return true;
}

/* reasoning_effort: none turns thinking off, the rest are Ollama's levels. */
static void put_effort(struct json_out *out, const cJSON *effort)
{
    if (cJSON_IsString(effort) && strcmp(effort->valuestring, "none") == 0)
        json_lit(out, ",\"think\":false");
    else
        put_member(out, "think", effort);
}

static bool put_tools(struct json_out *out, const cJSON *params, struct provider_failure *failure)
{
    const cJSON *tools = json_get(params, "tools"), *choice = json_get(params, "tool_choice");
    const char *word = cJSON_IsString(choice) ? choice->valuestring : NULL;
    if (choice && !cJSON_IsNull(choice) && (!word || (strcmp(word, "auto") != 0 && strcmp(word, "none") != 0)))
        return refuse(failure, "Ollama cannot be made to call a tool: tool_choice may be auto or none");
    if (gives(params, "tools") && (!word || strcmp(word, "none") != 0))
        put_member(out, "tools", tools);
    return true;
}

static bool put_param(struct json_out *out, struct json_out *model_options, const cJSON *param,
                      struct provider_failure *failure)
{
    const char *name = param->string;
    if (one_of(own_name(name), options))
        put_member(model_options, own_name(name), param);
    else if (one_of(name, own))
        put_member(out, name, param);
    else if (strcmp(name, "response_format") == 0)
        return put_format(out, param, failure);
    else if (strcmp(name, "reasoning_effort") == 0)
        put_effort(out, param);
    else
        return provider_fail(failure, KIND_CLIENT, span_str(name), "Ollama has no such parameter");
    return true;
}

static bool put_params(struct json_out *out, const cJSON *params, struct provider_failure *failure)
{
    AUTO(json_out_done) struct json_out model_options = {0};
    const cJSON *given = json_get(params, "options"), *n = json_get(params, "n"), *item;
    if (cJSON_IsNumber(n) && n->valuedouble > 1)
        return refuse(failure, "n above 1 is not supported: submit several jobs");
    if (given && !cJSON_IsObject(given) && !cJSON_IsNull(given))
        return refuse(failure, "options must be an object");
    cJSON_ArrayForEach(item, params)
    {
        if (cJSON_IsNull(item) || one_of(item->string, ours) || said_twice(params, item))
            continue;
        if (!put_param(out, &model_options, item, failure))
            return false;
    }
    for (item = cJSON_IsObject(given) ? given->child : NULL; item; item = item->next)
        put_member(&model_options, item->string, item);
    if (model_options.len) {
        json_lit(out, ",\"options\":{");
        json_raw(out, span_of(model_options.data + 1, model_options.len - 1)); /* without the first comma */
        json_lit(out, "}");
    }
    out->failed = out->failed || model_options.failed;
    return put_tools(out, params, failure);
}

static bool build(void *state, const struct provider_call *call, struct provider_request *request,
                  struct provider_failure *failure)
{
    const cJSON *messages = json_get(call->request, "messages"), *params = json_get(call->request, "params");
    const char *prompt = json_text(call->request, "prompt");
    struct json_out *body = &request->body;
    if (messages ? !cJSON_IsArray(messages) : !prompt)
        return refuse(failure, "the request has neither an array of messages nor a prompt");
    if (params && !cJSON_IsObject(params) && !cJSON_IsNull(params))
        return refuse(failure, "params must be an object");
    snprintf(request->path, sizeof request->path, "/api/chat");
    json_lit(body, "{\"model\":");
    json_str(body, span_str(call->model));
    json_lit(body, call->stream ? ",\"stream\":true,\"messages\":[" : ",\"stream\":false,\"messages\":[");
    if (!messages) {
        json_lit(body, "{\"role\":\"user\",\"content\":");
        json_str(body, span_str(prompt));
        json_lit(body, "}");
    } else if (!put_messages(body, messages, failure)) {
        return false;
    }
    json_lit(body, "]");
    if (cJSON_IsObject(params) && !put_params(body, params, failure))
        return false;
    json_lit(body, "}");
    return body->failed ? provider_fail(failure, KIND_WORKER, none, "no memory for the request") : true;
}

/* ---- errors ---- */

/* {"error":"…"}; from gateways before it {"error":{"message":"…"}}. NULL: none. */
static const cJSON *find_error(const cJSON *tree)
{
    const cJSON *error = cJSON_IsObject(tree) ? json_get(tree, "error") : NULL;
    return error && !cJSON_IsNull(error) ? error : NULL;
}

static struct span words_of(const cJSON *error, struct span evidence)
{
    const char *message = cJSON_IsString(error) ? error->valuestring : NULL;
    if (cJSON_IsObject(error))
        message = json_text(error, "message");
    return message && message[0] ? span_str(message) : evidence;
}

static void classify(unsigned status, struct span body, bool retry_after, struct provider_failure *failure)
{
    AUTO(json_free) cJSON *tree = NULL;
    const cJSON *error = json_parse(body, &tree, NULL) == ERR_OK ? find_error(tree) : NULL;
    provider_fail(failure, provider_kind_of_status(status, retry_after), words_of(error, body), "HTTP %u", status);
}

/* ---- the answer ---- */

static bool no_memory(struct ollama *ollama)
{
    return provider_fail(ollama->failure, KIND_WORKER, none, "no memory for the answer");
}

static bool take_text(struct ollama *ollama, struct json_out *part, const char *text, void (*say)(void *arg, struct span text))
{
    if (!text || !text[0])
        return true;
    if (!answer_keep(&ollama->answer, part, span_str(text), ollama->failure))
        return false;
    say(ollama->sink->arg, span_str(text));
    return true;
}

/* Calls come whole, one after the other; older servers give them no id. */
static bool take_tool(struct ollama *ollama, const cJSON *call)
{
    AUTO(json_out_done) struct json_out text = {0};
    struct answer *a = &ollama->answer;
    const cJSON *function = cJSON_IsObject(call) ? json_get(call, "function") : NULL;
    const char *name = cJSON_IsObject(function) ? json_text(function, "name") : NULL;
    const cJSON *arguments = cJSON_IsObject(function) ? json_get(function, "arguments") : NULL;
    if (!name)
        return provider_bad_frame(ollama->failure, none, "a tool call without a name");
    unsigned index = a->tools_count;
    struct answer_tool *tool = answer_add_tool(a, (int)index, ollama->failure);
    if (!tool)
        return false;
    char made_up[ANSWER_CALL_ID_MAX];
    answer_call_id(index, made_up);
    const char *id = json_text(call, "id");
    struct span call_id = span_str(id && id[0] ? id : made_up);
    if (cJSON_IsString(arguments))
        json_lit(&text, arguments->valuestring);
    else if (arguments && !cJSON_IsNull(arguments))
        json_tree(&text, arguments);
    else
        json_lit(&text, "{}");
    if (text.failed)
        return no_memory(ollama);
    if (!answer_keep(a, &tool->id, call_id, ollama->failure) || !answer_keep(a, &tool->name, span_str(name), ollama->failure) ||
        !answer_keep(a, &tool->arguments, provider_held(&text), ollama->failure))
        return false;
    ollama->sink->tool(ollama->sink->arg, index, call_id, span_str(name), provider_held(&text));
    return true;
}

static uint64_t count(const cJSON *object, const char *name)
{
    int64_t value;
    const cJSON *item = json_get(object, name);
    return item && json_int(item, &value) && value > 0 ? (uint64_t)value : 0;
}

/* done_reason knows no tool calls; counters that are zero are left out. */
static void take_done(struct ollama *ollama, const cJSON *object)
{
    const char *reason = json_text(object, "done_reason");
    bool stopped = !reason || !reason[0] || strcmp(reason, "stop") == 0;
    answer_finish(&ollama->answer, !stopped ? reason : ollama->answer.tools_count ? "tool_calls" : "stop");
    ollama->done = true;
    ollama->usage = (struct provider_usage){
        .known = true, .input_tokens = count(object, "prompt_eval_count"), .output_tokens = count(object, "eval_count")};
}

/* A line of a stream, or the whole answer. evidence: its text. */
static bool take_object(struct ollama *ollama, const cJSON *object, struct span evidence)
{
    if (!cJSON_IsObject(object))
        return provider_bad_frame(ollama->failure, evidence, "a line is not a JSON object");
    const cJSON *error = find_error(object);
    if (error)
        return provider_fail(ollama->failure, KIND_OVERLOAD, words_of(error, evidence), "an error in the answer");
    const cJSON *message = json_get(object, "message"), *call;
    const cJSON *calls = cJSON_IsObject(message) ? json_get(message, "tool_calls") : NULL;
    bool done = cJSON_IsTrue(json_get(object, "done"));
    if (!cJSON_IsObject(message) && !done)
        return provider_bad_frame(ollama->failure, evidence, "a line without a message");
    answer_name_model(&ollama->answer, json_text(object, "model"));
    if (cJSON_IsObject(message) &&
        (!take_text(ollama, &ollama->answer.reasoning, json_text(message, "thinking"), ollama->sink->reasoning) ||
         !take_text(ollama, &ollama->answer.content, json_text(message, "content"), ollama->sink->text)))
        return false;
    if (cJSON_IsArray(calls))
        cJSON_ArrayForEach(call, calls)
        {
            if (!take_tool(ollama, call))
                return false;
        }
    if (done)
        take_done(ollama, object);
    return true;
}

static enum err take_line(void *arg, struct span line)
{
    struct ollama *ollama = arg;
    AUTO(json_free) cJSON *tree = NULL;
    struct json_fault fault = {0};
    if (ollama->done)
        return ERR_OK;
    enum err e = json_parse(line, &tree, &fault);
    bool fine;
    if (e == ERR_NOMEM)
        fine = no_memory(ollama);
    else if (e && ollama->ending && provider_cut_short(line, fault.at))
        fine = provider_fail(ollama->failure, KIND_STREAM_CUT, none, "the answer ends amid a line");
    else if (e)
        fine = provider_bad_frame(ollama->failure, line, fault.what ? fault.what : "a line is not JSON");
    else
        fine = take_object(ollama, tree, line);
    return fine ? ERR_OK : ERR_MALFORMED;
}

static bool head(void *state, struct span type)
{
    struct ollama *ollama = state;
    static const char json[] = "application/json";
    if (ollama->stream && type.len >= strlen(json) && memcmp(type.data, json, strlen(json)) == 0)
        ollama->stream = false; /* a gateway that does not stream answers in one piece */
    return ollama->stream;
}

/* What the parser's error was, unless the callback has said more. */
static bool fed(struct ollama *ollama, enum err e)
{
    if (e == ERR_LIMIT)
        return provider_bad_frame(ollama->failure, none, "a line of the stream is longer than 1 MiB");
    if (e == ERR_NOMEM)
        return no_memory(ollama);
    return e == ERR_OK;
}

static bool feed(void *state, struct span bytes, const struct provider_sink *sink, struct provider_failure *failure)
{
    struct ollama *ollama = state;
    ollama->sink = sink;
    ollama->failure = failure;
    if (ollama->stream)
        return fed(ollama, ndjson_feed(&ollama->ndjson, bytes, take_line, ollama));
    ollama->whole.max = SIZE_MAX; /* transfer has the bound */
    json_raw(&ollama->whole, bytes);
    return ollama->whole.failed ? no_memory(ollama) : true;
}

static bool proven(const void *state)
{
    const struct ollama *ollama = state;
    return ollama->stream && ollama->done;
}

static bool end_whole(struct ollama *ollama)
{
    AUTO(json_free) cJSON *tree = NULL;
    struct json_fault fault = {0};
    struct span body = provider_held(&ollama->whole);
    enum err e = json_parse(body, &tree, &fault);
    if (e == ERR_NOMEM)
        return no_memory(ollama);
    if (e && provider_cut_short(body, fault.at))
        return provider_fail(ollama->failure, KIND_STREAM_CUT, none, "the answer ends before its JSON does");
    if (e)
        return provider_bad_frame(ollama->failure, body, fault.what ? fault.what : "the answer is not JSON");
    return take_object(ollama, tree, body);
}

static bool end(void *state, const struct provider_sink *sink, struct json_out *result, struct provider_failure *failure)
{
    struct ollama *ollama = state;
    ollama->sink = sink;
    ollama->failure = failure;
    ollama->ending = true;
    if (ollama->stream && !fed(ollama, ndjson_end(&ollama->ndjson, take_line, ollama)))
        return false;
    if (!ollama->stream && !end_whole(ollama))
        return false;
    if (!ollama->done)
        return provider_fail(failure, KIND_STREAM_CUT, none, "the answer ended without done: true");
    return answer_put(&ollama->answer, "ollama", result, failure);
}

static void usage(const void *state, struct provider_usage *usage)
{
    const struct ollama *ollama = state;
    *usage = ollama->usage;
}

const struct provider provider_ollama = {
    .name = "ollama",
    .key_header = "Authorization: Bearer ", /* its own cloud, and gateways; a server at home wants none */
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
