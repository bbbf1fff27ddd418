/* Who is next. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/script.h"

/* Ends whatever worker "w" has, one run after the other, and writes down who came next. */
static const char *order_of(struct script *t, int count)
{
    static char order[512];
    order[0] = 0;
    t->quiet = true;
    for (int i = 0; i < count; i++) {
        char name[9] = {0};
        memcpy(name, t->last_job.id.bytes + 8, 8);
        snprintf(order + strlen(order), sizeof order - strlen(order), "%s%s", i ? " " : "", name);
        outcome(t, "w", name, t->last_job.fence.n);
        stored(t);
    }
    t->quiet = false;
    return order;
}

/* A story told backwards: everything waits, then the worker comes. */
static const char *order_with_one_slot(struct script *t, int count)
{
    worker(t, "w", .slots = 1);
    return order_of(t, count);
}

static void a_priority_is_a_head_start(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "p5");
    submit(t, "p1", .priority = 1);
    submit(t, "p10", .priority = 10);
    script_at(t, 149999);
    submit(t, "early", .priority = 10); /* five steps of 30 s ahead of p5: by a millisecond */
    script_at(t, 150000);
    submit(t, "late", .priority = 10); /* as old as p5 by now; p5 was there first */
    submit(t, "last");
    assert_string_equal(order_with_one_slot(t, 6), "p10 early p5 late p1 last");
}

static void a_returning_job_has_its_place_again(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    script_at(t, 1); /* core time is wall time: never 0 */
    worker(t, "w", .slots = 1);
    submit(t, "a", .backoff_exact = true, .backoff_base_ms = 1000);
    for (int i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "b%d", i);
        script_at(t, 10 * (i + 1));
        submit(t, name);
    }
    stored(t);
    script_at(t, 100);
    outcome(t, "w", "a", 1, .kind = KIND_OVERLOAD); /* back at 1100 */
    stored(t);
    script_at(t, 1100);
    assert_string_equal(order_of(t, 6), "b0 a b1 b2 b3 b4");
}

static void a_scheduled_job_counts_from_when_it_may_run(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "late", .delay_ms = 1000);
    script_at(t, 500);
    submit(t, "a");
    script_at(t, 1500);
    submit(t, "b");
    assert_string_equal(order_with_one_slot(t, 3), "a late b");
}

static void a_scheduled_job_does_not_start_before_its_time(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    script_scene(t);
    submit(t, "a", .delay_ms = 1000);
    expect(t, "#1 save body a", "#2 save job a pending again 1000", "ack api a pending @2");
    script_at(t, 999);
    expect(t);
    script_at(t, 1000);
    expect(t, "#3 save job a processing 1 again 1000", "job w a 1 call 1 echo a @3");
}

static void a_patched_priority_moves_it(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a");
    submit(t, "b");
    submit(t, "c");
    patch(t, "c", 6, 0);
    patch(t, "a", 4, 0);
    assert_string_equal(order_with_one_slot(t, 3), "c b a");
}

/* How many of the next `count` dispatches each class or tenant got. */
struct shares {
    unsigned of[26];
};
static struct shares shares_of(struct script *t, int count)
{
    struct shares shares = {0};
    t->quiet = true;
    for (int i = 0; i < count; i++) {
        char name[9] = {0};
        memcpy(name, t->last_job.id.bytes + 8, 8);
        shares.of[name[0] - 'a']++;
        outcome(t, "w", name, t->last_job.fence.n);
        stored(t);
    }
    t->quiet = false;
    return shares;
}

static void fill(struct script *t, char letter, int count, const char *tenant, uint8_t class)
{
    t->quiet = true;
    for (int i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%c%d", letter, i);
        submit(t, name, .tenant = tenant, .class = class);
    }
    stored(t);
    t->quiet = false;
}

static void classes_share_sixteen_to_four_to_one(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    fill(t, 'i', 2100, "acme", CLASS_INTERACTIVE);
    fill(t, 's', 2100, "acme", CLASS_STANDARD);
    fill(t, 'b', 2100, "acme", CLASS_BACKGROUND);
    worker(t, "w", .slots = 1);
    struct shares shares = shares_of(t, 2100);
    assert_in_range(shares.of['i' - 'a'], 1599, 1601);
    assert_in_range(shares.of['s' - 'a'], 399, 401);
    assert_in_range(shares.of['b' - 'a'], 99, 101);
}

static void tenants_share_evenly_whatever_their_backlog(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    fill(t, 'a', 2000, "acme", 0);
    worker(t, "w", .slots = 1);
    shares_of(t, 500); /* acme had all of it so far: no debt, no credit */
    fill(t, 'b', 300, "bolt", 0);
    struct shares shares = shares_of(t, 400);
    assert_in_range(shares.of[0], 199, 201);
    assert_in_range(shares.of[1], 199, 201);
    fill(t, 'c', 300, "corp", 0);
    shares = shares_of(t, 150);
    assert_in_range(shares.of[0], 49, 51);
    assert_in_range(shares.of[1], 49, 51);
    assert_in_range(shares.of[2], 49, 51);
}

static void a_tenant_that_idled_has_saved_nothing(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    fill(t, 'b', 1, "bolt", 0);
    fill(t, 'a', 1000, "acme", 0);
    worker(t, "w", .slots = 1);
    shares_of(t, 601);
    fill(t, 'c', 1000, "bolt", 0);
    struct shares shares = shares_of(t, 100);
    assert_in_range(shares.of[0], 49, 51);
    assert_in_range(shares.of[2], 49, 51);
}

static void what_is_paused_does_not_start(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    pause_tenant(t, "acme", true);
    script_scene(t);
    submit(t, "a");
    ask(t, "a");
    expect(t, "#1 save body a", "#2 save job a pending", "ack api a pending @2",
           "answer api a pending/paused progress 0 calls 0 @2");
    submit(t, "b", .tenant = "bolt");
    expect(t, "#3 save body b", "#4 save job b pending", "ack api b pending @4", "#5 save job b processing 1",
           "job w b 1 call 1 echo b @5");
    stored(t);
    outcome(t, "w", "b", 1);
    script_scene(t);
    pause_queue(t, "q", true);
    pause_tenant(t, "acme", false);
    expect(t); /* its queue is still paused */
    pause_queue(t, "q", false);
    expect(t, "#8 save job a processing 2", "job w a 2 call 1 echo a @8");
}

static void a_deployment_has_its_bound(void **state)
{
    struct sched_settings settings = sched_defaults;
    settings.deployments = &(const struct sched_deployment){.name = "echo", .model = "", .concurrency = 1};
    AUTO(script_free) struct script *t = script_with(&settings);
    worker(t, "w", .slots = 4);
    submit(t, "a");
    submit(t, "b");
    stored(t);
    assert_int_equal(t->seen_job, 1);
    script_scene(t);
    outcome(t, "w", "a", 1);
    expect(t, "#6 save ended a completed result ok [w] for 3600000", "#7 drop body a", "release w a 1 @7",
           "#8 save job b processing 2", "job w b 2 call 1 echo b @8");
}

static const struct sched_deployment later_deployments[] = {{.name = "echo", .model = ""}, {.name = "fast", .model = "m"}};
static const struct sched_route later_routes[] = {
    {.name = "special", .deployments = (const uint32_t[]){1}, .deployments_count = 1},
    {.name = "*", .deployments = (const uint32_t[]){0}, .deployments_count = 1},
};

static void new_settings_help_jobs_that_wait(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "f", .slots = 8, .serves = {"fast"});
    submit(t, "a", .route = "special");
    submit(t, "b", .route = "special", .priority = 9);
    submit(t, "c");
    stored(t);
    script_scene(t);
    struct sched_settings settings_ = sched_defaults;
    settings_.deployments = later_deployments;
    settings_.deployments_count = 2;
    settings_.routes = later_routes;
    settings_.routes_count = 2;
    settings(t, &settings_);
    expect(t, "#7 save job b processing 1", "job f b 1 call 1 fast b @7", "#8 save job a processing 2",
           "job f a 2 call 1 fast a @8");
    ask(t, "c");
    expect(t, "answer api c pending/unserved progress 0 calls 0 @6");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_priority_is_a_head_start),
        cmocka_unit_test(a_returning_job_has_its_place_again),
        cmocka_unit_test(a_scheduled_job_counts_from_when_it_may_run),
        cmocka_unit_test(a_scheduled_job_does_not_start_before_its_time),
        cmocka_unit_test(a_patched_priority_moves_it),
        cmocka_unit_test(classes_share_sixteen_to_four_to_one),
        cmocka_unit_test(tenants_share_evenly_whatever_their_backlog),
        cmocka_unit_test(a_tenant_that_idled_has_saved_nothing),
        cmocka_unit_test(what_is_paused_does_not_start),
        cmocka_unit_test(a_deployment_has_its_bound),
        cmocka_unit_test(new_settings_help_jobs_that_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
