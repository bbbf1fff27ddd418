/* One call of an adapter over the network, for its unit test: what it asks, what it hears at every cut of the answer. The test
 * defines, before it includes this:
 *   ADAPTER      the struct provider
 *   CHAT_PATH    where it asks
 *   STREAM_TYPE  the Content-Type of its streams */
#pragma once

#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/providers.h"

static cJSON *parse(const char *text)
{
    cJSON *tree = NULL;
    assert_int_equal(json_parse(span_str(text), &tree, NULL), ERR_OK);
    return tree;
}

/* ---- requests ---- */

static bool built(const char *request, bool stream, struct provider_request *ret, struct provider_failure *failure)
{
    cJSON *tree = parse(request);
    struct provider_call call = {.request = tree, .model = "m-1", .stream = stream, .result_max = 1 << 20};
    void *state = ADAPTER.create(&call);
    assert_non_null(state);
    bool fine = ADAPTER.build(state, &call, ret, failure);
    ADAPTER.destroy(state);
    json_free(&tree);
    json_raw(&ret->body, span_of("", 1));
    return fine;
}

static void expect_request(const char *request, bool stream, const char *body)
{
    struct provider_request out = {0};
    struct provider_failure failure = {0};
    assert_true(built(request, stream, &out, &failure));
    assert_string_equal(out.path, CHAT_PATH);
    assert_string_equal(out.body.data, body);
    json_out_done(&out.body);
}

static void refuse_request(const char *request)
{
    struct provider_request out = {0};
    struct provider_failure failure = {0};
    assert_false(built(request, false, &out, &failure));
    assert_int_equal(failure.kind, KIND_CLIENT);
    assert_true(failure.text[0]);
    json_out_done(&out.body);
}

/* ---- answers ---- */

/* What the sink heard, as "T:text", "R:reasoning", "C0 id name args", separated by |; and how it ended. */
struct heard {
    struct json_out said, result;
    struct provider_failure failure;
    struct provider_usage usage;
    bool fine, proven;
};

static void say_text(void *arg, struct span text)
{
    json_lit(arg, "T:");
    json_raw(arg, text);
    json_lit(arg, "|");
}
static void say_reasoning(void *arg, struct span text)
{
    json_lit(arg, "R:");
    json_raw(arg, text);
    json_lit(arg, "|");
}
static void say_tool(void *arg, unsigned index, struct span id, struct span name, struct span arguments)
{
    json_printf(arg, "C%u %.*s %.*s %.*s|", index, SPAN_ARG(id), SPAN_ARG(name), SPAN_ARG(arguments));
}

struct how {
    bool stream;
    const char *type;
    size_t step;
    size_t result_max;
};

static void hear(const char *body, struct how how, struct heard *heard)
{
    *heard = (struct heard){0};
    struct provider_call call = {
        .model = "asked", .stream = how.stream, .result_max = how.result_max ? how.result_max : 1 << 20};
    struct provider_sink sink = {say_text, say_reasoning, say_tool, &heard->said};
    void *state = ADAPTER.create(&call);
    struct span all = span_str(body);
    ADAPTER.head(state, span_str(how.type));
    heard->fine = true;
    for (size_t at = 0; heard->fine && at < all.len; at += how.step)
        heard->fine = ADAPTER.feed(state, span_of(all.data + at, MIN(how.step, all.len - at)), &sink, &heard->failure);
    heard->proven = heard->fine && ADAPTER.proven(state);
    if (heard->fine)
        heard->fine = ADAPTER.end(state, &sink, &heard->result, &heard->failure);
    ADAPTER.usage(state, &heard->usage);
    ADAPTER.destroy(state);
    json_raw(&heard->said, span_of("", 1));
    json_raw(&heard->result, span_of("", 1));
}

static void forget(struct heard *heard)
{
    json_out_done(&heard->said);
    json_out_done(&heard->result);
}

/* Every step gives the same; at step = all, the said is compared too. */
static void expect_stream(const char *body, const char *said, const char *result)
{
    for (size_t step = 1; step <= 8; step++) {
        struct heard heard;
        hear(body, (struct how){.stream = true, .type = STREAM_TYPE, .step = step}, &heard);
        if (!heard.fine)
            fail_msg("%s", heard.failure.text);
        assert_true(heard.proven);
        assert_string_equal(heard.said.data, said);
        assert_string_equal(heard.result.data, result);
        forget(&heard);
    }
}

static enum kind stream_fails(const char *body)
{
    struct heard heard;
    hear(body, (struct how){.stream = true, .type = STREAM_TYPE, .step = 3}, &heard);
    assert_false(heard.fine);
    assert_false(heard.proven);
    assert_true(heard.failure.text[0]);
    assert_true(utf8_valid(span_str(heard.failure.text)));
    forget(&heard);
    return heard.failure.kind;
}

static enum kind whole_fails(const char *body)
{
    struct heard heard;
    hear(body, (struct how){.type = "application/json", .step = 5}, &heard);
    assert_false(heard.fine);
    assert_true(heard.failure.text[0]);
    forget(&heard);
    return heard.failure.kind;
}
