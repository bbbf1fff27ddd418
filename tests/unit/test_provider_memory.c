/* Every allocation of an adapter's work fails once, until a call passes untouched: each failure is named as our want of memory,
 * and nothing else goes wrong. Under the address sanitizer, which has its own allocator, only the untouched call is made. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "worker/eventlog.h"
#include "worker/providers.h"

static long left = -1; /* allocations until one fails; −1: none does */
static bool failed;

#ifndef __SANITIZE_ADDRESS__
static bool refuse(void)
{
    if (left < 0)
        return false;
    failed = failed || left == 0;
    return left == 0 ? true : (left--, false);
}

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
void *malloc(size_t size)
{
    return refuse() ? NULL : __libc_malloc(size);
}
void *calloc(size_t count, size_t size)
{
    return refuse() ? NULL : __libc_calloc(count, size);
}
void *realloc(void *old, size_t size)
{
    return refuse() ? NULL : __libc_realloc(old, size);
}
#endif

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

static const char stream[] = CHUNK("{\"reasoning\":\"hm\"}", "null") CHUNK("{\"content\":\"Hello\"}", "null")
    CHUNK("{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}", "null")
        CHUNK("{\"tool_calls\":[{\"index\":1,\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]}",
              "\"stop\"") "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
static const char whole[] =
    "{\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"hi\",\"tool_calls\":[{\"id\":\"c1\","
    "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"stop\"}]}";
static const char request[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"a b c\"}],\"params\":{\"a\":[1,2]}}";

static bool put_network(const struct provider *provider, void *state, const struct provider_call *call,
                        struct provider_failure *failure)
{
    struct provider_request out = {0};
    bool fine = provider->build(state, call, &out, failure);
    json_out_done(&out.body);
    struct span answer = span_str(call->stream ? stream : whole);
    provider->head(state, span_str(call->stream ? "text/event-stream" : "application/json"));
    for (size_t at = 0; fine && at < answer.len; at += 40)
        fine = provider->feed(state, span_of(answer.data + at, MIN((size_t)40, answer.len - at)), &sink, failure);
    return fine;
}

static bool put_local(const struct provider *provider, void *state, const struct provider_call *call,
                      struct provider_failure *failure)
{
    struct provider_local local = {0};
    if (!provider->answer(state, call, &local, failure))
        return false;
    while (provider->step(state, &sink))
        continue;
    return true;
}

/* false: it failed, and `failure` says so unless there was not even a state. */
static bool call_once(const struct provider *provider, bool streamed, struct provider_failure *failure)
{
    AUTO(json_free) cJSON *tree = NULL;
    AUTO(json_out_done) struct json_out result = {0};
    struct provider_call call = {.model = "m", .stream = streamed, .result_max = 1 << 20};
    failure->kind = KIND_WORKER;
    if (json_parse(span_str(request), &tree, NULL) != ERR_OK)
        return false;
    call.request = tree;
    void *state = provider->create(&call);
    if (!state)
        return false;
    failure->kind = KIND_NONE;
    bool fine = (provider->build ? put_network : put_local)(provider, state, &call, failure) &&
                provider->end(state, &sink, &result, failure);
    provider->destroy(state);
    return fine;
}

static void sweep(const struct provider *provider, bool streamed)
{
    static struct provider_failure failure;
    long k = 0;
    do {
        eventlog_init(&events, 1 << 20);
        failed = false;
        left = k++;
        bool fine = call_once(provider, streamed, &failure);
        left = -1;
        eventlog_done(&events);
        assert_true(fine || failed);
        if (!fine)
            assert_int_equal(failure.kind, KIND_WORKER);
    } while (failed);
}

static void openai_streamed(void **state)
{
    sweep(&provider_openai, true);
}
static void openai_whole(void **state)
{
    sweep(&provider_openai, false);
}
static void echo_streamed(void **state)
{
    sweep(&provider_echo, true);
}

static void an_error_reply_is_named_all_the_same(void **state)
{
    static struct provider_failure failure;
    long k = 0;
    do {
        failed = false;
        left = k++;
        provider_openai.classify(500, span_str("{\"error\":{\"message\":\"x\",\"code\":\"y\"}}"), false, &failure);
        left = -1;
        assert_int_equal(failure.kind, KIND_OVERLOAD);
    } while (failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(openai_streamed),
        cmocka_unit_test(openai_whole),
        cmocka_unit_test(echo_streamed),
        cmocka_unit_test(an_error_reply_is_named_all_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
