/* Timers are kept in a heap of our own, which timer_new makes large enough for every timer there is, so that setting one can
 * not be refused for want of memory and costs no call into libevent. Before each wait the soonest of them becomes libevent's
 * one timer. */
#include "common/loop.h"

#include <event2/event_struct.h>
#include <signal.h>
#include <stdlib.h>

#include "common/clock.h"

#define WAIT_MAX_MS 86400000 /* a longer wait is made in steps */
#define UNSET       SIZE_MAX /* the place of a timer that is not in the heap */

struct loop {
    struct event_base *base;
    loop_turn *turn;
    void *arg;
    msec now;
    bool now_known; /* `now` was read since the last wait */
    bool again;
    bool stopping;
    unsigned round;      /* waits so far */
    struct event alarm;  /* wakes the wait for the soonest timer */
    msec alarm_at;       /* what `alarm` is set to, MSEC_NEVER when unset */
    struct timer **heap; /* the timers that are set, soonest first */
    size_t set_count;
    size_t timers_count; /* all timers, and room in the heap */
    struct list ends;    /* of struct loop_end: to run after this turn */
    struct list signals; /* of struct signal_watch, owned */
};

struct signal_watch {
    struct list node;
    struct event event;
    loop_on_signal *on_signal;
    void *arg;
};

struct timer {
    struct loop *loop;
    msec at;
    size_t place;   /* in the heap */
    unsigned round; /* when it was set: one set to the past by a timer's callback waits for the next wake-up */
    loop_on_timer *on_timer;
    void *arg;
};

/* Without EVENT_BASE_FLAG_PRECISE_TIMER libevent reads the coarse monotonic clock and hands its next deadline to epoll_wait;
 * with it, to a timerfd. No lock: one thread. */
static struct event_base *new_base(void)
{
    struct event_config *config = event_config_new();
    struct event_base *base = NULL;
    if (config && event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK) == 0)
        base = event_base_new_with_config(config);
    if (config)
        event_config_free(config);
    return base;
}

/* The wait has ended; run_due does the rest. */
static void alarm_rang(evutil_socket_t fd, short what, void *arg)
{
    struct loop *loop = arg;
    loop->alarm_at = MSEC_NEVER;
}

struct loop *loop_new(loop_turn *turn, void *arg)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return NULL;
    loop->turn = turn;
    loop->arg = arg;
    list_init(&loop->ends);
    list_init(&loop->signals);
    loop->alarm_at = MSEC_NEVER;
    loop->base = new_base();
    if (!loop->base)
        goto fail;
    /* libevent's heap of timers gets its first room here, which is all it will ever need for one. */
    if (evtimer_assign(&loop->alarm, loop->base, alarm_rang, loop) != 0 || evtimer_add(&loop->alarm, &(struct timeval){0}) != 0)
        goto fail;
    evtimer_del(&loop->alarm);
    signal(SIGPIPE, SIG_IGN);
    return loop;
fail:
    loop_free(&loop);
    return NULL;
}

void loop_free(struct loop **loop_ptr)
{
    struct loop *loop = TAKE(*loop_ptr);
    if (!loop)
        return;
    assert(loop->timers_count == 0); /* a timer belongs to its maker, who lets go of it first */
    struct list *node, *after;
    LIST_EACH_SAFE (node, after, &loop->signals) {
        struct signal_watch *watch = CONTAINER_OF(node, struct signal_watch, node);
        event_del(&watch->event);
        free(watch);
    }
    LIST_EACH_SAFE (node, after, &loop->ends)
        list_remove(node);
    if (loop->base && loop->alarm_at != MSEC_NEVER)
        evtimer_del(&loop->alarm);
    if (loop->base)
        event_base_free(loop->base);
    free(loop->heap);
    free(loop);
}

static void run_ends(struct loop *loop)
{
    struct list *node;
    while ((node = list_first(&loop->ends))) {
        struct loop_end *end = CONTAINER_OF(node, struct loop_end, node);
        list_remove(node);
        end->run(end->arg);
    }
}

/* Sets libevent's timer to the soonest of ours. True when that one is due already and the wait must not block. */
static bool set_alarm(struct loop *loop)
{
    msec soonest = loop->set_count ? loop->heap[0]->at : MSEC_NEVER;
    if (soonest == MSEC_NEVER) {
        if (loop->alarm_at != MSEC_NEVER)
            evtimer_del(&loop->alarm);
        loop->alarm_at = MSEC_NEVER;
        return false;
    }
    if (soonest == loop->alarm_at)
        return false;
    msec left_ms = soonest - clock_mono();
    if (left_ms <= 0)
        return true;
    left_ms = MIN(left_ms, WAIT_MAX_MS);
    struct timeval wait = {.tv_sec = left_ms / 1000, .tv_usec = left_ms % 1000 * 1000};
    int failed = evtimer_add(&loop->alarm, &wait);
    assert(!failed); /* loop_new made its room */
    loop->alarm_at = soonest;
    return false;
}

static void wait_once(struct loop *loop)
{
    bool at_once = set_alarm(loop) || loop->again;
    loop->again = false;
    loop->now_known = false;
    loop->round++;
    int failed = event_base_loop(loop->base, EVLOOP_ONCE | (at_once ? EVLOOP_NONBLOCK : EVLOOP_NO_EXIT_ON_EMPTY)) < 0;
    assert(!failed); /* only a descriptor closed under libevent makes it fail: our mistake */
}

static void take_out(struct timer *timer);

/* After what arrived, so that a reply that is in the socket is seen before its deadline. The alarm may have rung a little
 * early, because libevent's clock is coarse: then nothing is due, and it is set again. */
static void run_due(struct loop *loop)
{
    while (loop->set_count) {
        struct timer *timer = loop->heap[0];
        if (timer->at > loop_now(loop) || timer->round == loop->round)
            return;
        take_out(timer);
        timer->on_timer(timer->arg);
    }
}

void loop_run(struct loop *loop)
{
    for (;;) {
        loop->turn(loop->arg);
        run_ends(loop);
        if (loop->stopping)
            break;
        wait_once(loop);
        run_due(loop);
    }
    loop->stopping = false;
}

void loop_stop(struct loop *loop)
{
    loop->stopping = true;
}

msec loop_now(const struct loop *loop)
{
    struct loop *mine = (struct loop *)loop; /* every loop is made by loop_new: none is really const */
    if (!mine->now_known) {
        mine->now = clock_mono();
        mine->now_known = true;
    }
    return mine->now;
}

struct event_base *loop_base(struct loop *loop)
{
    return loop->base;
}

void loop_again(struct loop *loop)
{
    loop->again = true;
}

void loop_end_init(struct loop_end *end, void (*run)(void *arg), void *arg)
{
    list_init(&end->node);
    end->run = run;
    end->arg = arg;
}

void loop_at_end(struct loop *loop, struct loop_end *end)
{
    if (list_empty(&end->node))
        list_push_back(&loop->ends, &end->node);
}

void loop_end_cancel(struct loop_end *end)
{
    list_remove(&end->node);
}

static void signal_came(evutil_socket_t signo, short what, void *arg)
{
    struct signal_watch *watch = arg;
    watch->on_signal(watch->arg, (int)signo);
}

enum err loop_signal(struct loop *loop, int signo, loop_on_signal *on_signal, void *arg)
{
    struct signal_watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return ERR_NOMEM;
    watch->on_signal = on_signal;
    watch->arg = arg;
    if (evsignal_assign(&watch->event, loop->base, signo, signal_came, watch) != 0 || evsignal_add(&watch->event, NULL) != 0) {
        free(watch);
        return ERR_SYSTEM;
    }
    list_init(&watch->node);
    list_push_back(&loop->signals, &watch->node);
    return ERR_OK;
}

static void put_at(struct loop *loop, size_t place, struct timer *timer)
{
    loop->heap[place] = timer;
    timer->place = place;
}

/* Moves `timer` from the free place `at` towards the root until its parent is not later. */
static void sift_up(struct loop *loop, size_t at, struct timer *timer)
{
    while (at > 0 && loop->heap[(at - 1) / 2]->at > timer->at) {
        put_at(loop, at, loop->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put_at(loop, at, timer);
}

/* Moves `timer` from the free place `at` towards the leaves until no child is sooner. */
static void sift_down(struct loop *loop, size_t at, struct timer *timer)
{
    for (size_t child; (child = 2 * at + 1) < loop->set_count; at = child) {
        if (child + 1 < loop->set_count && loop->heap[child + 1]->at < loop->heap[child]->at)
            child++;
        if (loop->heap[child]->at >= timer->at)
            break;
        put_at(loop, at, loop->heap[child]);
    }
    put_at(loop, at, timer);
}

static void settle(struct loop *loop, size_t at, struct timer *timer)
{
    if (at > 0 && loop->heap[(at - 1) / 2]->at > timer->at)
        sift_up(loop, at, timer);
    else
        sift_down(loop, at, timer);
}

static void take_out(struct timer *timer)
{
    struct loop *loop = timer->loop;
    size_t hole = timer->place;
    if (hole == UNSET)
        return;
    struct timer *last = loop->heap[--loop->set_count];
    if (last != timer)
        settle(loop, hole, last);
    timer->place = UNSET;
    timer->at = MSEC_NEVER;
}

/* Room in the heap for one timer more. It doubles whenever the number of timers is a power of two. */
static bool make_room(struct loop *loop)
{
    size_t count = loop->timers_count;
    if (count & (count - 1))
        return true;
    struct timer **heap = realloc(loop->heap, MAX(1, count * 2) * sizeof *heap);
    if (heap)
        loop->heap = heap;
    return heap != NULL;
}

struct timer *timer_new(struct loop *loop, loop_on_timer *on_timer, void *arg)
{
    struct timer *timer = make_room(loop) ? malloc(sizeof *timer) : NULL;
    if (!timer)
        return NULL;
    *timer = (struct timer){.loop = loop, .at = MSEC_NEVER, .place = UNSET, .on_timer = on_timer, .arg = arg};
    loop->timers_count++;
    return timer;
}

void timer_free(struct timer **timer_ptr)
{
    struct timer *timer = TAKE(*timer_ptr);
    if (!timer)
        return;
    take_out(timer);
    timer->loop->timers_count--;
    free(timer);
}

void timer_set(struct timer *timer, msec at)
{
    if (at == MSEC_NEVER) {
        take_out(timer);
        return;
    }
    struct loop *loop = timer->loop;
    bool was_set = timer->place != UNSET;
    timer->at = at;
    timer->round = loop->round;
    if (was_set)
        settle(loop, timer->place, timer);
    else
        sift_up(loop, loop->set_count++, timer);
}

msec timer_at(const struct timer *timer)
{
    return timer->at;
}
