/* One lasting connection to Redis: hiredis's reply reader over common/dial (unix socket, TCP, TLS), because hiredis 0.14 has no
 * TLS, frees its async context under its callers, and knows no deadlines. Commands are pipelined in the order given and
 * answered in that order. The connection is made, and made again with backoff and jitter (50 ms doubling to 2 s), on its own.
 *
 * After a break nothing is sent again by this module: every command still unanswered gets a NULL reply, because only its owner
 * knows whether repeating it is safe. Every command that was accepted is answered exactly once, by a reply or by NULL.
 *
 * Callbacks (replies and hooks) run in the loop's handlers, one at a time, in the order of the commands. In each of them
 * commands may be given and redis_reset and redis_flush called; redis_free may not. The one exception to "in the handlers":
 * redis_reset outside a callback answers with NULL and calls `down` before it returns.
 *
 * Begin and end of a lasting condition are logged here (redis.up, redis.down): owners need not. */
#pragma once

#include <hiredis/hiredis.h>

#include "common/base.h"
#include "common/loop.h"

struct redis;

struct redis_options {
    const char *socket; /* a unix socket's path, or NULL for TCP */
    const char *host;   /* with TCP: a numeric address or a name, looked up without blocking for every new connection */
    unsigned port;
    /* Instead of host and port: Sentinels, HOST:PORT parted by commas, which are asked where the master is for every new
     * connection, and once a second whether it still is (common/sentinel.h). Whoever does not say that it is a master is left.
     */
    const char *sentinels;
    const char *master;                            /* what they call it */
    const char *sentinel_user, *sentinel_password; /* theirs, as user and password below */
    bool tls;                                      /* with TCP: the certificate is checked against the CA file and `host` */
    const char *tls_ca_file;                       /* NULL: the system's roots */
    const char *user;                              /* NULL: the user "default" */
    const char *password;                          /* NULL: none is sent, whatever `user` says. Copied, and wiped when freed */
    unsigned db;
    msec connect_timeout_ms; /* 0: 2 000. Until `up`: looking up, connecting, TLS and the first answer */
    msec reply_timeout_ms;   /* 0: none. When the oldest command waits longer, the connection is broken */
    bool quiet;              /* redis.up and redis.down are not logged */
    size_t reply_max_bytes;  /* 0: 64 MiB. A larger reply breaks the connection, as does one of more than a million elements */
};

/* Neither callback may free the redis. */
struct redis_hooks {
    /* Redis has answered HELLO (which every ACL allows, and which is answered while it loads), AUTH and SELECT are done, the
     * pipeline is empty: commands given in here are the first on the connection. A Redis still loading says so to them. */
    void (*up)(void *arg);
    /* Every pending command has been answered with NULL. Follows each `up` once; attempts that never came up are not reported
     * (see redis_reason). reason is lent for the call. */
    void (*down)(void *arg, const char *reason);
    void *arg;
};

/* reply: lent for the call; NULL when the connection broke first. Error replies (LOADING, READONLY, OOM, NOPERM …) arrive as
 * REDIS_REPLY_ERROR. The command is no longer pending. */
typedef void redis_on_reply(void *arg, const redisReply *reply);

/* options are copied. Starts connecting. NULL when there is no memory. */
MUST_USE struct redis *redis_new(struct loop *loop, const struct redis_options *options, struct redis_hooks hooks);
/* Pending commands are dropped without a callback. Before its loop. */
void redis_free(struct redis **redis);

bool redis_is_up(const struct redis *redis);
/* Why it is not up, for people: the last break or failed attempt; "" while up and before the first. Lent until it changes. */
const char *redis_reason(const struct redis *redis);
/* Commands sent or queued and not answered. */
size_t redis_pending(const struct redis *redis);
/* How long the oldest of them has waited, in ms; 0 when there is none. */
msec redis_waiting_ms(const struct redis *redis);

/* Appends one command. Bytes are copied, once, into the output buffer; on_reply may be NULL. ERR_CLOSED while down, ERR_NOMEM;
 * then on_reply is not called and nothing was sent. Output leaves at redis_flush, or by itself at the end of the turn. How much
 * may wait here is for the caller to bound (redis_pending, redis_waiting_ms). SUBSCRIBE and MONITOR, whose replies are not one
 * per command, are not for this connection. */
MUST_USE enum err redis_command(struct redis *redis, redis_on_reply *on_reply, void *arg, const struct span *argv, size_t argc);
/* Writes what is gathered, once. Call at the end of the turn. */
void redis_flush(struct redis *redis);
/* Breaks the connection now and makes a new one: what a caller does who sees a reply it cannot trust. Inside a callback it
 * happens when that callback returns, and until then commands are refused with ERR_CLOSED. Nothing happens while there is no
 * connection. */
void redis_reset(struct redis *redis, const char *reason);
