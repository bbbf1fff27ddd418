#include "broker/core/comeback.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Places become free `rate` times a second, for `seconds`. */
static msec busy(struct comeback *c, msec now, unsigned rate, unsigned seconds)
{
    for (unsigned i = 0; i < rate * seconds; i++)
        comeback_freed(c, now + (msec)(i * 1000ull / rate));
    return now + (msec)seconds * 1000;
}

static void test_unknown_rate(void **state)
{
    struct comeback c = {0};
    assert_int_equal(comeback_promise(&c, 5000), COMEBACK_UNKNOWN_MS);
}

/* A crowd that is refused at one instant is spread over the time in which half of the places are enough for it. */
static void test_a_crowd_is_spread(void **state)
{
    struct comeback c = {0};
    msec now = busy(&c, 1000, 200, 5);
    unsigned in_second[60] = {0};
    for (int i = 0; i < 3000; i++)
        in_second[comeback_promise(&c, now) / 1000]++;
    assert_int_equal(in_second[0], 0);
    for (int s = 1; s < 30; s++)
        assert_in_range(in_second[s], 95, 105);
}

static void test_a_slow_system_says_so(void **state)
{
    struct comeback c = {0};
    for (msec now = 1000; now < 100000; now += 4000)
        comeback_freed(&c, now);
    assert_in_range(comeback_promise(&c, 100000), 8500, 9500); /* every second place, one in four seconds */
    assert_in_range(comeback_promise(&c, 100000), 16500, 17500);
}

static void test_promises_end_somewhere(void **state)
{
    struct comeback c = {0};
    msec now = busy(&c, 1000, 10, 5);
    for (int i = 0; i < 100000; i++)
        assert_true(comeback_promise(&c, now) <= COMEBACK_MAX_MS);
    assert_int_equal(comeback_promise(&c, now), COMEBACK_MAX_MS);
    comeback_clear(&c);
    assert_in_range(comeback_promise(&c, now), COMEBACK_MIN_MS, 1300);
}

static void test_what_was_promised_passes(void **state)
{
    struct comeback c = {0};
    msec now = busy(&c, 1000, 100, 5);
    for (int i = 0; i < 500; i++)
        comeback_promise(&c, now);
    assert_in_range(comeback_promise(&c, now + 10000), 1000, 1200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unknown_rate),
        cmocka_unit_test(test_a_crowd_is_spread),
        cmocka_unit_test(test_a_slow_system_says_so),
        cmocka_unit_test(test_promises_end_somewhere),
        cmocka_unit_test(test_what_was_promised_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
