#include "broker/ring.h"

static struct commit *commit_of(struct list *node)
{
    return node ? CONTAINER_OF(node, struct commit, node) : NULL;
}
static struct commit *first(const struct ring *ring)
{
    return commit_of(list_first(&ring->commits));
}
static struct commit *after(const struct ring *ring, const struct commit *c)
{
    return commit_of(list_next(&ring->commits, &c->node));
}

void ring_init(struct ring *ring)
{
    *ring = (struct ring){0};
    list_init(&ring->commits);
}

void ring_done(struct ring *ring)
{
    for (struct commit *c; (c = first(ring));)
        commit_free(&c);
}

void ring_start(struct ring *ring, uint64_t epoch, struct commit_at base)
{
    assert(epoch > ring->epoch);
    struct commit_at before = base;
    struct list *node;
    ring->epoch = epoch;
    ring->base = base;
    ring->closed_n = ring->sent_n = ring->stored_n = ring->most_sent_n = 0;
    LIST_EACH (node, &ring->commits) {
        struct commit_at at = {epoch, ++ring->closed_n};
        commit_renumber(commit_of(node), at, before);
        before = at;
    }
    ring->unsent = ring->unstored = first(ring);
    ring->waiting_bytes = ring->bytes;
}

struct commit_at ring_next_at(const struct ring *ring)
{
    return (struct commit_at){ring->epoch, ring->closed_n + 1};
}

struct commit_at ring_before_next(const struct ring *ring)
{
    return ring->closed_n ? (struct commit_at){ring->epoch, ring->closed_n} : ring->base;
}

void ring_push(struct ring *ring, struct commit **commit)
{
    struct commit *c = TAKE(*commit);
    assert(commit_at_equal(c->at, ring_next_at(ring)));
    list_push_back(&ring->commits, &c->node);
    ring->closed_n = c->at.n;
    ring->bytes += c->bytes;
    ring->waiting_bytes += c->bytes;
    if (!ring->unsent)
        ring->unsent = c;
    if (!ring->unstored)
        ring->unstored = c;
}

struct commit *ring_send(struct ring *ring)
{
    struct commit *c = ring->unsent;
    if (!c)
        return NULL;
    ring->unsent = after(ring, c);
    ring->sent_n = c->at.n;
    ring->most_sent_n = MAX(ring->most_sent_n, c->at.n);
    return c;
}

uint64_t ring_stored(struct ring *ring, uint64_t n, msec now, struct list *released)
{
    uint64_t number = 0;
    while (ring->unstored && ring->unstored->at.n <= n) {
        struct commit *c = ring->unstored;
        c->stored_at = now;
        ring->waiting_bytes -= c->bytes;
        ring->stored_n = c->at.n;
        ring->held_bytes -= c->held_bytes;
        c->held_bytes = 0;
        list_append(released, &c->held);
        ring->stored_count++;
        ring->stored_writes += c->writes;
        ring->stored_ms += (uint64_t)MAX(now - c->opened_at, 0);
        number = MAX(number, c->last);
        if (ring->unsent == c) { /* the store had it although it was not sent on this connection */
            ring->unsent = after(ring, c);
            ring->sent_n = c->at.n;
        }
        ring->unstored = after(ring, c);
    }
    return number;
}

/* The n that `at` has in this epoch; false: it is no place within reach. */
static bool reach(const struct ring *ring, struct commit_at at, uint64_t *ret_n)
{
    struct commit *oldest = first(ring);
    uint64_t n = at.epoch == ring->epoch ? at.n : 0;
    if (at.epoch != ring->epoch && !commit_at_equal(at, ring->base))
        return false;
    if (n > ring->closed_n || (oldest ? n + 1 < oldest->at.n : n != ring->closed_n))
        return false;
    *ret_n = n;
    return true;
}

bool ring_rewind(struct ring *ring, struct commit_at at)
{
    uint64_t n;
    if (!reach(ring, at, &n))
        return false;
    struct list *node;
    ring->unsent = NULL;
    LIST_EACH (node, &ring->commits) {
        struct commit *c = commit_of(node);
        if (c->at.n <= n)
            continue;
        if (!ring->unsent)
            ring->unsent = c;
        if (c->at.n <= ring->stored_n)
            ring->waiting_bytes += c->bytes; /* it was there and is no more */
    }
    if (n < ring->stored_n) {
        ring->stored_n = n;
        ring->unstored = ring->unsent;
    }
    ring->sent_n = n;
    return true;
}

void ring_trim(struct ring *ring, msec now, size_t bytes_max)
{
    for (struct commit *c; (c = first(ring)) && c != ring->unstored;) {
        msec age = now - c->stored_at;
        if (age < RING_KEEP_MS || (age < RING_KEEP_MAX_MS && ring->bytes <= bytes_max))
            return;
        ring->bytes -= c->bytes;
        commit_free(&c);
    }
}

struct commit *ring_find(const struct ring *ring, uint64_t number)
{
    struct commit *found = NULL;
    for (struct list *node = ring->commits.prev; node != &ring->commits; node = node->prev) {
        struct commit *c = commit_of(node);
        if (c->first && c->first <= number)
            return number <= c->last ? c : found;
    }
    return found;
}
