/* Redis, as the broker writes it: leadership, recovery, commits out and "stored up to here" back, questions beside them
 * (DESIGN.md §4).
 *
 *   seek ──taken──► recover ──► confirm ──► serve ──► left
 *     ▲ held: wait     │            │          │
 *     └────────────────┴────────────┴──────────┴──► fenced: a later broker writes; this one must stop at once
 *
 * Handlers gather and call the hooks; commits and questions leave in store_turn, as one pipeline. What the store's answers mean
 * and which of them are a stall: README.md. */
#pragma once

#include "broker/core/input.h"
#include "common/loop.h"
#include "common/redis.h"

struct store;

struct store_options {
    const struct redis_options *redis; /* copied */
    unsigned shard;
    const char *name;  /* in `leader`; copied */
    bool standby;      /* wait for the leader to lapse even if it has this name */
    bool allow_unsafe; /* serve on a Redis without AOF or with eviction */
    unsigned replicas; /* > 0: a commit counts when so many have it */
    size_t ring_bytes, stall_bytes;
    msec stall_ms;
};

struct store_lead {
    uint64_t epoch;
    msec last_now; /* of the last commit, 0: none */
    uint8_t tag_key[ID_KEY_BYTES], tag_key_before[ID_KEY_BYTES];
    bool has_tag_key_before;
    enum ack ack; /* what this Redis gives */
};

struct store_recovered {
    uint64_t jobs, missing, corrupt;
    msec took_ms;
};

/* Called from the loop's handlers, never from within another call of this module. Anything lent is lent for the call. */
struct store_hooks {
    /* Another broker leads; its name. Called when that begins and when the name changes. */
    void (*held)(void *arg, struct span leader);
    /* This broker leads. Live jobs follow, then recovered. */
    void (*leads)(void *arg, const struct store_lead *lead);
    void (*job)(void *arg, const struct id *id, const struct rec_job *job);
    void (*recovered)(void *arg, const struct store_recovered *counts);
    /* A later broker has taken over, or leadership was lost. */
    void (*fenced)(void *arg);
    /* This Redis cannot keep jobs: AOF off or an eviction policy. Before `leads` only; afterwards it is a stall. */
    void (*unfit)(void *arg, const char *why);
    void *arg;
};

enum store_status { STORE_FOUND, STORE_ABSENT, STORE_UNKNOWN };

struct store_answer {
    enum store_status status;
    const struct rec_idem *idem;   /* IDEM */
    const struct rec_ended *ended; /* ENDED, ANY */
    const struct rec_job *job;     /* ANY of a live job */
    struct blob *body;             /* BODY; ENDED: its parts joined */
};
typedef void store_on_answer(void *arg, const struct lookup_key *key, const struct store_answer *answer);

/* Starts at once. NULL: no memory. */
MUST_USE struct store *store_new(struct loop *loop, const struct store_options *options, struct store_hooks hooks);
/* What is held is dropped through `drop`. */
void store_free(struct store **store, void (*drop)(struct list *held));

/* Takes one EFFECT_SAVE_… or EFFECT_DROP_… into the open commit; numbers come without gaps. ERR_NOMEM, ERR_LIMIT: the write is
 * lost, and with it everything after: the caller must not go on. */
MUST_USE enum err store_write(struct store *store, const struct effect *write, msec now);

/* Where what may only leave after write `number` is kept until then: a list that store_released will empty. NULL: it is stored.
 * bytes: what it costs, part of what waits. */
struct list *store_held(struct store *store, uint64_t number, size_t bytes);
/* Moves what may leave now to the end of `out`, in order. */
void store_released(struct store *store, struct list *out);
/* Every write up to this number is in the store. */
uint64_t store_stored(const struct store *store);

/* The packed r:<id> that write `number` makes; NULL when it is too long ago. Lent. */
struct blob *store_ended_record(const struct store *store, uint64_t number);

/* Asks; answered once, after everything written so far is stored, at the latest after stall_ms (STORE_UNKNOWN). ERR_NOMEM. */
MUST_USE enum err store_ask(struct store *store, const struct lookup_key *key, store_on_answer *on_answer, void *arg);

/* End of a turn: closes the open commit when there is room for it, sends what may be sent, notices stalls. */
void store_turn(struct store *store, msec now);

/* Behind: submits are to be refused and nothing dispatched. */
bool store_is_stalled(const struct store *store);
/* Nobody else can have taken over yet: leadership was renewed within the life of `leader`. A process that was stopped does not
 * know what has happened since. */
bool store_is_leading(const struct store *store);
/* What is read from it is all there is: connected, and everything it may have lost is there again. */
bool store_is_current(const struct store *store);
/* At 80 % of its memory, until it is below 75 %: no new jobs; what runs may end. */
bool store_is_full(const struct store *store);
/* The store came back older than the ring reaches and a new epoch has begun: true once per time, and then everything live must
 * be written again, in as many turns as it takes. The store is stalled until what was written before store_rewritten is stored.
 */
bool store_must_rewrite(struct store *store, uint64_t *ret_epoch);
void store_rewritten(struct store *store);
/* After a rewrite, an older data set still has the jobs that ended since and would be recovered as live at the next start.
 * Reads every live job there is; those that is_live denies are removed. Once at a time. ERR_NOMEM. */
MUST_USE enum err store_sweep(struct store *store, bool (*is_live)(void *arg, const struct id *id, const struct rec_job *job),
                              void *arg);
/* Nothing waits to be stored. */
bool store_is_settled(const struct store *store);

/* Gives up leadership; on_left when it is done or cannot be done. */
void store_leave(struct store *store, void (*on_left)(void *arg), void *arg);

struct store_stats {
#define STAT(name, kind, sentence) uint64_t name;
#include "broker/store_stats.def"
#undef STAT
};
void store_stats(const struct store *store, struct store_stats *ret_stats);
