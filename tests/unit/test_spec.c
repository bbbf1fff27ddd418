/* A submit's JSON: what is refused and by which name, what is kept, what the worker gets, what counts as the same request. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "api/spec.h"

#define NOW 1767322800000 /* 2026-01-02T03:00:00Z */

static const struct spec_caller somebody = {
    .tenant = {(const uint8_t *)"acme", 4}, .request_id = {(const uint8_t *)"r-1", 3}, .wall_ms = NOW};

static enum err read_as(const struct spec_caller *caller, const char *json, struct submission **s, struct spec_fault *fault)
{
    *s = NULL;
    return spec_read(span_str(json), caller, s, fault);
}

static struct submission *good(const char *json)
{
    struct submission *s;
    struct spec_fault fault;
    enum err e = read_as(&somebody, json, &s, &fault);
    if (e)
        fail_msg("%s: %s at %s: %s", json, err_name(e), fault.param, fault.message);
    return s;
}

static void test_refused(void **state)
{
    static const struct {
        const char *json;
        enum err error;
        const char *param;
    } cases[] = {
        {"", ERR_BAD_JSON, ""},
        {"{\"prompt\":\"a\",\"prompt\":\"b\"}", ERR_BAD_JSON, ""},
        {"[]", ERR_INVALID, ""},
        {"\"x\"", ERR_INVALID, ""},
        {"{}", ERR_INVALID, "prompt"},
        {"{\"model\":\"m\"}", ERR_INVALID, "prompt"},
        {"{\"prompt\":\"\"}", ERR_INVALID, "prompt"},
        {"{\"prompt\":null}", ERR_INVALID, "prompt"},
        {"{\"prompt\":\"x\",\"PROMPT\":\"x\"}", ERR_UNKNOWN_FIELD, "PROMPT"},
        {"{\"prompt\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"y\"}]}", ERR_INVALID, "messages"},
        {"{\"input\":\"x\",\"prompt\":\"y\"}", ERR_INVALID, "prompt"},
        {"{\"input\":5}", ERR_INVALID, "input"},
        {"{\"input\":[{\"role\":\"x\",\"content\":\"y\"}]}", ERR_INVALID, "input[0].role"},
        {"{\"messages\":[]}", ERR_INVALID, "messages"},
        {"{\"messages\":[5]}", ERR_INVALID, "messages[0]"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\",\"content\":5}]}", ERR_INVALID,
         "messages[1].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", ERR_INVALID, "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}]}", ERR_INVALID, "messages[0].content[0].type"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", ERR_INVALID, "messages[0].content[0].text"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"hue\":1}]}", ERR_UNKNOWN_FIELD, "messages[0].hue"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":null}]}", ERR_INVALID, "messages[0].content"},
        {"{\"prompt\":\"x\",\"model\":\"\"}", ERR_INVALID, "model"},
        {"{\"prompt\":\"x\",\"model\":\"a\\nb\"}", ERR_INVALID, "model"},
        {"{\"prompt\":\"x\",\"model\":\"a\",\"scenario\":\"b\"}", ERR_INVALID, "scenario"},
        {"{\"prompt\":\"x\",\"system\":5}", ERR_INVALID, "system"},
        {"{\"prompt\":\"x\",\"type\":\"translation\"}", ERR_INVALID, "type"},
        {"{\"prompt\":\"x\",\"type\":\"haiku\"}", ERR_INVALID, "type"},
        {"{\"prompt\":\"x\",\"priority\":0}", ERR_INVALID, "priority"},
        {"{\"prompt\":\"x\",\"priority\":11}", ERR_INVALID, "priority"},
        {"{\"prompt\":\"x\",\"priority\":5.5}", ERR_INVALID, "priority"},
        {"{\"prompt\":\"x\",\"priority\":\"later\"}", ERR_INVALID, "priority"},
        {"{\"prompt\":\"x\",\"class\":\"\"}", ERR_INVALID, "class"},
        {"{\"prompt\":\"x\",\"ack\":\"memory\"}", ERR_INVALID, "ack"},
        {"{\"prompt\":\"x\",\"queue\":\"a b\"}", ERR_INVALID, "queue"},
        {"{\"prompt\":\"x\",\"queue\":\"\"}", ERR_INVALID, "queue"},
        {"{\"prompt\":\"x\",\"timeout_ms\":99}", ERR_INVALID, "timeout_ms"},
        {"{\"prompt\":\"x\",\"timeout_ms\":\"1000\"}", ERR_INVALID, "timeout_ms"},
        {"{\"prompt\":\"x\",\"timeout_ms\":1e300}", ERR_INVALID, "timeout_ms"},
        {"{\"prompt\":\"x\",\"timeout_ms\":18446744073709551716}", ERR_INVALID, "timeout_ms"},
        {"{\"prompt\":\"x\",\"max_attempts\":0}", ERR_INVALID, "max_attempts"},
        {"{\"prompt\":\"x\",\"max_attempts\":101}", ERR_INVALID, "max_attempts"},
        {"{\"prompt\":\"x\",\"max_retries\":-1}", ERR_INVALID, "max_retries"},
        {"{\"prompt\":\"x\",\"max_retries\":1,\"max_attempts\":2}", ERR_INVALID, "max_attempts"},
        {"{\"prompt\":\"x\",\"delay_ms\":1,\"run_at\":\"2026-01-02T04:00:00Z\"}", ERR_INVALID, "run_at"},
        {"{\"prompt\":\"x\",\"run_at\":\"tomorrow\"}", ERR_INVALID, "run_at"},
        {"{\"prompt\":\"x\",\"run_at\":\"2099-01-02T04:00:00Z\"}", ERR_INVALID, "run_at"},
        {"{\"prompt\":\"x\",\"deadline\":\"2026-01-02T02:00:00Z\"}", ERR_INVALID, "deadline"},
        {"{\"prompt\":\"x\",\"run_at\":\"2026-01-02T04:00:00Z\",\"deadline\":\"2026-01-02T03:30:00Z\"}", ERR_INVALID,
         "deadline"},
        {"{\"prompt\":\"x\",\"backoff\":2}", ERR_INVALID, "backoff"},
        {"{\"prompt\":\"x\",\"backoff\":{\"base_ms\":0}}", ERR_INVALID, "backoff.base_ms"},
        {"{\"prompt\":\"x\",\"backoff\":{\"factor\":2}}", ERR_UNKNOWN_FIELD, "backoff.factor"},
        {"{\"prompt\":\"x\",\"stream\":1}", ERR_INVALID, "stream"},
        {"{\"prompt\":\"x\",\"tags\":[\"a\",\"\"]}", ERR_INVALID, "tags[1]"},
        {"{\"prompt\":\"x\",\"tags\":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7]}", ERR_INVALID, "tags"},
        {"{\"prompt\":\"x\",\"metadata\":[]}", ERR_INVALID, "metadata"},
        {"{\"prompt\":\"x\",\"params\":5}", ERR_INVALID, "params"},
        {"{\"prompt\":\"x\",\"params\":{\"stream\":true}}", ERR_INVALID, "params.stream"},
        {"{\"prompt\":\"x\",\"result_ttl_s\":0}", ERR_INVALID, "result_ttl_s"},
        {"{\"prompt\":\"x\",\"idempotency_key\":\"\"}", ERR_INVALID, "idempotency_key"},
        {"{\"prompt\":\"x\",\"on_disconnect\":\"stay\"}", ERR_INVALID, "on_disconnect"},
        {"{\"prompt\":\"x\",\"user_id\":5}", ERR_INVALID, "user_id"},
        {"{\"prompt\":\"x\",\"conversation_id\":\"c\"}", ERR_INVALID, "conversation_id"},
        {"{\"prompt\":\"x\",\"unique\":{}}", ERR_INVALID, "unique"},
        {"{\"prompt\":\"x\",\"cache\":null}", ERR_INVALID, "cache"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct submission *s;
        struct spec_fault fault;
        enum err e = read_as(&somebody, cases[i].json, &s, &fault);
        if (e != cases[i].error || strcmp(fault.param, cases[i].param) != 0 || !fault.message[0])
            fail_msg("%s: %s at '%s': '%s'", cases[i].json, err_name(e), fault.param, fault.message);
        assert_null(s);
    }
}

static void test_defaults(void **state)
{
    AUTO(submission_free) struct submission *s = good("{\"prompt\":\"hello\"}");
    assert_true(span_is(s->spec.tenant, "acme") && span_is(s->spec.queue, "default") && span_is(s->spec.route, "default"));
    assert_true(span_is(s->spec.request_id, "r-1") && s->spec.trace.len == 0);
    assert_int_equal(s->spec.priority, 0);
    assert_int_equal(s->spec.class, 0);
    assert_int_equal(s->spec.max_attempts, 0);
    assert_int_equal(s->spec.timeout_ms, 0);
    assert_int_equal(s->spec.ack, 0);
    assert_false(s->spec.stream || s->keyed || s->spec.cancel_on_leave || s->spec.backoff_exact);
    assert_int_equal(s->spec.output_estimate, SPEC_OUTPUT_TOKENS);
    const char display[] = "{\"type\":\"chat\",\"tags\":[],\"metadata\":{}}";
    assert_int_equal(s->spec.display_bytes, strlen(display));
    assert_true(
        span_is(blob_span(s->body),
                "{\"type\":\"chat\",\"tags\":[],\"metadata\":{}}"
                "{\"type\":\"chat\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"params\":{},\"stream\":false}"));
}

static void test_everything(void **state)
{
    AUTO(submission_free)
    struct submission *s = good(
        "{\"type\":\"chat_completion\",\"model\":\"m/1:7b\",\"system\":\"be brief\",\"user_id\":\"u\",\"priority\":\"high\","
        "\"class\":\"background\",\"queue\":\"q.1\",\"stream\":true,\"timeout_ms\":1000,\"max_wait_ms\":2000,"
        "\"deadline\":\"2026-01-02T05:00:00+01:00\",\"delay_ms\":7,\"max_retries\":4,"
        "\"backoff\":{\"base_ms\":1,\"cap_ms\":20,\"jitter\":false},\"result_ttl_s\":60,\"tags\":[\"a\"],"
        "\"metadata\":{\"n\":12345678901234567},\"params\":{\"max_tokens\":9,\"x\":[1,{\"y\":null}]},\"ack\":\"synced\","
        "\"on_disconnect\":\"cancel\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]},{\"role\":\"tool\",\"content\":[{\"type\":\"text\","
        "\"text\":\"t\"}]}]}");
    const struct rec_spec *p = &s->spec;
    assert_true(span_is(p->route, "m/1:7b") && span_is(p->queue, "q.1"));
    assert_int_equal(p->priority, 8);
    assert_int_equal(p->class, CLASS_BACKGROUND);
    assert_int_equal(p->timeout_ms, 1000);
    assert_int_equal(p->max_wait_ms, 2000);
    assert_int_equal(p->deadline, NOW + 3600000);
    assert_int_equal(p->delay_ms, 7);
    assert_int_equal(p->max_attempts, 5);
    assert_int_equal(p->backoff_base_ms, 1);
    assert_int_equal(p->backoff_cap_ms, 20);
    assert_int_equal(p->result_ttl_ms, 60000);
    assert_int_equal(p->ack, ACK_SYNCED);
    assert_int_equal(p->output_estimate, 9);
    assert_true(p->stream && p->backoff_exact && p->cancel_on_leave);
    struct span body = blob_span(s->body);
    assert_true(span_is(span_of(body.data, p->display_bytes),
                        "{\"type\":\"chat\",\"model\":\"m/1:7b\",\"user_id\":\"u\",\"tags\":[\"a\"],"
                        "\"metadata\":{\"n\":12345678901234567}}"));
    assert_true(span_is(span_of(body.data + p->display_bytes, body.len - p->display_bytes),
                        "{\"type\":\"chat\",\"model\":\"m/1:7b\",\"messages\":[{\"role\":\"system\",\"content\":\"be brief\"},"
                        "{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]},"
                        "{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"t\"}]}],"
                        "\"params\":{\"max_tokens\":9,\"x\":[1,{\"y\":null}]},\"stream\":true,\"user_id\":\"u\"}"));
}

static void test_scenario_is_the_route(void **state)
{
    AUTO(submission_free)
    struct submission *s = good("{\"input\":\"x\",\"scenario\":\"general_chat\",\"tags\":[],\"metadata\":{}}");
    assert_true(span_is(s->spec.route, "general_chat"));
    assert_non_null(
        strstr((const char *)s->body->data, "{\"type\":\"chat\",\"scenario\":\"general_chat\",\"tags\":[],\"metadata\":{}}"));
}

static void test_metadata_is_bounded(void **state)
{
    char json[SPEC_METADATA_BYTES + 100];
    for (int more = 0; more <= 1; more++) {
        struct submission *s;
        struct spec_fault fault;
        int len = sprintf(json, "{\"prompt\":\"x\",\"metadata\":{\"k\":\"");
        int fill = SPEC_METADATA_BYTES - 8 + more; /* {"k":""} */
        memset(json + len, 'v', (size_t)fill);
        strcpy(json + len + fill, "\"}}");
        assert_int_equal(read_as(&somebody, json, &s, &fault), more ? ERR_INVALID : ERR_OK);
        if (more)
            assert_string_equal(fault.param, "metadata");
        submission_free(&s);
    }
}

/* --- idempotency --- */

static struct submission *keyed(const char *tenant, const char *header, const char *json)
{
    struct spec_caller caller = somebody;
    struct spec_fault fault;
    struct submission *s;
    caller.tenant = span_str(tenant);
    caller.idempotency_key = header ? span_str(header) : (struct span){0};
    assert_int_equal(read_as(&caller, json, &s, &fault), ERR_OK);
    assert_true(s->keyed);
    return s;
}

static bool same_key(const struct submission *a, const struct submission *b)
{
    return memcmp(a->idem, b->idem, 32) == 0;
}

static bool same_body(const struct submission *a, const struct submission *b)
{
    return memcmp(a->body_hash, b->body_hash, 32) == 0;
}

static void test_the_key(void **state)
{
    AUTO(submission_free) struct submission *a = keyed("acme", "k", "{\"prompt\":\"x\"}");
    AUTO(submission_free) struct submission *b = keyed("acme", NULL, "{\"prompt\":\"x\",\"idempotency_key\":\"k\"}");
    AUTO(submission_free) struct submission *tenant = keyed("acm", "k", "{\"prompt\":\"x\"}");
    AUTO(submission_free) struct submission *queue = keyed("acme", "k", "{\"prompt\":\"x\",\"queue\":\"q\"}");
    AUTO(submission_free) struct submission *other = keyed("acme", "l", "{\"prompt\":\"x\"}");
    assert_true(same_key(a, b) && same_body(a, b));
    assert_false(same_key(a, tenant) || same_key(a, queue) || same_key(a, other));

    struct spec_caller caller = somebody;
    struct spec_fault fault;
    struct submission *s;
    caller.idempotency_key = span_str("k");
    assert_int_equal(read_as(&caller, "{\"prompt\":\"x\",\"idempotency_key\":\"l\"}", &s, &fault), ERR_INVALID);
    assert_string_equal(fault.param, "idempotency_key");
    caller.idempotency_key = span_str("");
    assert_int_equal(read_as(&caller, "{\"prompt\":\"x\"}", &s, &fault), ERR_INVALID);
    assert_string_equal(fault.param, "Idempotency-Key");
}

static void test_the_same_request(void **state)
{
    static const struct {
        const char *json;
        bool same;
    } cases[] = {
        {"{ \"priority\": 5.0e0,\n\"prompt\" : \"\\u0078\" }", true}, /* spelling and order do not matter */
        {"{\"prompt\":\"x\",\"priority\":\"normal\",\"type\":\"chat\"}", true},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"priority\":5}", true},
        {"{\"prompt\":\"y\",\"priority\":5}", false},
        {"{\"prompt\":\"x\",\"priority\":6}", false},
        {"{\"prompt\":\"x\"}", false}, /* 5 said and 5 by default may part ways with the settings */
        {"{\"prompt\":\"x\",\"priority\":5,\"tags\":[\"t\"]}", false},
        {"{\"prompt\":\"x\",\"priority\":5,\"delay_ms\":1}", false},
        {"{\"prompt\":\"x\",\"priority\":5,\"params\":{\"a\":1}}", false},
        {"{\"prompt\":\"x\",\"priority\":5,\"stream\":true}", false},
        {"{\"prompt\":\"x\",\"priority\":5,\"model\":\"m\"}", false},
    };
    AUTO(submission_free) struct submission *first = keyed("acme", "k", "{\"prompt\":\"x\",\"priority\":5}");
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        AUTO(submission_free) struct submission *s = keyed("acme", "k", cases[i].json);
        if (same_body(first, s) != cases[i].same)
            fail_msg("%s", cases[i].json);
    }
}

/* --- small parts --- */

static void test_tokens(void **state)
{
    assert_int_equal(spec_tokens(span_str("")), 0);
    assert_int_equal(spec_tokens(span_str("abcdefgh")), 2);
    assert_int_equal(spec_tokens(span_str("abcdefghi")), 3);
    assert_int_equal(spec_tokens(span_str("世界")), 2);
    assert_int_equal(spec_tokens(span_str("こんにちは")), 5);
    assert_int_equal(spec_tokens(span_str("안녕")), 2);
    assert_int_equal(spec_tokens(span_str("Grüße")), 2);
    assert_int_equal(spec_tokens(span_str("\xf0\xa0\x80\x80")), 1); /* U+20000 */
    assert_int_equal(spec_tokens(span_str("世\xe4")), 2);           /* a cut character at the end is not read past */
}

static void test_duration(void **state)
{
    static const struct {
        const char *text;
        msec ms;
    } cases[] = {{"30s", 30000}, {"500ms", 500}, {"30", 30000}, {"2m", 120000},       {"0", 0},
                 {"", -1},       {"s", -1},      {"-1s", -1},   {"1.5s", -1},         {"1e9s", -1},
                 {"1h", -1},     {" 1s", -1},    {"1s ", -1},   {"9999999999999", -1}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        msec ms = -1;
        bool ok = spec_duration(span_str(cases[i].text), &ms);
        if (ok != (cases[i].ms >= 0) || (ok && ms != cases[i].ms))
            fail_msg("%s", cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_scenario_is_the_route),
        cmocka_unit_test(test_metadata_is_bounded),
        cmocka_unit_test(test_the_key),
        cmocka_unit_test(test_the_same_request),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_duration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
