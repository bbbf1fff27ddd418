/* The SSE parser: every line ending, every cut, comments, joined data, limits. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/sse.h"

/* Events seen, as "name=data;" text. */
struct seen {
    struct json_out text;
    enum err fail_with;
};

static enum err note(void *arg, struct span name, struct span data)
{
    struct seen *seen = arg;
    if (seen->fail_with)
        return seen->fail_with;
    json_raw(&seen->text, name);
    json_lit(&seen->text, "=");
    json_raw(&seen->text, data);
    json_lit(&seen->text, ";");
    return ERR_OK;
}

/* Feeds `text` in two pieces, the first `cut` long. */
static enum err parse(const char *text, size_t cut, struct seen *seen)
{
    struct sse sse;
    struct span all = span_str(text);
    sse_init(&sse, 0);
    enum err e = sse_feed(&sse, span_of(all.data, cut), note, seen);
    if (!e)
        e = sse_feed(&sse, span_of(all.data + cut, all.len - cut), note, seen);
    if (!e)
        e = sse_end(&sse, note, seen);
    sse_done(&sse);
    return e;
}

static void expect(const char *text, const char *events)
{
    for (size_t cut = 0; cut <= strlen(text); cut++) {
        struct seen seen = {0};
        assert_int_equal(parse(text, cut, &seen), ERR_OK);
        json_raw(&seen.text, span_of("", 1));
        assert_string_equal(seen.text.data, events);
        json_out_done(&seen.text);
    }
}

static void every_line_ending_at_every_cut(void **state)
{
    expect("data: a\n\ndata: b\n\n", "=a;=b;");
    expect("data: a\r\n\r\ndata: b\r\n\r\n", "=a;=b;");
    expect("data: a\r\rdata: b\r\r", "=a;=b;");
    expect("data: a\n\r\ndata: b\r\n\ndata: c\r\n\r", "=a;=b;=c;");
}

static void fields(void **state)
{
    expect("event: ping\ndata: {}\n\n", "ping={};");
    expect("data:tight\ndata:  one space is kept\n\n", "=tight\n one space is kept;");
    expect("id: 7\nretry: 10\nodd: field\ndata: x\n\n", "=x;");
    expect("data: a:b: c\n\n", "=a:b: c;");
}

static void comments_and_empty_events_say_nothing(void **state)
{
    expect(": keep-alive\n\n: OPENROUTER PROCESSING\n\ndata: x\n\n", "=x;");
    expect("event: ping\n\ndata: x\n\n", "=x;"); /* the name does not leak into the next event */
    expect("data\n\ndata:\n\ndata: \n\ndata: x\n\n", "=x;");
    expect("\n\n\r\n\r\n", "");
}

static void a_byte_order_mark_is_skipped_once(void **state)
{
    expect("\xef\xbb\xbf"
           "data: x\n\n",
           "=x;");
    expect("\xef\xbb"
           "data: x\n\ndata: y\n\n",
           "=y;"); /* only half a mark: part of an unknown field's name */
}

static void utf8_survives_any_cut(void **state)
{
    expect("data: gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80\n\n", "=gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80;");
}

static void the_end_of_the_stream(void **state)
{
    expect("data: a\n\ndata: [DONE]\n", "=a;=[DONE];"); /* complete line, no blank one */
    expect("data: a\n\ndata: [DO", "=a;");              /* half a line is dropped */
}

static void a_line_beyond_the_limit_is_refused(void **state)
{
    struct sse sse;
    struct seen seen = {0};
    sse_init(&sse, 16);
    assert_int_equal(sse_feed(&sse, span_str("data: 0123456789\n\n"), note, &seen), ERR_OK);
    assert_int_equal(sse_feed(&sse, span_str("data: 0123456789a\n\n"), note, &seen), ERR_LIMIT);
    sse_done(&sse);
    assert_int_equal(seen.text.len, 12);
    json_out_done(&seen.text);

    /* the same in single bytes, without any line end */
    sse_init(&sse, 16);
    for (int i = 0; i < 16; i++)
        assert_int_equal(sse_feed(&sse, span_str("x"), note, &seen), ERR_OK);
    assert_int_equal(sse_feed(&sse, span_str("x"), note, &seen), ERR_LIMIT);
    sse_done(&sse);
}

static void joined_data_beyond_the_limit_is_refused(void **state)
{
    struct sse sse;
    struct seen seen = {0};
    enum err e = ERR_OK;
    int lines = 0;
    sse_init(&sse, 64);
    while (!e && lines < 1000) {
        e = sse_feed(&sse, span_str("data: 0123456789\n"), note, &seen);
        lines++;
    }
    assert_int_equal(e, ERR_LIMIT);
    assert_int_equal(lines, 6); /* 11 bytes each with the LF: five fit into 64 */
    sse_done(&sse);
}

static void the_listeners_error_is_passed_on(void **state)
{
    struct sse sse;
    struct seen seen = {.fail_with = ERR_CORRUPT};
    sse_init(&sse, 0);
    assert_int_equal(sse_feed(&sse, span_str("data: a\n\ndata: b\n\n"), note, &seen), ERR_CORRUPT);
    sse_done(&sse);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_line_ending_at_every_cut),
        cmocka_unit_test(fields),
        cmocka_unit_test(comments_and_empty_events_say_nothing),
        cmocka_unit_test(a_byte_order_mark_is_skipped_once),
        cmocka_unit_test(utf8_survives_any_cut),
        cmocka_unit_test(the_end_of_the_stream),
        cmocka_unit_test(a_line_beyond_the_limit_is_refused),
        cmocka_unit_test(joined_data_beyond_the_limit_is_refused),
        cmocka_unit_test(the_listeners_error_is_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
