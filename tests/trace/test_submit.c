/* Jobs that come in: twice, under one key, too many, taken back. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/script.h"

static void one_key_sent_twice_at_once_is_one_job(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a", .key = "k");
    submit(t, "b", .key = "k");
    submit(t, "c", .key = "k", .body_hash = "other");
    expect(t, "lookup idem k");
    absent(t, LOOKUP_IDEM, "k");
    expect(t, "#1 save body a", "#2 save idem k a", "#3 save job a pending", "ack api a pending @3",
           "ack api a existing pending @3", "ack api c idempotency_mismatch");

    /* until it is stored the key is known without asking */
    submit(t, "d", .key = "k");
    expect(t, "ack api a existing pending @3");
    stored(t);
    submit(t, "e", .key = "k");
    expect(t, "lookup idem k");
    found_idem(t, "k", "a", "same");
    expect(t, "ack api a existing pending @3");
}

static void a_key_in_the_store_leads_to_its_job(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "b", .key = "k");
    submit(t, "c", .key = "k", .body_hash = "other");
    found_idem(t, "k", "a", "same");
    expect(t, "lookup idem k", "ack api a existing -", "ack api c idempotency_mismatch");
    submit(t, "d", .key = "k");
    unknown(t, LOOKUP_IDEM, "k");
    expect(t, "lookup idem k", "ack api d store_unavailable in 1000");
}

static void a_key_changed_meanwhile_is_asked_again(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a", .key = "k");
    absent(t, LOOKUP_IDEM, "k");
    stored(t);
    script_scene(t);
    submit(t, "b", .key = "k");
    withdraw(t, "a");
    found_idem(t, "k", "a", "same");
    expect(t, "lookup idem k", "#4 drop idem k", "#5 drop job a", "lookup idem k");
    absent(t, LOOKUP_IDEM, "k");
    expect(t, "#6 save body b", "#7 save idem k b", "#8 save job b pending", "ack api b pending @8");
}

static void a_job_sent_again_is_looked_up_first(void **state)
{
    AUTO(script_free) struct script *t = script_new();

    submit(t, "a", .again = true); /* never arrived before */
    absent(t, LOOKUP_ANY, "a");
    expect(t, "lookup any a", "#1 save body a", "#2 save job a pending", "ack api a pending @2");

    submit(t, "a", .again = true); /* live */
    expect(t, "ack api a existing pending @2");

    submit(t, "b", .again = true); /* ended */
    found_ended(t, LOOKUP_ANY, "b", "acme", STATE_COMPLETED, NULL);
    expect(t, "lookup any b", "ack api b existing completed");

    submit(t, "c", .again = true); /* somebody else's */
    found_ended(t, LOOKUP_ANY, "c", "bolt", STATE_COMPLETED, NULL);
    expect(t, "lookup any c", "ack api c conflict");

    submit(t, "d", .again = true, .key = "k"); /* then its key */
    absent(t, LOOKUP_ANY, "d");
    found_idem(t, "k", "a", "same");
    expect(t, "lookup any d", "lookup idem k", "ack api a existing pending @2");

    submit(t, "a", .tenant = "bolt");
    expect(t, "ack api a conflict");
}

static void a_second_frame_of_a_waiting_submit_gets_the_one_answer(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    api(t, "api2");
    script_scene(t);
    submit(t, "a", .key = "k");
    submit(t, "a", .key = "k", .from = "api2", .again = true);
    absent(t, LOOKUP_IDEM, "k");
    expect(t, "lookup idem k", "#1 save body a", "#2 save idem k a", "#3 save job a pending", "ack api2 a pending @3");
}

static void withdrawn_in_every_state(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "draft", .key = "k");
    withdraw(t, "draft");
    absent(t, LOOKUP_IDEM, "k");
    expect(t, "lookup idem k");

    submit(t, "waits", .watch = true);
    withdraw(t, "waits");
    expect(t, "#1 save body waits", "#2 save job waits pending", "ack api waits pending @2", "#3 drop job waits");

    submit(t, "later", .delay_ms = 1000);
    withdraw(t, "later");
    expect(t, "#4 save body later", "#5 save job later pending again 1000", "ack api later pending @5", "#6 drop job later");

    worker(t, "w", .slots = 1);
    submit(t, "runs");
    stored(t);
    script_scene(t);
    withdraw(t, "runs");
    expect(t, "#10 drop job runs", "cancel w runs 1 @10");
    outcome(t, "w", "runs", 1, .kind = KIND_CANCELLED);
    expect(t, "release w runs 1 @10");

    submit(t, "retries");
    stored(t);
    outcome(t, "w", "retries", 2, .kind = KIND_SENT);
    script_scene(t);
    withdraw(t, "retries");
    expect(t, "#15 drop job retries");
    submit(t, "ends");
    stored(t);
    outcome(t, "w", "ends", 3);
    script_scene(t);
    withdraw(t, "ends");
    expect(t);
    withdraw(t, "nosuch");
    expect(t);
    script_at(t, 100000);
    expect(t);
}

static void what_another_was_answered_with_is_not_withdrawn(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a", .key = "k");
    absent(t, LOOKUP_IDEM, "k");
    submit(t, "b", .key = "k");
    script_scene(t);
    withdraw(t, "a");
    expect(t);
    ask(t, "a");
    expect(t, "answer api a pending/unserved progress 0 calls 0 @3");
}

static void what_cannot_be_kept_is_refused(void **state)
{
    struct sched_settings settings = sched_defaults;
    settings.tenant_jobs_max = 2;
    settings.jobs_max = 3;
    AUTO(script_free) struct script *t = script_with(&settings);
    worker(t, "w", .slots = 4);
    for (int i = 0; i < 4; i++) { /* two ends a second are remembered */
        char name[16];
        snprintf(name, sizeof name, "old%d", i);
        submit(t, name, .tenant = "bolt");
        stored(t);
        script_at(t, t->now + 500);
        outcome(t, "w", name, (uint64_t)i + 1);
        stored(t);
    }
    gone(t, "w");
    script_at(t, t->now + 1000);
    submit(t, "a");
    submit(t, "b");
    script_scene(t);
    submit(t, "c");
    expect(t, "ack api c queue_full in 10000"); /* none of this tenant's has ended yet */
    submit(t, "d", .tenant = "bolt");
    script_scene(t);
    submit(t, "e", .tenant = "corp");
    expect(t, "ack api e overloaded in 2000"); /* two places a second, every second of them promised */
    script_scene(t);
    submit(t, "f", .tenant = "corp");
    expect(t, "ack api f overloaded in 3000");
    cancel(t, "a");
    stored(t);
    script_scene(t);
    submit(t, "c");
    expect(t, "#29 save body c", "#30 save job c pending", "ack api c pending @30");
}

/* Of a bound of 32 two places are kept for each class that does not use them. */
static void a_flood_of_one_class_leaves_room_for_the_others(void **state)
{
    struct sched_settings settings = sched_defaults;
    settings.jobs_max = 32;
    AUTO(script_free) struct script *t = script_with(&settings);
    char name[16];
    for (int i = 0; i < 28; i++) {
        snprintf(name, sizeof name, "b%d", i);
        submit(t, name, .class = CLASS_BACKGROUND);
    }
    script_scene(t);
    submit(t, "one more", .class = CLASS_BACKGROUND);
    expect(t, "ack api one more overloaded in 10000");
    submit(t, "i0", .class = CLASS_INTERACTIVE);
    submit(t, "i1", .class = CLASS_INTERACTIVE);
    submit(t, "s0", .class = CLASS_STANDARD);
    script_scene(t);
    submit(t, "i2", .class = CLASS_INTERACTIVE);
    expect(t, "ack api i2 overloaded in 10000"); /* the last place is a standard one's */
    submit(t, "s1", .class = CLASS_STANDARD);
    script_scene(t);
    submit(t, "s2", .class = CLASS_STANDARD);
    expect(t, "ack api s2 overloaded in 10000");
}

static void bytes_have_a_bound_too(void **state)
{
    struct sched_settings settings = sched_defaults;
    settings.tenant_bytes_max = 1700;
    settings.bytes_max = 2700;
    AUTO(script_free) struct script *t = script_with(&settings);
    char text[1001];
    memset(text, 'x', 1000);
    text[1000] = 0;
    submit(t, "a", .request = text);
    script_scene(t);
    submit(t, "b", .request = text);
    expect(t, "ack api b bytes_full in 10000");
    submit(t, "c", .request = text, .tenant = "bolt");
    expect(t, "ack api c overloaded in 10000");

    /* drafts count as well: what waits for the store is memory */
    submit(t, "d", .request = text, .key = "d");
    submit(t, "e", .request = text, .key = "e");
    submit(t, "f", .request = text, .key = "f");
    expect(t, "lookup idem d", "lookup idem e", "ack api f overloaded in 10000");
}

static void a_bad_field_is_named(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    submit(t, "a", .priority = 11);
    submit(t, "a", .class = 4);
    submit(t, "a", .ack = ACK_SYNCED);
    expect(t, "ack api a invalid_field", "ack api a invalid_field", "ack api a ack_unavailable");
}

static void no_number_of_a_caller_overflows(void **state)
{
    AUTO(script_free) struct script *t = script_new();
    worker(t, "w", .slots = 1);
    submit(t, "a", .delay_ms = UINT64_MAX, .max_wait_ms = UINT64_MAX, .timeout_ms = UINT64_MAX);
    submit(t, "b", .run_at = INT64_MAX, .deadline = INT64_MAX);
    submit(t, "c", .backoff_base_ms = UINT64_MAX, .backoff_cap_ms = UINT64_MAX, .max_attempts = UINT16_MAX,
           .timeout_ms = UINT64_MAX, .result_ttl_ms = UINT64_MAX, .deadline = INT64_MIN);
    stored(t);
    outcome(t, "w", "c", 1, .kind = KIND_SENT, .retry_after_ms = UINT64_MAX);
    stored(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_key_sent_twice_at_once_is_one_job),
        cmocka_unit_test(a_key_in_the_store_leads_to_its_job),
        cmocka_unit_test(a_key_changed_meanwhile_is_asked_again),
        cmocka_unit_test(a_job_sent_again_is_looked_up_first),
        cmocka_unit_test(a_second_frame_of_a_waiting_submit_gets_the_one_answer),
        cmocka_unit_test(withdrawn_in_every_state),
        cmocka_unit_test(what_another_was_answered_with_is_not_withdrawn),
        cmocka_unit_test(what_cannot_be_kept_is_refused),
        cmocka_unit_test(a_flood_of_one_class_leaves_room_for_the_others),
        cmocka_unit_test(bytes_have_a_bound_too),
        cmocka_unit_test(a_bad_field_is_named),
        cmocka_unit_test(no_number_of_a_caller_overflows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
