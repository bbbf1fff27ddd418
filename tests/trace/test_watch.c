/* Who watches a job, and what they see. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/script.h"

static void a_watcher_sees_every_move_when_it_is_stored(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a", .backoff_exact = true);
    watch(t, "a", true);
    script_scene(t);
    worker(t, "w", .slots = 1);
    expect(t, "welcome w", "beat api workers 1", "#3 save job a processing 1", "event api a status processing @3",
           "job w a 1 call 1 echo a watched @3");
    stored(t);
    progress(t, "w", "a", 1, 30);
    progress(t, "w", "a", 1, 20);
    progress(t, "w", "a", 1, 200);
    progress(t, "w", "a", 1, 200);
    expect(t, "event api a progress processing 30", "event api a progress processing 99");
    run_event(t, "w", "a", 1, 0, "{\"text\":\"he\"}");
    expect(t, "event api a token 1-0 {\"text\":\"he\"}");

    /* another run: what was shown of this one is void */
    outcome(t, "w", "a", 1, .kind = KIND_STREAM_CUT);
    expect(t, "#4 save job a retrying 1 again 2000 failed 1", "event api a status retrying @4", "release w a 1 @4");
    script_at(t, 2000);
    expect(t, "event api a status pending @4", "#5 save job a processing 2 again 2000 failed 1",
           "event api a status processing @5", "event api a attempt.restarted processing @5",
           "job w a 2 call 2 echo a watched @5");
    stored(t);
    outcome(t, "w", "a", 2, .result = "hello", .log = "log");
    expect(t, "#6 save ended a completed result hello log log [w stream_cut] [w] for 3600000", "#7 drop body a",
           "event api a done completed #6 @7", "release w a 2 @7");
}

static void tokens_begin_and_end_with_the_watch(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    stored(t);
    script_scene(t);
    run_event(t, "w", "a", 1, 0, "x");
    expect(t);
    watch(t, "a", true);
    expect(t, "watch w a on 0 @3", "answer api a processing progress 10 calls 1 @3");
    run_event(t, "nobody", "a", 1, 0, "x");
    expect(t);
    unwatch(t, "a", false);
    expect(t, "watch w a off 0 @3");
    unwatch(t, "a", false);
    expect(t);
}

static void a_replaced_session_of_a_watched_run_replays(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a");
    watch(t, "a", true);
    stored(t);
    script_scene(t);
    worker(t, "w", .slots = 1, .held = {{"a", 1}});
    expect(t, "welcome w a replay");
}

static void a_submit_may_ask_for_the_end_alone(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a", .watch = true);
    stored(t);
    script_scene(t);
    progress(t, "w", "a", 1, 50);
    outcome(t, "w", "a", 1);
    expect(t, "#4 save ended a completed result ok [w] for 3600000", "#5 drop body a", "event api a done completed #4 @5",
           "release w a 1 @5");
}

static void many_children_may_watch_one_job(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    unsigned ends = 0;
    submit(t, "a");
    for (int i = 0; i < 200; i++) {
        char name[16];
        snprintf(name, sizeof name, "api%d", i);
        api(t, name);
        script_as(t, name, "acme");
        watch(t, "a", true);
    }
    script_as(t, "api", "acme");
    script_scene(t);
    cancel(t, "a");
    for (const char *at = t->text; (at = strstr(at, "done cancelled")); at++)
        ends++;
    assert_int_equal(ends, 200);
}

static void the_feed_tells_every_move(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    t->changes = true;
    worker(t, "w", .slots = 1);
    script_scene(t);
    submit(t, "a");
    expect(t, "#1 save body a", "#2 save job a pending", "ack api a pending @2", "change a pending @2",
           "#3 save job a processing 1", "change a processing @3", "job w a 1 call 1 echo a @3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_watcher_sees_every_move_when_it_is_stored),
        cmocka_unit_test(tokens_begin_and_end_with_the_watch),
        cmocka_unit_test(a_replaced_session_of_a_watched_run_replays),
        cmocka_unit_test(a_submit_may_ask_for_the_end_alone),
        cmocka_unit_test(many_children_may_watch_one_job),
        cmocka_unit_test(the_feed_tells_every_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
