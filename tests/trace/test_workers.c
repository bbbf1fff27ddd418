/* Workers that die, fall silent, go and come back. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/script.h"

static void a_silent_workers_lease_lapses_uncharged(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    script_scene(t);
    script_at(t, 10000);
    beat(t, "w", 1, {"a", 1});
    expect(t, "beat w workers 1");

    /* 15 s after it was last heard of; and nothing more goes to it until it is heard of again */
    script_at(t, 24999);
    expect(t);
    script_at(t, 25000);
    expect(t, "#4 save job a pending 1");
    beat(t, "w", 1, {"a", 1});
    expect(t, "beat w workers 1 drop a", "#5 save job a processing 2", "job w a 2 call 2 echo a @5");
}

static void a_dead_workers_job_is_charged_a_crash(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    worker(t, "v", .slots = 1);
    submit(t, "a");
    submit(t, "b");
    stored(t);
    outcome(t, "v", "b", 2);
    stored(t);
    script_scene(t);
    script_at(t, 100);
    gone(t, "w");
    script_at(t, 749);
    expect(t);
    script_at(t, 750);
    expect(t, "#9 save job a pending 1 crashes 1+0", "beat api workers 1", "#10 save job a processing 3 crashes 1+0",
           "job v a 3 call 2 echo a @10");
}

static void a_broker_that_stood_still_blames_nobody(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    worker(t, "v", .slots = 1);
    submit(t, "a");
    submit(t, "b");
    stored(t);
    script_at(t, 10000);
    beat(t, "w", 1, {"a", 1});
    beat(t, "v", 1, {"b", 2});
    gone(t, "v");
    script_scene(t);

    /* 20 s in which nobody could be heard: both leases and the time to come back go on after it */
    stand_still(t, 20000);
    script_at(t, 30649);
    expect(t);
    script_at(t, 30650);
    expect(t, "#7 save job b pending 2 crashes 1+0", "beat api workers 1");
    script_at(t, 44999);
    expect(t);
    script_at(t, 45000);
    expect(t, "#8 save job a pending 1");
}

static void who_says_goodbye_is_not_charged(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    script_scene(t);
    bye(t, "w");
    expect(t, "#4 save job a pending 1", "beat api workers 0");
}

static void a_worker_back_in_time_keeps_its_runs(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 3);
    submit(t, "a");
    submit(t, "b");
    stored(t);
    submit(t, "c");
    script_scene(t);
    script_at(t, 1000);
    gone(t, "w");
    script_at(t, 1400);
    cancel(t, "b");
    expect(t, "#10 save ended b cancelled cancelled [w] for 3600000", "#11 drop body b",
           "answer api b cancelled progress 10 calls 1 @11");

    stored_to(t, 11);

    /* a goes on, b has ended meanwhile, the JOB of c never arrived */
    worker(t, "w", .slots = 3, .held = {{"a", 1}, {"b", 2}});
    expect(t, "#12 save job c pending 3", "welcome w a keep b abort", "#13 save job c processing 4",
           "job w c 4 call 1 echo c @13");
    script_at(t, 5000);
    expect(t);
    outcome(t, "w", "a", 1);
    expect(t, "#14 save ended a completed result ok [w] for 3600000", "#15 drop body a", "release w a 1 @15");
}

static void an_older_run_is_not_taken_for_the_current_one(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    script_at(t, 15000); /* the first run lapses, and the worker has not heard of it when it is given the second */
    beat(t, "w", 1);
    stored(t);
    script_scene(t);
    gone(t, "w");
    worker(t, "w", .slots = 1, .held = {{"a", 1}});
    expect(t, "#6 save job a pending 2", "welcome w a abort", "#7 save job a processing 3", "job w a 3 call 2 echo a @7");
}

/* Its outcome was taken and is not stored: should this broker die now, the worker alone has it. */
static void an_outcome_on_its_way_to_the_store_is_kept(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 2);
    submit(t, "a");
    submit(t, "b");
    stored(t);
    outcome(t, "w", "a", 1);
    outcome(t, "w", "b", 2, .kind = KIND_OVERLOAD);
    gone(t, "w");
    script_scene(t);
    worker(t, "w", .slots = 2, .held = {{"a", 1}, {"b", 2}}, .finished = true);
    expect(t, "welcome w a keep b keep");
    outcome(t, "w", "a", 1);
    outcome(t, "w", "b", 2, .kind = KIND_OVERLOAD);
    expect(t, "release w a 1 @8", "release w b 2 @9");
    stored_to(t, 9);
    gone(t, "w");
    worker(t, "w", .slots = 2, .held = {{"a", 1}, {"b", 2}}, .finished = true);
    expect(t, "welcome w a abort b abort");
}

static void nobody_learns_of_a_cancel_before_it_is_stored(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    cancel(t, "a");
    script_scene(t);
    beat(t, "w", 1, {"a", 1});
    expect(t, "beat w workers 1");
    gone(t, "w");
    worker(t, "w", .slots = 1, .held = {{"a", 1}});
    expect(t, "cancel w a 1 @5", "welcome w a keep");
    stored(t);
    beat(t, "w", 1, {"a", 1});
    expect(t, "beat w workers 1 drop a");
    outcome(t, "w", "a", 1, .kind = KIND_CANCELLED);
    expect(t, "release w a 1 @5");
}

static void at_most_eight_suspects_share_a_child(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    char name[16];
    worker(t, "w", .slots = 10);
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "j%d", i);
        submit(t, name);
    }
    stored(t);
    gone(t, "w");
    script_at(t, 650);
    assert_int_equal(t->seen_job, 10);

    /* all ten were in it: eight come back at once, two wait for one of them, others do not */
    worker(t, "v", .slots = 20);
    assert_int_equal(t->seen_job, 18);
    submit(t, "other");
    assert_int_equal(t->seen_job, 19);
    stored(t);
    script_scene(t);
    outcome(t, "v", "j0", 11);
    assert_int_equal(t->seen_job, 20);
    script_scene(t);
    outcome(t, "v", "j1", 12);
    assert_int_equal(t->seen_job, 21);
}

static void a_poisonous_job_ends_in_the_one_slot_child(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "solo", .slots = 1, .solo = true);
    submit(t, "a");
    expect(t, "welcome solo", "beat api workers 1", "#1 save body a", "#2 save job a pending", "ack api a pending @2");

    /* two crashes among others */
    for (int crash = 1; crash <= 2; crash++) {
        worker(t, crash == 1 ? "w1" : "w2", .slots = 8);
        stored(t);
        gone(t, crash == 1 ? "w1" : "w2");
        script_at(t, t->now + 650);
    }
    expect(t, "welcome w1", "beat api workers 2", "#3 save job a processing 1", "job w1 a 1 call 1 echo a @3",
           "#4 save job a pending 1 crashes 1+0", "beat api workers 1", "welcome w2", "beat api workers 2",
           "#5 save job a processing 2 crashes 1+0", "job w2 a 2 call 2 echo a @5", "#6 save job a pending 2 crashes 2+0",
           "beat api workers 1", "#7 save job a processing 3 crashes 2+0", "job solo a 3 call 3 echo a @7");

    /* then alone; only these count toward poison */
    const char *const child[] = {"solo", "solo2", "solo3"};
    for (int crash = 0; crash < 3; crash++) {
        if (crash)
            worker(t, child[crash], .slots = 1, .solo = true);
        stored(t);
        script_scene(t);
        gone(t, child[crash]);
        script_at(t, t->now + 650);
        if (!crash)
            expect(t, "#8 save job a pending 3 crashes 2+1", "beat api workers 0");
    }
    expect(t,
           "#12 save ended a failed poison \"the call crashed its worker each time\" [w1 worker_crash] [w2 worker_crash] [solo "
           "worker_crash] "
           "[solo2 worker_crash] [solo3 worker_crash] for 86400000",
           "#13 drop body a in 86400000", "beat api workers 0");
}

static void a_job_that_could_not_be_sent_goes_back_uncharged(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    script_scene(t);
    unsent(t, "w", "a", 1);
    expect(t, "#4 save job a pending 1");
    ask(t, "a");
    expect(t, "answer api a pending progress 0 calls 0 @4");
    worker(t, "v", .slots = 1);
    expect(t, "welcome v", "beat api workers 2", "#5 save job a processing 2", "job v a 2 call 1 echo a @5");
}

static void a_late_outcome_is_void_and_acknowledged(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    script_at(t, 15000);
    worker(t, "v", .slots = 1);
    stored(t);
    script_scene(t);
    outcome(t, "w", "a", 1, .result = "late");
    expect(t, "release w a 1 @5");
    outcome(t, "v", "a", 2, .result = "right");
    outcome(t, "v", "a", 2, .result = "again");
    expect(t, "#6 save ended a completed result right [w worker_crash] [v] for 3600000", "#7 drop body a", "release v a 2 @7",
           "release v a 2 @7");
    outcome(t, "v", "nosuch", 9);
    expect(t, "release v nosuch 9 @7");
}

/* Said twice, because its session broke meanwhile: a worker forgets a run only when a start could not find it any more. */
static void a_withdrawn_runs_outcome_is_kept_until_the_withdrawal_is_stored(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    script_scene(t);
    withdraw(t, "a");
    expect(t, "#4 drop job a", "cancel w a 1 @4");
    outcome(t, "w", "a", 1, .kind = KIND_CANCELLED);
    outcome(t, "w", "a", 1, .kind = KIND_CANCELLED);
    expect(t, "release w a 1 @4", "release w a 1 @4");
}

static void a_draining_worker_gets_nothing_more(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 2);
    submit(t, "a");
    stored(t);
    drain(t, "w");
    script_scene(t);
    submit(t, "b");
    expect(t, "#4 save body b", "#5 save job b pending", "ack api b pending @5");
    outcome(t, "w", "a", 1);
    expect(t, "#6 save ended a completed result ok [w] for 3600000", "#7 drop body a", "release w a 1 @7");
}

static void a_draining_broker_starts_and_takes_nothing_more(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    submit(t, "b");
    stored(t);
    script_scene(t);
    drain(t, NULL);
    submit(t, "c");
    expect(t, "ack api c draining in 1000");
    outcome(t, "w", "a", 1);
    expect(t, "#6 save ended a completed result ok [w] for 3600000", "#7 drop body a", "release w a 1 @7");
}

static void jobs_park_until_a_worker_serves_them(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1, .serves = {"other"});
    submit(t, "a");
    ask(t, "a");
    expect(t, "welcome w", "beat api workers 1", "#1 save body a", "#2 save job a pending", "ack api a pending @2",
           "answer api a pending/unserved progress 0 calls 0 @2");
    worker(t, "v", .slots = 1);
    expect(t, "welcome v", "beat api workers 2", "#3 save job a processing 1", "job v a 1 call 1 echo a @3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_workers_lease_lapses_uncharged),
        cmocka_unit_test(a_dead_workers_job_is_charged_a_crash),
        cmocka_unit_test(a_broker_that_stood_still_blames_nobody),
        cmocka_unit_test(who_says_goodbye_is_not_charged),
        cmocka_unit_test(a_worker_back_in_time_keeps_its_runs),
        cmocka_unit_test(an_older_run_is_not_taken_for_the_current_one),
        cmocka_unit_test(an_outcome_on_its_way_to_the_store_is_kept),
        cmocka_unit_test(nobody_learns_of_a_cancel_before_it_is_stored),
        cmocka_unit_test(at_most_eight_suspects_share_a_child),
        cmocka_unit_test(a_poisonous_job_ends_in_the_one_slot_child),
        cmocka_unit_test(a_job_that_could_not_be_sent_goes_back_uncharged),
        cmocka_unit_test(a_late_outcome_is_void_and_acknowledged),
        cmocka_unit_test(a_withdrawn_runs_outcome_is_kept_until_the_withdrawal_is_stored),
        cmocka_unit_test(a_draining_worker_gets_nothing_more),
        cmocka_unit_test(a_draining_broker_starts_and_takes_nothing_more),
        cmocka_unit_test(jobs_park_until_a_worker_serves_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
