/* What goes wrong, and how often. Each seed takes a handful of kinds of trouble and meets those often: a seed that met them all
 * would be the same grey noise every time, and few jobs would live long enough to get into a corner. */
#include <signal.h>

#include "tests/sim/people.h"
#include "tests/sim/server.h"
#include "tests/sim/wire.h"

static struct proc *some_peer(void)
{
    unsigned which = (unsigned)draw(setup.workers + 1 + setup.apis);
    if (which < setup.apis)
        return api_at(which);
    which -= setup.apis;
    return worker_at(which < setup.workers ? which : WORKERS - 1);
}
static struct proc *some_worker(void)
{
    return worker_at(chance(200) ? WORKERS - 1 : (unsigned)draw(setup.workers));
}

static bool alive(const struct proc *proc)
{
    return proc && proc->alive && !proc->frozen;
}

/* Most pauses are short; some outlast every patience. */
static msec a_while(msec usual)
{
    return chance(150) ? (msec)draw(20000) : (msec)draw((uint64_t)usual);
}

/* ---- one function per kind; false: it could not happen now ---- */

static bool cut(void)
{
    struct proc *proc = some_peer();
    if (sim.cuts && sim.now < proc->cut_until + 2000) /* two in a row would be a longer one */
        return false;
    network_cut(proc, chance(500) ? (msec)draw(500) : 0);
    return true;
}
static bool cut_silent(void)
{
    network_cut_silently(some_peer());
    return true;
}
static bool parted(void)
{
    network_part((msec)draw(5000));
    return true;
}
static bool broker_killed(void)
{
    if (!alive(broker_leading()))
        return false;
    broker_dies(broker_leading());
    return true;
}
static bool standby_killed(void)
{
    if (!alive(broker_waiting()))
        return false;
    broker_dies(broker_waiting());
    return true;
}
static bool broker_stopped(void)
{
    if (!alive(broker_leading()))
        return false;
    broker_stops(broker_leading(), a_while(5000));
    return true;
}
static bool broker_drained(void)
{
    if (!alive(broker_leading()))
        return false;
    broker_leaves(broker_leading());
    return true;
}
static bool worker_killed(void)
{
    struct proc *proc = some_worker();
    if (!proc->alive)
        return false;
    worker_dies(proc);
    return true;
}
static bool worker_stopped(void)
{
    proc_freeze(some_worker(), a_while(3000));
    return true;
}
static bool worker_drained(void)
{
    proc_signal(some_worker(), SIGTERM);
    return true;
}
static bool api_killed(void)
{
    struct proc *proc = api_at((unsigned)draw(setup.apis));
    if (!proc->alive)
        return false;
    api_dies(proc);
    return true;
}
static bool api_stopped(void)
{
    proc_freeze(api_at((unsigned)draw(setup.apis)), a_while(3000));
    return true;
}
static bool store_stall(void)
{
    server_stall(a_while(2000));
    return true;
}
static bool store_killed(void)
{
    server_kill((msec)draw(chance(200) ? 6000 : 500), chance(300) ? (msec)draw(3000) : 0);
    return true;
}
static bool store_broken(void)
{
    server_break();
    return true;
}
static bool store_refuses(void)
{
    server_refuse(1 + (enum refusal)draw(REFUSALS - 1), a_while(1500));
    return true;
}
static bool store_scripts(void)
{
    server_forget_scripts();
    return true;
}
static bool store_older(void)
{
    if (sim.synced) /* that is not what it is for */
        return false;
    server_older((unsigned)draw(chance(500) ? 150 : 15));
    return true;
}
static void empty(void *a, uint64_t b)
{
    server_fill(10);
}
static bool store_filled(void)
{
    server_fill(85);
    later(a_while(5000), empty, NULL, 0);
    return true;
}
static void kill_store(void *a, uint64_t b)
{
    if (!sim.calm && store_killed())
        note(TROUBLE_STORE_KILLED);
}
static bool store_disk(void)
{
    if (sim.synced)
        return false;
    server_slow_disk(200 + (msec)draw(2500));
    if (chance(300))
        later((msec)draw(1500), kill_store, NULL, 0);
    return true;
}
static bool replica_cut(void)
{
    server_cut_replica(a_while(1500));
    return sim.synced;
}
static bool failed_over(void)
{
    if (sim.synced)
        server_fail_over();
    return sim.synced;
}
static bool clock_wall(void)
{
    sim.wall += (msec)draw(chance(300) ? 7200000 : 20000) * (chance(500) ? 1 : -1);
    TRACE("the wall clock jumps");
    return true;
}
static bool clock_store(void)
{
    server_clock((msec)draw(6000) * (chance(500) ? 1 : -1));
    return true;
}
static void go_on(void *a, uint64_t b)
{
    broker_pauses(false);
}
static bool pause_some(void)
{
    broker_pauses(true);
    later(a_while(4000), go_on, NULL, 0);
    return true;
}
static bool reload(void)
{
    broker_reads_settings();
    return true;
}

static const struct {
    enum trouble trouble;
    bool (*strike)(void);
} kinds[] = {
    {TROUBLE_CUT, cut},
    {TROUBLE_CUT_SILENT, cut_silent},
    {TROUBLE_PARTED, parted},
    {TROUBLE_BROKER_KILLED, broker_killed},
    {TROUBLE_STANDBY_KILLED, standby_killed},
    {TROUBLE_BROKER_STOPPED, broker_stopped},
    {TROUBLE_BROKER_DRAINED, broker_drained},
    {TROUBLE_WORKER_KILLED, worker_killed},
    {TROUBLE_WORKER_STOPPED, worker_stopped},
    {TROUBLE_WORKER_DRAINED, worker_drained},
    {TROUBLE_API_KILLED, api_killed},
    {TROUBLE_API_STOPPED, api_stopped},
    {TROUBLE_STORE_STALL, store_stall},
    {TROUBLE_STORE_KILLED, store_killed},
    {TROUBLE_STORE_BROKEN, store_broken},
    {TROUBLE_STORE_REFUSES, store_refuses},
    {TROUBLE_STORE_SCRIPTS, store_scripts},
    {TROUBLE_STORE_OLDER, store_older},
    {TROUBLE_STORE_FILLED, store_filled},
    {TROUBLE_STORE_DISK, store_disk},
    {TROUBLE_REPLICA_CUT, replica_cut},
    {TROUBLE_FAILED_OVER, failed_over},
    {TROUBLE_CLOCK_WALL, clock_wall},
    {TROUBLE_CLOCK_STORE, clock_store},
    {TROUBLE_PAUSE, pause_some},
    {TROUBLE_RELOAD, reload},
};

void procs_go_on(void)
{
    for (unsigned i = 0; i < setup.apis; i++)
        proc_thaw(api_at(i));
    for (unsigned i = 0; i < WORKERS; i++)
        proc_thaw(worker_at(i));
    for (unsigned i = 0; i < setup.brokers; i++)
        proc_thaw(broker_at(i));
}

static uint64_t chosen;

static void strike(void *a, uint64_t b)
{
    if (sim.calm)
        return;
    unsigned kind = (unsigned)draw(ARRAY_COUNT(kinds));
    while (!(chosen >> kind & 1))
        kind = (kind + 1) % ARRAY_COUNT(kinds);
    if (kinds[kind].strike())
        note(kinds[kind].trouble);
    later(50 + (msec)draw(chance(200) ? 200 : 4000), strike, NULL, 0);
}

static unsigned kind_of(enum trouble trouble)
{
    unsigned kind = 0;
    while (kinds[kind].trouble != trouble)
        kind++;
    return kind;
}

void faults_begin(void)
{
    chosen = 0;
    for (unsigned i = 1 + (unsigned)draw(6); i; i--)
        chosen |= 1ull << draw(ARRAY_COUNT(kinds));
    if (sim.cuts)
        chosen = 1; /* the first kind */
    if (sim.synced)
        chosen |= 1ull << kind_of(TROUBLE_FAILED_OVER) | 1ull << kind_of(TROUBLE_REPLICA_CUT);
    if (!sim.gentle)
        later(500 + (msec)draw(2000), strike, NULL, 0);
}
