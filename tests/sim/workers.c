/* Worker children: the real worker (worker/worker.c, run.c, outbox.c …) in a process of the world. Whoever dies is started
 * again as another instance, as its parent would do. */
#include "worker/worker.h"

#include <signal.h>
#include <stdio.h>

#include "tests/sim/people.h"
#include "tests/sim/wire.h"

static struct child {
    struct proc proc;
    struct worker *worker;
    bool solo;
    unsigned index;
} children[WORKERS];

struct proc *worker_at(unsigned index)
{
    return &children[index].proc;
}

static enum err reload(void *arg, struct conf_fault *fault)
{
    return ERR_OK;
}

static void start(void *a, uint64_t b)
{
    struct child *child = a;
    struct worker_options options = {.conf = &setup.conf, .solo = child->solo, .reload = reload};
    struct conf_fault fault = {""};
    char name[24];
    snprintf(name, sizeof name, child->solo ? "solo" : "worker%u", child->index);
    proc_start(&child->proc, name, 10 + child->index / 2);
    sim.running = &child->proc;
    MUST(worker_new(&options, &child->worker, &fault) == ERR_OK, "a worker does not start: %s", fault.text);
    sim.running = NULL;
}

static void end(struct child *child)
{
    sim.running = &child->proc;
    worker_free(&child->worker);
    sim.running = NULL;
}

void worker_dies(struct proc *proc)
{
    struct child *child = proc->of;
    struct proc *running = sim.running;
    if (!proc->alive)
        return;
    proc_kill(proc);
    network_dead(proc);
    end(child);
    sim.running = running;
    later(sim.calm ? 1 : (msec)draw(chance(100) ? 5000 : 200), start, child, 0);
}

/* It has drained: its parent starts the next. */
static void ended(struct proc *proc)
{
    struct child *child = proc->of;
    end(child);
    proc_kill(proc);
    network_dead(proc);
    later((msec)draw(200), start, child, 0);
}

void workers_begin(void)
{
    for (unsigned i = 0; i < WORKERS; i++) {
        children[i] = (struct child){.index = i, .solo = i == WORKERS - 1, .proc.life = children[i].proc.life};
        children[i].proc.of = &children[i];
        children[i].proc.ended = ended;
        if (i < setup.workers || children[i].solo)
            later((msec)draw(50), start, &children[i], 0);
    }
}

void workers_end(void)
{
    for (unsigned i = 0; i < WORKERS; i++)
        if (children[i].proc.alive) {
            proc_kill(&children[i].proc);
            network_dead(&children[i].proc);
            end(&children[i]);
        }
}
