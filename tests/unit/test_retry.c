#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/core/retry.h"

static void every_kind_has_its_rule(void **state)
{
    static const uint8_t counted[] = {KIND_CONNECT, KIND_SENT,      KIND_OVERLOAD, KIND_STREAM_CUT,
                                      KIND_STALL,   KIND_BAD_FRAME, KIND_TIMEOUT,  KIND_WORKER};
    for (size_t i = 0; i < ARRAY_COUNT(counted); i++)
        assert_true(retry_rule(counted[i]).again && retry_rule(counted[i]).counted);
    assert_true(retry_rule(KIND_STARVED).again && !retry_rule(KIND_STARVED).counted && !retry_rule(KIND_STARVED).at_once);
    assert_true(retry_rule(KIND_THROTTLED).again && !retry_rule(KIND_THROTTLED).counted && !retry_rule(KIND_THROTTLED).at_once);
    assert_true(retry_rule(KIND_STOPPING).at_once && retry_rule(KIND_UNSERVED).at_once);
    assert_true(retry_rule(KIND_QUOTA).elsewhere && retry_rule(KIND_AUTH).elsewhere);
    static const uint8_t final[] = {
        KIND_NONE, KIND_CLIENT, KIND_ANSWER_TOO_LARGE, KIND_CANCELLED, KIND_POISON, KIND_LOST, KIND_EXPIRED, KINDS, 255};
    for (size_t i = 0; i < ARRAY_COUNT(final); i++)
        assert_false(retry_rule(final[i]).again || retry_rule(final[i]).elsewhere);
}

static void the_bound_doubles_up_to_its_cap(void **state)
{
    assert_int_equal(retry_wait(2000, 60000, 0, true, 0, 0), 2000);
    assert_int_equal(retry_wait(2000, 60000, 1, true, 0, 0), 4000);
    assert_int_equal(retry_wait(2000, 60000, 4, true, 0, 0), 32000);
    assert_int_equal(retry_wait(2000, 60000, 5, true, 0, 0), 60000);
    assert_int_equal(retry_wait(2000, 60000, 4000000000u, true, 0, 0), 60000);
    assert_int_equal(retry_wait(5000, 1000, 0, true, 0, 0), 1000);
}

static void jitter_covers_everything_under_the_bound(void **state)
{
    msec least = 99999, most = 0;
    for (uint64_t i = 0; i < 5000; i++) {
        msec wait = retry_wait(1000, 60000, 1, false, 0, i * 0x9e3779b97f4a7c15u >> 7);
        least = MIN(least, wait);
        most = MAX(most, wait);
    }
    assert_in_range(least, 0, 20);
    assert_in_range(most, 1980, 2000);
}

static void never_less_than_was_asked(void **state)
{
    assert_int_equal(retry_wait(2000, 60000, 0, false, 7000, 12345), 7000);
    assert_int_equal(retry_wait(2000, 60000, 0, true, 500, 0), 2000);
}

static void the_largest_numbers_do_not_overflow(void **state)
{
    msec most = (msec)1 << 50;
    assert_int_equal(retry_wait(most, most, 65535, true, most, UINT64_MAX), most);
    assert_in_range(retry_wait(1, most, 65535, false, 0, UINT64_MAX), 0, most);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_has_its_rule),
        cmocka_unit_test(the_bound_doubles_up_to_its_cap),
        cmocka_unit_test(jitter_covers_everything_under_the_bound),
        cmocka_unit_test(never_less_than_was_asked),
        cmocka_unit_test(the_largest_numbers_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
