/* A job's life without faults. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/script.h"

static void a_job_is_stored_then_sent_then_ended(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    t->changes = true;
    worker(t, "w", .slots = 1);
    expect(t, "welcome w", "beat api workers 1");

    /* Submitted and leased in one step; nothing leaves before it is stored. */
    submit(t, "a", .display = "<a>", .request = "hello", .watch = true);
    expect(t, "#1 save body a", "#2 save job a pending", "ack api a pending @2", "change a pending @2",
           "#3 save job a processing 1", "change a processing @3", "job w a 1 call 1 echo hello @3");
    stored(t);
    expect(t);

    script_at(t, 250);
    outcome(t, "w", "a", 1, .result = "world");
    expect(t, "#4 save ended a completed display <a> result world [w] for 3600000", "#5 drop body a",
           "event api a done completed #4 @5", "change a completed @5", "release w a 1 @5");
    ask(t, "a");
    expect(t, "answer api a already_ended completed progress 100 calls 1 @5");

    /* Only what is stored leaves memory. */
    stored(t);
    expect(t);
    ask(t, "a");
    expect(t, "answer api a not_live");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_is_stored_then_sent_then_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
