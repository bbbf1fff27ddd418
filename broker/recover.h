/* Every live job read back at start: `live` scanned, then the jobs' states in batches, without bodies. A broken connection is
 * resumed on the next one; nothing is given twice. */
#pragma once

#include "broker/store.h"

struct recover;

struct recover_hooks {
    void (*job)(void *arg, const struct id *id, const struct rec_job *job);
    void (*done)(void *arg, const struct store_recovered *counts);
    /* The reply cannot be used (an error, a strange form): the owner resets the connection. */
    void (*failed)(void *arg, const char *why);
    void *arg;
};

/* NULL: no memory. */
MUST_USE struct recover *recover_new(struct loop *loop, struct redis *redis, unsigned shard, struct recover_hooks hooks);
void recover_free(struct recover **recover);

/* Members of `live` without a j:. Lent by `recover`. */
size_t recover_missing(const struct recover *recover, const struct id **ret_missing);

/* Begins, or goes on where it was after a break. Harmless when it is under way. */
void recover_go(struct recover *recover);
