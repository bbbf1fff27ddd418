/* Room under a bound that the service classes share: each may always have a sixteenth of it, and the rest goes to whoever comes
 * first. So a flood of one class leaves the others served, and no class can shut another out for good. */
#pragma once

#include "common/base.h"
#include "proto/words.h"

#define ROOM_SHARE 16

struct room {
    uint64_t held, held_by[3]; /* by class */
};

static inline void room_take(struct room *room, unsigned class, uint64_t count)
{
    room->held += count;
    room->held_by[class - CLASS_INTERACTIVE] += count;
}

static inline void room_give_back(struct room *room, unsigned class, uint64_t count)
{
    room->held -= count;
    room->held_by[class - CLASS_INTERACTIVE] -= count;
}

static inline bool room_for(const struct room *room, unsigned class, uint64_t count, uint64_t bound)
{
    uint64_t own = bound / ROOM_SHARE, owed = 0; /* to the other classes */
    for (unsigned i = 0; i < 3; i++)
        if (i != class - CLASS_INTERACTIVE)
            owed += own - MIN(own, room->held_by[i]);
    if (room->held_by[class - CLASS_INTERACTIVE] + count <= own)
        owed = 0;
    return room->held + count + owed <= bound;
}
