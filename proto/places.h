/* Where a broker may be: one endpoint or several, tried in turn, because a shard's broker and its standby run on different
 * hosts and whichever leads is the one that listens. A name in an endpoint is tried at each of its addresses; it is looked up
 * anew whenever its turn comes, without blocking the loop (libzmq would use the first address only, and hold its thread
 * meanwhile). */
#pragma once

#include "common/loop.h"
#include "proto/wire.h"

struct places;

struct place {
    const char *endpoint; /* what a wire can connect to at once: ipc, or tcp with a numeric address */
    const char *given;    /* as in the settings, for logs */
    const struct wire_key *key;
};

/* The place whose turn it is; NULL with `reason` when its name has no address. Lent for the call. */
typedef void places_on_found(void *arg, const struct place *place, const char *reason);

/* endpoints: parted by commas. keys: the CURVE public key of the broker at each of the tcp endpoints, in their order, or one
 * for all; not looked at where no endpoint is tcp. ERR_SETTINGS: something is wrong with either; ERR_NOMEM. */
MUST_USE enum err places_new(struct loop *loop, const char *endpoints, const char *keys, places_on_found *on_found, void *arg,
                             struct places **ret_places);
void places_free(struct places **places);

/* Calls on_found for the place whose turn it is: before it returns where nothing has to be looked up, else from the loop. */
void places_find(struct places *places);
/* That was not it: the next one's turn. An answer still awaited for it is kept for when its turn comes again. */
void places_move_on(struct places *places);
/* An answer that places_find waits for is not wanted any more. */
void places_forget(struct places *places);

/* The turn of the place whose turn it is in `other`, which was made of the same endpoints. */
void places_follow(struct places *places, const struct places *other);

/* Whether it is the same place's turn in both, which were made of the same endpoints. */
bool places_same(const struct places *a, const struct places *b);

/* Whether there is more than one to try, as far as is known. */
bool places_several(const struct places *places);
