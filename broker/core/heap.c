#include "broker/core/heap.h"

#include <stdlib.h>

void heap_init(struct heap *heap, heap_less *less)
{
    *heap = (struct heap){.less = less};
}

void heap_done(struct heap *heap)
{
    free(heap->nodes);
    *heap = (struct heap){.less = heap->less};
}

enum err heap_reserve(struct heap *heap, uint32_t count)
{
    if (count <= heap->size)
        return ERR_OK;
    uint32_t size = MAX(count, heap->size ? heap->size * 2 : 8);
    struct heap_node **nodes = realloc(heap->nodes, size * sizeof *nodes);
    if (!nodes)
        return ERR_NOMEM;
    heap->nodes = nodes;
    heap->size = size;
    return ERR_OK;
}

static void put(struct heap *heap, uint32_t at, struct heap_node *node)
{
    heap->nodes[at] = node;
    node->place = at + 1;
}

static void up(struct heap *heap, uint32_t at, struct heap_node *node)
{
    for (; at; at = (at - 1) / 2) {
        struct heap_node *parent = heap->nodes[(at - 1) / 2];
        if (!heap->less(node, parent))
            break;
        put(heap, at, parent);
    }
    put(heap, at, node);
}

static void down(struct heap *heap, uint32_t at, struct heap_node *node)
{
    for (uint32_t child; (child = 2 * at + 1) < heap->count; at = child) {
        if (child + 1 < heap->count && heap->less(heap->nodes[child + 1], heap->nodes[child]))
            child++;
        if (!heap->less(heap->nodes[child], node))
            break;
        put(heap, at, heap->nodes[child]);
    }
    put(heap, at, node);
}

void heap_push(struct heap *heap, struct heap_node *node)
{
    assert(!heap_has(node) && heap->count < heap->size);
    up(heap, heap->count++, node);
}

void heap_fix(struct heap *heap, struct heap_node *node)
{
    assert(heap_has(node));
    uint32_t at = node->place - 1;
    up(heap, at, node);
    down(heap, node->place - 1, node);
}

void heap_remove(struct heap *heap, struct heap_node *node)
{
    if (!heap_has(node))
        return;
    uint32_t at = node->place - 1;
    struct heap_node *last = heap->nodes[--heap->count];
    node->place = 0;
    if (last == node)
        return;
    put(heap, at, last);
    heap_fix(heap, last);
}
