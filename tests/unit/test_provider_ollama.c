/* The Ollama adapter: requests in its words, streams and whole answers read at every cut, errors named. */
#define ADAPTER     provider_ollama
#define CHAT_PATH   "/api/chat"
#define STREAM_TYPE "application/x-ndjson"
#include "tests/unit/provider_call.h"

/* ---- requests ---- */

#define REQUEST(messages, params) "{\"messages\":[" messages "],\"params\":{" params "}}"
#define ASKED(messages, rest)     "{\"model\":\"m-1\",\"stream\":false,\"messages\":[" messages "]" rest "}"

static void requests(void **state)
{
    expect_request("{\"prompt\":\"say \\\"hi\\\"\"}", true,
                   "{\"model\":\"m-1\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"say \\\"hi\\\"\"}]}");
    expect_request("{\"messages\":[{\"content\":\"a\",\"role\":\"developer\"},{\"role\":\"user\",\"content\":\"b\"}]}", false,
                   ASKED("{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"}", ""));
    expect_request("{\"messages\":[],\"params\":null}", false, ASKED("", ""));
}

static void settings_of_the_model_go_into_options(void **state)
{
    expect_request(
        REQUEST("", "\"temperature\":0.1,\"max_tokens\":64,\"stop\":[\"x\"],\"seed\":12345678901234567890,\"num_ctx\":8192"),
        false,
        ASKED("", ",\"options\":{\"temperature\":0.1,\"num_predict\":64,\"stop\":[\"x\"],\"seed\":12345678901234567890,"
                  "\"num_ctx\":8192}"));
    expect_request(REQUEST("", "\"max_completion_tokens\":5,\"options\":{\"num_predict\":7,\"mirostat\":1}"), false,
                   ASKED("", ",\"options\":{\"num_predict\":7,\"mirostat\":1}"));
}

static void its_own_words_pass_and_ours_are_translated(void **state)
{
    expect_request(REQUEST("", "\"keep_alive\":\"5m\",\"think\":\"low\",\"format\":\"json\",\"logprobs\":true"), false,
                   ASKED("", ",\"keep_alive\":\"5m\",\"think\":\"low\",\"format\":\"json\",\"logprobs\":true"));
    expect_request(REQUEST("", "\"response_format\":{\"type\":\"json_object\"},\"reasoning_effort\":\"none\""), false,
                   ASKED("", ",\"format\":\"json\",\"think\":false"));
    expect_request(REQUEST("", "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":"
                               "{\"type\":\"object\"}}},\"reasoning_effort\":\"high\""),
                   false, ASKED("", ",\"format\":{\"type\":\"object\"},\"think\":\"high\""));
    expect_request(REQUEST("",
                           "\"model\":\"other\",\"stream\":true,\"stream_options\":{},\"messages\":[1],\"n\":1,\"user\":\"u\","
                           "\"response_format\":{\"type\":\"text\"},\"top_p\":null"),
                   false, ASKED("", ""));
}

static void tools_are_offered_and_answered(void **state)
{
    expect_request(REQUEST("", "\"tools\":[{\"type\":\"function\"}],\"tool_choice\":\"auto\""), false,
                   ASKED("", ",\"tools\":[{\"type\":\"function\"}]"));
    expect_request(REQUEST("", "\"tools\":[{\"type\":\"function\"}],\"tool_choice\":\"none\""), false, ASKED("", ""));
    expect_request(
        REQUEST("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":"
                "{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},{\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]},"
                "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"7\"},"
                "{\"role\":\"tool\",\"tool_call_id\":\"nobody\",\"content\":\"8\"}",
                ""),
        false,
        ASKED("{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}},"
              "\"id\":\"c1\"},{\"function\":{\"name\":\"g\",\"arguments\":{}}}]},"
              "{\"role\":\"tool\",\"tool_name\":\"f\",\"tool_call_id\":\"c1\",\"content\":\"7\"},"
              "{\"role\":\"tool\",\"tool_call_id\":\"nobody\",\"content\":\"8\"}",
              ""));
}

static void parts_become_text_and_images(void **state)
{
    expect_request(
        REQUEST("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"what \"},{\"type\":\"image_url\",\"image_url\":"
                "{\"url\":\"data:image/png;base64,aGk=\"}},{\"type\":\"text\",\"text\":\"is it\"},"
                "{\"type\":\"image_url\",\"image_url\":\"data:image/jpeg;base64,eW8=\"}]}",
                ""),
        false, ASKED("{\"role\":\"user\",\"content\":\"what is it\",\"images\":[\"aGk=\",\"eW8=\"]}", ""));
}

static void requests_that_cannot_be_put(void **state)
{
    const char *texts[] = {
        "{}",
        "{\"messages\":\"hi\"}",
        "{\"messages\":[7]}",
        "{\"messages\":[{\"content\":\"no role\"}]}",
        "{\"messages\":[],\"params\":[]}",
        REQUEST("", "\"n\":2"),
        REQUEST("", "\"options\":[]"),
        REQUEST("", "\"logit_bias\":{}"),
        REQUEST("", "\"response_format\":{\"type\":\"grammar\"}"),
        REQUEST("", "\"response_format\":{\"type\":\"json_schema\"}"),
        REQUEST("", "\"tools\":[],\"tool_choice\":\"required\""),
        REQUEST("", "\"tools\":[],\"tool_choice\":{\"type\":\"function\"}"),
        REQUEST("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}", ""),
        REQUEST("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://a/b.png\"}}]}", ""),
        REQUEST("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:,x\"}}]}", ""),
        REQUEST("{\"role\":\"assistant\",\"tool_calls\":[7]}", ""),
        REQUEST("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}", ""),
        REQUEST("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":[]}}]}", ""),
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        refuse_request(texts[i]);
}

/* ---- answers ---- */

#define LINE(message)         "{\"model\":\"m-1:latest\",\"created_at\":\"x\",\"message\":" message ",\"done\":false}\n"
#define TEXT(text)            LINE("{\"role\":\"assistant\",\"content\":\"" text "\"}")
#define END(reason, counters) "{\"model\":\"m-1:latest\",\"message\":{\"content\":\"\"},\"done\":true" reason counters "}\n"
#define STOP                  END(",\"done_reason\":\"stop\"", ",\"prompt_eval_count\":9,\"eval_count\":2")
#define RESULT(content, rest) "{\"content\":\"" content "\"" rest ",\"model\":\"m-1:latest\",\"provider\":\"ollama\"}"

static void a_stream(void **state)
{
    expect_stream("\n" TEXT("Hel") "\r\n" TEXT("l\xc3\xb6") STOP, "T:Hel|T:l\xc3\xb6|",
                  RESULT("Hell\xc3\xb6", ",\"finish_reason\":\"stop\""));
    expect_stream(TEXT("cut") END(",\"done_reason\":\"length\"", ""), "T:cut|", RESULT("cut", ",\"finish_reason\":\"length\""));
    expect_stream(TEXT("old") END("", ""), "T:old|", RESULT("old", ",\"finish_reason\":\"stop\""));
}

static void thinking_is_reasoning(void **state)
{
    expect_stream(LINE("{\"content\":\"\",\"thinking\":\"hm\"}") TEXT("yes") STOP, "R:hm|T:yes|",
                  RESULT("yes", ",\"reasoning\":\"hm\",\"finish_reason\":\"stop\""));
}

static void tool_calls_come_whole(void **state)
{
    expect_stream(
        LINE("{\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"city\":\"T\\u00fc\"}}},"
             "{\"id\":\"call_x\",\"function\":{\"name\":\"g\",\"arguments\":{}}}]}")
            LINE("{\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"h\"}}]}") STOP,
        "C0 call_0 f {\"city\":\"T\xc3\xbc\"}|C1 call_x g {}|C2 call_2 h {}|",
        RESULT("", ",\"tool_calls\":["
                   "{\"id\":\"call_0\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"city\\\":"
                   "\\\"T\xc3\xbc\\\"}\"}},"
                   "{\"id\":\"call_x\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}},"
                   "{\"id\":\"call_2\",\"type\":\"function\",\"function\":{\"name\":\"h\",\"arguments\":\"{}\"}}],"
                   "\"finish_reason\":\"tool_calls\""));
    assert_int_equal(stream_fails(LINE("{\"tool_calls\":[7]}")), KIND_BAD_FRAME);
    assert_int_equal(stream_fails(LINE("{\"tool_calls\":[{\"function\":{}}]}")), KIND_BAD_FRAME);
}

static void too_many_tool_calls(void **state)
{
    struct json_out text = {0};
    json_lit(&text, "{\"message\":{\"tool_calls\":[");
    for (int i = 0; i <= 128; i++)
        json_printf(&text, "%s{\"function\":{\"name\":\"f\"}}", i ? "," : "");
    json_lit(&text, "]},\"done\":true}\n");
    assert_int_equal(stream_fails(text.data), KIND_BAD_FRAME);
    json_out_done(&text);
}

static void a_stream_without_its_proof_is_cut(void **state)
{
    const char *texts[] = {"", "\n\n", TEXT("Hel"), TEXT("Hel") "{\"model\":\"m-1\",\"done\":tr", TEXT("a") "{"};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        assert_int_equal(stream_fails(texts[i]), KIND_STREAM_CUT);
}

static void what_follows_done_does_not_matter(void **state)
{
    expect_stream(TEXT("a") STOP "}garbage{\n", "T:a|", RESULT("a", ",\"finish_reason\":\"stop\""));
}

static void a_last_line_needs_no_end(void **state)
{
    struct heard heard;
    hear(TEXT("a") "{\"done\":true}", (struct how){.stream = true, .type = STREAM_TYPE, .step = 4}, &heard);
    assert_true(heard.fine);
    forget(&heard);
}

static void bad_frames(void **state)
{
    const char *texts[] = {"garbage\n",        "[1]\n", "7\n", "{}\n", "{\"message\":7}\n", "{\"message\":{\n" TEXT("b"),
                           "<html>\n</html>\n"};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        assert_int_equal(stream_fails(texts[i]), KIND_BAD_FRAME);
}

static void errors_in_band(void **state)
{
    assert_int_equal(stream_fails(TEXT("Hel") "{\"error\":\"an error was encountered while running the model\"}\n"),
                     KIND_OVERLOAD);
    assert_int_equal(stream_fails("{\"error\":{\"message\":\"gateway\"}}\n"), KIND_OVERLOAD);
    assert_int_equal(whole_fails("{\"error\":\"model runner has unexpectedly stopped\"}"), KIND_OVERLOAD);
    expect_stream("{\"error\":null,\"message\":{\"content\":\"a\"}}\n" STOP, "T:a|",
                  RESULT("a", ",\"finish_reason\":\"stop\""));
}

static void a_whole_answer(void **state)
{
    struct heard heard;
    const char *body = "{\"model\":\"m-1:latest\",\"message\":{\"role\":\"assistant\",\"content\":\"hi\",\"thinking\":\"hm\"},"
                       "\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":26,\"eval_count\":282}";
    for (int stream = 0; stream <= 1; stream++) { /* also where a stream was asked for */
        hear(body, (struct how){.stream = stream, .type = "application/json; charset=utf-8", .step = 7}, &heard);
        assert_true(heard.fine);
        assert_string_equal(heard.result.data, RESULT("hi", ",\"reasoning\":\"hm\",\"finish_reason\":\"stop\""));
        assert_true(heard.usage.known && heard.usage.input_tokens == 26 && heard.usage.output_tokens == 282);
        forget(&heard);
    }
    assert_int_equal(whole_fails("{\"message\":{\"content\":\"hi\"},\"done\":true"), KIND_STREAM_CUT);
    assert_int_equal(whole_fails("{\"message\":{\"content\":\"hi\"},\"done\":false}"), KIND_STREAM_CUT);
    assert_int_equal(whole_fails(""), KIND_STREAM_CUT);
    assert_int_equal(whole_fails("<html></html>"), KIND_BAD_FRAME);
    assert_int_equal(whole_fails("[]"), KIND_BAD_FRAME);
    assert_int_equal(whole_fails("{}"), KIND_BAD_FRAME);
}

static void counters_left_out_are_zero(void **state)
{
    struct heard heard;
    hear(TEXT("a") END(",\"done_reason\":\"stop\"", ",\"eval_count\":3"),
         (struct how){.stream = true, .type = STREAM_TYPE, .step = 9}, &heard);
    assert_true(heard.usage.known && heard.usage.input_tokens == 0 && heard.usage.output_tokens == 3);
    forget(&heard);
    hear(TEXT("a"), (struct how){.stream = true, .type = STREAM_TYPE, .step = 9}, &heard);
    assert_false(heard.usage.known);
    forget(&heard);
}

static void answers_above_the_limit(void **state)
{
    struct heard heard;
    hear(TEXT("0123456789") TEXT("0123456789") STOP,
         (struct how){.stream = true, .type = STREAM_TYPE, .step = 50, .result_max = 15}, &heard);
    assert_false(heard.fine);
    assert_int_equal(heard.failure.kind, KIND_ANSWER_TOO_LARGE);
    forget(&heard);
}

static void error_replies(void **state)
{
    static const struct {
        unsigned status;
        enum kind kind;
    } rows[] = {{400, KIND_CLIENT},    {401, KIND_AUTH},     {403, KIND_AUTH},     {404, KIND_CLIENT},
                {429, KIND_THROTTLED}, {500, KIND_OVERLOAD}, {502, KIND_OVERLOAD}, {503, KIND_OVERLOAD}};
    struct provider_failure failure;
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        provider_ollama.classify(rows[i].status, span_str("{\"error\":\"model 'x' not found\"}"), false, &failure);
        assert_int_equal(failure.kind, rows[i].kind);
        assert_non_null(strstr(failure.text, ": model 'x' not found"));
    }
    provider_ollama.classify(502, span_str("<html>bad gateway</html>"), false, &failure);
    assert_non_null(strstr(failure.text, "<html>bad gateway"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests),
        cmocka_unit_test(settings_of_the_model_go_into_options),
        cmocka_unit_test(its_own_words_pass_and_ours_are_translated),
        cmocka_unit_test(tools_are_offered_and_answered),
        cmocka_unit_test(parts_become_text_and_images),
        cmocka_unit_test(requests_that_cannot_be_put),
        cmocka_unit_test(a_stream),
        cmocka_unit_test(thinking_is_reasoning),
        cmocka_unit_test(tool_calls_come_whole),
        cmocka_unit_test(too_many_tool_calls),
        cmocka_unit_test(a_stream_without_its_proof_is_cut),
        cmocka_unit_test(what_follows_done_does_not_matter),
        cmocka_unit_test(a_last_line_needs_no_end),
        cmocka_unit_test(bad_frames),
        cmocka_unit_test(errors_in_band),
        cmocka_unit_test(a_whole_answer),
        cmocka_unit_test(counters_left_out_are_zero),
        cmocka_unit_test(answers_above_the_limit),
        cmocka_unit_test(error_replies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
