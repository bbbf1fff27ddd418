/* Attempts that fail, and what follows. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/script.h"

/* One worker, one job on it, stored: its fence is 1. */
static struct script *with_a_run(struct script_submit how)
{
    struct script *t = script_new();
    worker(t, "w", .slots = 1);
    script_submit(t, "a", how);
    stored(t);
    script_scene(t);
    return t;
}

static void a_failed_call_waits_out_its_backoff(void **state)
{
    AUTO(script_free) struct script *t = with_a_run((struct script_submit){.backoff_exact = true});
    outcome(t, "w", "a", 1, .kind = KIND_OVERLOAD, .http_status = 503, .message = "try later");
    expect(t, "#4 save job a retrying 1 again 2000 failed 1", "release w a 1 @4");
    ask(t, "a");
    expect(t, "answer api a retrying progress 0 calls 1 again 2000 @4");
    script_at(t, 1999);
    expect(t);
    script_at(t, 2000);
    expect(t, "#5 save job a processing 2 again 2000 failed 1", "job w a 2 call 2 echo a @5");

    /* the second wait is twice the first */
    stored(t);
    outcome(t, "w", "a", 2, .kind = KIND_SENT);
    expect(t, "#6 save job a retrying 2 again 6000 failed 2", "release w a 2 @6");
    script_at(t, 6000);
    stored(t);
    script_scene(t);

    /* the third failure is the last */
    outcome(t, "w", "a", 3, .kind = KIND_STALL, .message = "nothing came");
    expect(t, "#8 save ended a failed stall \"nothing came\" [w overload] [w sent] [w stall] for 86400000",
           "#9 drop body a in 86400000", "release w a 3 @9");
}

static void jitter_stays_under_its_bound(void **state)
{
    for (int i = 0; i < 20; i++) {
        AUTO(script_free) struct script *t = with_a_run((struct script_submit){0});
        outcome(t, "w", "a", 1, .kind = KIND_OVERLOAD);
        assert_in_range(sched_next(t->sched), 0, 2000);
    }
}

static void retry_after_is_waited_for(void **state)
{
    AUTO(script_free) struct script *t = with_a_run((struct script_submit){0});
    outcome(t, "w", "a", 1, .kind = KIND_OVERLOAD, .retry_after_ms = 7000);
    expect(t, "#4 save job a retrying 1 again 7000 failed 1", "release w a 1 @4");
}

static void being_throttled_costs_no_attempt(void **state)
{
    AUTO(script_free) struct script *t = with_a_run((struct script_submit){.max_attempts = 1});
    for (unsigned n = 1; n <= 5; n++) {
        outcome(t, "w", "a", n, .kind = KIND_THROTTLED, .http_status = 429, .retry_after_ms = 90000);
        script_at(t, 90000 * n);
        stored(t);
    }
    script_scene(t);
    outcome(t, "w", "a", 6);
    expect(t,
           "#14 save ended a completed result ok [w throttled] [w throttled] [w throttled] [w throttled] [w throttled] [w] for "
           "3600000",
           "#15 drop body a", "release w a 6 @15");
}

static void a_wait_beyond_the_deadline_fails_now(void **state)
{
    AUTO(script_free) struct script *t = with_a_run((struct script_submit){.max_wait_ms = 5000});
    outcome(t, "w", "a", 1, .kind = KIND_THROTTLED, .retry_after_ms = 5000);
    expect(t, "#4 save ended a failed throttled \"throttled\" [w throttled] for 86400000", "#5 drop body a in 86400000",
           "release w a 1 @5");
}

static void what_cannot_succeed_is_not_tried_again(void **state)
{
    AUTO(script_free) struct script *t = with_a_run((struct script_submit){0});
    outcome(t, "w", "a", 1, .kind = KIND_CLIENT, .http_status = 400, .message = "no such parameter");
    expect(t, "#4 save ended a failed client \"no such parameter\" [w client] for 86400000", "#5 drop body a in 86400000",
           "release w a 1 @5");
}

static const struct sched_deployment two[] = {{.name = "one", .model = "m1"}, {.name = "two", .model = "m2"}};
static const struct sched_route both[] = {{.name = "*", .deployments = (const uint32_t[]){0, 1}, .deployments_count = 2}};

static struct sched_settings two_places(void)
{
    struct sched_settings settings = sched_defaults;
    settings.deployments = two;
    settings.deployments_count = 2;
    settings.routes = both;
    settings.routes_count = 1;
    return settings;
}

static void a_refused_credential_sends_it_elsewhere_then_nowhere(void **state)
{
    struct sched_settings places = two_places();
    AUTO(script_free) struct script *t = script_with(&places);
    worker(t, "w", .slots = 1, .serves = {"one", "two"});
    submit(t, "a");
    stored(t);
    script_scene(t);
    outcome(t, "w", "a", 1, .kind = KIND_AUTH, .http_status = 401);
    expect(t, "#4 save job a pending 1", "release w a 1 @4", "#5 save job a processing 2", "job w a 2 call 2 two a @5");
    stored(t);
    outcome(t, "w", "a", 2, .kind = KIND_QUOTA);
    expect(t, "#6 save ended a failed quota \"quota\" [w auth] [w quota] for 86400000", "#7 drop body a in 86400000",
           "release w a 2 @7");
}

static void a_full_store_takes_no_job_and_forgives_no_deployment(void **state)
{
    struct sched_settings places = two_places();
    AUTO(script_free) struct script *t = script_with(&places);
    worker(t, "w", .slots = 1, .serves = {"one"});
    submit(t, "a");
    stored(t);
    outcome(t, "w", "a", 1, .kind = KIND_AUTH);
    stored(t);
    script_scene(t);
    full(t);
    submit(t, "b");
    expect(t, "ack api b overloaded in 1000");
    script_at(t, 5000);
    room(t);
    ask(t, "a");
    expect(t, "answer api a pending/unserved progress 0 calls 1 @4"); /* not to the one that refused it */
    submit(t, "b");
    expect(t, "#5 save body b", "#6 save job b pending", "ack api b pending @6", "#7 save job b processing 2",
           "job w b 2 call 1 one b @7");
}

/* A starved worker fails at once and so has room at once: it would draw every job to itself and use up its attempts. */
static void a_starved_worker_gets_nothing_until_its_heartbeat(void **state)
{
    AUTO(script_free) struct script *t = with_a_run((struct script_submit){.backoff_base_ms = 100, .backoff_exact = true});
    outcome(t, "w", "a", 1, .kind = KIND_STARVED);
    stored(t);
    script_scene(t);
    script_at(t, t->now + 100);
    submit(t, "b");
    expect(t, "#5 save body b", "#6 save job b pending", "ack api b pending @6");
    beat(t, "w", 2);
    expect(t, "beat w workers 1", "#7 save job a processing 2 again 100", "job w a 2 call 1 echo a @7",
           "#8 save job b processing 3", "job w b 3 call 1 echo b @8"); /* the first call still: none was made */
}

static void a_worker_that_does_not_serve_it_is_not_asked_again(void **state)
{
    AUTO(script_free) struct script *t = with_a_run((struct script_submit){0});
    outcome(t, "w", "a", 1, .kind = KIND_UNSERVED);
    expect(t, "#4 save job a pending 1", "release w a 1 @4");
    ask(t, "a");
    expect(t, "answer api a pending/unserved progress 0 calls 0 @4");
    worker(t, "v", .slots = 1);
    expect(t, "welcome v", "beat api workers 2", "#5 save job a processing 2", "job v a 2 call 1 echo a @5");
}

static void a_stopping_worker_gives_it_back_at_once(void **state)
{
    AUTO(script_free) struct script *t = with_a_run((struct script_submit){0});
    worker(t, "v", .slots = 1);
    drain(t, "w");
    script_scene(t);
    outcome(t, "w", "a", 1, .kind = KIND_STOPPING);
    expect(t, "#4 save job a pending 1", "release w a 1 @4", "#5 save job a processing 2", "job v a 2 call 2 echo a @5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_call_waits_out_its_backoff),
        cmocka_unit_test(jitter_stays_under_its_bound),
        cmocka_unit_test(retry_after_is_waited_for),
        cmocka_unit_test(being_throttled_costs_no_attempt),
        cmocka_unit_test(a_wait_beyond_the_deadline_fails_now),
        cmocka_unit_test(what_cannot_succeed_is_not_tried_again),
        cmocka_unit_test(a_refused_credential_sends_it_elsewhere_then_nowhere),
        cmocka_unit_test(a_full_store_takes_no_job_and_forgives_no_deployment),
        cmocka_unit_test(a_starved_worker_gets_nothing_until_its_heartbeat),
        cmocka_unit_test(a_worker_that_does_not_serve_it_is_not_asked_again),
        cmocka_unit_test(a_stopping_worker_gives_it_back_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
