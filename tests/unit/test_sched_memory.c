/* A story in which every kind of input occurs, told again and again: the nth allocation of every step fails, for every n. A
 * step then succeeds all the same, or has changed nothing and succeeds when it is given again. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/fault_malloc.h"
#include "tests/lib/script.h"

static long nth;
static bool lasts;
static unsigned fired;

static void before(void)
{
    fault_arm(nth, lasts);
}
static bool after(void)
{
    bool now = fault_disarm();
    fired += now;
    return now;
}

static const struct sched_deployment deployments[] = {{.name = "echo", .model = "m"},
                                                      {.name = "fast", .model = "", .concurrency = 2}};
static const struct sched_route routes[] = {
    {.name = "pair", .deployments = (const uint32_t[]){1, 0}, .deployments_count = 2},
    {.name = "*", .deployments = (const uint32_t[]){0}, .deployments_count = 1},
};

static void jobs_come(struct script *t)
{
    submit(t, "a", .watch = true, .priority = 9, .timeout_ms = 1000);
    submit(t, "b", .key = "k", .display = "<b>");
    submit(t, "c", .key = "k");
    absent(t, LOOKUP_IDEM, "k");
    submit(t, "d", .again = true, .tenant = "bolt", .queue = "mail");
    absent(t, LOOKUP_ANY, "d");
    submit(t, "e", .delay_ms = 500, .route = "pair", .class = CLASS_BACKGROUND);
    submit(t, "f", .route = "pair", .cancel_on_leave = true, .watch = true);
    patch(t, "e", 3, 100000);
    watch(t, "b", true);
    ask(t, "b");
    stored(t);
}

static void workers_come(struct script *t)
{
    worker(t, "w", .slots = 2, .serves = {"echo", "fast"});
    worker(t, "solo", .slots = 1, .solo = true);
    for (const char *name = "abdf"; *name; name++) {
        const char one[2] = {*name, 0};
        found_body(t, one, *name == 'b' ? "<b>b" : one);
    }
    stored(t);
    progress(t, "w", "a", 1, 40);
    run_event(t, "w", "a", 1, 0, "x");
    beat(t, "w", 2, {"a", 1}, {"b", 2}, {"c", 9});
    outcome(t, "w", "a", 1, .kind = KIND_OVERLOAD, .message = "words");
    outcome(t, "w", "b", 2, .result = "ok");
    unsent(t, "w", "d", 3);
    stored(t);
    unknown(t, LOOKUP_BODY, "f");
    gone(t, "w");
    worker(t, "w", .slots = 4, .serves = {"echo", "fast"}, .held = {{"a", 1}});
    script_at(t, t->now + 3000);
    stored(t);
}

static void settings_change(struct script *t)
{
    struct sched_settings other = t->settings;
    other.deployments = deployments;
    other.deployments_count = 2;
    other.routes = routes;
    other.routes_count = 2;
    settings(t, &other);
    pause_tenant(t, "bolt", true);
    pause_queue(t, "later", true);
    pause_tenant(t, "bolt", false);
    rewrite(t, SCRIPT_EPOCH + 1);
    script_at(t, t->now + 100);
}

static void all_ends(struct script *t)
{
    cancel(t, "a");
    cancel(t, "d");
    cancel(t, "d");
    unwatch(t, "b", false);
    withdraw(t, "e");
    api(t, "api2");
    gone(t, "api");
    forget(t, "z");
    found_ended(t, LOOKUP_ENDED, "z", "acme", STATE_COMPLETED, "k");
    for (const char *name = "abdef"; *name; name++) {
        const char one[2] = {*name, 0};
        absent(t, LOOKUP_BODY, one);
    }
    stall(t);
    flow(t);
    gone(t, "w");
    script_at(t, t->now + 1000);
    drain(t, "solo");
    bye(t, "solo");
    stored(t);
    script_at(t, t->now + 200000);
}

static void tell(struct script *t)
{
    script_recover(t, "old", (struct rec_job){.state = STATE_PENDING, .arrived_at = 1, .body_bytes = 3, .seq = 1});
    script_recover(t, "ran",
                   (struct rec_job){
                       .state = STATE_PROCESSING,
                       .arrived_at = 1,
                       .body_bytes = 3,
                       .seq = 2,
                       .run = 1,
                       .calls = 1,
                       .fence = {SCRIPT_EPOCH - 1, 1},
                       .worker = span_str("w"),
                       .deployment = span_str("echo"),
                       .attempts = &(const struct rec_attempt){.run = 1, .message = span_str("words"), .worker = span_str("w")},
                       .attempts_count = 1});
    script_start(t, SCRIPT_EPOCH);
    api(t, "api");
    jobs_come(t);
    workers_come(t);
    settings_change(t);
    all_ends(t);
}

static void the_story_survives_every_refusal(void **state)
{
    for (int mode = 0; mode < 2; mode++)
        for (nth = 1, fired = 1; fired; nth++) {
            struct sched_settings settings_ = sched_defaults;
            settings_.body_cache_bytes = 0;
            AUTO(script_free) struct script *t = script_unstarted(&settings_);
            script_at(t, 1000);
            lasts = mode == 1;
            t->before = before;
            t->after = after;
            fired = 0;
            tell(t);
            assert_true(nth < 200);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_story_survives_every_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
