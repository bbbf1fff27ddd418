/* One provider call: its four clocks, and what a failure is called by how far the call had come. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "worker/call.h"

#define T0 ((msec)1000000)

static const struct call_clocks clocks = {.connect_ms = 5000, .first_token_ms = 60000, .idle_ms = 30000, .total_ms = 300000};

static struct call started(void)
{
    struct call call;
    call_start(&call, T0, &clocks);
    return call;
}

static bool at(struct call *call, msec ms, enum call_event event)
{
    return call_step(call, T0 + ms, &(struct call_input){.event = event});
}

static bool breaks(struct call *call, msec ms, enum fault fault)
{
    return call_step(call, T0 + ms, &(struct call_input){.event = CALL_BROKEN, .fault = fault});
}

static void a_stream_from_start_to_end(void **state)
{
    struct call call = started();
    assert_int_equal(call_deadline(&call), T0 + 5000);
    assert_false(at(&call, 20, CALL_CONNECTED));
    assert_int_equal(call_deadline(&call), T0 + 20 + 60000);
    assert_false(at(&call, 500, CALL_BYTES)); /* head, comments, pings */
    assert_int_equal(call_deadline(&call), T0 + 20 + 60000);
    assert_false(at(&call, 700, CALL_CONTENT));
    assert_int_equal(call_deadline(&call), T0 + 700 + 30000);
    assert_false(at(&call, 20000, CALL_CONTENT));
    assert_int_equal(call_deadline(&call), T0 + 20000 + 30000);
    assert_false(at(&call, 21000, CALL_PROVEN));
    assert_int_equal(call_deadline(&call), T0 + 21000 + CALL_CLOSING_MS);
    assert_true(at(&call, 21001, CALL_FINISHED));
    assert_int_equal(call.kind, KIND_NONE);
    assert_int_equal(call_deadline(&call), MSEC_NEVER);
    assert_int_equal(call_connect_ms(&call), 20);
    assert_int_equal(call_first_token_ms(&call), 680);
    assert_int_equal(call_total_ms(&call), 21001);
}

static void the_connect_clock(void **state)
{
    struct call call = started();
    assert_false(at(&call, 4999, CALL_CLOCK));
    assert_true(at(&call, 5000, CALL_CLOCK));
    assert_int_equal(call.kind, KIND_CONNECT);
    assert_int_equal(call_first_token_ms(&call), 0);
}

static void the_first_token_clock_is_not_fooled_by_comments(void **state)
{
    struct call call = started();
    at(&call, 10, CALL_CONNECTED);
    for (msec ms = 1000; ms < 60000; ms += 1000)
        assert_false(at(&call, ms, CALL_BYTES));
    assert_false(at(&call, 60009, CALL_CLOCK));
    assert_true(at(&call, 60010, CALL_CLOCK));
    assert_int_equal(call.kind, KIND_SENT);
}

static void the_idle_clock(void **state)
{
    struct call call = started();
    at(&call, 10, CALL_CONNECTED);
    at(&call, 20, CALL_CONTENT);
    at(&call, 29000, CALL_BYTES); /* a ping is no content */
    assert_false(at(&call, 30019, CALL_CLOCK));
    assert_true(at(&call, 30020, CALL_CLOCK));
    assert_int_equal(call.kind, KIND_STALL);
}

static void the_total_clock_in_every_state(void **state)
{
    struct call_clocks short_total = clocks;
    short_total.total_ms = 100;
    for (int reach = 0; reach < 3; reach++) {
        struct call call;
        call_start(&call, T0, &short_total);
        if (reach > 0)
            at(&call, 1, CALL_CONNECTED);
        if (reach > 1)
            at(&call, 2, CALL_CONTENT);
        assert_int_equal(call_deadline(&call), T0 + 100);
        assert_false(at(&call, 99, CALL_CLOCK));
        assert_true(at(&call, 100, CALL_CLOCK));
        assert_int_equal(call.kind, KIND_TIMEOUT);
    }
}

static void a_proven_answer_survives_what_the_connection_does(void **state)
{
    struct call call = started();
    at(&call, 1, CALL_CONNECTED);
    at(&call, 2, CALL_CONTENT);
    at(&call, 3, CALL_PROVEN);
    struct call cut = call, open = call, late = call;
    assert_true(breaks(&cut, 4, FAULT_RESET));
    assert_int_equal(cut.kind, KIND_NONE);
    assert_false(at(&open, 3 + CALL_CLOSING_MS - 1, CALL_CLOCK));
    assert_true(at(&open, 3 + CALL_CLOSING_MS, CALL_CLOCK));
    assert_int_equal(open.kind, KIND_NONE);
    assert_true(at(&late, 300000, CALL_CLOCK));
    assert_int_equal(late.kind, KIND_NONE);
}

static enum kind broken_after(int reach, enum fault fault)
{
    struct call call = started();
    if (reach > 0)
        at(&call, 1, CALL_CONNECTED);
    if (reach > 1)
        at(&call, 2, CALL_BYTES);
    if (reach > 2)
        at(&call, 3, CALL_CONTENT);
    assert_true(breaks(&call, 4, fault));
    assert_non_null(call.why);
    return call.kind;
}

static void a_failure_is_named_by_how_far_the_call_had_come(void **state)
{
    static const struct {
        enum fault fault;
        enum kind connecting, sent, answered, flowing;
    } rows[] = {
        {FAULT_RESOLVE, KIND_CONNECT, KIND_SENT, KIND_STREAM_CUT, KIND_STREAM_CUT},
        {FAULT_CONNECT, KIND_CONNECT, KIND_SENT, KIND_STREAM_CUT, KIND_STREAM_CUT},
        {FAULT_TLS, KIND_CONNECT, KIND_SENT, KIND_STREAM_CUT, KIND_STREAM_CUT},
        {FAULT_RESET, KIND_CONNECT, KIND_SENT, KIND_STREAM_CUT, KIND_STREAM_CUT},
        {FAULT_CUT, KIND_CONNECT, KIND_SENT, KIND_STREAM_CUT, KIND_STREAM_CUT},
        {FAULT_FRAMING, KIND_BAD_FRAME, KIND_BAD_FRAME, KIND_BAD_FRAME, KIND_BAD_FRAME},
        {FAULT_HEAD, KIND_BAD_FRAME, KIND_BAD_FRAME, KIND_BAD_FRAME, KIND_BAD_FRAME},
        {FAULT_TOO_LARGE, KIND_ANSWER_TOO_LARGE, KIND_ANSWER_TOO_LARGE, KIND_ANSWER_TOO_LARGE, KIND_ANSWER_TOO_LARGE},
        {FAULT_NOMEM, KIND_WORKER, KIND_WORKER, KIND_WORKER, KIND_WORKER},
        {FAULT_STARVED, KIND_STARVED, KIND_STARVED, KIND_STARVED, KIND_STARVED},
        {FAULT_INTERNAL, KIND_WORKER, KIND_WORKER, KIND_WORKER, KIND_WORKER},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        assert_int_equal(broken_after(0, rows[i].fault), rows[i].connecting);
        assert_int_equal(broken_after(1, rows[i].fault), rows[i].sent);
        assert_int_equal(broken_after(2, rows[i].fault), rows[i].answered);
        assert_int_equal(broken_after(3, rows[i].fault), rows[i].flowing);
    }
}

static void cancel_and_stop_end_it_in_every_state(void **state)
{
    static const enum kind kinds[] = {KIND_CANCELLED, KIND_STOPPING};
    static const enum call_event path[] = {CALL_CONNECTED, CALL_CONTENT, CALL_PROVEN};
    for (size_t k = 0; k < ARRAY_COUNT(kinds); k++)
        for (size_t reach = 0; reach <= ARRAY_COUNT(path); reach++) {
            struct call call = started();
            for (size_t i = 0; i < reach; i++)
                at(&call, (msec)i + 1, path[i]);
            assert_true(call_step(&call, T0 + 9, &(struct call_input){.event = CALL_CANCEL, .kind = kinds[k]}));
            assert_int_equal(call.kind, reach == ARRAY_COUNT(path) ? KIND_NONE : kinds[k]); /* proven: whole */
        }
}

static void what_the_adapter_says_is_kept(void **state)
{
    struct call call = started();
    at(&call, 1, CALL_CONNECTED);
    assert_true(call_step(&call, T0 + 9, &(struct call_input){.event = CALL_FINISHED, .kind = KIND_THROTTLED}));
    assert_int_equal(call.kind, KIND_THROTTLED);
}

static void an_ended_call_stays_as_it_ended(void **state)
{
    struct call call = started();
    at(&call, 1, CALL_CONNECTED);
    assert_true(breaks(&call, 5, FAULT_RESET));
    struct call before = call;
    for (enum call_event event = CALL_CONNECTED; event <= CALL_CLOCK; event++)
        assert_false(at(&call, 999999, event));
    assert_memory_equal(&call, &before, sizeof call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_from_start_to_end),
        cmocka_unit_test(the_connect_clock),
        cmocka_unit_test(the_first_token_clock_is_not_fooled_by_comments),
        cmocka_unit_test(the_idle_clock),
        cmocka_unit_test(the_total_clock_in_every_state),
        cmocka_unit_test(a_proven_answer_survives_what_the_connection_does),
        cmocka_unit_test(a_failure_is_named_by_how_far_the_call_had_come),
        cmocka_unit_test(cancel_and_stop_end_it_in_every_state),
        cmocka_unit_test(what_the_adapter_says_is_kept),
        cmocka_unit_test(an_ended_call_stays_as_it_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
