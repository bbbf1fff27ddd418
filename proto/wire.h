/* One ZeroMQ socket on the event loop (czmq, CURVE). Hides that its descriptor is edge-triggered (it is drained in
 * wire_turn, and after a turn that sent, ZMQ_EVENTS is read once more before the loop waits), that sends can be lost
 * silently (ROUTER_MANDATORY is set: a dead peer is ERR_UNREACHABLE), and the limits on bytes and parts. Create after fork:
 * ZeroMQ's context is made with the first wire, has one I/O thread, catches no signals and prints nothing. All wires over
 * TCP that bind share one loop (see zap.h). */
#pragma once

#include "common/blob.h"
#include "common/loop.h"
#include "proto/frame.h"

enum wire_kind { WIRE_ROUTER, WIRE_DEALER, WIRE_PUB, WIRE_SUB };

#define WIRE_ROUTE_BYTES 32 /* a routing id, made by ZeroMQ: ours are 5 bytes */

/* Who a message came from. */
struct wire_route {
    uint8_t len;
    uint8_t bytes[WIRE_ROUTE_BYTES];
};

struct wire_key {
    char text[41]; /* Z85 and NUL; "" for none */
};

struct wire_options {
    enum wire_kind kind;
    const char *endpoint; /* tcp endpoints need CURVE: refused without keys. An ipc socket is made 0700, its directory too if it
                           * is not there; one that is, must be ours and closed to others */
    bool bind;
    bool
        brisk; /* connecting over tcp: a broker that is silent is left after 2 s rather than 4; there is another place to try */
    struct wire_key public_key, secret_key; /* ours, for tcp */
    struct wire_key server_key;             /* connecting over tcp: the broker's */
    const struct wire_key *allowed;         /* binding over tcp: public keys let in; others are refused at the handshake */
    size_t allowed_count;
    size_t frame_max_bytes; /* 0: PROTO_FRAME_BYTES; a larger part breaks the connection */
};

struct wire_hooks {
    /* One two-part message. route: ROUTER only. key: the sender's CURVE public key, "" on ipc. All lent for the call.
     * Called only from wire_turn. */
    void (*message)(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body);
    /* A message of other than two parts, a header over its limit, or from a key that is no longer allowed: dropped. */
    void (*bad)(void *arg, const struct wire_route *route, const char *why);
    /* Connecting wires, from the socket's monitor: the transport is connected, CURVE handshake included; or it broke, or the
     * handshake failed. A broken one ZeroMQ connects again by itself; after a handshake that was refused it does not: make a
     * new wire. What is sent while it is not connected is ERR_WOULD_BLOCK: nothing queues for a peer that is away. */
    void (*connected)(void *arg, bool connected);
    /* Connecting was refused; ZeroMQ tries again by itself, every 20 to 60 ms. May be NULL: then nobody is woken for it. */
    void (*refused)(void *arg);
    /* Binding wires: a connection ended that never came through its handshake: a scanner, another protocol, a key that is not
     * allowed. What it sent went nowhere. May be NULL. */
    void (*stranger)(void *arg);
    void *arg;
};

struct wire;

/* ERR_SYSTEM with errno; ERR_SETTINGS: tcp without keys, endpoint not understood, ipc path too long. */
MUST_USE enum err wire_new(struct loop *loop, const struct wire_options *options, struct wire_hooks hooks,
                           struct wire **ret_wire);
/* Unsent messages are dropped, unless wire_linger gave them time. Bodies still referenced are let go by ZeroMQ's thread. Not
 * from a hook. */
void wire_free(struct wire **wire);

/* What is unsent at wire_free may take up to this long to leave, in ZeroMQ's thread; the end of the process waits for it. */
void wire_linger(struct wire *wire, msec linger_ms);

/* The endpoint bound, with the port chosen for tcp://…:*. Lent. */
const char *wire_endpoint(const struct wire *wire);

/* Receives what has arrived, at most 256 messages, and calls the hooks. If more remain, the loop comes back at once. Call
 * once per turn. */
void wire_turn(struct wire *wire);

/* route: NULL unless ROUTER. header is copied; body travels without a copy when large (a reference is kept until sent). body
 * may be NULL. ERR_UNREACHABLE: the peer is gone; ERR_WOULD_BLOCK: its queue is full, or none is connected; ERR_LIMIT: a
 * part is longer than the other side takes, which would break the connection; ERR_NOMEM; ERR_SYSTEM. Nothing was sent then.
 * PUB: to all who are connected; a full queue loses the message for that one. */
MUST_USE enum err wire_send(struct wire *wire, const struct wire_route *route, struct span header, struct blob *body);

/* Over tcp, ROUTER and PUB: from now on, frames of a key not in the list are dropped (hook `bad`) and new handshakes with it
 * refused. Copied. libzmq cannot close one accepted connection: a revoked SUB hears its PUB until that wire is made anew.
 * ERR_SETTINGS: a key is not Z85 of 32 bytes; ERR_NOMEM. */
MUST_USE enum err wire_allow(struct wire *wire, const struct wire_key *allowed, size_t count);

/* Reads a key pair file written by `quernctl keygen`. ERR_SETTINGS: not there, not ours, or readable by others. */
MUST_USE enum err wire_key_read(const char *path, struct wire_key *ret_public, struct wire_key *ret_secret);
/* Makes a pair and writes it 0600; fails if the file exists. */
MUST_USE enum err wire_key_make(const char *path, struct wire_key *ret_public);
