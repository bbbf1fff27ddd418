/* The echo adapter, and what all adapters share: finding them, text from outside made fit to show. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "worker/providers.h"

static const struct provider *const echo = &provider_echo;

static void say_text(void *arg, struct span text)
{
    json_raw(arg, text);
    json_lit(arg, "|");
}

struct answered {
    struct json_out said, result;
    struct provider_local local;
    struct provider_usage usage;
    struct provider_failure failure;
    bool fine;
};

static void ask(const char *request, bool stream, size_t result_max, struct answered *ret)
{
    cJSON *tree = NULL;
    assert_int_equal(json_parse(span_str(request), &tree, NULL), ERR_OK);
    *ret = (struct answered){0};
    struct provider_call call = {.request = tree, .model = "m", .stream = stream, .result_max = result_max};
    struct provider_sink sink = {.text = say_text, .arg = &ret->said};
    void *state = echo->create(&call);
    assert_true(echo->answer(state, &call, &ret->local, &ret->failure));
    json_free(&tree);
    while (echo->step(state, &sink))
        continue;
    ret->fine = echo->end(state, &sink, &ret->result, &ret->failure);
    echo->usage(state, &ret->usage);
    echo->destroy(state);
    json_raw(&ret->said, span_of("", 1));
    json_raw(&ret->result, span_of("", 1));
}

static void expect(const char *request, bool stream, const char *said, const char *result)
{
    struct answered answered;
    ask(request, stream, 4096, &answered);
    assert_true(answered.fine);
    assert_string_equal(answered.said.data, said);
    assert_string_equal(answered.result.data, result);
    assert_true(answered.usage.known);
    json_out_done(&answered.said);
    json_out_done(&answered.result);
}

#define RESULT(text) "{\"content\":\"" text "\",\"finish_reason\":\"stop\",\"model\":\"m\",\"provider\":\"echo\"}"

static void the_last_user_message_comes_back(void **state)
{
    expect("{\"prompt\":\"hi you\"}", false, "echo: hi you|", RESULT("echo: hi you"));
    expect("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\","
           "\"content\":"
           "[{\"type\":\"text\",\"text\":\"c\"},{\"type\":\"image_url\"},{\"type\":\"text\",\"text\":\"d\"}]},{\"role\":"
           "\"tool\",\"content\":\"e\"}]}",
           false, "echo: cd|", RESULT("echo: cd"));
    expect("{\"messages\":[7,{\"role\":\"user\"}]}", false, "echo: |", RESULT("echo: "));
    expect("{}", true, "echo:| |", RESULT("echo: "));
}

static void a_stream_comes_in_words(void **state)
{
    expect("{\"prompt\":\"one  two gr\xc3\xbc\xc3\x9f\"}", true, "echo:| one|  two| gr\xc3\xbc\xc3\x9f|",
           RESULT("echo: one  two gr\xc3\xbc\xc3\x9f"));
}

static void delays(void **state)
{
    static const struct {
        const char *params;
        msec first_ms, step_ms;
    } rows[] = {
        {"{\"latency_ms\":20,\"token_ms\":3}", 20, 3},
        {"{\"latency_ms\":-1}", 0, 0},
        {"{\"latency_ms\":\"x\"}", 0, 0},
        {"{\"latency_ms\":1e300}", 3600000, 0},
        {"[]", 0, 0},
        {"null", 0, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct json_out request = {0};
        struct answered answered;
        json_printf(&request, "{\"prompt\":\"x\",\"params\":%s}", rows[i].params);
        json_raw(&request, span_of("", 1));
        ask(request.data, false, 4096, &answered);
        assert_int_equal(answered.local.first_ms, rows[i].first_ms);
        assert_int_equal(answered.local.step_ms, rows[i].step_ms);
        json_out_done(&answered.said);
        json_out_done(&answered.result);
        json_out_done(&request);
    }
}

static void an_answer_above_the_limit(void **state)
{
    struct answered answered;
    ask("{\"prompt\":\"hello\"}", false, 20, &answered);
    assert_false(answered.fine);
    assert_int_equal(answered.failure.kind, KIND_ANSWER_TOO_LARGE);
    json_out_done(&answered.said);
    json_out_done(&answered.result);
}

static void adapters_by_name(void **state)
{
    assert_ptr_equal(provider_find("echo"), &provider_echo);
    assert_ptr_equal(provider_find("openai"), &provider_openai);
    assert_null(provider_find(""));
    assert_null(provider_find("Echo"));
}

static void text_from_outside(void **state)
{
    char out[8];
    assert_int_equal(provider_text(out, sizeof out, span_of("a\0b\x1b\n\t\x7f", 7)), 7);
    assert_memory_equal(out, "a b \n\t ", 8);
    assert_int_equal(provider_text(out, sizeof out, span_str("12345\xc3\xa4\xc3\xa4")), 7);
    assert_string_equal(out, "12345\xc3\xa4");
    assert_int_equal(provider_text(out, sizeof out, span_str("123456\xc3\xa4")), 6); /* never half a character */
    assert_int_equal(provider_text(out, sizeof out, span_str("\xff\xc3(")), 7);
    assert_string_equal(out, "\xef\xbf\xbd\xef\xbf\xbd(");
    assert_int_equal(provider_text(out, sizeof out, (struct span){0}), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_user_message_comes_back),
        cmocka_unit_test(a_stream_comes_in_words),
        cmocka_unit_test(delays),
        cmocka_unit_test(an_answer_above_the_limit),
        cmocka_unit_test(adapters_by_name),
        cmocka_unit_test(text_from_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
