/* The store: behind, asked, lost, and read at a start. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/script.h"

static void behind_the_store_nothing_begins(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    submit(t, "b");
    script_scene(t);
    stall(t);
    expect(t, "beat api stalled workers 1");
    submit(t, "c");
    ask(t, "nosuch");
    expect(t, "ack api c store_unavailable in 1000", "answer api nosuch store_unavailable");
    outcome(t, "w", "a", 1); /* outcomes are taken, and acknowledged when stored */
    expect(t, "#6 save ended a completed result ok [w] for 3600000", "#7 drop body a", "release w a 1 @7");
    cancel(t, "b");
    expect(t, "#8 save ended b cancelled cancelled for 3600000", "#9 drop body b",
           "answer api b cancelled progress 0 calls 0 @9");
    flow(t);
    expect(t, "beat api workers 1");
    submit(t, "c");
    expect(t, "#10 save body c", "#11 save job c pending", "ack api c pending @11", "#12 save job c processing 2",
           "job w c 2 call 1 echo c @12");
}

static void a_leases_time_begins_when_its_job_frame_leaves(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 2);
    submit(t, "a");
    script_scene(t);
    script_at(t, 40000); /* nothing is stored: the JOB is still here */
    expect(t);
    stored(t);
    script_at(t, 54999);
    expect(t);
    script_at(t, 55000);
    expect(t, "#4 save job a pending 1");
    beat(t, "w", 2);
    stored(t);
    outcome(t, "w", "a", 2);
    stored(t);

    /* a store behind by less than a lease is the same to whoever waits */
    submit(t, "b");
    script_scene(t);
    script_at(t, 65000);
    stored(t);
    script_at(t, 70500);
    beat(t, "w", 2, {"b", 3});
    expect(t, "beat w workers 1");
}

static void a_leases_time_begins_when_its_body_has_been_read(void **state)
{
    struct sched_settings settings = sched_defaults;
    settings.body_cache_bytes = 0;
    AUTO(script_free) struct script *t = script_with(&settings);
    submit(t, "a");
    stored(t);
    stored(t);
    worker(t, "w", .slots = 1);
    stored(t);
    script_at(t, 14000);
    found_body(t, "a", "a");
    script_scene(t);
    script_at(t, 28999);
    expect(t);
    script_at(t, 29000);
    expect(t, "#4 save job a pending 1");
}

static void a_run_cancelled_before_its_job_frame_left_is_stopped(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    cancel(t, "a");
    script_scene(t);
    stored(t);
    outcome(t, "w", "a", 1, .kind = KIND_CANCELLED);
    expect(t, "release w a 1 @5");
}

static const struct rec_attempt first_attempt[] = {{.run = 1, .started_at = 10}};

static struct script *recovered(void)
{
    struct script *t = script_unstarted(&sched_defaults);
    script_at(t, 100000);
    script_recover(
        t, "waits",
        (struct rec_job){.state = STATE_PENDING, .arrived_at = 90000, .runnable_at = 90000, .seq = 1, .body_bytes = 5});
    script_recover(t, "runs",
                   (struct rec_job){.state = STATE_PROCESSING,
                                    .arrived_at = 90000,
                                    .runnable_at = 90000,
                                    .seq = 2,
                                    .body_bytes = 4,
                                    .run = 1,
                                    .calls = 1,
                                    .fence = {SCRIPT_EPOCH, 5},
                                    .worker = span_str("w"),
                                    .deployment = span_str("echo"),
                                    .attempts = first_attempt,
                                    .attempts_count = 1});
    script_recover(t, "orphan",
                   (struct rec_job){.state = STATE_PROCESSING,
                                    .arrived_at = 90000,
                                    .runnable_at = 90000,
                                    .seq = 3,
                                    .body_bytes = 6,
                                    .run = 1,
                                    .calls = 1,
                                    .fence = {SCRIPT_EPOCH, 6},
                                    .worker = span_str("dead"),
                                    .deployment = span_str("echo"),
                                    .attempts = first_attempt,
                                    .attempts_count = 1});
    script_recover(t, "retries",
                   (struct rec_job){.state = STATE_RETRYING,
                                    .arrived_at = 90000,
                                    .runnable_at = 90000,
                                    .again_at = 107000,
                                    .seq = 4,
                                    .body_bytes = 7,
                                    .run = 1,
                                    .calls = 1,
                                    .failed_attempts = 1,
                                    .fence = {SCRIPT_EPOCH, 4}});
    expect(t);
    script_start(t, SCRIPT_EPOCH + 1);
    api(t, "api");
    script_scene(t);
    return t;
}

static void a_start_takes_up_every_live_job(void **state)
{
    AUTO(script_free) struct script *t = recovered();

    /* a worker of before says what it holds; an unknown run is to be dropped */
    worker(t, "w", .slots = 2, .held = {{"runs", 5}, {"gone", 3}});
    expect(t, "welcome w runs keep gone abort", "beat api workers 1", "#1 save job waits processing 8:1", "lookup body waits");
}

static void adopted_runs_go_on_and_unclaimed_ones_lapse_uncharged(void **state)
{
    AUTO(script_free) struct script *t = recovered();
    worker(t, "w", .slots = 2, .held = {{"runs", 5}});
    found_body(t, "waits", "waits");
    stored(t);
    script_scene(t);
    outcome(t, "w", "runs", 5);
    expect(t, "#2 save ended runs completed result ok [] for 3600000", "#3 drop body runs", "release w runs 5 @3");
    outcome(t, "w", "waits", 1, .epoch = SCRIPT_EPOCH + 1);
    stored(t);
    script_scene(t);
    script_at(t, 107000);
    expect(t, "#6 save job retries processing 8:2 again 107000 failed 1", "lookup body retries");
    script_at(t, 112000);
    beat(t, "w", 2);
    script_scene(t);
    script_at(t, 115000); /* full lease from the start */
    expect(t, "#7 save job orphan pending 6", "#8 save job orphan processing 8:3", "lookup body orphan");
    ask(t, "orphan");
    expect(t, "answer api orphan processing progress 10 calls 2 @8");
}

static void a_start_knows_what_a_job_has_been_through(void **state)
{
    AUTO(script_free) struct script *t = script_unstarted(&sched_defaults);
    script_recover(
        t, "crashed",
        (struct rec_job){
            .state = STATE_PENDING, .seq = 1, .body_bytes = 7, .run = 4, .calls = 4, .crashes = 2, .solo_crashes = 2});
    script_recover(
        t, "failed",
        (struct rec_job){.state = STATE_PENDING, .seq = 2, .body_bytes = 6, .run = 2, .calls = 2, .failed_attempts = 2});
    script_start(t, SCRIPT_EPOCH);

    /* two crashes alone: only alone again, and the third is its end */
    worker(t, "solo", .slots = 1, .solo = true);
    expect(t, "welcome solo", "#1 save job crashed processing 1 crashes 2+2", "lookup body crashed");
    found_body(t, "crashed", "crashed");
    stored(t);
    script_scene(t);
    gone(t, "solo");
    script_at(t, 650);
    expect(t, "#2 save ended crashed failed poison \"the call crashed its worker each time\" [solo worker_crash] for 86400000",
           "#3 drop body crashed in 86400000");

    /* two failures: the third is the last */
    worker(t, "w", .slots = 1);
    expect(t, "welcome w", "#4 save job failed processing 2 failed 2", "lookup body failed");
    found_body(t, "failed", "failed");
    stored(t);
    script_scene(t);
    outcome(t, "w", "failed", 2, .kind = KIND_SENT);
    expect(t, "#5 save ended failed failed sent \"sent\" [w sent] for 86400000", "#6 drop body failed in 86400000",
           "release w failed 2 @6");
}

static void an_outcome_nobody_waits_for_is_acknowledged(void **state)
{
    AUTO(script_free) struct script *t = recovered();
    worker(t, "w", .slots = 0);
    script_scene(t);
    outcome(t, "w", "nosuch", 3);
    expect(t, "release w nosuch 3 @1");
}

static void an_older_data_set_is_written_anew(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    submit(t, "b");
    stored(t);
    outcome(t, "w", "a", 1);
    script_scene(t);
    assert_int_equal(sched_written(t->sched), 8);
    rewrite(t, SCRIPT_EPOCH + 1);
    while (sched_next(t->sched) <= t->now)
        tick(t);
    assert_int_equal(sched_written(t->sched), 13);
    script_scene(t);
    stored(t);
    outcome(t, "w", "b", 2);
    submit(t, "c");
    expect(t, "#14 save ended b completed result ok [w] for 3600000", "#15 drop body b", "release w b 2 @15", "#16 save body c",
           "#17 save job c pending", "ack api c pending @17", "#18 save job c processing 8:3", "job w c 8:3 call 1 echo c @18");
}

static void count_saved_jobs(void *arg, const struct effect *effect)
{
    *(unsigned *)arg += effect->type == EFFECT_SAVE_JOB;
}

/* In slices: each job once, wherever in the table it is. */
static void of_many_jobs_none_is_left_out(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    const unsigned many = 3000;
    unsigned saved = 0;
    t->quiet = true;
    for (unsigned i = 0; i < many; i++) {
        char name[9];
        snprintf(name, sizeof name, "j%u", i);
        submit(t, name);
    }
    t->each = count_saved_jobs;
    t->arg = &saved;
    rewrite(t, SCRIPT_EPOCH + 1);
    assert_true(saved > 0 && saved < many);
    while (sched_next(t->sched) <= t->now)
        tick(t);
    assert_int_equal(saved, many);
}

/* Its body is asked for twice, by the lease and by the rewrite; the second answer is enough. */
static void a_body_read_back_by_a_rewrite_is_not_waited_for_any_more(void **state)
{
    struct sched_settings settings = sched_defaults;
    settings.body_cache_bytes = 0;
    AUTO(script_free) struct script *t = script_with(&settings);
    submit(t, "a");
    stored(t);
    stored(t);
    worker(t, "w", .slots = 1);
    stall(t);
    unknown(t, LOOKUP_BODY, "a"); /* the lease waits for a store that answers */
    rewrite(t, SCRIPT_EPOCH + 1);
    while (sched_next(t->sched) <= t->now)
        tick(t);
    found_body(t, "a", "a");
    stored(t);
    outcome(t, "w", "a", 1, .kind = KIND_OVERLOAD);
    script_at(t, 60000); /* its backoff is over */
    flow(t);
    assert_int_equal(t->seen_job, 2);
}

static void after_a_loss_what_is_nowhere_is_lost(void **state)
{
    struct sched_settings settings = sched_defaults;
    settings.body_cache_bytes = 0;
    AUTO(script_free) struct script *t = script_with(&settings);
    submit(t, "a");
    worker(t, "w", .slots = 1);
    submit(t, "b");
    stored(t);
    stored(t);
    script_scene(t);
    rewrite(t, SCRIPT_EPOCH + 1);
    while (sched_next(t->sched) <= t->now)
        tick(t);
    assert_non_null(strstr(t->text, "lookup body b"));
    script_scene(t);
    absent(t, LOOKUP_BODY, "b");
    assert_non_null(strstr(t->text, "save ended b failed lost"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behind_the_store_nothing_begins),
        cmocka_unit_test(a_leases_time_begins_when_its_job_frame_leaves),
        cmocka_unit_test(a_leases_time_begins_when_its_body_has_been_read),
        cmocka_unit_test(a_run_cancelled_before_its_job_frame_left_is_stopped),
        cmocka_unit_test(a_start_takes_up_every_live_job),
        cmocka_unit_test(adopted_runs_go_on_and_unclaimed_ones_lapse_uncharged),
        cmocka_unit_test(a_start_knows_what_a_job_has_been_through),
        cmocka_unit_test(an_outcome_nobody_waits_for_is_acknowledged),
        cmocka_unit_test(an_older_data_set_is_written_anew),
        cmocka_unit_test(of_many_jobs_none_is_left_out),
        cmocka_unit_test(a_body_read_back_by_a_rewrite_is_not_waited_for_any_more),
        cmocka_unit_test(after_a_loss_what_is_nowhere_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
