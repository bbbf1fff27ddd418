/* A failed job is made to live again. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/script.h"

/* As it was when it failed: in its second run, after two calls. */
static struct rec_ended failed(void)
{
    static const struct rec_attempt attempts[] = {
        {.run = 1, .started_at = 10, .ended_at = 20, .kind = KIND_OVERLOAD, .worker = {(const uint8_t *)"w", 1}},
        {.run = 2, .started_at = 30, .ended_at = 40, .kind = KIND_CLIENT, .worker = {(const uint8_t *)"w", 1}}};
    return (struct rec_ended){.state = STATE_FAILED,
                              .spec = {.queue = span_str("q"), .route = span_str("echo"), .max_attempts = 3, .delay_ms = 5000},
                              .completed_at = 40,
                              .run = 2,
                              .attempt = 2,
                              .attempts = attempts,
                              .attempts_count = 2};
}

static void a_failed_job_runs_again(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    script_scene(t);
    retry(t, "a");
    expect(t, "lookup ended a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    expect(t, "lookup body a"); /* nothing is shown yet, and nothing written */
    found_body(t, "a", "again");
    /* at once, whatever delay it came with; its runs go on counting, its calls begin anew */
    expect(t, "#1 save body a", "#2 drop ended a", "#3 save job a pending 0:0", "answer api a pending progress 0 calls 0 @3",
           "#4 save job a processing 1", "job w a 1 call 1 echo again @4");
    stored(t);
    outcome(t, "w", "a", 1, .result = "{}");
    expect(t, "#5 save ended a completed result {} [w overload] [w client] [w] for 3600000", "#6 drop body a",
           "release w a 1 @6");
}

static void count_joined(void *arg, const struct effect *effect)
{
    unsigned *joined = arg;
    if (effect->number && *joined < 10) /* of the first two writes, a digit each */
        *joined = *joined * 10 + effect->joined;
}

/* Between them a start would find the job twice, or a body to which nothing leads. */
static void a_redrive_is_one_commit(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    unsigned joined = 0;
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    t->each = count_joined;
    t->arg = &joined;
    found_body(t, "a", "again");
    assert_int_equal(joined, 21); /* 2, then 1 */
    script_scene(t);
}

/* It would be shown as failed while it lives, and be found twice by the next start. */
static void in_a_store_that_came_back_older_its_old_end_goes(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    found_body(t, "a", "again");
    stored(t);
    script_scene(t);
    rewrite(t, SCRIPT_EPOCH + 1);
    while (sched_next(t->sched) <= t->now)
        tick(t);
    expect(t, "#4 drop ended a", "#5 save job a pending 0:0", "#6 save body a");
}

static void only_what_failed_is_made_to_live_again(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "live");
    stored(t);
    script_scene(t);
    retry(t, "live");
    expect(t, "answer api live conflict @2");
    retry(t, "done");
    found_ended(t, LOOKUP_ENDED, "done", "acme", STATE_COMPLETED, NULL);
    expect(t, "lookup ended done", "answer api done conflict");
    retry(t, "gone");
    absent(t, LOOKUP_ENDED, "gone");
    expect(t, "lookup ended gone", "answer api gone not_live");
    retry(t, "foreign");
    found_ended(t, LOOKUP_ENDED, "foreign", "bolt", STATE_FAILED, NULL);
    expect(t, "lookup ended foreign", "answer api foreign not_live");
    retry(t, "unknown");
    unknown(t, LOOKUP_ENDED, "unknown");
    expect(t, "lookup ended unknown", "answer api unknown store_unavailable");
}

static void a_body_that_is_gone_or_not_known(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    script_scene(t);
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    absent(t, LOOKUP_BODY, "a");
    expect(t, "lookup ended a", "lookup body a", "answer api a not_live");
    retry(t, "a"); /* its id is free: it may be asked for again */
    found_record(t, LOOKUP_ENDED, "a", failed());
    unknown(t, LOOKUP_BODY, "a");
    expect(t, "lookup ended a", "lookup body a", "answer api a store_unavailable");
}

static void two_who_ask_have_one_job(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    script_scene(t);
    retry(t, "a");
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    expect(t, "lookup ended a", "lookup body a", "answer api a conflict");
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    expect(t, "lookup ended a", "answer api a conflict");
    found_body(t, "a", "again");
    expect(t, "#1 save body a", "#2 drop ended a", "#3 save job a pending 0:0",
           "answer api a pending/unserved progress 0 calls 0 @3");
}

static void forgotten_meanwhile(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    script_scene(t);
    forget(t, "a");
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    expect(t, "lookup ended a", "#1 drop ended a", "answer api a - progress 0 calls 0 @1", "answer api a not_live");
    retry(t, "b");
    found_record(t, LOOKUP_ENDED, "b", failed());
    forget(t, "b");
    found_record(t, LOOKUP_ENDED, "b", failed());
    expect(t, "lookup ended b", "lookup body b", "lookup ended b", "#2 drop ended b", "answer api b - progress 0 calls 0 @2");
    found_body(t, "b", "again"); /* read before it was forgotten */
    expect(t, "answer api b not_live");
}

/* Read before it lived again: acted upon, that answer would take the body of a job that runs. */
static void who_forgets_it_as_it_comes_to_life_is_refused(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    script_scene(t);
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    forget(t, "a");
    found_body(t, "a", "again");
    expect(t, "lookup ended a", "lookup body a", "lookup ended a", "#1 save body a", "#2 drop ended a",
           "#3 save job a pending 0:0", "answer api a pending/unserved progress 0 calls 0 @3");
    found_record(t, LOOKUP_ENDED, "a", failed());
    expect(t, "answer api a conflict @3");
}

static void the_same_submit_and_its_withdrawal_leave_it_alone(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    script_scene(t);
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    submit(t, "a", .again = true);
    withdraw(t, "a");
    expect(t, "lookup ended a", "lookup body a", "ack api a existing failed");
    found_body(t, "a", "again");
    expect(t, "#1 save body a", "#2 drop ended a", "#3 save job a pending 0:0",
           "answer api a pending/unserved progress 0 calls 0 @3");
}

static void bounds_hold_for_it_too(void **state)
{
    struct sched_settings s = sched_defaults;
    s.tenant_jobs_max = 1;
    AUTO(script_free) struct script *t = script_with(&s);
    submit(t, "one");
    stored(t);
    script_scene(t);
    retry(t, "a");
    found_record(t, LOOKUP_ENDED, "a", failed());
    found_body(t, "a", "again");
    expect(t, "lookup ended a", "lookup body a", "answer api a queue_full");
    drain(t, NULL);
    retry(t, "a");
    expect(t, "answer api a draining");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_job_runs_again),
        cmocka_unit_test(a_redrive_is_one_commit),
        cmocka_unit_test(in_a_store_that_came_back_older_its_old_end_goes),
        cmocka_unit_test(only_what_failed_is_made_to_live_again),
        cmocka_unit_test(a_body_that_is_gone_or_not_known),
        cmocka_unit_test(two_who_ask_have_one_job),
        cmocka_unit_test(forgotten_meanwhile),
        cmocka_unit_test(who_forgets_it_as_it_comes_to_life_is_refused),
        cmocka_unit_test(the_same_submit_and_its_withdrawal_leave_it_alone),
        cmocka_unit_test(bounds_hold_for_it_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
