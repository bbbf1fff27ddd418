#include "common/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct {
    const char *text;
    msec ms;
} instants[] = {
    {"1970-01-01T00:00:00.000Z", 0},
    {"1969-12-31T23:59:59.999Z", -1},
    {"2000-02-29T12:34:56.789Z", 951827696789},
    {"2026-11-22T10:00:00.000Z", 1795341600000},
    {"1900-02-28T23:59:59.999Z", -2203891200001},
    {"2400-02-29T00:00:00.001Z", 13574563200001},
    {"0000-01-01T00:00:00.000Z", -62167219200000},
    {"9999-12-31T23:59:59.999Z", 253402300799999},
};

static void expect_text(msec ms, const char *text)
{
    char out[CLOCK_TEXT_LEN + 1];
    clock_print(ms, out);
    assert_string_equal(out, text);
}

static void expect_instant(const char *text, msec ms)
{
    msec got = 0;
    assert_int_equal(clock_parse(span_str(text), &got), ERR_OK);
    assert_true(got == ms);
}

static void test_print_and_parse(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(instants); i++) {
        expect_text(instants[i].ms, instants[i].text);
        expect_instant(instants[i].text, instants[i].ms);
    }
    expect_text(INT64_MIN, "0000-01-01T00:00:00.000Z");
    expect_text(MSEC_NEVER, "9999-12-31T23:59:59.999Z");
}

static void test_round_trip(void **state)
{
    char text[CLOCK_TEXT_LEN + 1];
    for (msec at = -62167219200000; at < 253402300799999; at += 123456789012) {
        msec back = 0;
        clock_print(at, text);
        assert_int_equal(clock_parse(span_str(text), &back), ERR_OK);
        assert_true(back == at);
    }
}

static void test_forms_of_rfc_3339(void **state)
{
    const msec noon = 1795348800000; /* 2026-11-22T12:00:00Z */
    expect_instant("2026-11-22T12:00:00Z", noon);
    expect_instant("2026-11-22t12:00:00z", noon);
    expect_instant("2026-11-22T14:30:00+02:30", noon);
    expect_instant("2026-11-22T00:00:00-12:00", noon);
    expect_instant("2026-11-23T11:59:00+23:59", noon);
    expect_instant("2026-11-22T12:00:00-00:00", noon);
    expect_instant("2026-11-22T12:00:00.1Z", noon + 100);
    expect_instant("2026-11-22T12:00:00.0019999999999999999999999Z", noon + 1);
    expect_instant("2026-11-22T11:59:60Z", noon); /* a leap second, wherever it stands */
}

static void test_everything_else_is_malformed(void **state)
{
    static const char *const bad[] = {"",
                                      "2026",
                                      "2026-11-22",
                                      "2026-11-22T12:00:00",
                                      "2026-11-22 12:00:00Z",
                                      "2026-11-22T12:00Z",
                                      "2026-11-22T12:00:00.Z",
                                      "2026-11-22T12:00:00,5Z",
                                      "2026-11-22T12:00:00Zx",
                                      " 2026-11-22T12:00:00Z",
                                      "2026-11-22T12:00:00Z ",
                                      "26-11-22T12:00:00Z",
                                      "2026-00-22T12:00:00Z",
                                      "2026-13-22T12:00:00Z",
                                      "2026-11-00T12:00:00Z",
                                      "2026-11-31T12:00:00Z",
                                      "2026-02-29T12:00:00Z",
                                      "1900-02-29T12:00:00Z",
                                      "2026-11-22T24:00:00Z",
                                      "2026-11-22T12:60:00Z",
                                      "2026-11-22T12:00:61Z",
                                      "2026-11-22T12:00:00+24:00",
                                      "2026-11-22T12:00:00+02:60",
                                      "2026-11-22T12:00:00+0230",
                                      "2026-11-22T12:00:00+02",
                                      "2026-11-22T12:00:00 +02:00",
                                      "-2026-11-22T12:00:00Z",
                                      "+2026-11-22T12:00:00Z",
                                      "2026-1-22T12:00:00Z",
                                      "2026-11-22T1:00:00Z",
                                      "20261122T120000Z",
                                      "2026-11-22T12:00:0\xd9\xa0Z"};
    msec untouched = 42;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_int_equal(clock_parse(span_str(bad[i]), &untouched), ERR_MALFORMED);
    assert_int_equal(clock_parse((struct span){0}, &untouched), ERR_MALFORMED);
    assert_int_equal(clock_parse(span_of("2026-11-22T12:00:00Z\0", 21), &untouched), ERR_MALFORMED);
    assert_true(untouched == 42);
}

/* No prefix of a good text is good. */
static void test_cut_text_is_malformed(void **state)
{
    const char *text = "2026-11-22T12:00:00.123+01:00";
    msec ms;
    for (size_t len = 0; len < strlen(text); len++)
        assert_int_equal(clock_parse(span_of(text, len), &ms), ERR_MALFORMED);
}

static void test_axis_starts_at_wall_or_floor(void **state)
{
    msec wall = clock_wall();
    struct clock_axis axis = clock_axis_start(0);
    assert_in_range(clock_axis_now(&axis) - wall, 0, 5000);
    axis = clock_axis_start(wall + 3600000); /* the last instant stored is ahead of the wall clock */
    assert_in_range(clock_axis_now(&axis) - (wall + 3600000), 0, 5000);
    axis = clock_axis_start(wall - 3600000);
    assert_in_range(clock_axis_now(&axis) - wall, 0, 5000);
}

static void test_mono_does_not_go_back(void **state)
{
    msec before = clock_mono();
    for (int i = 0; i < 100000; i++) {
        msec now = clock_mono();
        assert_true(now >= before);
        before = now;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_print_and_parse),       cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_forms_of_rfc_3339),     cmocka_unit_test(test_everything_else_is_malformed),
        cmocka_unit_test(test_cut_text_is_malformed), cmocka_unit_test(test_axis_starts_at_wall_or_floor),
        cmocka_unit_test(test_mono_does_not_go_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
