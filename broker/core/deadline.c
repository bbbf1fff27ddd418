#include "broker/core/deadline.h"

static bool sooner(const struct heap_node *a, const struct heap_node *b)
{
    return CONTAINER_OF(a, const struct due, node)->at < CONTAINER_OF(b, const struct due, node)->at;
}

void deadline_init(struct heap *deadlines)
{
    heap_init(deadlines, sooner);
}

void deadline_set(struct heap *deadlines, struct due *due, msec at)
{
    if (at == MSEC_NEVER) {
        heap_remove(deadlines, &due->node);
        return;
    }
    due->at = at;
    if (heap_has(&due->node))
        heap_fix(deadlines, &due->node);
    else
        heap_push(deadlines, &due->node);
}

void deadline_sooner(struct heap *deadlines, struct due *due, msec at)
{
    if (at != MSEC_NEVER && (!heap_has(&due->node) || at < due->at))
        deadline_set(deadlines, due, at);
}
