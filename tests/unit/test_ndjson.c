/* The NDJSON line splitter: every cut, blank lines, a last line without its end, limits. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "worker/ndjson.h"

static enum err note(void *arg, struct span line)
{
    struct json_out *text = arg;
    json_raw(text, line);
    json_lit(text, ";");
    return ERR_OK;
}

static enum err refuse(void *arg, struct span line)
{
    return ERR_CORRUPT;
}

static void expect(const char *text, const char *lines)
{
    struct span all = span_str(text);
    for (size_t cut = 0; cut <= all.len; cut++) {
        struct ndjson ndjson;
        struct json_out seen = {0};
        ndjson_init(&ndjson, 0);
        assert_int_equal(ndjson_feed(&ndjson, span_of(all.data, cut), note, &seen), ERR_OK);
        assert_int_equal(ndjson_feed(&ndjson, span_of(all.data + cut, all.len - cut), note, &seen), ERR_OK);
        assert_int_equal(ndjson_end(&ndjson, note, &seen), ERR_OK);
        ndjson_done(&ndjson);
        json_raw(&seen, span_of("", 1));
        assert_string_equal(seen.data, lines);
        json_out_done(&seen);
    }
}

static void lines_at_every_cut(void **state)
{
    expect("{\"a\":1}\n{\"b\":2}\n", "{\"a\":1};{\"b\":2};");
    expect("{\"a\":1}\r\n{\"b\":2}\r\n", "{\"a\":1};{\"b\":2};");
    expect("\n\r\n  \n{}\n\n", "{};");
    expect("{}\n{\"last\":true}", "{};{\"last\":true};");
    expect("", "");
}

static void a_line_beyond_the_limit_is_refused(void **state)
{
    struct ndjson ndjson;
    struct json_out seen = {0};
    ndjson_init(&ndjson, 8);
    assert_int_equal(ndjson_feed(&ndjson, span_str("12345678\r\n12345678\n"), note, &seen), ERR_OK);
    assert_int_equal(ndjson_feed(&ndjson, span_str("123456789\n"), note, &seen), ERR_LIMIT);
    ndjson_done(&ndjson);
    ndjson_init(&ndjson, 8);
    enum err e = ERR_OK;
    for (int i = 0; i < 10 && !e; i++)
        e = ndjson_feed(&ndjson, span_str("x"), note, &seen);
    assert_int_equal(e, ERR_LIMIT);
    ndjson_done(&ndjson);
    json_out_done(&seen);
}

static void the_listeners_error_is_passed_on(void **state)
{
    struct ndjson ndjson;
    ndjson_init(&ndjson, 0);
    assert_int_equal(ndjson_feed(&ndjson, span_str("{}\n"), refuse, NULL), ERR_CORRUPT);
    ndjson_done(&ndjson);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_at_every_cut),
        cmocka_unit_test(a_line_beyond_the_limit_is_refused),
        cmocka_unit_test(the_listeners_error_is_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
