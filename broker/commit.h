/* One commit: writes of the core, gathered in order, that reach Redis together as one EVALSHA of store.lua. Pure: it knows the
 * script's arguments and no connection.
 *
 * Within a commit the last write to a key wins (a job that is submitted and leased in one turn is written once), which is what
 * makes grouping by verb keep the meaning of the order. Once closed its bytes never change, so sending it again is sending the
 * same; only commit_renumber, for a later epoch, makes another of it. */
#pragma once

#include "broker/core/input.h"
#include "common/list.h"

#define COMMIT_WRITES_MAX 256
#define COMMIT_BYTES_MAX  (1u << 20) /* a larger write travels alone */

/* The place of a commit: n within an epoch. {0, 0} is before the first. */
struct commit_at {
    uint64_t epoch, n;
};
static inline bool commit_at_equal(struct commit_at a, struct commit_at b)
{
    return a.epoch == b.epoch && a.n == b.n;
}

/* Reads "epoch:n:now", what Redis holds in `last`. ERR_MALFORMED. */
MUST_USE enum err commit_at_parse(struct span text, struct commit_at *ret_at, msec *ret_now);

struct commit {
    struct list node;     /* in its ring; a ring owns */
    struct list held;     /* what may leave when this is stored; whoever put it there owns it */
    struct commit_at at;  /* once closed */
    uint64_t first, last; /* numbers of the core's writes in it; 0: none yet */
    uint32_t writes;
    unsigned joined;           /* writes that must still come into it */
    size_t bytes;              /* about what it costs in memory and on the line */
    size_t held_bytes;         /* of what is in `held` */
    msec opened_at, stored_at; /* loop time, set by their owner */
    struct commit_parts *parts;
};

/* NULL: no memory. */
MUST_USE struct commit *commit_new(unsigned shard);
void commit_free(struct commit **commit);

/* Whether this write must open another commit. */
bool commit_is_full_for(const struct commit *commit, const struct effect *write);

/* Takes in one EFFECT_SAVE_… or EFFECT_DROP_…. Records are packed here; bodies are referenced. An error leaves the commit
 * unusable: ERR_NOMEM, ERR_LIMIT (a record larger than its rows allow). */
MUST_USE enum err commit_add(struct commit *commit, const struct effect *write);

/* Removes a member of `live`, its j: and its b:, which no live job of the core stands for. Has no number. */
MUST_USE enum err commit_add_repair(struct commit *commit, const struct id *id);

/* Closes it as `at`, to follow `before`. sha: of store.lua, 40 characters. now: core time. ERR_NOMEM. */
MUST_USE enum err commit_close(struct commit *commit, struct commit_at at, struct commit_at before, const char sha[40],
                               msec now);

/* A closed commit anew under a later epoch. */
void commit_renumber(struct commit *commit, struct commit_at at, struct commit_at before);

/* The EVALSHA of a closed commit. Lent. */
const struct span *commit_argv(const struct commit *commit, size_t *ret_argc);

/* The packed r:<id> that write `number` made, NULL when it made none. Lent. */
struct blob *commit_ended_record(const struct commit *commit, uint64_t number);
