/* Brokers: the real one (everything in broker/) in a process of the world. One leads; in some worlds another stands by. */
#include <stdio.h>
#include <stdlib.h>

#include "broker/core/state.h"

#include "broker/broker_private.h"
#include "broker/store_private.h"
#include "tests/lib/core_look.h"
#include "tests/sim/data.h"
#include "tests/sim/people.h"
#include "tests/sim/wire.h"

#define CHECK_EVERY 8 /* wake-ups between two recounts of everything */

static struct host {
    struct proc proc;
    struct broker *broker;
    struct conf conf;
    bool standby, led, was_stopped;
    unsigned index;
    unsigned idle_turns; /* in which work waited that a free slot could take */
    unsigned since_check;
} hosts[BROKERS];

void __wrap_conf_free(struct conf **conf);
void __wrap_conf_free(struct conf **conf)
{
    *conf = NULL; /* a broker's settings are part of its host */
}

static void start(void *a, uint64_t b);

static struct conf *reload(void *arg)
{
    struct host *host = arg;
    host->conf.broker.head_start_ms = host->conf.broker.head_start_ms == 30000 ? 10000 : 30000;
    return &host->conf;
}

/* ---- after every wake-up ---- */

static void check_core(struct host *host, const struct sched *sched)
{
    const char *wrong = sched_check(sched);
    MUST(!wrong, "%s: %s", host->proc.name, wrong);
}

static void ran(struct proc *proc)
{
    struct host *host = proc->of;
    struct broker *b = host->broker;
    if (!b || b->stage == STAGE_STARTING || b->stage >= STAGE_LEAVING)
        return;
    if (!host->led) {
        host->led = true;
        for (unsigned i = 0; i < BROKERS; i++) /* who was stopped could give nothing back in time */
            if (&hosts[i] != host && hosts[i].led && hosts[i].was_stopped)
                truth_leader_gone(true);
        bool is_new = !b->store->waits_for[0] && !b->options.standby;
        if (is_new && !data_get("{q0}:last").data) /* to who has just come an empty Redis is a new one */
            truth_leader_gone(true);
        truth_leads();
        check_core(host, b->sched);
    }
    if (++host->since_check >= CHECK_EVERY) {
        host->since_check = 0;
        check_core(host, b->sched);
    }
    char words[200];
    host->idle_turns = core_idles(b->sched, words, sizeof words) ? host->idle_turns + 1 : 0;
    MUST(host->idle_turns <= 2, "work waits that a free slot could take: %s", words);
}

/* ---- life ---- */

static void end(struct host *host)
{
    struct sched_stats stats;
    struct proc *running = sim.running;
    sim.running = &host->proc;
    sched_stats(host->broker->sched, &stats);
    sim.troubles[TROUBLE_RETRIED] += stats.retried;
    sim.troubles[TROUBLE_LAPSED] += stats.lapsed;
    sim.troubles[TROUBLE_UNSENT] += stats.unsent;
    broker_free(&host->broker);
    sim.running = running;
}

static void ended(struct proc *proc)
{
    struct host *host = proc->of;
    enum broker_end how = broker_run(host->broker);
    MUST(how == BROKER_FENCED || how == BROKER_DONE, "%s has failed", proc->name);
    end(host);
    proc_kill(proc);
    network_dead(proc);
    if (host->led)
        truth_leader_gone(host->was_stopped || how == BROKER_DONE);
    host->standby = how == BROKER_FENCED;
    later(10 + (msec)draw(how == BROKER_FENCED ? 50 : 500), start, host, 0);
}

static void start(void *a, uint64_t b)
{
    struct host *host = a;
    struct redis_options redis = {.host = "sim"};
    struct broker_options options = {
        .conf = &host->conf, .redis = &redis, .standby = host->standby, .reload = reload, .arg = host};
    char name[24];
    snprintf(name, sizeof name, "broker%u", host->index + 1);
    proc_start(&host->proc, name, host->index + 1);
    host->conf = setup.conf;
    host->conf.broker.name = host->index ? "two" : "one";
    host->conf.quern.state_dir = setup.apart && host->index ? "/two" : "/one";
    host->led = host->was_stopped = false;
    host->idle_turns = 0;
    sim.running = &host->proc;
    MUST(broker_new(&options, &host->broker) == ERR_OK, "a broker does not start");
    sim.running = NULL;
}

void broker_dies(struct proc *proc)
{
    struct host *host = proc->of;
    bool led = host->led;
    proc_kill(proc);
    network_dead(proc);
    end(host);
    if (led)
        truth_leader_gone(true);
    host->standby = false;
    later(chance(500) ? (msec)draw(100) : (msec)draw(3000), start, host, 0);
}

void broker_leaves(struct proc *proc)
{
    struct host *host = proc->of;
    sim.running = proc;
    broker_drain(host->broker);
    sim.running = NULL;
    proc_wake(proc, sim.now);
}

void broker_stops(struct proc *proc, msec for_ms)
{
    ((struct host *)proc->of)->was_stopped = true;
    proc_freeze(proc, for_ms);
}

static struct host *leader(void)
{
    struct host *found = NULL;
    for (unsigned i = 0; i < BROKERS; i++)
        if (hosts[i].proc.alive && hosts[i].broker && hosts[i].broker->stage == STAGE_SERVING &&
            (!found || hosts[i].broker->facts.epoch > found->broker->facts.epoch))
            found = &hosts[i];
    return found;
}

struct proc *broker_at(unsigned index)
{
    return &hosts[index].proc;
}

struct proc *broker_leading(void)
{
    struct host *host = leader();
    return host ? &host->proc : NULL;
}

struct proc *broker_waiting(void)
{
    for (unsigned i = 0; i < setup.brokers; i++)
        if (hosts[i].proc.alive && hosts[i].broker->stage == STAGE_STARTING)
            return &hosts[i].proc;
    return NULL;
}

msec broker_time(void)
{
    struct host *host = leader();
    return host ? host->broker->axis.base + (sim.now - host->broker->axis.mono_at) : sim.now + sim.true_wall;
}

bool broker_is_healing(void)
{
    struct host *host = leader();
    return host && store_is_behind(host->broker->store);
}

bool brokers_were_stopped(void)
{
    bool found = false;
    for (unsigned i = 0; i < BROKERS; i++)
        found |= hosts[i].proc.alive && hosts[i].led && hosts[i].was_stopped;
    return found;
}

void broker_reads_settings(void)
{
    struct host *host = leader();
    if (!host)
        return;
    (void)broker_ask_reload(host->broker);
    proc_wake(&host->proc, sim.now);
}

void broker_pauses(bool on)
{
    static const char *const queues[] = {"q", "mail"};
    struct host *host = leader();
    if (!host || host->proc.frozen)
        return;
    sim.running = &host->proc;
    struct input in = {.type = INPUT_PAUSE, .pause = {.queue = span_str(queues[draw(2)]), .on = on}};
    for (unsigned i = 0; i < (on ? 1 : 2); i++) {
        if (!on)
            in.pause.queue = span_str(queues[i]);
        MUST(broker_step(host->broker, &in) == ERR_OK, "a pause is refused");
    }
    sim.running = NULL;
    proc_wake(&host->proc, sim.now);
}

void brokers_begin(void)
{
    for (unsigned i = 0; i < BROKERS; i++) {
        hosts[i] = (struct host){.index = i, .proc.life = hosts[i].proc.life};
        hosts[i].proc.of = &hosts[i];
        hosts[i].proc.ended = ended;
        hosts[i].proc.ran = ran;
        hosts[i].since_check = (unsigned)draw(CHECK_EVERY);
        if (i < setup.brokers)
            later(i ? 20 + (msec)draw(500) : 0, start, &hosts[i], 0);
    }
}

void brokers_end(void)
{
    for (unsigned i = 0; i < BROKERS; i++)
        if (hosts[i].proc.alive) {
            proc_kill(&hosts[i].proc);
            network_dead(&hosts[i].proc);
            end(&hosts[i]);
        }
}

bool brokers_are_settled(void)
{
    struct host *host = leader();
    if (!host)
        return false;
    const struct sched *s = host->broker->sched;
    return !s->jobs.count && !s->roster.used && !s->lookups.waiting;
}

void brokers_settled(void)
{
    struct host *host = leader();
    MUST(host, "no broker leads");
    const char *left = core_left(host->broker->sched);
    MUST(!left, "%s", left);
}
