/* One peer's conversation as transcripts: at this time, this happens, that is to be done. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "proto/session.h"

#define BEAT 5000

static struct session s;

static struct frame frame_of(enum message message, uint64_t epoch)
{
    struct frame frame = {.message = message, .epoch = epoch};
    if (message == MESSAGE_WELCOME)
        frame.welcome = (struct msg_welcome){.heartbeat_ms = BEAT, .minor = 3};
    return frame;
}

static unsigned hear(msec now, enum message message, uint64_t epoch)
{
    struct frame frame = frame_of(message, epoch);
    return session_frame(&s, now, &frame);
}

/* A session that is open at `now`. */
static void open_at(msec now, uint64_t epoch)
{
    session_init(&s, now, 1);
    assert_int_equal(session_tick(&s, now), SESSION_CONNECT);
    assert_int_equal(session_connected(&s, now, true), SESSION_HELLO);
    assert_int_equal(hear(now, MESSAGE_WELCOME, epoch), SESSION_UP);
    assert_int_equal(s.state, SESSION_OPEN);
}

static void begins_at_once_and_greets_when_connected(void **state)
{
    session_init(&s, 100, 1);
    assert_int_equal(session_due(&s), 100);
    assert_int_equal(session_tick(&s, 100), SESSION_CONNECT);
    assert_int_equal(session_tick(&s, 101), 0);
    assert_int_equal(session_connected(&s, 110, true), SESSION_HELLO);
    assert_int_equal(hear(120, MESSAGE_WELCOME, 9), SESSION_UP);
    assert_true(s.new_epoch);
    assert_int_equal(s.epoch, 9);
    assert_int_equal(s.peer_minor, 3);
    assert_int_equal(session_due(&s), 120 + BEAT);
}

static void hello_is_repeated_ever_more_seldom(void **state)
{
    session_init(&s, 0, 7);
    session_tick(&s, 0);
    session_connected(&s, 0, true);
    unsigned hellos = 1;
    msec before = 0, gap_before = 0;
    while (s.state == SESSION_GREETING) {
        msec now = session_due(&s);
        unsigned acts = session_tick(&s, now);
        if (s.state != SESSION_GREETING) {
            assert_int_equal(acts, SESSION_DROP);
            assert_true(now >= 10000);
            break;
        }
        assert_int_equal(acts, SESSION_HELLO);
        assert_in_range(now - before, 100, 2000);
        gap_before = MAX(gap_before, now - before);
        before = now;
        hellos++;
    }
    assert_true(gap_before > 900);
    assert_in_range(hellos, 8, 20);
}

static void heartbeats_go_out_on_the_interval(void **state)
{
    open_at(1000, 5);
    for (msec at = 1000 + BEAT; at < 1000 + 20 * BEAT; at += BEAT) {
        assert_int_equal(session_due(&s), at);
        assert_int_equal(session_tick(&s, at - 1), 0);
        assert_int_equal(session_tick(&s, at), SESSION_HEARTBEAT);
        assert_int_equal(hear(at + 3, MESSAGE_HEARTBEAT_ACK, 5), SESSION_DELIVER);
    }
}

static void three_silent_intervals_end_it(void **state)
{
    open_at(0, 5);
    assert_int_equal(hear(700, MESSAGE_PROBE, 5), SESSION_DELIVER);
    assert_int_equal(session_tick(&s, BEAT), SESSION_HEARTBEAT);
    assert_int_equal(session_tick(&s, 2 * BEAT), SESSION_HEARTBEAT);
    assert_int_equal(session_tick(&s, 3 * BEAT), SESSION_HEARTBEAT); /* 14 300 ms of silence */
    assert_int_equal(session_due(&s), 700 + 3 * BEAT);
    assert_int_equal(session_tick(&s, 700 + 3 * BEAT), SESSION_DOWN | SESSION_DROP);
    assert_string_equal(s.why, "silence");
    assert_in_range(session_due(&s) - 700 - 3 * BEAT, 10, 20);
    assert_int_equal(session_tick(&s, session_due(&s)), SESSION_CONNECT);
}

static void a_late_wake_up_finds_the_silence_first(void **state)
{
    open_at(0, 5);
    assert_int_equal(session_tick(&s, 100 * BEAT), SESSION_DOWN | SESSION_DROP);
}

static void a_broken_transport_is_left_and_made_again_with_growing_waits(void **state)
{
    open_at(0, 5);
    msec now = 5000, waited = 0;
    assert_int_equal(session_connected(&s, now, false), SESSION_DOWN | SESSION_DROP);
    for (unsigned i = 0; i < 12; i++) {
        msec wait_ms = session_due(&s) - now;
        msec full = MIN(20 << MIN(i, 10u), 1000);
        assert_in_range(wait_ms, full / 2, full);
        waited = wait_ms;
        now = session_due(&s);
        assert_int_equal(session_tick(&s, now - 1), 0);
        assert_int_equal(session_tick(&s, now), SESSION_CONNECT);
        assert_int_equal(session_connected(&s, now, false), SESSION_DROP); /* no DOWN: it was not up */
    }
    assert_true(waited >= 500);
}

static void a_session_that_lasted_forgives_a_short_one_does_not(void **state)
{
    session_init(&s, 0, 1);
    msec now = 0;
    for (unsigned i = 0; i < 8; i++) { /* welcomed and cut at once, again and again */
        now = session_due(&s);
        session_tick(&s, now);
        session_connected(&s, now, true);
        assert_int_equal(hear(now, MESSAGE_WELCOME, 5), SESSION_UP);
        assert_int_equal(session_connected(&s, now + 10, false), SESSION_DOWN | SESSION_DROP);
        now += 10;
    }
    assert_true(session_due(&s) - now >= 500);
    now = session_due(&s);
    session_tick(&s, now);
    session_connected(&s, now, true);
    hear(now, MESSAGE_WELCOME, 5);
    session_connected(&s, now + 60000, false);
    assert_in_range(session_due(&s) - now - 60000, 10, 20);
}

static void an_older_epoch_is_for_nobody(void **state)
{
    open_at(0, 50);
    assert_int_equal(hear(10, MESSAGE_JOB, 49), 0);
    assert_int_equal(hear(10, MESSAGE_WELCOME, 49), 0);
    assert_int_equal(hear(10, MESSAGE_HELLO_WANTED, 49), 0);
    assert_int_equal(s.state, SESSION_OPEN);
    assert_int_equal(s.heard_at, 0);
}

static void a_newer_epoch_needs_a_new_session(void **state)
{
    open_at(0, 50);
    assert_int_equal(hear(10, MESSAGE_JOB, 51), SESSION_DOWN | SESSION_DROP);
    assert_int_equal(hear(11, MESSAGE_JOB, 50), 0); /* what was still in the socket */
    msec now = session_due(&s);
    assert_int_equal(session_tick(&s, now), SESSION_CONNECT);
    assert_int_equal(session_connected(&s, now, true), SESSION_HELLO);
    assert_int_equal(hear(now, MESSAGE_WELCOME, 51), SESSION_UP);
    assert_true(s.new_epoch);
}

static void the_same_epoch_is_not_new(void **state)
{
    open_at(0, 50);
    session_connected(&s, 10, false);
    msec now = session_due(&s);
    session_tick(&s, now);
    session_connected(&s, now, true);
    assert_int_equal(hear(now, MESSAGE_WELCOME, 50), SESSION_UP);
    assert_false(s.new_epoch);
    assert_int_equal(hear(now, MESSAGE_WELCOME, 50), SESSION_UP); /* the answer to a second HELLO */
    assert_false(s.new_epoch);
}

/* A broker that was cut off or stopped does not know yet that another leads: its verdicts would end calls it has not heard of.
 */
static void an_older_brokers_welcome_is_not_believed(void **state)
{
    open_at(0, 50);
    session_connected(&s, 10, false);
    msec now = session_due(&s);
    session_tick(&s, now);
    session_connected(&s, now, true);
    assert_int_equal(hear(now, MESSAGE_WELCOME, 20), SESSION_DROP);
    now = session_due(&s);
    session_tick(&s, now);
    session_connected(&s, now, true);
    assert_int_equal(hear(now, MESSAGE_WELCOME, 50), SESSION_UP); /* the later one is still there */
    assert_false(s.new_epoch);
}

/* The store was set back: its broker counts from an earlier epoch. Peers follow, or they would wait for ever. */
static void a_welcome_may_go_back_when_the_later_epoch_is_silent(void **state)
{
    open_at(0, 50);
    session_connected(&s, 10, false);
    session_tick(&s, session_due(&s));
    session_connected(&s, 9999, true);
    assert_int_equal(hear(9999, MESSAGE_WELCOME, 20), SESSION_DROP);
    session_tick(&s, session_due(&s));
    session_connected(&s, 10000, true);
    assert_int_equal(hear(10000, MESSAGE_WELCOME, 20), SESSION_UP);
    assert_true(s.new_epoch);
}

static void where_there_are_several_places_none_is_waited_for_long(void **state)
{
    session_init(&s, 0, 3);
    s.several = true;
    msec now = 0;
    for (unsigned i = 0; i < 12; i++) {
        now = session_due(&s);
        assert_int_equal(session_tick(&s, now), SESSION_CONNECT);
        assert_in_range(session_due(&s) - now, 500, 1000); /* nobody answers at all */
        now = session_due(&s);
        assert_int_equal(session_tick(&s, now), SESSION_DROP);
        assert_in_range(session_due(&s) - now, 10, 60);
    }
    now = session_due(&s);
    session_tick(&s, now);
    session_connected(&s, now, true); /* connected, and then no welcome */
    unsigned acts = 0;
    for (msec from = now; !(acts & SESSION_DROP); acts = session_tick(&s, now)) {
        now = session_due(&s);
        assert_true(now - from <= 2000);
    }
}

static void hello_wanted_starts_anew_and_says_nothing_before_welcome(void **state)
{
    session_init(&s, 0, 1);
    session_tick(&s, 0);
    session_connected(&s, 0, true);
    assert_int_equal(hear(1, MESSAGE_HELLO_WANTED, 5), 0);
    assert_int_equal(hear(1, MESSAGE_JOB, 5), 0);
    assert_int_equal(hear(1, MESSAGE_WELCOME, 5), SESSION_UP);
    assert_int_equal(hear(2, MESSAGE_HELLO_WANTED, 5), SESSION_DOWN | SESSION_DROP);
}

static void refused_waits_five_seconds_and_is_said_once(void **state)
{
    session_init(&s, 0, 1);
    msec now = 0;
    for (unsigned i = 0; i < 4; i++) {
        now = session_due(&s);
        assert_int_equal(session_tick(&s, now), SESSION_CONNECT);
        assert_int_equal(session_connected(&s, now, true), SESSION_HELLO);
        assert_int_equal(hear(now, MESSAGE_REFUSED, 5), SESSION_DROP | (i == 0 ? SESSION_REFUSAL : 0));
        assert_in_range(session_due(&s) - now, 2500, 5000);
    }
    now = session_due(&s);
    session_tick(&s, now);
    session_connected(&s, now, true);
    assert_int_equal(hear(now, MESSAGE_WELCOME, 5), SESSION_UP);
    assert_int_equal(hear(now, MESSAGE_REFUSED, 5), SESSION_DOWN | SESSION_DROP | SESSION_REFUSAL);
}

static void goodbye_is_said_only_by_an_open_session(void **state)
{
    open_at(0, 5);
    assert_int_equal(session_end(&s, 1), SESSION_BYE | SESSION_DROP);
    assert_int_equal(session_due(&s), MSEC_NEVER);
    assert_int_equal(session_tick(&s, 100000), 0);
    assert_int_equal(hear(2, MESSAGE_WELCOME, 5), 0);
    assert_int_equal(session_connected(&s, 3, true), 0);
    session_init(&s, 0, 1);
    assert_int_equal(session_end(&s, 1), SESSION_DROP);
}

static void a_welcome_without_an_interval_means_five_seconds(void **state)
{
    session_init(&s, 0, 1);
    session_tick(&s, 0);
    session_connected(&s, 0, true);
    struct frame frame = {.message = MESSAGE_WELCOME, .epoch = 1};
    assert_int_equal(session_frame(&s, 0, &frame), SESSION_UP);
    assert_int_equal(session_due(&s), 5000);
}

/* Whatever happens in whatever order: what is due lies ahead, DOWN comes only after UP, and UP only on a transport. */
static void any_order_of_events_keeps_the_rules(void **state)
{
    static const enum message heard[] = {MESSAGE_WELCOME, MESSAGE_REFUSED,       MESSAGE_HELLO_WANTED,
                                         MESSAGE_PROBE,   MESSAGE_HEARTBEAT_ACK, MESSAGE_JOB};
    srandom(42);
    for (unsigned run = 0; run < 200; run++) {
        bool up = false, transport = false;
        msec now = 0;
        session_init(&s, 0, run);
        for (unsigned step = 0; step < 500; step++) {
            unsigned acts = 0;
            long dice = random() % 10;
            now += random() % 3000;
            if (dice < 4)
                acts = session_tick(&s, now);
            else if (dice < 6)
                acts = transport ? session_connected(&s, now, random() % 4 != 0) : 0;
            else
                acts = transport ? hear(now, heard[random() % ARRAY_COUNT(heard)], 10 + (uint64_t)(random() % 2)) : 0;
            if (acts & SESSION_DOWN) {
                assert_true(up);
                up = false;
            }
            if (acts & SESSION_DROP)
                transport = false;
            if (acts & SESSION_CONNECT) {
                assert_false(transport);
                transport = true;
            }
            if (acts & (SESSION_UP | SESSION_DELIVER | SESSION_HELLO | SESSION_HEARTBEAT))
                assert_true(transport);
            if (acts & SESSION_UP)
                up = true;
            if (acts & (SESSION_DELIVER | SESSION_HEARTBEAT))
                assert_true(up);
            assert_int_equal(up, s.state == SESSION_OPEN);
            session_tick(&s, s.due_at - 1); /* never due before its time */
            if (dice < 4)
                assert_true(session_due(&s) > now);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(begins_at_once_and_greets_when_connected),
        cmocka_unit_test(hello_is_repeated_ever_more_seldom),
        cmocka_unit_test(heartbeats_go_out_on_the_interval),
        cmocka_unit_test(three_silent_intervals_end_it),
        cmocka_unit_test(a_late_wake_up_finds_the_silence_first),
        cmocka_unit_test(a_broken_transport_is_left_and_made_again_with_growing_waits),
        cmocka_unit_test(a_session_that_lasted_forgives_a_short_one_does_not),
        cmocka_unit_test(an_older_epoch_is_for_nobody),
        cmocka_unit_test(a_newer_epoch_needs_a_new_session),
        cmocka_unit_test(the_same_epoch_is_not_new),
        cmocka_unit_test(an_older_brokers_welcome_is_not_believed),
        cmocka_unit_test(a_welcome_may_go_back_when_the_later_epoch_is_silent),
        cmocka_unit_test(where_there_are_several_places_none_is_waited_for_long),
        cmocka_unit_test(hello_wanted_starts_anew_and_says_nothing_before_welcome),
        cmocka_unit_test(refused_waits_five_seconds_and_is_said_once),
        cmocka_unit_test(goodbye_is_said_only_by_an_open_session),
        cmocka_unit_test(a_welcome_without_an_interval_means_five_seconds),
        cmocka_unit_test(any_order_of_events_keeps_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
