/* What broker.c (the turn, start and stop), step.c (an input and its effects) and facts.c (who is there, what is so) share. */
#pragma once

#include "broker/broker.h"
#include "broker/port_api.h"
#include "broker/port_monitor.h"
#include "broker/port_worker.h"
#include "broker/settings.h"
#include "broker/stats.h"
#include "common/clock.h"

/*   STARTING ──recovered──► SERVING ──drain──► DRAINING ──stored──► LEAVING ──► ended */
enum stage { STAGE_STARTING, STAGE_SERVING, STAGE_DRAINING, STAGE_LEAVING, STAGE_ENDED };

#define NOBODY 0 /* asks for the sweep: ANSWER to it goes to sweep_answer */

struct broker {
    struct loop *loop;
    struct conf *conf;
    struct settings settings;
    struct broker_options options;
    char name[256];
    struct clock_axis axis;
    struct broker_facts facts;
    enum ack ack;
    enum stage stage;
    enum broker_end end;

    struct sched *sched;
    struct effects effects;
    bool stepping;
    struct list later;
    struct store *store;
    struct port_api *api;
    struct port_worker *worker;
    struct port_monitor *monitor;
    struct stats *stats;

    struct peer *peers; /* by number */
    peer_number peers_made;

    uint64_t told_stored;
    bool told_stalled, told_full;
    bool rewriting;        /* the core has more to write anew */
    bool must_sweep;       /* the store may have live jobs that have ended */
    unsigned sweep_answer; /* the core's, to the sweep's question */
    struct timer *tick, *watch, *beat;
    msec serving_at, leave_by;
    uint64_t revision; /* of the settings */
    bool must_reload;
    msec awake_at; /* core time when it last looked, and whether it was to look again within probe_ms */
    bool watching;
    bool stirred; /* the core was told more than that a peer lives, since the last look at who is there */
};

/* The three ports, of api, worker and monitor. */
#define PORTS 3
extern const char *const port_roles[PORTS];
static inline struct port *ports(const struct broker *b, unsigned i)
{
    struct port *all[] = {port_api_port(b->api), port_worker_port(b->worker), port_monitor_port(b->monitor)};
    return all[i];
}

/* ---- broker.c ---- */

/* Nothing can be done any more without breaking a promise; the store has what was shown. */
void broker_fail(struct broker *b, const char *what);

/* ---- step.c ---- */

/* broker_step for inputs that nobody can be refused: they come again in the next turn, or the next of their kind says the same.
 */
bool broker_tell(struct broker *b, const struct input *in);
/* What the store has released leaves before anything newer does. */
void broker_deliver_released(struct broker *b);
/* Inputs that sends brought about. */
void broker_run_later(struct broker *b);
void broker_drop_later(struct broker *b);
