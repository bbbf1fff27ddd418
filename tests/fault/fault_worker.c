/* A worker's pure parts without memory: what an adapter does of a call is named as our want of memory and nothing else; parsers
 * of streams say so; a log loses events, never a result. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/lib/fault.h"
#include "worker/eventlog.h"
#include "worker/ndjson.h"
#include "worker/providers.h"
#include "worker/retry_after.h"
#include "worker/sse.h"

static struct eventlog events;
static void say_text(void *arg, struct span text)
{
    eventlog_text(&events, EVENTLOG_TEXT, text);
}
static void say_reasoning(void *arg, struct span text)
{
    eventlog_text(&events, EVENTLOG_REASONING, text);
}
static void say_tool(void *arg, unsigned index, struct span id, struct span name, struct span arguments)
{
    eventlog_tool(&events, index, id, name, arguments);
}
static const struct provider_sink sink = {say_text, say_reasoning, say_tool, NULL};

#define CHUNK(delta, finish)                                                                                                   \
    "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":" finish "}]}\n\n"

static const char openai_stream[] = CHUNK("{\"reasoning\":\"hm\"}", "null") CHUNK("{\"content\":\"Hello\"}", "null")
    CHUNK("{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}", "null")
        CHUNK("{\"tool_calls\":[{\"index\":1,\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]}",
              "\"stop\"") "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
static const char openai_whole[] =
    "{\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"hi\",\"tool_calls\":[{\"id\":\"c1\","
    "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"stop\"}]}";
static const char request[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"a b c\"}],\"params\":{\"stop\":[1,2]}}";
static const char ollama_stream[] =
    "{\"model\":\"m:1\",\"message\":{\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}\n"
    "{\"message\":{\"content\":\"hi\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1]}}}]}}\n"
    "{\"message\":{\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"eval_count\":7}\n";
static const char ollama_whole[] = "{\"message\":{\"content\":\"hi\"},\"done\":true}";
static const char ollama_request[] =
    "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\",\"function\":{\"name\":\"f\","
    "\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":[{\"type\":\"text\",\"text\":\"t\"},"
    "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,aGk=\"}}]}],"
    "\"params\":{\"max_tokens\":3,\"options\":{\"seed\":1},\"response_format\":{\"type\":\"json_object\"},\"tools\":[{}]}}";

/* One call of one adapter. answer: NULL for one that needs no network. */
struct trial {
    const struct provider *provider;
    const char *request, *answer, *type;
    bool streamed;
    struct provider_failure failure;
};

static bool put_network(struct trial *trial, void *state, const struct provider_call *call)
{
    const struct provider *provider = trial->provider;
    struct provider_request out = {0};
    bool fine = provider->build(state, call, &out, &trial->failure);
    json_out_done(&out.body);
    struct span answer = span_str(trial->answer);
    provider->head(state, span_str(trial->type));
    for (size_t at = 0; fine && at < answer.len; at += 40)
        fine = provider->feed(state, span_of(answer.data + at, MIN((size_t)40, answer.len - at)), &sink, &trial->failure);
    return fine;
}

static bool put_local(struct trial *trial, void *state, const struct provider_call *call)
{
    const struct provider *provider = trial->provider;
    struct provider_local local = {0};
    if (!provider->answer(state, call, &local, &trial->failure))
        return false;
    while (provider->step(state, &sink))
        continue;
    return true;
}

/* false: it failed, and `failure` says so unless there was not even a state. */
static bool call_once(struct trial *trial, const cJSON *tree)
{
    AUTO(json_out_done) struct json_out result = {0};
    const struct provider *provider = trial->provider;
    struct provider_call call = {.request = tree, .model = "m", .stream = trial->streamed, .result_max = 1 << 20};
    void *state = provider->create(&call);
    if (!state)
        return provider_fail(&trial->failure, KIND_WORKER, (struct span){0}, "no state");
    bool fine =
        (trial->answer ? put_network : put_local)(trial, state, &call) && provider->end(state, &sink, &result, &trial->failure);
    provider->destroy(state);
    return fine;
}

static enum err call(void *arg)
{
    struct trial *trial = arg;
    AUTO(json_free) cJSON *tree = NULL;
    if (json_parse(span_str(trial->request), &tree, NULL))
        return ERR_NOMEM;
    trial->failure.kind = KIND_NONE;
    eventlog_init(&events, 1 << 20);
    bool fine = call_once(trial, tree);
    eventlog_done(&events);
    return fine ? ERR_OK : trial->failure.kind == KIND_WORKER ? ERR_NOMEM : ERR_INVALID;
}

static void every_adapter(void **state)
{
    static struct trial trials[] = {
        {.provider = &provider_openai, request, openai_stream, "text/event-stream", .streamed = true},
        {.provider = &provider_openai, request, openai_whole, "application/json"},
        {.provider = &provider_ollama, ollama_request, ollama_stream, "application/x-ndjson", .streamed = true},
        {.provider = &provider_ollama, request, ollama_whole, "application/json"},
        {.provider = &provider_echo, request, .streamed = true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(trials); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s", trials[i].provider->name, trials[i].streamed ? "streamed" : "whole");
        fault_tell(name, fault_sweep(name, call, NULL, &trials[i]));
    }
}

/* The kind is known by the status; only the provider's words are lost. */
static enum err classify(void *arg)
{
    static struct provider_failure failure;
    provider_openai.classify(500, span_str("{\"error\":{\"message\":\"x\",\"code\":\"y\"}}"), false, &failure);
    return failure.kind == KIND_OVERLOAD ? ERR_OK : ERR_INVALID;
}

static void an_error_reply_is_named_all_the_same(void **state)
{
    fault_tell("openai classify", fault_sweep("classify", classify, NULL, NULL));
}

/* ---- streams ---- */

static unsigned seen;
static enum err on_event(void *arg, struct span name, struct span data)
{
    seen++;
    return ERR_OK;
}
static enum err on_line(void *arg, struct span line)
{
    seen++;
    return ERR_OK;
}

static enum err read_sse(void *arg)
{
    static const char text[] = "event: a\ndata: one\ndata: two\n\ndata: three\r\n\r\ndata: four\n";
    struct sse sse;
    enum err e = ERR_OK;
    seen = 0;
    sse_init(&sse, 0);
    for (size_t i = 0; !e && i < sizeof text - 1; i += 5) /* cut anywhere */
        e = sse_feed(&sse, span_of(text + i, MIN((size_t)5, sizeof text - 1 - i)), on_event, NULL);
    if (!e)
        e = sse_end(&sse, on_event, NULL);
    sse_done(&sse);
    return e ? e : seen == 3 ? ERR_OK : ERR_INVALID;
}

static enum err read_ndjson(void *arg)
{
    static const char text[] = "{\"a\":1}\n\n{\"b\":2}\r\n{\"c\":3}";
    struct ndjson ndjson;
    enum err e = ERR_OK;
    seen = 0;
    ndjson_init(&ndjson, 0);
    for (size_t i = 0; !e && i < sizeof text - 1; i += 3)
        e = ndjson_feed(&ndjson, span_of(text + i, MIN((size_t)3, sizeof text - 1 - i)), on_line, NULL);
    if (!e)
        e = ndjson_end(&ndjson, on_line, NULL);
    ndjson_done(&ndjson);
    return e ? e : seen == 3 ? ERR_OK : ERR_INVALID;
}

/* Whatever is lost, what is there is whole lines. */
static enum err keep_log(void *arg)
{
    eventlog_init(&events, 1 << 20);
    say_text(NULL, span_str("one"));
    say_reasoning(NULL, span_str("two"));
    say_tool(NULL, 0, span_str("id"), span_str("f"), span_str("{}"));
    say_text(NULL, span_str("three"));
    eventlog_flush(&events);
    bool clean = !events.lines.len || events.lines.data[events.lines.len - 1] == '\n';
    bool all = events.count == 4 || events.full;
    eventlog_done(&events);
    return clean && all ? ERR_OK : ERR_INVALID;
}

static enum err read_retry_after(void *arg)
{
    struct span none = {0};
    msec at = retry_after_read(none, span_str("Fri, 27 Nov 2026 10:00:09 GMT"), span_str("Fri, 27 Nov 2026 10:00:00 GMT"), 0);
    return at == 9000 && retry_after_read(span_str("250"), none, none, 0) == 250 ? ERR_OK : ERR_INVALID;
}

static void streams(void **state)
{
    fault_tell("sse_feed, sse_end", fault_sweep("sse", read_sse, NULL, NULL));
    fault_tell("ndjson_feed, ndjson_end", fault_sweep("ndjson", read_ndjson, NULL, NULL));
    fault_tell("eventlog", fault_sweep("eventlog", keep_log, NULL, NULL));
    fault_tell("retry_after_read", fault_sweep("retry_after_read", read_retry_after, NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_adapter),
        cmocka_unit_test(an_error_reply_is_named_all_the_same),
        cmocka_unit_test(streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
