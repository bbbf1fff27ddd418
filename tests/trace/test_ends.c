/* Jobs that are cancelled, forgotten, left, or run out of time. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/script.h"

static void cancelled_while_it_waits(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a", .watch = true);
    submit(t, "later", .delay_ms = 5000);
    stored(t);
    script_scene(t);
    cancel(t, "a");
    expect(t, "#5 save ended a cancelled cancelled for 3600000", "#6 drop body a", "event api a done cancelled #5 @6",
           "answer api a cancelled progress 0 calls 0 @6");
    cancel(t, "later");
    expect(t, "#7 save ended later cancelled cancelled for 3600000", "#8 drop body later",
           "answer api later cancelled progress 0 calls 0 @8");

    /* asked again before it is stored: the same end, at the same moment */
    cancel(t, "a");
    expect(t, "answer api a already_ended cancelled progress 0 calls 0 @6");
    stored_to(t, 5);
    ask(t, "a"); /* not before all of its end is stored is it gone */
    expect(t, "answer api a already_ended cancelled progress 0 calls 0 @6");
    stored(t);
    cancel(t, "a");
    expect(t, "answer api a not_live");
    script_at(t, 10000);
    expect(t);
}

static void cancelled_between_two_attempts(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    outcome(t, "w", "a", 1, .kind = KIND_SENT);
    stored(t);
    script_scene(t);
    cancel(t, "a");
    expect(t, "#5 save ended a cancelled cancelled [w sent] for 3600000", "#6 drop body a",
           "answer api a cancelled progress 0 calls 1 @6");
    script_at(t, 60000);
    expect(t);
}

static void cancelled_while_it_runs(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    submit(t, "b");
    stored(t);
    script_scene(t);

    /* the call is closed with the commit; its slot stays taken until the worker says that it is */
    cancel(t, "a");
    expect(t, "#6 save ended a cancelled cancelled [w] for 3600000", "#7 drop body a",
           "answer api a cancelled progress 10 calls 1 @7", "cancel w a 1 @7");
    stored(t);
    expect(t);
    outcome(t, "w", "a", 1, .kind = KIND_CANCELLED);
    expect(t, "release w a 1 @7", "#8 save job b processing 2", "job w b 2 call 1 echo b @8");
}

static void a_slot_whose_outcome_never_comes_is_free_again_in_time(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    cancel(t, "a");
    stored(t);
    submit(t, "b");
    script_scene(t);
    beat(t, "w", 1);
    expect(t, "beat w workers 1");
    script_at(t, 15000);
    beat(t, "w", 1);
    expect(t, "beat w workers 1", "#8 save job b processing 2", "job w b 2 call 1 echo b @8");
}

static struct script *with_a_body_elsewhere(void)
{
    struct sched_settings settings = sched_defaults;
    settings.body_cache_bytes = 0;
    struct script *t = script_with(&settings);
    submit(t, "a", .display = "<a>", .request = "hello");
    stored(t);
    script_scene(t);
    return t;
}

static void an_end_waits_for_its_display_part(void **state)
{
    AUTO(script_free) struct script *t = with_a_body_elsewhere();
    watch(t, "a", false);
    cancel(t, "a");
    expect(t, "answer api a pending/unserved progress 0 calls 0 @2", "lookup body a");

    /* decided, and not yet to be seen: who asks now is told when it is */
    ask(t, "a");
    cancel(t, "a");
    expect(t, "answer api a pending/scheduled progress 0 calls 0 @2");
    found_body(t, "a", "<a>hello");
    expect(t, "#3 save ended a cancelled cancelled display <a> for 3600000", "#4 drop body a",
           "event api a done cancelled #3 @4", "answer api a cancelled progress 0 calls 0 @4",
           "answer api a already_ended cancelled progress 0 calls 0 @4");
    stored(t);
    ask(t, "a");
    expect(t, "answer api a not_live");
}

static void an_end_without_its_display_part_is_an_end(void **state)
{
    AUTO(script_free) struct script *t = with_a_body_elsewhere();
    cancel(t, "a");
    unknown(t, LOOKUP_BODY, "a");
    expect(t, "lookup body a");
    script_at(t, 100);
    expect(t, "lookup body a");
    absent(t, LOOKUP_BODY, "a");
    expect(t, "#3 save ended a cancelled cancelled for 3600000", "#4 drop body a",
           "answer api a cancelled progress 0 calls 0 @4");
}

static void an_outcome_waits_for_the_display_part_too(void **state)
{
    AUTO(script_free) struct script *t = with_a_body_elsewhere();
    worker(t, "w", .slots = 1);
    expect(t, "welcome w", "beat api workers 1", "#3 save job a processing 1", "lookup body a");
    found_body(t, "a", "<a>hello");
    expect(t, "job w a 1 call 1 echo hello @3");
    stored(t);
    outcome(t, "w", "a", 1);
    expect(t, "#4 save ended a completed display <a> result ok [w] for 3600000", "#5 drop body a", "release w a 1 @5");
}

static void a_body_that_is_nowhere_fails_as_lost(void **state)
{
    AUTO(script_free) struct script *t = with_a_body_elsewhere();
    worker(t, "w", .slots = 1);
    script_scene(t);
    absent(t, LOOKUP_BODY, "a");
    expect(t, "#4 save ended a failed lost \"its body is nowhere any more\" [w] for 86400000", "#5 drop body a in 86400000");
}

static void a_body_of_another_length_is_none(void **state)
{
    AUTO(script_free) struct script *t = with_a_body_elsewhere();
    worker(t, "w", .slots = 1);
    script_scene(t);
    found_body(t, "a", "<a>hello and more");
    expect(t, "#4 save ended a failed lost \"its body is nowhere any more\" [w] for 86400000", "#5 drop body a in 86400000");
}

static void another_tenant_sees_nothing(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a");
    stored(t);
    script_scene(t);
    script_as(t, "api", "bolt");
    cancel(t, "a");
    ask(t, "a");
    watch(t, "a", true);
    patch(t, "a", 9, 0);
    expect(t, "answer api a not_live", "answer api a not_live", "answer api a not_live", "answer api a not_live");
    forget(t, "a");
    expect(t, "lookup ended a");
    absent(t, LOOKUP_ENDED, "a");
    expect(t, "answer api a not_live");
}

static void forgotten_after_its_end(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a");
    stored(t);
    script_scene(t);
    forget(t, "a");
    expect(t, "answer api a conflict @2");
    forget(t, "b");
    forget(t, "b");
    expect(t, "lookup ended b");
    found_ended(t, LOOKUP_ENDED, "b", "acme", STATE_COMPLETED, "key");
    expect(t, "#3 drop idem key", "#4 drop ended b", "answer api b - progress 0 calls 0 @4", "#5 drop idem key",
           "#6 drop ended b", "answer api b - progress 0 calls 0 @6");
    forget(t, "c");
    found_ended(t, LOOKUP_ENDED, "c", "bolt", STATE_COMPLETED, NULL);
    expect(t, "lookup ended c", "answer api c not_live");
}

static void forgetting_a_job_leaves_its_key_to_who_used_it_again(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    script_at(t, 86400000); /* the key of "a", which ended at 0 and is kept for longer, has expired */
    submit(t, "b", .key = "key");
    absent(t, LOOKUP_IDEM, "key");
    stored(t);
    script_scene(t);
    forget(t, "a");
    found_ended(t, LOOKUP_ENDED, "a", "acme", STATE_COMPLETED, "key");
    expect(t, "lookup ended a", "#4 drop ended a", "answer api a - progress 0 calls 0 @4");
}

static void left_by_its_caller(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    api(t, "api2");
    script_scene(t);
    submit(t, "a", .cancel_on_leave = true, .watch = true);
    submit(t, "b", .cancel_on_leave = true, .watch = true);
    submit(t, "c", .watch = true);
    stored(t);
    script_as(t, "api2", "acme");
    watch(t, "b", false);
    script_scene(t);
    gone(t, "api");
    expect(t, "#7 save ended a cancelled cancelled \"its caller left\" for 3600000", "#8 drop body a");
    unwatch(t, "b", true);
    expect(t, "#9 save ended b cancelled cancelled \"its caller left\" for 3600000", "#10 drop body b");
}

static void a_wait_has_an_end(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a", .max_wait_ms = 1000);
    submit(t, "b", .deadline = 2000);
    submit(t, "c", .run_at = 100000000);                 /* the default counts from when it may run */
    submit(t, "d", .run_at = 5000, .max_wait_ms = 3000); /* the caller's from its arrival */
    stored(t);
    script_scene(t);
    script_at(t, 999);
    expect(t);
    script_at(t, 1000);
    expect(t, "#9 save ended a expired expired \"it waited as long as it may\" for 3600000", "#10 drop body a");
    script_at(t, 2000);
    expect(t, "#11 save ended b expired expired \"it waited as long as it may\" for 3600000", "#12 drop body b");
    script_at(t, 3000);
    expect(t, "#13 save ended d expired expired \"it waited as long as it may\" for 3600000", "#14 drop body d");
    script_at(t, 100000000);
    expect(t);
    script_at(t, 100000000 + 86399999);
    expect(t);
    script_at(t, 100000000 + 86400000);
    expect(t, "#15 save ended c expired expired \"it waited as long as it may\" for 3600000", "#16 drop body c");
}

static void a_job_that_came_back_expires_all_the_same(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a", .max_wait_ms = 60000);
    stored(t);
    script_at(t, 15000); /* its worker fell silent */
    stored(t);
    script_scene(t);
    script_at(t, 59999);
    expect(t);
    script_at(t, 60000);
    expect(t, "#5 save ended a expired expired \"it waited as long as it may\" [w worker_crash] for 3600000", "#6 drop body a");
}

static void a_deadline_holds_between_two_attempts(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a", .backoff_exact = true, .backoff_base_ms = 10000);
    stored(t);
    outcome(t, "w", "a", 1, .kind = KIND_SENT);
    patch(t, "a", 0, 5000); /* sooner than the next attempt */
    stored(t);
    script_scene(t);
    script_at(t, 4999);
    expect(t);
    script_at(t, 5000);
    expect(t, "#6 save ended a expired expired \"it waited as long as it may\" [w sent] for 3600000", "#7 drop body a");
}

static void a_running_call_is_closed_at_the_deadline(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a", .deadline = 7000);
    assert_int_equal(t->last_job.timeout_ms, 7000);
    stored(t);
    script_scene(t);
    script_at(t, 7000);
    expect(t, "#4 save ended a expired expired \"it waited as long as it may\" [w] for 3600000", "#5 drop body a",
           "cancel w a 1 @5");
}

static void a_waiting_job_is_patched(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a");
    submit(t, "b");
    stored(t);
    script_scene(t);
    patch(t, "b", 9, 4000);
    expect(t, "#5 save job b pending", "answer api b pending/unserved progress 0 calls 0 @5");
    patch(t, "b", 11, 0);
    expect(t, "answer api b invalid_field @5");
    worker(t, "w", .slots = 1);
    expect(t, "welcome w", "beat api workers 1", "#6 save job b processing 1", "job w b 1 call 1 echo b @6");
    patch(t, "b", 1, 0);
    expect(t, "answer api b conflict @6");
    stored(t);
    script_at(t, 4000);
    expect(t, "#7 save ended b expired expired \"it waited as long as it may\" [w] for 3600000", "#8 drop body b",
           "cancel w b 1 @8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancelled_while_it_waits),
        cmocka_unit_test(cancelled_between_two_attempts),
        cmocka_unit_test(cancelled_while_it_runs),
        cmocka_unit_test(a_slot_whose_outcome_never_comes_is_free_again_in_time),
        cmocka_unit_test(an_end_waits_for_its_display_part),
        cmocka_unit_test(an_end_without_its_display_part_is_an_end),
        cmocka_unit_test(an_outcome_waits_for_the_display_part_too),
        cmocka_unit_test(a_body_that_is_nowhere_fails_as_lost),
        cmocka_unit_test(a_body_of_another_length_is_none),
        cmocka_unit_test(another_tenant_sees_nothing),
        cmocka_unit_test(forgotten_after_its_end),
        cmocka_unit_test(forgetting_a_job_leaves_its_key_to_who_used_it_again),
        cmocka_unit_test(left_by_its_caller),
        cmocka_unit_test(a_wait_has_an_end),
        cmocka_unit_test(a_job_that_came_back_expires_all_the_same),
        cmocka_unit_test(a_deadline_holds_between_two_attempts),
        cmocka_unit_test(a_running_call_is_closed_at_the_deadline),
        cmocka_unit_test(a_waiting_job_is_patched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
