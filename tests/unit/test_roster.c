#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/core/ready.h"
#include "broker/core/roster.h"

static struct names names;
static struct roster roster;

static const struct sched_deployment rows[] = {
    {.name = "a", .model = "", .hash = 1}, {.name = "b", .model = "", .hash = 2}, {.name = "c", .model = "", .hash = 3}};

static int begin(void **state)
{
    uint8_t bits[ROSTER_DEPLOYMENTS];
    names = (struct names){0};
    roster_init(&roster);
    assert_int_equal(roster_deployments(&roster, &names, rows, 3, bits), ERR_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(bits[i], i);
    return 0;
}

static int end(void **state)
{
    struct worker *worker, *next;
    HASH_ITER(hh, roster.workers, worker, next)
    {
        roster_remove(&roster, &names, worker);
    }
    roster_done(&roster, &names);
    names_sweep(&names);
    assert_null(names.all);
    assert_null(roster.sessions);
    return 0;
}

static struct worker *join(uint8_t instance, uint32_t slots, const char *serves, uint64_t wrong)
{
    struct rec_served served[4];
    struct msg_hello hello = {
        .role = ROLE_WORKER, .slots = slots, .name = span_str("w"), .served = served, .instance = {instance}};
    for (; serves[hello.served_count]; hello.served_count++)
        served[hello.served_count] = (struct rec_served){.name = span_of(&serves[hello.served_count], 1),
                                                         .hash = (uint64_t)(serves[hello.served_count] - 'a' + 1) + wrong};
    struct worker *worker = roster_add(&roster, &names, &hello);
    assert_non_null(worker);
    assert_int_equal(roster_session(&roster, worker, instance), ERR_OK);
    assert_int_equal(roster_place(&roster, worker), ERR_OK);
    return worker;
}

static void equal_workers_form_a_group_and_the_emptiest_goes_first(void **state)
{
    struct worker *one = join(1, 2, "ab", 0), *two = join(2, 3, "ab", 0), *other = join(3, 1, "c", 0);
    assert_ptr_equal(one->group, two->group);
    assert_ptr_not_equal(one->group, other->group);
    uint64_t groups = roster_groups(&roster, 1, false);
    assert_ptr_equal(roster_choose(&roster, groups, 1, CARE_NONE), two);
    struct lease leases[3] = {{.node = {0}}};
    for (int i = 0; i < 3; i++)
        list_init(&leases[i].node);
    roster_take(&roster, two, &leases[0]);
    roster_take(&roster, two, &leases[1]);
    assert_ptr_equal(roster_choose(&roster, groups, 1, CARE_NONE), one);
    one->draining = true;
    roster_changed(&roster, one);
    assert_ptr_equal(roster_choose(&roster, groups, 1, CARE_NONE), two);
    roster_take(&roster, two, &leases[2]);
    assert_null(roster_choose(&roster, groups, 1, CARE_NONE));
    assert_int_equal(roster.used, 3);
    for (int i = 0; i < 3; i++)
        roster_give_back(&roster, &leases[i]);
    assert_ptr_equal(roster_choose(&roster, groups, 1, CARE_NONE), two);
    assert_int_equal(roster_groups(&roster, 4, false), 1ull << (other->group - roster.groups));
    assert_int_equal(roster_groups(&roster, 7, true), 0);
}

static void another_hash_is_another_deployment(void **state)
{
    struct worker *worker = join(1, 1, "ab", 100);
    assert_int_equal(worker->group->served, 0);
    assert_int_equal(roster_groups(&roster, 7, false), 0);
}

static void what_a_worker_refused_it_does_not_serve(void **state)
{
    struct worker *worker = join(1, 1, "ab", 0);
    roster_unserve(worker, roster_deployment(&roster, span_str("a")));
    assert_int_equal(roster_place(&roster, worker), ERR_OK);
    assert_int_equal(worker->group->served, 2);
}

static void a_session_is_found_by_its_peer_and_only_the_last(void **state)
{
    struct worker *worker = join(1, 1, "a", 0);
    assert_ptr_equal(roster_by_peer(&roster, 1), worker);
    assert_int_equal(roster_session(&roster, worker, 9), ERR_OK);
    assert_null(roster_by_peer(&roster, 1));
    assert_ptr_equal(roster_by_peer(&roster, 9), worker);
    assert_int_equal(roster_session(&roster, worker, 0), ERR_OK);
    assert_null(roster_by_peer(&roster, 9));
    assert_null(roster_by_peer(&roster, 0));
    assert_null(roster_choose(&roster, ~0ull, 1, CARE_NONE));
}

static void a_deployment_keeps_its_bit_while_it_is_listed_or_used(void **state)
{
    static const struct sched_deployment next[] = {
        {.name = "c", .model = "m"}, {.name = "d", .model = ""}, {.name = "c", .model = "x"}};
    uint8_t bits[ROSTER_DEPLOYMENTS];
    roster.deployments[0].active = 1; /* a is gone from the settings; a call still runs there */
    assert_int_equal(roster_deployments(&roster, &names, next, 3, bits), ERR_OK);
    assert_int_equal(bits[0], 2);
    assert_int_equal(bits[1], 1);
    assert_int_equal(bits[2], 2);
    assert_non_null(roster_deployment(&roster, span_str("a")));
    assert_null(roster_deployment(&roster, span_str("b")));
    roster.deployments[0].active = 0;
}

static void more_than_there_is_room_for_changes_nothing(void **state)
{
    struct sched_deployment many[ROSTER_DEPLOYMENTS];
    char text[ROSTER_DEPLOYMENTS][8];
    uint8_t bits[ROSTER_DEPLOYMENTS];
    for (int i = 0; i < ROSTER_DEPLOYMENTS; i++) {
        text[i][0] = 'd';
        text[i][1] = (char)('0' + i / 10);
        text[i][2] = (char)('0' + i % 10);
        text[i][3] = 0;
        many[i] = (struct sched_deployment){.name = text[i], .model = ""};
    }
    roster.deployments[0].active = 1;
    assert_int_equal(roster_deployments(&roster, &names, many, ROSTER_DEPLOYMENTS, bits), ERR_LIMIT);
    assert_int_equal(roster_deployments(&roster, &names, many, ROSTER_DEPLOYMENTS + 1, bits), ERR_LIMIT);
    assert_int_equal(roster.deployments_count, 3);
    assert_true(roster.deployments[1].listed);
    roster.deployments[0].active = 0;
    assert_int_equal(roster_deployments(&roster, &names, many, ROSTER_DEPLOYMENTS, bits), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(equal_workers_form_a_group_and_the_emptiest_goes_first, begin, end),
        cmocka_unit_test_setup_teardown(another_hash_is_another_deployment, begin, end),
        cmocka_unit_test_setup_teardown(what_a_worker_refused_it_does_not_serve, begin, end),
        cmocka_unit_test_setup_teardown(a_session_is_found_by_its_peer_and_only_the_last, begin, end),
        cmocka_unit_test_setup_teardown(a_deployment_keeps_its_bit_while_it_is_listed_or_used, begin, end),
        cmocka_unit_test_setup_teardown(more_than_there_is_room_for_changes_nothing, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
