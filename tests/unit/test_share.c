#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/core/share.h"

static int next(struct share_account *accounts, int count)
{
    int best = 0;
    for (int i = 1; i < count; i++)
        if (share_before(&accounts[i], &accounts[best]))
            best = i;
    return best;
}

static void service_is_in_proportion_to_weight_whatever_it_costs(void **state)
{
    struct share share = {0};
    struct share_account accounts[3] = {{.weight = 16}, {.weight = 4}, {.weight = 1}};
    uint64_t cost[3] = {5, 1, 9}, got[3] = {0};
    for (int i = 0; i < 100000; i++) {
        int who = next(accounts, 3);
        share_charge(&share, &accounts[who], cost[who]);
        got[who] += cost[who];
    }
    assert_in_range(got[0] * 1000 / got[2], 15900, 16100);
    assert_in_range(got[1] * 1000 / got[2], 3950, 4050);
}

static void equals_take_turns(void **state)
{
    struct share share = {0};
    struct share_account accounts[3] = {{.weight = 1}, {.weight = 1}, {.weight = 1}};
    int order[6];
    for (int i = 0; i < 6; i++)
        share_charge(&share, &accounts[order[i] = next(accounts, 3)], 1);
    assert_true(order[0] != order[1] && order[1] != order[2] && order[0] != order[2]);
    for (int i = 0; i < 3; i++)
        assert_int_equal(order[i], order[i + 3]);
}

static void idling_earns_nothing(void **state)
{
    struct share share = {0};
    struct share_account busy = {.weight = 1}, idle = {.weight = 1};
    for (int i = 0; i < 1000; i++)
        share_charge(&share, &busy, 1);
    share_charge(&share, &idle, 1);
    assert_int_equal(idle.start, share.virtual_time + SHARE_ONE);
    assert_true(idle.start >= busy.start - SHARE_ONE);
}

static void a_correction_moves_the_next_turn_never_behind_virtual_time(void **state)
{
    struct share share = {0};
    struct share_account a = {.weight = 2};
    share_charge(&share, &a, 10);
    uint64_t start = a.start;
    share_correct(&share, &a, 10, 14);
    assert_int_equal(a.start, start + 2 * SHARE_ONE);
    share_correct(&share, &a, 14, 12);
    assert_int_equal(a.start, start + SHARE_ONE);
    share_correct(&share, &a, 12, 0);
    assert_int_equal(a.start, share.virtual_time);
    share_correct(&share, &a, 1000, 0);
    assert_int_equal(a.start, share.virtual_time);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(service_is_in_proportion_to_weight_whatever_it_costs),
        cmocka_unit_test(equals_take_turns),
        cmocka_unit_test(idling_earns_nothing),
        cmocka_unit_test(a_correction_moves_the_next_turn_never_behind_virtual_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
