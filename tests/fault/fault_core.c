/* The core without memory. A story in which every kind of input occurs, told again and again: each of its allocations is
 * refused once, and then the nth of every step for every n. A step succeeds all the same, or has changed nothing and succeeds
 * when it is given again. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/fault.h"
#include "tests/lib/script.h"

/* How a telling of the story is refused memory. */
enum mode {
    ONE,        /* the nth allocation of all its steps */
    ONE_ONWARD, /* and those that follow it in the same step */
    EACH,       /* the nth of every step */
    EACH_ONWARD,
    MODES
};
static enum mode mode;
static long nth, left; /* left: allocations until the one that is refused; 0: it was */
static unsigned fired;
static struct script *story;

static const char *const inputs[] = {
    [INPUT_RECOVER] = "recover",
    [INPUT_START] = "start",
    [INPUT_HELLO] = "hello",
    [INPUT_GONE] = "gone",
    [INPUT_HEARTBEAT] = "heartbeat",
    [INPUT_DRAIN] = "drain",
    [INPUT_SUBMIT] = "submit",
    [INPUT_WITHDRAW] = "withdraw",
    [INPUT_CANCEL] = "cancel",
    [INPUT_FORGET] = "forget",
    [INPUT_ASK] = "ask",
    [INPUT_WATCH] = "watch",
    [INPUT_UNWATCH] = "unwatch",
    [INPUT_PATCH] = "patch",
    [INPUT_RETRY] = "retry",
    [INPUT_OUTCOME] = "outcome",
    [INPUT_PROGRESS] = "progress",
    [INPUT_RUN_EVENT] = "run_event",
    [INPUT_UNSENT] = "unsent",
    [INPUT_STORED] = "stored",
    [INPUT_STALL] = "stall",
    [INPUT_FLOW] = "flow",
    [INPUT_FULL] = "full",
    [INPUT_ROOM] = "room",
    [INPUT_FOUND] = "found",
    [INPUT_ABSENT] = "absent",
    [INPUT_UNKNOWN] = "unknown",
    [INPUT_REWRITE] = "rewrite",
    [INPUT_PAUSE] = "pause",
    [INPUT_SETTINGS] = "settings",
    [INPUT_TICK] = "tick",
};
static unsigned long refused[ARRAY_COUNT(inputs)];
static bool given[ARRAY_COUNT(inputs)];

/* What a refused step must leave as it was. */
static struct {
    enum input_type type;
    uint64_t written;
    struct sched_stats stats;
} was;

static void before(const struct input *in)
{
    given[in->type] = true;
    was.type = in->type;
    was.written = sched_written(story->sched);
    sched_stats(story->sched, &was.stats);
    fault_arm(mode >= EACH ? nth : left, mode == ONE_ONWARD || mode == EACH_ONWARD);
}

static void nothing_has_changed(void)
{
    struct sched_stats stats;
    sched_stats(story->sched, &stats);
    was.stats.dispatch_steps = stats.dispatch_steps; /* looks taken are no state */
    assert_int_equal(sched_written(story->sched), was.written);
    assert_memory_equal(&stats, &was.stats, sizeof stats);
}

static bool after(enum err e)
{
    left = fault_after;
    bool now = fault_disarm();
    if (now)
        left = 0;
    if (e && !story->effects.count) /* else a deadline was due before the input */
        nothing_has_changed();
    fired += now;
    refused[was.type] += now;
    return now;
}

/* Who has a job, by its JOB frames: its name is one letter. */
static struct run {
    const char *worker;
    uint64_t n;
} runs[128];

static void note_run(void *arg, const struct effect *e)
{
    struct script *t = arg;
    if (e->type != EFFECT_JOB)
        return;
    struct run *run = &runs[e->job.id.bytes[8] & 127];
    for (unsigned i = 0; i < t->peers_count; i++)
        if (t->peers[i].number == e->peer)
            *run = (struct run){t->peers[i].name, e->job.fence.n};
}

static void ends(struct script *t, const char *job, struct script_outcome how)
{
    const struct run *run = &runs[(unsigned)*job];
    if (run->worker) /* else want of memory has kept it from being sent */
        script_outcome(t, run->worker, job, run->n, how);
}

static void answer_bodies(struct script *t)
{
    for (const char *name = "abdefgh"; *name; name++) {
        const char one[2] = {*name, 0};
        found_body(t, one, *name == 'b' ? "<b>b" : one);
    }
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
    worker(t, "w", .slots = 4, .serves = {"echo", "fast"});
    worker(t, "solo", .slots = 1, .solo = true);
    answer_bodies(t);
    stored(t);
    watch(t, "a", true);
    beat(t, "w", 4, {"a", runs['a'].n}, {"b", runs['b'].n}, {"c", 9});
    progress(t, "w", "a", runs['a'].n, 40);
    run_event(t, "w", "a", runs['a'].n, 0, "x");
    unwatch(t, "a", false);
    unsent(t, "w", "d", runs['d'].n);
    stored(t);
    answer_bodies(t);
    stored(t);
    ends(t, "a", (struct script_outcome){.kind = KIND_OVERLOAD, .message = "words"});
    ends(t, "b", (struct script_outcome){.result = "ok", .log = "{}\n"});
    ends(t, "d", (struct script_outcome){.kind = KIND_CLIENT, .message = "no"});
    answer_bodies(t);
    stored(t);
    unknown(t, LOOKUP_BODY, "f");
    gone(t, "w"); /* and does not come back: a crash of each of its jobs */
    script_at(t, t->now + 3000);
    worker(t, "v", .slots = 4, .serves = {"echo", "fast"}, .held = {{"a", 1}});
    answer_bodies(t);
    stored(t);
    gone(t, "v");
    worker(t, "v", .slots = 4, .held = {{"f", runs['f'].n}});
    answer_bodies(t);
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
    submit(t, "g");
    submit(t, "h", .delay_ms = 100);
    cancel(t, "a");
    cancel(t, "g");
    cancel(t, "g");
    withdraw(t, "h");
    script_step(
        t, &(struct input){.type = INPUT_RETRY, .retry = &(struct msg_retry){.ref = 1, .id = script_id("y")}}); /* nobody's */
    absent(t, LOOKUP_ENDED, "y");
    retry(t, "x");
    found_record(t, LOOKUP_ENDED, "x",
                 (struct rec_ended){.state = STATE_FAILED, .spec = {.route = span_str("pair")}, .run = 2});
    found_body(t, "x", "again");
    api(t, "api2");
    script_as(t, "api2", "acme");
    watch(t, "e", false);
    gone(t, "api");
    forget(t, "z");
    found_ended(t, LOOKUP_ENDED, "z", "acme", STATE_COMPLETED, "k");
    for (const char *name = "abdefgh"; *name; name++) {
        const char one[2] = {*name, 0};
        absent(t, LOOKUP_BODY, one);
    }
    stall(t);
    flow(t);
    full(t);
    room(t);
    gone(t, "v");
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

static void tell_once(void)
{
    struct sched_settings settings_ = sched_defaults;
    settings_.body_cache_bytes = 0;
    AUTO(script_free) struct script *t = story = script_unstarted(&settings_);
    memset(runs, 0, sizeof runs);
    left = nth;
    fired = 0;
    script_at(t, 1000);
    t->before = before;
    t->after = after;
    t->each = note_run;
    t->arg = t;
    tell(t);
}

static void the_story_survives_every_refusal(void **state)
{
    for (mode = ONE; mode < MODES; mode++)
        for (nth = 1, fired = 1; fired; nth++) {
            tell_once();
            assert_true(nth < 2000);
        }
    for (unsigned type = INPUT_RECOVER; type < ARRAY_COUNT(inputs); type++) {
        char name[32];
        assert_true(given[type]);
        snprintf(name, sizeof name, "sched_step %s", inputs[type]);
        fault_tell(name, refused[type]);
    }
}

static enum err make(void *arg)
{
    AUTO(sched_free) struct sched *sched = sched_new(arg, 1);
    return sched ? ERR_OK : ERR_NOMEM;
}

static void a_scheduler(void **state)
{
    struct sched_settings settings = sched_defaults;
    settings.deployments = deployments;
    settings.deployments_count = 2;
    settings.routes = routes;
    settings.routes_count = 2;
    fault_tell("sched_new", fault_sweep("sched_new", make, NULL, &settings));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_scheduler),
        cmocka_unit_test(the_story_survives_every_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
