/* A peer's lasting connection to its broker: a DEALER, the session on it, and coming back. Used by api and worker children
 * and by quernctl. HELLO is said until WELCOME; on a broken transport, a new epoch, HELLO_WANTED or silence (three
 * heartbeats) the DEALER is destroyed and made anew, so that nothing queued for a dead broker reaches the next. Waits
 * between tries: 20 ms doubling to 1 s (60 ms where there are several places to try), with jitter; 5 s after REFUSED.
 * Heartbeats are sent on WELCOME's interval. What comes and goes is logged here (link.up, link.down, frame.bad). No hook may
 * free the link. */
#pragma once

#include "proto/wire.h"

struct link;

struct link_options {
    const char *endpoints;   /* where the broker may be: one, or several parted by commas, tried in turn (proto/places.h) */
    const char *server_keys; /* its public key at each tcp endpoint, or one for all; may be NULL without tcp */
    enum role role;
    const char *name;                       /* for HELLO: "host:pid" */
    struct wire_key public_key, secret_key; /* ours; tcp only */
};

struct link_hooks {
    /* Fill the role's own fields (slots, served, held); lists must live until the call after returns. May be NULL. */
    void (*hello)(void *arg, struct msg_hello *hello);
    /* Likewise for heartbeats. May be NULL. */
    void (*heartbeat)(void *arg, struct msg_heartbeat *heartbeat);
    /* The session is open, or, without a `down` before, opened again by a second WELCOME. Everything sent before on an older
     * session may be lost: send again what needs an answer. new_epoch: another broker, or the same one started again. */
    void (*up)(void *arg, const struct msg_welcome *welcome, bool new_epoch);
    void (*down)(void *arg);
    /* Every other frame the broker may send, HEARTBEAT_ACK, DRAIN and RELOAD included. Lent for the call. */
    void (*frame)(void *arg, const struct frame *frame);
    void *arg;
};

/* options are copied. Starts at once; hooks are called from link_turn only. instance is made here (random). ERR_SETTINGS,
 * ERR_SYSTEM, ERR_NOMEM. */
MUST_USE enum err link_new(struct loop *loop, const struct link_options *options, struct link_hooks hooks,
                           struct link **ret_link);
/* Says BYE if up. */
void link_free(struct link **link);

/* Call once per turn: receives, keeps the session. */
void link_turn(struct link *link);

bool link_is_up(const struct link *link);
uint64_t link_epoch(const struct link *link);
/* When the broker was last heard of, on the loop's clock; 0: never. */
msec link_heard_at(const struct link *link);

/* ERR_CLOSED while down; ERR_WOULD_BLOCK; ERR_LIMIT, ERR_MALFORMED; ERR_NOMEM. fields and body as for frame_encode and
 * wire_send. */
MUST_USE enum err link_send(struct link *link, enum message message, const void *fields, struct blob *body);

/* Bytes sent in this session that no frame of the broker has acknowledged yet. */
uint64_t link_unacked_bytes(const struct link *link);

struct link_counts {
    uint64_t frames_bad;   /* not allowed by the protocol: dropped */
    uint64_t frames_stale; /* of an earlier epoch, or outside a session: dropped */
    uint64_t sessions;     /* opened */
};
const struct link_counts *link_counts(const struct link *link);
