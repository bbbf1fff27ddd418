/* Intrusive doubly linked list. The list is a ring through a head that holds no element; an element embeds a `struct list` and
 * is found again with CONTAINER_OF. A list never owns: its header's comment says who frees the elements.
 *
 * A node on no list points to itself. So a node must be initialised before its first use, removing twice is harmless, and
 * list_empty(&node) asks whether the node is on a list at all. */
#pragma once

#include "common/base.h"

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *list)
{
    list->next = list->prev = list;
}

static inline bool list_empty(const struct list *list)
{
    return list->next == list;
}

static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/* The node must be on no list: moving is removing first, said at the place where it happens. */
static inline void list_insert_before(struct list *at, struct list *node)
{
    assert(list_empty(node));
    node->next = at;
    node->prev = at->prev;
    at->prev->next = node;
    at->prev = node;
}

static inline void list_push_back(struct list *list, struct list *node)
{
    list_insert_before(list, node);
}
static inline void list_push_front(struct list *list, struct list *node)
{
    list_insert_before(list->next, node);
}

/* NULL when the list is empty. */
static inline struct list *list_first(const struct list *list)
{
    return list_empty(list) ? NULL : list->next;
}
static inline struct list *list_last(const struct list *list)
{
    return list_empty(list) ? NULL : list->prev;
}

/* The node after `node`, NULL when it is the last of `list`. */
static inline struct list *list_next(const struct list *list, const struct list *node)
{
    return node->next == list ? NULL : node->next;
}

/* Moves all nodes of `from` to the end of `to`; `from` is empty afterwards. */
static inline void list_append(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

/* struct list *node; LIST_EACH (node, &head) … The body must not remove `node`; with _SAFE it may remove `node` only. */
#define LIST_EACH(node, head) for ((node) = (head)->next; (node) != (head); (node) = (node)->next)
#define LIST_EACH_SAFE(node, after, head)                                                                                      \
    for ((node) = (head)->next, (after) = (node)->next; (node) != (head); (node) = (after), (after) = (node)->next)
