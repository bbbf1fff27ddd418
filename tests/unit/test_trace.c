/* Request ids and traceparent (W3C Trace Context level 1, sections 3.2 and 4.3). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "api/trace.h"

#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define SPAN  "b7ad6b7169203331"

static void test_ids(void **state)
{
    char text[TRACE_ID_MAX + 2];
    assert_true(trace_id_ok(span_str("a-B_9.z")));
    assert_false(trace_id_ok(span_str("")));
    for (int c = 0; c < 256; c++) {
        char one = (char)c;
        bool expected =
            (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.' || c == '_' || c == '-';
        assert_int_equal(trace_id_ok(span_of(&one, 1)), expected);
    }
    memset(text, 'x', sizeof text);
    assert_true(trace_id_ok(span_of(text, TRACE_ID_MAX)));
    assert_false(trace_id_ok(span_of(text, TRACE_ID_MAX + 1)));

    char own[TRACE_OWN_LEN + 1];
    trace_id_make(0x0123456789abcdef, own);
    assert_string_equal(own, "req-0123456789abcdef");
    assert_true(trace_id_ok(span_str(own)));
}

static void test_continue(void **state)
{
    static const struct {
        const char *parent;
        bool ok;
    } cases[] = {
        {"00-" TRACE "-" SPAN "-01", true},
        {"00-" TRACE "-" SPAN "-00", true},
        {"cc-" TRACE "-" SPAN "-01", true}, /* a later version, read as far as ours goes */
        {"cc-" TRACE "-" SPAN "-01-what-comes", true},
        {"00-" TRACE "-" SPAN "-01-more", false},
        {"cc-" TRACE "-" SPAN "-01.more", false},
        {"ff-" TRACE "-" SPAN "-01", false},
        {"00-" TRACE "-" SPAN "-1", false},
        {"00-" TRACE "-" SPAN, false},
        {"00_" TRACE "-" SPAN "-01", false},
        {"00-" TRACE "-" SPAN "-0G", false},
        {"00-00000000000000000000000000000000-" SPAN "-01", false},
        {"00-" TRACE "-0000000000000000-01", false},
        {"00-0AF7651916CD43DD8448EB211C80319C-" SPAN "-01", false},
        {"", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char out[TRACE_PARENT_LEN + 1] = "untouched";
        bool ok = trace_continue(span_str(cases[i].parent), 0x1122334455667788, out);
        if (ok != cases[i].ok)
            fail_msg("%s", cases[i].parent);
        if (!ok) {
            assert_string_equal(out, "untouched");
            continue;
        }
        assert_memory_equal(out, "00-" TRACE "-1122334455667788-0", TRACE_PARENT_LEN - 1);
        assert_int_equal(out[TRACE_PARENT_LEN - 1], cases[i].parent[TRACE_PARENT_LEN - 1]);
    }
    char out[TRACE_PARENT_LEN + 1]; /* a span is never all zeros */
    assert_true(trace_continue(span_str(cases[0].parent), 0, out));
    assert_string_equal(out, "00-" TRACE "-0000000000000001-01");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_continue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
