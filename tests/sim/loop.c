/* common/loop.h on virtual time: a process runs when something of it is due, and takes no time to do so. */
#include <stdlib.h>

#include "tests/sim/sim.h"

#define HANDLERS 4
#define SIGNALS  4
#define ROUNDS   20000 /* wake-ups of one process within one instant: it spins */

struct timer {
    struct list node; /* in its loop's, set or not */
    struct loop *loop;
    msec at;
    loop_on_timer *on_timer;
    void *arg;
};

struct loop {
    struct proc *proc;
    loop_turn *turn;
    void *arg;
    bool started, stopping, again;
    msec now;
    unsigned rounds; /* in this instant */
    struct list timers, ends;
    struct {
        void (*run)(void *arg);
        void *arg;
    } handlers[HANDLERS];
    unsigned handlers_count;
    struct {
        int signo;
        loop_on_signal *on_signal;
        void *arg;
        bool came;
    } signals[SIGNALS];
    unsigned signals_count;
};

static void wake(void *a, uint64_t b);

struct loop *loop_new(loop_turn *turn, void *arg)
{
    struct loop *loop = keep(sizeof *loop);
    loop->proc = sim.running;
    loop->turn = turn;
    loop->arg = arg;
    loop->now = sim.now;
    list_init(&loop->timers);
    list_init(&loop->ends);
    loop->proc->loop = loop;
    proc_wake(loop->proc, sim.now);
    return loop;
}

void loop_free(struct loop **loop)
{
    if (!*loop)
        return;
    MUST(list_empty(&(*loop)->timers), "%s: a timer outlives its loop", (*loop)->proc->name);
    (*loop)->proc->loop = NULL;
    *loop = NULL;
}

/* The simulation runs the loop; what is asked for here is only how it ended. */
void loop_run(struct loop *loop)
{
    MUST(loop->stopping, "a loop is run that has not stopped");
}
void loop_stop(struct loop *loop)
{
    loop->stopping = true;
}
msec loop_now(const struct loop *loop)
{
    return loop->now;
}
void loop_again(struct loop *loop)
{
    loop->again = true;
}
struct event_base *loop_base(struct loop *loop)
{
    broken("nothing in the simulation has an event base");
}
struct proc *loop_proc(struct loop *loop)
{
    return loop->proc;
}
void loop_wake(struct loop *loop)
{
    proc_wake(loop->proc, sim.now);
}

void loop_handler(struct loop *loop, void (*run)(void *arg), void *arg)
{
    MUST(loop->handlers_count < HANDLERS, "too many handlers");
    loop->handlers[loop->handlers_count].run = run;
    loop->handlers[loop->handlers_count++].arg = arg;
}

/* ---- ends ---- */

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

/* ---- signals ---- */

enum err loop_signal(struct loop *loop, int signo, loop_on_signal *on_signal, void *arg)
{
    MUST(loop->signals_count < SIGNALS, "too many signals");
    loop->signals[loop->signals_count].signo = signo;
    loop->signals[loop->signals_count].on_signal = on_signal;
    loop->signals[loop->signals_count++].arg = arg;
    return ERR_OK;
}

void proc_signal(struct proc *proc, int signo)
{
    struct loop *loop = proc->loop;
    for (unsigned i = 0; loop && i < loop->signals_count; i++)
        loop->signals[i].came |= loop->signals[i].signo == signo;
    proc_wake(proc, sim.now);
}

/* ---- timers ---- */

struct timer *timer_new(struct loop *loop, loop_on_timer *on_timer, void *arg)
{
    struct timer *timer = keep(sizeof *timer);
    *timer = (struct timer){.loop = loop, .at = MSEC_NEVER, .on_timer = on_timer, .arg = arg};
    list_init(&timer->node);
    list_push_back(&loop->timers, &timer->node);
    return timer;
}
void timer_free(struct timer **timer)
{
    if (*timer)
        list_remove(&(*timer)->node);
    *timer = NULL;
}
void timer_set(struct timer *timer, msec at)
{
    timer->at = at;
}
msec timer_at(const struct timer *timer)
{
    return timer->at;
}

static struct timer *first_due(struct loop *loop)
{
    struct timer *first = NULL;
    struct list *node;
    LIST_EACH (node, &loop->timers) {
        struct timer *timer = CONTAINER_OF(node, struct timer, node);
        if (timer->at != MSEC_NEVER && (!first || timer->at < first->at))
            first = timer;
    }
    return first;
}

/* ---- a wake-up ---- */

static void run_due(struct loop *loop)
{
    for (struct timer *timer; (timer = first_due(loop)) && timer->at <= loop->now;) {
        timer->at = MSEC_NEVER;
        timer->on_timer(timer->arg);
    }
}

static void handle(struct loop *loop)
{
    for (unsigned i = 0; i < loop->signals_count; i++)
        if (loop->signals[i].came) {
            loop->signals[i].came = false;
            loop->signals[i].on_signal(loop->signals[i].arg, loop->signals[i].signo);
        }
    for (unsigned i = 0; i < loop->handlers_count; i++)
        loop->handlers[i].run(loop->handlers[i].arg);
    run_due(loop);
}

static void run_ends(struct loop *loop)
{
    for (struct list *node; (node = list_first(&loop->ends));) {
        list_remove(node);
        struct loop_end *end = CONTAINER_OF(node, struct loop_end, node);
        end->run(end->arg);
    }
}

static void run_once(struct proc *proc)
{
    struct loop *loop = proc->loop;
    loop->rounds = loop->now == sim.now ? loop->rounds + 1 : 0;
    MUST(loop->rounds < ROUNDS, "%s spins", proc->name);
    loop->now = sim.now;
    loop->again = false;
    sim.running = proc;
    sim.steps++;
    if (loop->started)
        handle(loop);
    loop->started = true;
    loop->turn(loop->arg);
    run_ends(loop);
    if (proc->ran)
        proc->ran(proc);
    sim.running = NULL;
}

static void wake(void *a, uint64_t b)
{
    struct proc *proc = a;
    if (!proc->alive || proc->wake_at != sim.now || proc->life != b)
        return;
    proc->wake_at = MSEC_NEVER;
    if (proc->frozen) {
        proc->missed = true;
        return;
    }
    run_once(proc);
    if (proc->loop->stopping) {
        proc->ended(proc);
        return;
    }
    struct timer *next = first_due(proc->loop);
    if (proc->loop->again)
        proc_wake(proc, sim.now);
    else if (next)
        proc_wake(proc, MAX(next->at, sim.now));
}

void proc_wake(struct proc *proc, msec at)
{
    if (!proc->alive || at >= proc->wake_at)
        return;
    proc->wake_at = at;
    later(at - sim.now, wake, proc, proc->life);
}

/* ---- processes ---- */

void proc_start(struct proc *proc, const char *name, unsigned host)
{
    struct proc before = *proc;
    *proc = (struct proc){.pid = ++sim.pids,
                          .host = host,
                          .alive = true,
                          .wake_at = MSEC_NEVER,
                          .life = before.life + 1,
                          .ended = before.ended,
                          .ran = before.ran,
                          .of = before.of};
    for (size_t i = 0; i + 1 < sizeof proc->name && name[i]; i++)
        proc->name[i] = name[i];
    TRACE("%s starts, pid %u", proc->name, proc->pid);
}

void proc_kill(struct proc *proc)
{
    TRACE("%s is gone", proc->name);
    proc->alive = proc->frozen = false;
}

void proc_thaw(struct proc *proc)
{
    if (!proc->alive || !proc->frozen)
        return;
    TRACE("%s goes on", proc->name);
    proc->frozen = false;
    proc_wake(proc, sim.now);
}

static void thaw(void *a, uint64_t b)
{
    struct proc *proc = a;
    if (proc->life == b)
        proc_thaw(proc);
}

void proc_freeze(struct proc *proc, msec for_ms)
{
    if (proc->frozen || !proc->alive)
        return;
    TRACE("%s is stopped for %lld ms", proc->name, (long long)for_ms);
    proc->frozen = true;
    later(for_ms, thaw, proc, proc->life);
}
