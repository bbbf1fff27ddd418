/* Looks whether a later broker leads, while a peer's own session goes on. A broker that Redis does not answer cannot know that
 * its standby has taken over; its peers can find out, by knocking at the other places. A knock is a frame without a session:
 * whoever serves answers HELLO_WANTED, which carries its epoch and begins nothing. */
#pragma once

#include "proto/link.h"
#include "proto/places.h"

struct scout;

/* options: as for the link; copied. home: the link's, lent; the place whose turn it is there is left out. epoch: only a later
 * one is looked for. ERR_SETTINGS, ERR_NOMEM. */
MUST_USE enum err scout_new(struct loop *loop, const struct link_options *options, const struct places *home, uint64_t epoch,
                            struct scout **ret_scout);
void scout_free(struct scout **scout);

/* Call once per turn. Where such a broker serves; NULL: not found yet. */
const struct places *scout_turn(struct scout *scout);
