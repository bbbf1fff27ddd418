/* The shell: it gathers what arrived in a turn, gives it to the core one input at a time, and carries the effects out in order.
 *
 *   turn:  what the store confirmed → frames → time → what a send refused → per-peer gatherings → commits out
 *
 * This header has two readers: main.c, which makes and runs a broker, and the ports, which turn frames into inputs. */
#pragma once

#include "broker/core/sched.h"
#include "broker/store.h"
#include "common/conf.h"
#include "common/loop.h"

struct broker;
struct peer;

struct broker_options {
    struct conf *conf; /* the broker's from now on */
    const struct redis_options *redis;
    bool standby; /* wait for the leader to lapse whatever its name */
    /* Reads the settings again. NULL and logged: they were refused. */
    struct conf *(*reload)(void *arg);
    void *arg;
};

enum broker_end {
    BROKER_RUNS,
    BROKER_DONE,   /* drained and left, as asked */
    BROKER_FENCED, /* a later broker leads: start again as a standby */
    BROKER_FAILED, /* logged */
};

/* Starts at once; sockets are bound when recovery is complete. ERR_NOMEM, ERR_SETTINGS (logged). */
MUST_USE enum err broker_new(const struct broker_options *options, struct broker **ret_broker);
void broker_free(struct broker **broker);

/* Runs until it ends. */
enum broker_end broker_run(struct broker *broker);

/* SIGTERM: no new work, what is decided is stored (at most 5 s), leadership is given up. A second time: at once. */
void broker_drain(struct broker *broker);
struct loop *broker_loop(struct broker *broker);

/* ---- for the ports ---- */

/* What every WELCOME says. */
struct broker_facts {
    uint64_t epoch;
    unsigned shard;
    uint8_t tag_key[ID_KEY_BYTES], tag_key_before[ID_KEY_BYTES];
    bool has_tag_key_before;
    msec heartbeat_ms, lease_ms;
};
const struct broker_facts *broker_facts(const struct broker *broker);
/* The durability that the store gives. */
enum ack broker_ack(const struct broker *broker);
/* A session by its number; NULL when it has ended. */
struct peer *broker_peer(struct broker *broker, peer_number number);
/* Settings are to be read again, as on SIGHUP. */
enum err broker_ask_reload(struct broker *broker);
/* Core time, of this turn. */
msec broker_now(const struct broker *broker);
struct store *broker_store(struct broker *broker);
const struct sched *broker_sched(const struct broker *broker);
const struct conf *broker_conf(const struct broker *broker);

/* Steps the core and carries its effects out. ERR_NOMEM: nothing has changed. Not from within a send. */
MUST_USE enum err broker_step(struct broker *broker, const struct input *in);
/* The same, after the step that is being carried out: for what a failed send brings about. Only GONE and UNSENT. */
void broker_later(struct broker *broker, const struct input *in);

/* The next session's number, and the table of sessions of all ports by it. */
peer_number broker_add_peer(struct broker *broker, struct peer *peer);
void broker_remove_peer(struct broker *broker, struct peer *peer);

/* A heartbeat's counters (stats.h). */
void broker_count_peer(struct broker *broker, const struct peer *peer, const struct msg_heartbeat *heartbeat);
/* A peer's answer to RELOAD. */
void broker_peer_reloaded(struct broker *broker, const struct peer *peer, const struct msg_reloaded *reloaded);

/* Every number there is, or one tenant's; returns how many. Names are lent until the next heartbeat. */
uint32_t broker_counters(struct broker *broker, struct span tenant, struct rec_counter *out, uint32_t max);

/* Every session, of all ports: calls `each` until it says false. */
void broker_each_peer(struct broker *broker, bool (*each)(void *arg, const struct peer *peer, const char *role), void *arg);
