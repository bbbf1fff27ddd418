/* The closed commits of one epoch, oldest first: those the store has (kept to heal one that comes back older), those on their
 * way, and those that wait. Pure: it decides what is sent next and what may be forgotten, and touches no connection.
 *
 *      first ─────────── stored_n ─────────── sent_n ─────────── closed_n
 *        in the store       │    on their way    │     waiting
 *
 * A commit names its predecessor, so the store takes them in this order or not at all. */
#pragma once

#include "broker/commit.h"

#define RING_KEEP_MS     3000 /* at least so long after its reply: `everysec` may hold back even write(2) by 2 s */
#define RING_KEEP_MAX_MS 5000 /* at most so long, while the ring is not full: at 10 000 jobs/s a second is about 25 MB */

struct ring {
    struct list commits;   /* of struct commit, owned */
    struct commit *unsent; /* the first that was not sent on this connection; NULL: all were */
    struct commit *unstored;
    uint64_t epoch;
    struct commit_at base; /* what commit 1 of this epoch follows */
    uint64_t closed_n, sent_n, stored_n;
    uint64_t most_sent_n;                            /* ever, in this epoch: sending one again is a resend */
    size_t bytes;                                    /* of all commits */
    size_t waiting_bytes;                            /* of those not stored */
    size_t held_bytes;                               /* of what they hold */
    uint64_t stored_count, stored_writes, stored_ms; /* since start: commits, writes in them, from their opening until stored */
};

void ring_init(struct ring *ring);
/* Frees the commits; their `held` must be empty. */
void ring_done(struct ring *ring);

/* A new epoch: every commit in the ring is renumbered from 1 and must be sent again. Nothing may be on its way. base: the
 * store's `last`. */
void ring_start(struct ring *ring, uint64_t epoch, struct commit_at base);

/* What the next commit to be closed is, and what it follows. */
struct commit_at ring_next_at(const struct ring *ring);
struct commit_at ring_before_next(const struct ring *ring);

/* Takes a closed commit that was closed as ring_next_at. */
void ring_push(struct ring *ring, struct commit **commit);

/* The next to send; NULL: none waits. It counts as sent. */
struct commit *ring_send(struct ring *ring);

/* The store has n and all before it. Moves what they held, in order, to the end of `released`; returns the last write's number,
 * 0 when there was none. */
uint64_t ring_stored(struct ring *ring, uint64_t n, msec now, struct list *released);

/* The store's `last` is `at`: what is sent next follows it. Nothing may be on its way. false: the ring does not reach back to
 * there (or the store is ahead of it, which no store of ours can be); nothing changed. */
bool ring_rewind(struct ring *ring, struct commit_at at);

/* Forgets stored commits that are old enough, as many as `bytes_max` asks for. */
void ring_trim(struct ring *ring, msec now, size_t bytes_max);

/* The commit that holds a core's write; NULL: it is not here any more. */
struct commit *ring_find(const struct ring *ring, uint64_t number);
