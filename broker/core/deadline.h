/* Everything that happens later, soonest first. An entry's instant may be earlier than what is really due: whoever handles it
 * looks, and arms it again. So renewing a lease costs nothing until its old end comes by. */
#pragma once

#include "broker/core/heap.h"

enum due_of { DUE_JOB = 1, DUE_WORKER };

struct due {
    msec at;
    struct heap_node node;
    uint8_t of;
};

void deadline_init(struct heap *deadlines);
/* MSEC_NEVER removes. Room must be reserved for entries not yet in. */
void deadline_set(struct heap *deadlines, struct due *due, msec at);
/* Only if `at` is sooner than what is set, or nothing is. */
void deadline_sooner(struct heap *deadlines, struct due *due, msec at);
static inline struct due *deadline_top(const struct heap *deadlines)
{
    struct heap_node *top = heap_top(deadlines);
    return top ? CONTAINER_OF(top, struct due, node) : NULL;
}
