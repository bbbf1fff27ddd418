/* One lasting connection to Redis: hiredis's formatter and reader over a libevent bufferevent (unix socket, TCP, TLS), because
 * hiredis 0.14 has no TLS, frees its async context under its callers, and knows no deadlines. Commands are pipelined in the
 * order given and answered in that order. The connection is made, and made again with backoff and jitter, on its own.
 *
 * After a break nothing is sent again by this module: every command still unanswered gets a NULL reply, because only its owner
 * knows whether repeating it is safe. */
#pragma once

#include <hiredis/hiredis.h>

#include "common/base.h"
#include "common/loop.h"

struct redis;

struct redis_options {
    const char *socket;   /* a unix socket's path, or NULL for TCP */
    const char *host;     /* with TCP: a numeric address or a name resolved without blocking */
    unsigned port;
    bool tls;
    const char *tls_ca_file; /* NULL: the system's roots */
    const char *user;        /* NULL: no AUTH */
    const char *password;    /* copied and wiped when freed */
    unsigned db;
    msec connect_timeout_ms; /* 0: 2 000 */
    msec reply_timeout_ms;   /* 0: none. When the oldest command waits longer, the connection is broken */
    size_t reply_max_bytes;  /* 0: 64 MiB. A larger reply breaks the connection */
};

/* up: AUTH and SELECT done, the pipeline is empty; commands given inside this callback are the first on the connection.
 * down: every pending command has been answered with NULL. Neither callback may free the redis. */
struct redis_hooks {
    void (*up)(void *arg);
    void (*down)(void *arg, const char *reason);
    void *arg;
};

/* reply: lent for the call; NULL when the connection broke first. Error replies arrive as REDIS_REPLY_ERROR. */
typedef void redis_on_reply(void *arg, const redisReply *reply);

/* options are copied. Starts connecting. NULL when there is no memory. */
MUST_USE struct redis *redis_new(struct loop *loop, const struct redis_options *options, struct redis_hooks hooks);
/* Pending commands are dropped without a callback. */
void redis_free(struct redis **redis);

bool redis_is_up(const struct redis *redis);
/* Commands sent or queued and not answered. */
size_t redis_pending(const struct redis *redis);
/* How long the oldest of them has waited, in ms; 0 when there is none. */
msec redis_waiting_ms(const struct redis *redis);

/* Appends one command. Bytes are copied into the output buffer; on_reply may be NULL. ERR_CLOSED while down, ERR_NOMEM; then
 * on_reply is not called. Output leaves at redis_flush, or by itself at the end of the wake-up. */
MUST_USE enum err redis_command(struct redis *redis, redis_on_reply *on_reply, void *arg, const struct span *argv,
                                size_t argc);
/* Writes what is gathered, once. Call at the end of the turn. */
void redis_flush(struct redis *redis);
/* Breaks the connection now and makes a new one: what a caller does who sees a reply it cannot trust. */
void redis_reset(struct redis *redis, const char *reason);
