/* Every number there is: the core's (core/stats.def), the store's (store_stats.def), the sockets' (port_stats.def), the shell's
 * (stats.def), and what peers count (their heartbeats' counters, summed by role and name). */
#pragma once

#include "broker/port.h"

struct stats;

/* What the shell itself counts; fields are its own to change. */
struct shell_stats {
#define STAT(name, kind, sentence) uint64_t name;
#include "broker/stats.def"
#undef STAT
};

/* NULL: no memory. */
MUST_USE struct stats *stats_new(void);
void stats_free(struct stats **stats);

struct shell_stats *stats_shell(struct stats *stats);
struct port_stats *stats_port(struct stats *stats);

/* A heartbeat's counters, as that peer last said them. What is shown is the sum over the peers present. */
void stats_heartbeat(struct stats *stats, const struct peer *peer, const char *role, const struct msg_heartbeat *heartbeat);
void stats_gone(struct stats *stats, const struct peer *peer);

/* Fills `out` with all of them; returns how many. Names are lent until the next heartbeat. */
uint32_t stats_all(struct stats *stats, const struct sched *sched, const struct store *store, struct rec_counter *out,
                   uint32_t max);
/* One tenant's. */
uint32_t stats_tenant(struct stats *stats, const struct sched *sched, struct span tenant, struct rec_counter *out,
                      uint32_t max);
