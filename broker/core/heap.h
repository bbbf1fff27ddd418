/* A binary heap of intrusive nodes that know their place, so that any entry can be removed or moved in O(log n).
 * Owns only its array of pointers. Room is made ahead with heap_reserve, so that pushing cannot fail half-way through a move.
 */
#pragma once

#include "common/base.h"

struct heap_node {
    uint32_t place; /* 1 + index while in a heap, 0 outside */
};

typedef bool heap_less(const struct heap_node *a, const struct heap_node *b);

struct heap {
    struct heap_node **nodes;
    uint32_t count, size;
    heap_less *less;
};

void heap_init(struct heap *heap, heap_less *less);
void heap_done(struct heap *heap);

/* Room for `count` nodes in all. ERR_NOMEM. */
MUST_USE enum err heap_reserve(struct heap *heap, uint32_t count);

/* The node must be outside, and room reserved. */
void heap_push(struct heap *heap, struct heap_node *node);
/* Harmless outside. */
void heap_remove(struct heap *heap, struct heap_node *node);
/* After the node's order has changed. */
void heap_fix(struct heap *heap, struct heap_node *node);

static inline struct heap_node *heap_top(const struct heap *heap)
{
    return heap->count ? heap->nodes[0] : NULL;
}
static inline bool heap_has(const struct heap_node *node)
{
    return node->place != 0;
}
