#include "common/loop.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"

static struct loop *loop;
static int turns, stop_at_turn;
static void (*on_turn)(void);

static void turn(void *arg)
{
    turns++;
    if (on_turn)
        on_turn();
    if (turns == stop_at_turn)
        loop_stop(loop);
}

static int setup(void **state)
{
    turns = stop_at_turn = 0;
    on_turn = NULL;
    loop = loop_new(turn, NULL);
    return loop ? 0 : -1;
}

static int teardown(void **state)
{
    loop_free(&loop);
    assert_null(loop);
    loop_free(&loop);
    return 0;
}

/* ---- turns ---- */

static void test_turn_comes_before_the_first_wait(void **state)
{
    stop_at_turn = 1;
    loop_run(loop);
    assert_int_equal(turns, 1);
    stop_at_turn = 2; /* it may run again */
    loop_again(loop);
    loop_run(loop);
    assert_int_equal(turns, 2);
}

static void test_stop_before_the_run_is_not_lost(void **state)
{
    loop_stop(loop);
    loop_run(loop);
    assert_int_equal(turns, 1);
}

static void again(void)
{
    loop_again(loop);
}

static void test_again_does_not_wait(void **state)
{
    on_turn = again;
    stop_at_turn = 1000;
    msec before = clock_mono();
    loop_run(loop);
    assert_int_equal(turns, 1000);
    assert_in_range(clock_mono() - before, 0, 5000);
}

static void stop_loop(void *arg)
{
    loop_stop(loop);
}

static void test_stop_in_a_handler_is_followed_by_one_turn(void **state)
{
    struct timer *timer = timer_new(loop, stop_loop, NULL);
    timer_set(timer, clock_mono() + 10);
    loop_run(loop);
    assert_int_equal(turns, 2);
    timer_free(&timer);
}

/* Nothing to do: no turn, no processor time. Timers that are not set are nothing to do. */
static void test_idle_is_idle(void **state)
{
    struct timer *timer = timer_new(loop, stop_loop, NULL), *unset = timer_new(loop, stop_loop, NULL);
    timer_set(unset, clock_mono() + 20);
    timer_set(unset, MSEC_NEVER);
    timer_set(timer, clock_mono() + 300);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    loop_run(loop);
    getrusage(RUSAGE_SELF, &after);
    assert_in_range(turns, 2, 4); /* an alarm that rings early is the one reason for more than two */
    assert_in_range(after.ru_nvcsw - before.ru_nvcsw, 1, 10);
    timer_free(&timer);
    timer_free(&unset);
}

/* A loop that waits for nothing at all waits still. */
static void tell_turns(int signo)
{
    _exit(turns == 1 ? 0 : 1);
}

static void test_waiting_for_nothing_waits(void **state)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct loop *own = loop_new(turn, NULL);
        signal(SIGALRM, tell_turns);
        setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 100000}, NULL);
        loop_run(own);
        _exit(2);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
}

static struct timer *taken_back;
static void take_back(void)
{
    if (turns == 1)
        loop_again(loop); /* the first wait sets libevent's timer to it */
    if (turns == 2)
        timer_set(taken_back, MSEC_NEVER);
}

static void stop_on_signal(void *arg, int signo)
{
    loop_stop(loop);
}

static void test_timer_taken_back_wakes_nobody(void **state)
{
    taken_back = timer_new(loop, stop_loop, NULL);
    timer_set(taken_back, clock_mono() + 60);
    on_turn = take_back;
    assert_int_equal(loop_signal(loop, SIGALRM, stop_on_signal, NULL), ERR_OK);
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 150000}, NULL);
    loop_run(loop);
    assert_int_equal(turns, 3);
    timer_free(&taken_back);
}

static msec seen_now[2];
static void look_at_clock(void *arg)
{
    seen_now[0] = loop_now(loop);
    for (msec until = clock_mono() + 5; clock_mono() < until;)
        ;
    seen_now[1] = loop_now(loop);
    loop_stop(loop);
}

static void test_now_stands_still_within_a_wake_up(void **state)
{
    struct timer *timer = timer_new(loop, look_at_clock, NULL);
    timer_set(timer, clock_mono() + 10);
    msec before = loop_now(loop);
    loop_run(loop);
    assert_int_equal(seen_now[0], seen_now[1]);
    assert_in_range(seen_now[0] - before, 10, 5000);
    timer_free(&timer);
}

/* ---- ends ---- */

static struct loop_end ends[3];
static int end_order[16], end_count;

static void end_ran(void *arg)
{
    int which = (int)(intptr_t)arg;
    assert_int_equal(turns, 1); /* after the turn, before the wait */
    end_order[end_count++] = which;
    if (which == 0)
        loop_at_end(loop, &ends[2]); /* joins the same round */
}

static void ask_for_ends(void)
{
    if (turns > 1)
        return;
    loop_at_end(loop, &ends[0]);
    loop_at_end(loop, &ends[1]);
    loop_at_end(loop, &ends[0]); /* once */
    loop_end_cancel(&ends[1]);
    assert_int_equal(end_count, 0);
    loop_again(loop);
}

static void test_ends_follow_the_turn(void **state)
{
    end_count = 0;
    for (int i = 0; i < 3; i++)
        loop_end_init(&ends[i], end_ran, (void *)(intptr_t)i);
    loop_end_cancel(&ends[1]);
    on_turn = ask_for_ends;
    stop_at_turn = 2;
    loop_run(loop);
    assert_int_equal(end_count, 2);
    assert_int_equal(end_order[0], 0);
    assert_int_equal(end_order[1], 2);
}

/* ---- timers ---- */

#define TIMERS 500
static struct timer *timers[TIMERS];
static msec due[TIMERS];
static int fired, expected;

static void on_time(void *arg)
{
    int i = (int)(intptr_t)arg;
    msec now = clock_mono();
    assert_true(due[i] != MSEC_NEVER);
    assert_true(now >= due[i]);
    assert_in_range(now - due[i], 0, 5000);
    assert_true(timer_at(timers[i]) == MSEC_NEVER);
    due[i] = MSEC_NEVER;
    if (++fired == expected)
        loop_stop(loop);
}

static void make_timers(void)
{
    fired = 0;
    for (int i = 0; i < TIMERS; i++) {
        due[i] = MSEC_NEVER;
        timers[i] = timer_new(loop, on_time, (void *)(intptr_t)i);
        assert_non_null(timers[i]);
        assert_true(timer_at(timers[i]) == MSEC_NEVER);
    }
}

static void free_timers(void)
{
    for (int i = 0; i < TIMERS; i++)
        timer_free(&timers[i]);
}

static void set(int i, msec at)
{
    due[i] = at;
    timer_set(timers[i], at);
    assert_true(timer_at(timers[i]) == at);
}

/* Set, moved to either side, and unset at random: each fires once, at its last instant, and never early. */
static void test_timers_fire_once_and_never_early(void **state)
{
    make_timers();
    msec base = clock_mono();
    srandom(7);
    for (int step = 0; step < 20 * TIMERS; step++)
        set((int)(random() % TIMERS), random() % 5 == 0 ? MSEC_NEVER : base + 20 + random() % 200);
    expected = 0;
    for (int i = 0; i < TIMERS; i++)
        expected += due[i] != MSEC_NEVER;
    assert_true(expected > TIMERS / 2);
    loop_run(loop);
    assert_int_equal(fired, expected);
    free_timers();
}

static int order[TIMERS], order_count;
static void note_order(void *arg)
{
    order[order_count++] = (int)(intptr_t)arg;
}

/* All due in one wake-up: soonest first, whatever was moved or taken out before. */
static void test_timers_fire_in_order(void **state)
{
    for (int i = 0; i < TIMERS; i++)
        timers[i] = timer_new(loop, note_order, (void *)(intptr_t)i);
    for (int round = 0; round < 50; round++) {
        msec base = clock_mono() - 100000;
        for (int i = 0; i < TIMERS; i++)
            timer_set(timers[i], due[i] = base + random() % 50000);
        for (int i = 0; i < TIMERS; i++)
            if (random() % 3)
                timer_set(timers[i], due[i] = random() % 2 ? MSEC_NEVER : base + random() % 50000);
        int set_count = 0;
        for (int i = 0; i < TIMERS; i++)
            set_count += due[i] != MSEC_NEVER;
        turns = order_count = 0;
        stop_at_turn = 2;
        loop_run(loop);
        assert_int_equal(order_count, set_count);
        for (int i = 1; i < order_count; i++)
            assert_true(due[order[i - 1]] <= due[order[i]]);
    }
    free_timers();
}

static void free_some(void *arg)
{
    for (int i = 0; i < TIMERS; i += 2)
        timer_free(&timers[i]);
    timer_free((struct timer **)arg); /* and itself */
}

static void test_timers_may_be_freed_in_a_callback(void **state)
{
    make_timers();
    msec base = clock_mono();
    struct timer *freeing = timer_new(loop, free_some, &freeing);
    timer_set(freeing, base - 1);
    expected = TIMERS / 2;
    for (int i = 0; i < TIMERS; i++)
        set(i, base + i % 20);
    loop_run(loop);
    assert_int_equal(fired, TIMERS / 2);
    assert_null(freeing);
    free_timers();
}

/* A timer that sets itself to the past comes in every wake-up, and only once in each: sockets and the turn have theirs. */
static int tight_count;
static struct timer *tight;
static void set_to_the_past(void *arg)
{
    tight_count++;
    timer_set(tight, clock_mono() - 1000);
}

static int bytes_read;
static void read_byte(evutil_socket_t fd, short what, void *arg)
{
    char byte;
    assert_int_equal(read(fd, &byte, 1), 1);
    if (++bytes_read == 50)
        loop_stop(loop);
}

static void test_timer_set_to_the_past_starves_nobody(void **state)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    char bytes[50] = "";
    assert_int_equal(write(fds[1], bytes, sizeof bytes), sizeof bytes);
    struct event *event = event_new(loop_base(loop), fds[0], EV_READ | EV_PERSIST, read_byte, NULL);
    event_add(event, NULL);
    tight = timer_new(loop, set_to_the_past, NULL);
    tight_count = bytes_read = 0;
    timer_set(tight, 0);
    assert_int_equal(tight_count, 0); /* never within the call */
    loop_run(loop);
    assert_int_equal(bytes_read, 50);
    assert_int_equal(turns, 51);
    assert_int_equal(tight_count, 50);
    timer_free(&tight);
    event_free(event);
    close(fds[0]);
    close(fds[1]);
}

/* What arrived is seen before a deadline that has passed meanwhile. */
static int seen_order[2], seen_count;
static void saw_bytes(evutil_socket_t fd, short what, void *arg)
{
    seen_order[seen_count++] = 'b';
}
static void saw_deadline(void *arg)
{
    seen_order[seen_count++] = 'd';
    loop_stop(loop);
}

static void test_bytes_come_before_deadlines(void **state)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    struct event *event = event_new(loop_base(loop), fds[0], EV_READ, saw_bytes, NULL);
    struct timer *timer = timer_new(loop, saw_deadline, NULL);
    timer_set(timer, clock_mono() - 5);
    event_add(event, NULL);
    seen_count = 0;
    loop_run(loop);
    assert_int_equal(seen_count, 2);
    assert_int_equal(seen_order[0], 'b');
    timer_free(&timer);
    event_free(event);
    close(fds[0]);
    close(fds[1]);
}

static void test_far_away_is_far_away(void **state)
{
    struct timer *far = timer_new(loop, stop_loop, NULL), *near = timer_new(loop, stop_loop, NULL);
    timer_set(far, MSEC_NEVER - 1);
    timer_set(near, clock_mono() + 20);
    msec before = clock_mono();
    loop_run(loop);
    assert_in_range(clock_mono() - before, 19, 5000);
    assert_true(timer_at(far) == MSEC_NEVER - 1);
    timer_free(&far);
    timer_free(&near);
}

/* ---- signals ---- */

static int signals[64], signals_count;
static void on_signal(void *arg, int signo)
{
    assert_ptr_equal(arg, signals);
    signals[signals_count++] = signo;
    if (signals_count == 2)
        loop_stop(loop);
}

static void raise_both(void)
{
    if (turns == 1) {
        raise(SIGUSR1);
        raise(SIGUSR2);
        assert_int_equal(signals_count, 0); /* a callback of the loop, not a handler */
    }
}

static void test_signals_arrive_in_the_loop(void **state)
{
    signals_count = 0;
    assert_int_equal(loop_signal(loop, SIGUSR1, on_signal, signals), ERR_OK);
    assert_int_equal(loop_signal(loop, SIGUSR2, on_signal, signals), ERR_OK);
    on_turn = raise_both;
    loop_run(loop);
    assert_int_equal(signals_count, 2);
    assert_int_equal(signals[0] + signals[1], SIGUSR1 + SIGUSR2);
}

static void test_writing_to_nobody_raises_nothing(void **state)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    close(fds[0]);
    assert_int_equal(write(fds[1], "x", 1), -1);
    close(fds[1]);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_turn_comes_before_the_first_wait),
        T(test_stop_before_the_run_is_not_lost),
        T(test_again_does_not_wait),
        T(test_stop_in_a_handler_is_followed_by_one_turn),
        T(test_idle_is_idle),
        T(test_waiting_for_nothing_waits),
        T(test_timer_taken_back_wakes_nobody),
        T(test_now_stands_still_within_a_wake_up),
        T(test_ends_follow_the_turn),
        T(test_timers_fire_once_and_never_early),
        T(test_timers_fire_in_order),
        T(test_timers_may_be_freed_in_a_callback),
        T(test_timer_set_to_the_past_starves_nobody),
        T(test_bytes_come_before_deadlines),
        T(test_far_away_is_far_away),
        T(test_signals_arrive_in_the_loop),
        T(test_writing_to_nobody_raises_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
