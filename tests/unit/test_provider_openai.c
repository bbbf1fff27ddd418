/* The OpenAI adapter: requests built, streams and whole answers read at every cut, errors named. */
#define ADAPTER     provider_openai
#define CHAT_PATH   "/chat/completions"
#define STREAM_TYPE "text/event-stream"
#include "tests/unit/provider_call.h"

static void requests(void **state)
{
    expect_request("{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", false,
                   "{\"model\":\"m-1\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}");
    expect_request("{\"prompt\":\"say \\\"hi\\\"\"}", false,
                   "{\"model\":\"m-1\",\"messages\":[{\"role\":\"user\",\"content\":\"say \\\"hi\\\"\"}]}");
    expect_request("{\"messages\":[],\"params\":{}}", true,
                   "{\"model\":\"m-1\",\"messages\":[],\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
}

static void params_pass_untouched_save_the_reserved(void **state)
{
    expect_request(
        "{\"messages\":[],\"params\":{\"temperature\":0.1,\"seed\":12345678901234567890,\"tools\":[{\"a\":{}}],"
        "\"model\":\"other\",\"stream\":true,\"stream_options\":{},\"messages\":[1],\"x_unknown\":null}}",
        false,
        "{\"model\":\"m-1\",\"messages\":[],\"temperature\":0.1,\"seed\":12345678901234567890,\"tools\":[{\"a\":{}}],"
        "\"x_unknown\":null}");
}

static void requests_that_cannot_be_put(void **state)
{
    refuse_request("{}");
    refuse_request("{\"messages\":\"hi\"}");
    refuse_request("{\"messages\":[],\"params\":[]}");
    refuse_request("{\"messages\":[],\"params\":{\"n\":2}}");
}

/* ---- answers ---- */

#define CHUNK(delta, finish)                                                                                                   \
    "data: {\"model\":\"m-1-0601\",\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":" finish "}]}\n\n"
#define DONE "data: [DONE]\n\n"

static void a_stream(void **state)
{
    expect_stream(
        ": OPENROUTER PROCESSING\n\n" CHUNK("{\"role\":\"assistant\",\"content\":\"\"}", "null")
            CHUNK("{\"content\":\"Hel\"}", "null") CHUNK("{\"content\":\"l\xc3\xb6\"}", "null") CHUNK(
                "{}", "\"stop\"") "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n" DONE,
        "T:Hel|T:l\xc3\xb6|",
        "{\"content\":\"Hell\xc3\xb6\",\"finish_reason\":\"stop\",\"model\":\"m-1-0601\",\"provider\":\"openai\"}");
}

static void reasoning_and_refusal(void **state)
{
    expect_stream(CHUNK("{\"reasoning_content\":\"hm\"}", "null") CHUNK("{\"content\":\"yes\"}", "\"length\"") DONE,
                  "R:hm|T:yes|",
                  "{\"content\":\"yes\",\"reasoning\":\"hm\",\"finish_reason\":\"length\",\"model\":\"m-1-0601\",\"provider\":"
                  "\"openai\"}");
    expect_stream(
        CHUNK("{\"reasoning\":\"hm\"}", "null") CHUNK("{\"refusal\":\"no\"}", "\"content_filter\"") DONE, "R:hm|T:no|",
        "{\"content\":\"\",\"reasoning\":\"hm\",\"refusal\":\"no\",\"finish_reason\":\"content_filter\",\"model\":\"m-1-0601\","
        "\"provider\":\"openai\"}");
}

static void tool_calls_are_put_together(void **state)
{
    /* arguments before the name, interleaved, text after a tool */
    expect_stream(CHUNK("{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
                        "\"arguments\":\"\"}}]}",
                        "null") CHUNK("{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"{\\\"b\\\"\"}}]}", "null")
                      CHUNK("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]}", "null") CHUNK(
                          "{\"tool_calls\":[{\"index\":1,\"id\":\"c2\",\"function\":{\"name\":\"g\",\"arguments\":\":1}\"}}]}",
                          "null") CHUNK("{\"content\":\"!\"}", "null") CHUNK("{}", "\"tool_calls\"") DONE,
                  "C0 c1 f |C1   {\"b\"|C0   {}|C1 c2 g :1}|T:!|",
                  "{\"content\":\"!\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\","
                  "\"arguments\":\"{}\"}},"
                  "{\"id\":\"c2\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{\\\"b\\\":1}\"}}],"
                  "\"finish_reason\":\"tool_calls\",\"model\":\"m-1-0601\",\"provider\":\"openai\"}");
    /* no indexes, no ids, an object for arguments, arguments that are no JSON */
    expect_stream(
        CHUNK("{\"tool_calls\":[{\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}]}", "null")
            CHUNK("{\"tool_calls\":[{\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"{\"}}]}", "\"tool_calls\"") DONE,
        "C0 a f {\"x\":1}|C1 b g {|",
        "{\"content\":\"\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
        "\"{\\\"x\\\":1}\"}},{\"id\":\"b\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{\"},"
        "\"malformed\":true}],"
        "\"finish_reason\":\"tool_calls\",\"model\":\"m-1-0601\",\"provider\":\"openai\"}");
    /* an id is made up */
    expect_stream(
        CHUNK("{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}", "\"tool_calls\"") DONE,
        "C0  f {}|",
        "{\"content\":\"\",\"tool_calls\":[{\"id\":\"call_0\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
        "\"{}\"}}],\"finish_reason\":\"tool_calls\",\"model\":\"m-1-0601\",\"provider\":\"openai\"}");
    /* the older form */
    expect_stream(
        CHUNK("{\"function_call\":{\"name\":\"f\",\"arguments\":\"{\"}}", "null")
            CHUNK("{\"function_call\":{\"arguments\":\"}\"}}", "\"function_call\"") DONE,
        "C0  f {|C0   }|",
        "{\"content\":\"\",\"function_call\":{\"name\":\"f\",\"arguments\":\"{}\"},\"finish_reason\":\"function_call\","
        "\"model\":\"m-1-0601\",\"provider\":\"openai\"}");
    assert_int_equal(stream_fails(CHUNK("{\"tool_calls\":[{\"index\":-1,\"function\":{}}]}", "null")), KIND_BAD_FRAME);
    assert_int_equal(stream_fails(CHUNK("{\"tool_calls\":[{\"index\":128,\"function\":{}}]}", "null")), KIND_BAD_FRAME);
    assert_int_equal(stream_fails(CHUNK("{\"tool_calls\":[7]}", "null")), KIND_BAD_FRAME);
}

static void a_stream_without_its_proof_is_cut(void **state)
{
    const char *texts[] = {
        "",
        ": keep-alive\n\n",
        CHUNK("{\"content\":\"Hel\"}", "null"),
        CHUNK("{\"content\":\"Hel\"}", "\"stop\""),  /* no [DONE] */
        CHUNK("{\"content\":\"Hel\"}", "null") DONE, /* no finish_reason */
        CHUNK("{}", "\"stop\"") "data: [DON",
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        assert_int_equal(stream_fails(texts[i]), KIND_STREAM_CUT);
}

static void what_follows_done_does_not_matter(void **state)
{
    expect_stream(CHUNK("{\"content\":\"a\"}", "\"stop\"") DONE "data: garbage\n\n" CHUNK("{\"content\":\"b\"}", "null"),
                  "T:a|", "{\"content\":\"a\",\"finish_reason\":\"stop\",\"model\":\"m-1-0601\",\"provider\":\"openai\"}");
}

static void bad_frames(void **state)
{
    assert_int_equal(stream_fails("data: {\"choices\":\n\n"), KIND_BAD_FRAME);
    assert_int_equal(stream_fails("data: 7\n\n"), KIND_BAD_FRAME);
    assert_int_equal(stream_fails("data: {\"choices\":{}}\n\n"), KIND_BAD_FRAME);
    assert_int_equal(stream_fails("data: {\"choices\":[1]}\n\n"), KIND_BAD_FRAME);
    assert_int_equal(stream_fails("data: \xff\xfe\n\n"), KIND_BAD_FRAME);
    assert_int_equal(whole_fails("<html>502</html>"), KIND_BAD_FRAME);
    assert_int_equal(whole_fails("[]"), KIND_BAD_FRAME);
    assert_int_equal(whole_fails("{\"choices\":[]}"), KIND_BAD_FRAME);
    assert_int_equal(whole_fails("{\"choices\":[{}]} {}"), KIND_BAD_FRAME);
}

static void a_line_above_one_mebibyte_is_a_bad_frame(void **state)
{
    char *body = malloc((2 << 20) + 1);
    memset(body, 'x', 2 << 20);
    body[2 << 20] = '\0';
    assert_int_equal(stream_fails(body), KIND_BAD_FRAME);
    free(body);
}

static void an_answer_cut_short_is_a_cut_not_a_bad_frame(void **state)
{
    static const char whole[] = "{\"choices\":[{\"message\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}";
    for (size_t len = 0; len + 1 < sizeof whole; len++) {
        char part[sizeof whole];
        snprintf(part, sizeof part, "%.*s", (int)len, whole);
        assert_int_equal(whole_fails(part), KIND_STREAM_CUT);
    }
}

static void errors_in_an_answer_with_status_200(void **state)
{
    assert_int_equal(stream_fails("data: {\"error\":{\"message\":\"m\",\"code\":\"rate_limit_exceeded\"}}\n\n"),
                     KIND_THROTTLED);
    assert_int_equal(stream_fails("data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\"}}\n\n"), KIND_OVERLOAD);
    assert_int_equal(stream_fails("data: {\"error\":{\"message\":\"m\",\"code\":502}}\n\n"), KIND_OVERLOAD);
    assert_int_equal(stream_fails("data: {\"error\":{\"message\":\"m\",\"code\":\"429\"}}\n\n"), KIND_THROTTLED);
    assert_int_equal(stream_fails("data: {\"error\":{\"message\":\"m\",\"code\":401}}\n\n"), KIND_AUTH);
    assert_int_equal(
        stream_fails(
            "data: {\"error\":{\"message\":\"m\",\"type\":\"insufficient_quota\",\"code\":\"credit_balance_exhausted\"}}\n\n"),
        KIND_QUOTA);
    assert_int_equal(stream_fails("event: error\ndata: {\"message\":\"boom\"}\n\n"), KIND_OVERLOAD);
    assert_int_equal(
        stream_fails(CHUNK("{\"content\":\"a\"}", "null") "data: {\"error\":\"boom\"}\n\n" CHUNK("{}", "\"stop\"") DONE),
        KIND_OVERLOAD);
    assert_int_equal(stream_fails(CHUNK("{\"content\":\"\"}", "\"error\"") DONE), KIND_OVERLOAD);
    assert_int_equal(whole_fails("{\"error\":{\"message\":\"m\",\"code\":\"context_length_exceeded\"}}"), KIND_CLIENT);
    assert_int_equal(whole_fails("{\"object\":\"error\",\"message\":\"m\",\"type\":\"BadRequestError\",\"code\":400}"),
                     KIND_CLIENT);
}

static void a_null_error_is_none(void **state)
{
    expect_stream("data: {\"error\":null,\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n" DONE,
                  "T:a|", "{\"content\":\"a\",\"finish_reason\":\"stop\",\"model\":\"asked\",\"provider\":\"openai\"}");
}

static void a_whole_answer(void **state)
{
    struct heard heard;
    hear("\n\n\r\n  "
         "{\"id\":\"x\",\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello\","
         "\"refusal\":null},"
         "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1000,\"completion_tokens\":50,\"prompt_tokens_details\":{"
         "\"cached_tokens\":900}}}",
         (struct how){.type = "application/json; charset=utf-8", .step = 7}, &heard);
    assert_true(heard.fine);
    assert_string_equal(heard.said.data, "T:Hello|");
    assert_string_equal(heard.result.data,
                        "{\"content\":\"Hello\",\"finish_reason\":\"stop\",\"model\":\"m\",\"provider\":\"openai\"}");
    assert_true(heard.usage.known);
    assert_int_equal(heard.usage.input_tokens, 100);
    assert_int_equal(heard.usage.cached_tokens, 900);
    assert_int_equal(heard.usage.output_tokens, 50);
    forget(&heard);
}

static void a_server_that_cannot_stream(void **state)
{
    struct heard heard;
    hear("{\"choices\":[{\"message\":{\"content\":\"Hello\"},\"finish_reason\":\"stop\"}]}",
         (struct how){.stream = true, .type = "application/json", .step = 7}, &heard);
    assert_true(heard.fine);
    assert_string_equal(heard.said.data, "T:Hello|");
    forget(&heard);
}

static struct provider_usage usage_of(const char *body)
{
    struct heard heard;
    hear(body, (struct how){.stream = true, .type = "text/event-stream", .step = 100}, &heard);
    forget(&heard);
    return heard.usage;
}

static void usage_in_all_its_places(void **state)
{
    struct provider_usage usage = usage_of(CHUNK("{\"content\":\"a\"}", "\"stop\"") DONE);
    assert_false(usage.known);
    /* running totals: the last counts, also where the stream is cut */
    usage = usage_of("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\n"
                     "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n"
                     "data: {\"choices\":[],\"usage\":null}\n\n");
    assert_true(usage.known);
    assert_int_equal(usage.input_tokens, 9);
    assert_int_equal(usage.output_tokens, 2);
    usage = usage_of("data: {\"choices\":[{\"delta\":{},\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}]}\n\n");
    assert_int_equal(usage.output_tokens, 4);
    usage = usage_of(
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1,\"prompt_cache_hit_tokens\":5}}\n\n");
    assert_int_equal(usage.cached_tokens, 5);
    assert_int_equal(usage.input_tokens, 4);
    usage = usage_of(
        "data: "
        "{\"choices\":[],\"usage\":{\"prompt_tokens\":-9,\"completion_tokens\":1e300,\"prompt_cache_hit_tokens\":5}}\n\n");
    assert_int_equal(usage.input_tokens, 0);
    assert_int_equal(usage.cached_tokens, 0); /* never more than there were in all */
    assert_int_equal(usage.output_tokens, 0);
}

static void answers_above_the_limit(void **state)
{
    struct heard heard;
    static const char body[] =
        CHUNK("{\"content\":\"0123456789\"}", "null") CHUNK("{\"content\":\"0123456789\"}", "\"stop\"") DONE;
    hear(body, (struct how){.stream = true, .type = "", .step = 9, .result_max = 19}, &heard);
    assert_false(heard.fine);
    assert_int_equal(heard.failure.kind, KIND_ANSWER_TOO_LARGE);
    forget(&heard);
    hear(body, (struct how){.stream = true, .type = "", .step = 9, .result_max = 40},
         &heard); /* the text fits, the JSON does not */
    assert_false(heard.fine);
    assert_int_equal(heard.failure.kind, KIND_ANSWER_TOO_LARGE);
    forget(&heard);
    hear(body, (struct how){.stream = true, .type = "", .step = 9, .result_max = 200}, &heard);
    assert_true(heard.fine);
    forget(&heard);
}

/* ---- error replies ---- */

static enum kind named(unsigned status, const char *body, bool retry_after, const char *text)
{
    struct provider_failure failure = {0};
    provider_openai.classify(status, span_str(body), retry_after, &failure);
    if (text)
        assert_string_equal(failure.text, text);
    return failure.kind;
}

static void error_replies_by_status(void **state)
{
    static const struct {
        unsigned status;
        enum kind kind;
    } rows[] = {
        {301, KIND_CLIENT},   {400, KIND_CLIENT},   {401, KIND_AUTH},      {402, KIND_QUOTA},
        {403, KIND_AUTH},     {404, KIND_CLIENT},   {408, KIND_OVERLOAD},  {409, KIND_CLIENT},
        {413, KIND_CLIENT},   {422, KIND_CLIENT},   {429, KIND_THROTTLED}, {500, KIND_OVERLOAD},
        {502, KIND_OVERLOAD}, {503, KIND_OVERLOAD}, {504, KIND_OVERLOAD},  {529, KIND_OVERLOAD},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
        assert_int_equal(named(rows[i].status, "", false, NULL), rows[i].kind);
    assert_int_equal(named(402, "{}", true, NULL), KIND_THROTTLED);
}

static void error_replies_by_code(void **state)
{
    assert_int_equal(named(429, "{\"error\":{\"message\":\"slow\",\"type\":\"requests\",\"code\":\"rate_limit_exceeded\"}}",
                           false, "HTTP 429 rate_limit_exceeded: slow"),
                     KIND_THROTTLED);
    assert_int_equal(
        named(
            429,
            "{\"error\":{\"message\":\"pay\",\"type\":\"insufficient_quota\",\"code\":\"organization_spend_limit_exceeded\"}}",
            false, NULL),
        KIND_QUOTA);
    assert_int_equal(
        named(503, "{\"error\":{\"message\":\"m\",\"type\":\"rate_limit_error\",\"code\":\"slow_down\"}}", false, NULL),
        KIND_THROTTLED);
    assert_int_equal(named(400, "{\"error\":{\"message\":\"long\",\"code\":\"context_length_exceeded\"}}", false, NULL),
                     KIND_CLIENT);
    assert_int_equal(named(422, "{\"detail\":\"wrong\"}", false, "HTTP 422: wrong"), KIND_CLIENT);
    assert_int_equal(named(404, "{\"error\":\"no model\"}", false, "HTTP 404: no model"), KIND_CLIENT);
    assert_int_equal(named(502,
                           "<html>\x01"
                           "bad\xff</html>",
                           false, "HTTP 502: <html> bad\xef\xbf\xbd</html>"),
                     KIND_OVERLOAD);
}

static void evidence_is_cut_and_valid(void **state)
{
    struct provider_failure failure = {0};
    char *body = malloc(100001);
    for (size_t i = 0; i < 100000; i++)
        body[i] = "\xc3\xa4"[i % 2];
    body[100000] = '\0';
    provider_openai.classify(500, span_str(body), false, &failure);
    assert_true(strlen(failure.text) > 7000 && strlen(failure.text) < PROTO_EVIDENCE_BYTES);
    assert_true(utf8_valid(span_str(failure.text)));
    free(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests),
        cmocka_unit_test(params_pass_untouched_save_the_reserved),
        cmocka_unit_test(requests_that_cannot_be_put),
        cmocka_unit_test(a_stream),
        cmocka_unit_test(reasoning_and_refusal),
        cmocka_unit_test(tool_calls_are_put_together),
        cmocka_unit_test(a_stream_without_its_proof_is_cut),
        cmocka_unit_test(what_follows_done_does_not_matter),
        cmocka_unit_test(bad_frames),
        cmocka_unit_test(a_line_above_one_mebibyte_is_a_bad_frame),
        cmocka_unit_test(an_answer_cut_short_is_a_cut_not_a_bad_frame),
        cmocka_unit_test(errors_in_an_answer_with_status_200),
        cmocka_unit_test(a_null_error_is_none),
        cmocka_unit_test(a_whole_answer),
        cmocka_unit_test(a_server_that_cannot_stream),
        cmocka_unit_test(usage_in_all_its_places),
        cmocka_unit_test(answers_above_the_limit),
        cmocka_unit_test(error_replies_by_status),
        cmocka_unit_test(error_replies_by_code),
        cmocka_unit_test(evidence_is_cut_and_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
