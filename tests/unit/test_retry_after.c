/* Retry-After in all its forms. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "worker/retry_after.h"

#define NOW ((msec)1795341600000) /* Sun, 22 Nov 2026 10:00:00 GMT */

static msec asked(const char *ms, const char *header, const char *date)
{
    return retry_after_read(span_str(ms), span_str(header), span_str(date), NOW);
}

static void seconds(void **state)
{
    assert_int_equal(asked("", "7", ""), 7000);
    assert_int_equal(asked("", " 7 ", ""), 7000);
    assert_int_equal(asked("", "0", ""), 0);
    assert_int_equal(asked("", "0.25", ""), 250);
    assert_int_equal(asked("", "1.0001", ""), 1001);
    assert_int_equal(asked("", "", ""), 0);
}

static void milliseconds_win(void **state)
{
    assert_int_equal(asked("125", "7", ""), 125);
    assert_int_equal(asked("0.4", "7", ""), 1);
    assert_int_equal(asked("nonsense", "7", ""), 7000);
}

static void a_date_is_relative_to_the_replys_own(void **state)
{
    assert_int_equal(asked("", "Sun, 22 Nov 2026 10:00:30 GMT", ""), 30000);
    assert_int_equal(asked("", "Thu, 01 Jan 2004 00:01:00 GMT", "Thu, 01 Jan 2004 00:00:00 GMT"), 60000);
    assert_int_equal(asked("", "Sunday, 22-Nov-26 10:00:30 GMT", ""), 30000);
    assert_int_equal(asked("", "Sun Nov 22 10:00:30 2026", ""), 30000);
    assert_int_equal(asked("", "Sun, 22 Nov 2026 09:59:30 GMT", ""), 0); /* past */
}

static void nonsense_asks_for_nothing(void **state)
{
    assert_int_equal(asked("", "-5", ""), 0);
    assert_int_equal(asked("-5", "", ""), 0);
    assert_int_equal(asked("", "soon", ""), 0);
    assert_int_equal(asked("", "7 seconds", ""), 0);
    assert_int_equal(asked("", "1e9", ""), 0);
    assert_int_equal(asked("", ".", ""), 0);
    assert_int_equal(asked("", "2026", "garbage"), 2026000); /* a number is never a date */
}

static void no_wait_is_longer_than_the_cap(void **state)
{
    assert_int_equal(asked("", "3601", ""), RETRY_AFTER_MAX_MS);
    assert_int_equal(asked("", "99999999999999999999999999999999", ""), RETRY_AFTER_MAX_MS);
    assert_int_equal(asked("99999999999999999999999999999999.9", "", ""), RETRY_AFTER_MAX_MS);
    assert_int_equal(asked("", "Fri, 31 Dec 9999 23:59:59 GMT", ""), RETRY_AFTER_MAX_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seconds),
        cmocka_unit_test(milliseconds_win),
        cmocka_unit_test(a_date_is_relative_to_the_replys_own),
        cmocka_unit_test(nonsense_asks_for_nothing),
        cmocka_unit_test(no_wait_is_longer_than_the_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
