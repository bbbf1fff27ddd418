/* A peer's lasting connection to its broker: a DEALER, the session on it, and coming back. Used by api and worker children and by
 * quernctl. HELLO is said until WELCOME; on a broken transport, a new epoch, HELLO_WANTED or silence (three heartbeats) the DEALER is
 * destroyed and made anew, so that nothing queued for a dead broker reaches the next. Waits between tries: 20 ms doubling to 1 s, with
 * jitter. Heartbeats are sent on WELCOME's interval. */
#pragma once

#include "proto/wire.h"

struct link;

struct link_options {
    const char *endpoint;
    enum role role;
    const char *name; /* for HELLO: "host:pid" */
    struct wire_key public_key, secret_key, server_key; /* tcp only */
};

struct link_hooks {
    /* Fill the role's own fields (slots, served, held); lists must live until the call after returns. May be NULL. */
    void (*hello)(void *arg, struct msg_hello *hello);
    /* Likewise for heartbeats. May be NULL. */
    void (*heartbeat)(void *arg, struct msg_heartbeat *heartbeat);
    /* The session is open. Everything sent before on an older session may be lost: send again what needs an answer.
     * new_epoch: another broker, or the same one started again. */
    void (*up)(void *arg, const struct msg_welcome *welcome, bool new_epoch);
    void (*down)(void *arg);
    /* Every other frame the broker may send, HEARTBEAT_ACK, DRAIN and RELOAD included. Lent for the call. */
    void (*frame)(void *arg, const struct frame *frame);
    void *arg;
};

/* Starts at once. instance is made here (random). ERR_SETTINGS, ERR_SYSTEM, ERR_NOMEM. */
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

/* ERR_CLOSED while down; ERR_WOULD_BLOCK; ERR_LIMIT; ERR_NOMEM. fields and body as for frame_encode and wire_send. */
MUST_USE enum err link_send(struct link *link, enum message message, const void *fields, struct blob *body);
