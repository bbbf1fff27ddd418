/* Who may connect over TCP: answers ZeroMQ's question (RFC 27/ZAP) at each CURVE handshake, on the loop. czmq's zauth is not
 * used: it has one list of keys for all sockets of a process, so that a worker's key would open the monitor's feed, and a list
 * inside its thread cannot change while that thread reads it.
 *
 * ZeroMQ asks at one address per context, and czmq has one context per process: so this is one object per process, on the
 * loop of the first member. */
#pragma once

#include "common/list.h"
#include "common/loop.h"

/* One socket that asks. It is found by the ZMQ_ZAP_DOMAIN that it sets. */
struct zap_member {
    struct list node;
    char domain[16];
    /* key: the client's public key in Z85. */
    bool (*allows)(void *arg, const char *key);
    void *arg;
};

/* Join before the socket is bound. Fills `domain`. ERR_SYSTEM. */
MUST_USE enum err zap_join(struct loop *loop, struct zap_member *member, bool (*allows)(void *arg, const char *key), void *arg);
/* Harmless for a member that never joined, if zeroed. */
void zap_leave(struct zap_member *member);
