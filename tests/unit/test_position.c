/* Positions in a job's events: what is one, and that it comes out as it went in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api/position.h"

static void good_ones(void **state)
{
    static const struct {
        const char *text;
        uint32_t run;
        uint64_t offset;
    } rows[] = {{"0-0", 0, 0},
                {"2-8841", 2, 8841},
                {"4294967295-18446744073709551615", UINT32_MAX, UINT64_MAX},
                {"4294967295-18446744073709551610", UINT32_MAX, UINT64_MAX - 5}};
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct position p = {7, 7};
        char text[POSITION_TEXT_LEN + 1];
        assert_true(position_parse(span_str(rows[i].text), &p));
        assert_int_equal(p.run, rows[i].run);
        assert_true(p.offset == rows[i].offset);
        position_print(&p, text);
        assert_string_equal(text, rows[i].text);
    }
}

static void bad_ones(void **state)
{
    const char *texts[] = {"",     "-",   "1",    "1-",    "-1",    "1--1", "1-+1",         " 1-1",
                           "1-1 ", "a-1", "1-1a", "0x1-1", "1-1-1", "1.1",  "4294967296-0", "0-18446744073709551616"};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        struct position p = {7, 7};
        assert_false(position_parse(span_str(texts[i]), &p));
        assert_true(p.run == 7 && p.offset == 7);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_ones),
        cmocka_unit_test(bad_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
