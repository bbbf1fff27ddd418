/* One ROUTER socket and the sessions on it: HELLO to BYE, silence, death; who may speak, under which epoch, and how much may be
 * unacknowledged. What a role says beyond that is its own port's matter (port_api, port_worker, port_monitor).
 *
 * A peer is its instance, bound to its CURVE key, never its routing id. A HELLO of an instance that has a session begins a new
 * one with a new number. Of a worker the core sees that HELLO and no GONE for the old number, so its leases go on; of an api
 * child it sees the GONE after the HELLO, since watches belong to a session. The one exception: HELLO said again on the same
 * route before anything else came from there is the same HELLO, because WELCOME was slow; it gets the same WELCOME again and
 * the core does not hear of it. */
#pragma once

#include <uthash.h>

#include "broker/broker.h"
#include "proto/wire.h"

#define PORT_PEERS_MAX 4096
#define PORT_SILENCE   3 /* heartbeats without a frame: the peer is gone */

struct port;

struct peer {
    peer_number number;
    struct port *port;
    struct wire_route route;
    uint8_t instance[16];
    char key[41];
    char name[PROTO_NAME_BYTES + 1];
    uint16_t minor;
    bool settled;                /* it has said something after its HELLO, so it has our WELCOME */
    bool closed;                 /* out of the tables; freed at the end of the turn */
    uint64_t received;           /* bytes of its frames in this session */
    uint64_t sent, acked;        /* of ours */
    msec heard_at;               /* loop time */
    struct frame_buffer welcome; /* until settled */
    struct list node;            /* port's peers, or its dead */
    UT_hash_handle by_number, by_route, by_instance;
};

struct port_hooks {
    enum role role;
    size_t peer_size; /* of the port's own struct, which begins with struct peer; it is zeroed */
    /* Opens the session with the rest of the system; WELCOME is sent in answer, now or later. An error refuses the session. */
    enum err (*opened)(void *arg, struct peer *peer, const struct msg_hello *hello);
    /* Any frame but HELLO and BYE. Lent for the call. */
    void (*frame)(void *arg, struct peer *peer, const struct frame *frame);
    /* The session has ended and the peer is about to be freed; replaced: by a newer session of the same instance. */
    void (*closed)(void *arg, struct peer *peer, bool bye, bool replaced);
    void *arg;
};

struct port_stats {
#define STAT(name, kind, sentence) uint64_t name;
#include "broker/port_stats.def"
#undef STAT
};

/* Binds. endpoint: as in the settings, "" for ipc in the state directory under `name`. ERR_SETTINGS, ERR_SYSTEM (logged),
 * ERR_NOMEM. */
MUST_USE enum err port_new(struct broker *broker, const char *endpoint, const char *name, struct port_hooks hooks,
                           struct port_stats *stats, struct port **ret_port);
void port_free(struct port **port);

/* The keys that may connect as this role, for the caller to free. ERR_NOMEM. */
MUST_USE enum err port_keys(const struct conf *conf, enum role role, struct wire_key **ret_keys, size_t *ret_count);
/* Which keys may connect, after a reload. */
MUST_USE enum err port_allow(struct port *port, const struct conf *conf);

/* Receives and hands on, at most 256 frames. */
void port_turn(struct port *port);
/* This process stood still so long: nobody was silent meanwhile. */
void port_excuse(struct port *port, msec ms);
/* Ends the sessions of the silent; with `probe` asks the transport about all others. */
void port_watch(struct port *port, bool probe);
/* Frees the sessions that ended in this turn. */
void port_bury(struct port *port);
/* The epoch has changed: every session is void, its peer is told to say HELLO when it speaks next. */
void port_forget(struct port *port);

/* Sends to one peer. ERR_UNREACHABLE, ERR_WOULD_BLOCK: not sent, and its session has ended. ERR_LIMIT, ERR_NOMEM: not sent. */
enum err port_send(struct peer *peer, enum message message, const void *fields, struct blob *body);
/* The same with a header encoded by port_encode. */
enum err port_send_encoded(struct peer *peer, enum message message, struct span header, struct blob *body);
/* The same, but a full queue (ERR_WOULD_BLOCK) does not end the session. */
enum err port_try_encoded(struct peer *peer, enum message message, struct span header, struct blob *body);
MUST_USE enum err port_encode(const struct peer *peer, enum message message, const void *fields, struct frame_buffer *out);
/* To every peer; who cannot be reached has gone. */
void port_send_all(struct port *port, enum message message, const void *fields);

/* Fills in what every WELCOME says. */
void port_fill_welcome(const struct port *port, struct msg_welcome *welcome);
/* Sends an encoded WELCOME and keeps it until the peer has it. */
enum err port_send_welcome(struct peer *peer, struct span header);

/* A connection without a handshake has ended: counted and logged. The hook of a wire, whose arg is the port. */
void port_stranger(void *arg);

/* A frame that the table allows and the conversation does not: it is dropped, counted and logged. */
void port_bad(struct peer *peer, const char *why);

/* Ends the session; tells the core and its port. */
void port_close(struct peer *peer, bool bye, const char *why);
/* The same, and the peer is told to begin another at once: what it is owed, or what it said, was lost here. */
void port_restart(struct peer *peer, const char *why);

static inline uint64_t peer_unacked(const struct peer *peer)
{
    return peer->sent > peer->acked ? peer->sent - peer->acked : 0;
}

/* What is unsent when the port is freed may take so long to leave. */
void port_linger(struct port *port, msec linger_ms);

size_t port_peers(const struct port *port);
/* struct list of struct peer by `node`. */
struct list *port_list(struct port *port);
