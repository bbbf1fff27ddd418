/* One HTTP connection: bytes in, requests out in order, answers in the same order, bytes out.
 *
 *                    ┌────────────── next request ───────────────┐
 *   accept ─► IDLE ──┴► HEAD ──► BODY ──► BUSY ──answered, nothing read─► IDLE
 *              │          │        │        │
 *              └──────────┴────────┴────────┴─► CLOSING ──all written──► LINGER ──peer closed, or 2 s──► freed
 *
 * The state says what the input side waits for and so which clock runs; several requests may be pending meanwhile
 * (up to api.pipeline, see learn_depth). HEAD and BODY are clocks of the whole head and the whole body, not of a byte. Answers
 * that wait for room in the socket have a clock of their own: 16 KiB, or all that is left, must go within api.write_ms.
 *
 * The descriptor stays armed for reading from accept to close, edge-triggered, so that a leaving caller is noticed at once in
 * every state, at no cost per request. What an end of input means: see exchange.h, `left`. */
#pragma once

#include <event2/event.h>
#include <event2/event_struct.h>

#include "api/exchange.h"

struct server;
struct inbox;

/* One running clock, on its kind's list in the server. */
struct conn_clock {
    struct list node;
    msec due_at;
};

enum conn_state {
    CONN_IDLE,    /* clock api.idle_ms */
    CONN_HEAD,    /* clock api.head_ms */
    CONN_BODY,    /* clock api.body_ms */
    CONN_BUSY,    /* no clock: answers are pending, their handlers have deadlines */
    CONN_CLOSING, /* no clock but the writer's: nothing more is read; ends when all answers are written */
    CONN_LINGER,  /* clock: our side is shut, input is thrown away so that no reset destroys the last answer on its way */
};

struct conn {
    struct server *server;
    int fd;
    enum conn_state state;
    struct event readable, writable;
    struct list in_server;         /* all connections */
    struct list in_turn;           /* has something to do in this turn: parse, read on, write, end */
    struct conn_clock clock;       /* of its state */
    struct conn_clock write_clock; /* while `blocked` */
    size_t taken_bytes;            /* by the socket since that one was started */

    struct list exchanges; /* struct exchange, owned, oldest first */
    unsigned exchanges_count;
    unsigned depth;       /* so many of them at once */
    struct inbox *in;     /* owned; NULL while nothing has arrived */
    struct evbuffer *out; /* owned; NULL while nothing is to be written */
    size_t out_bytes;     /* of all answers not written yet, those that wait for an earlier one included */
    bool more;            /* the socket may hold more: it was not read to its end */
    bool ending;          /* the kernel has seen the peer's end of input: read up to it */
    bool ended;           /* … and we have read it */
    bool blocked;         /* the socket takes no more; `writable` is armed */
    bool broken;          /* freed at the end of the turn */
};

/* Takes fd over. NULL: no memory, fd is closed. */
struct conn *conn_new(struct server *server, int fd);
/* Pending exchanges are told (left, gone). */
void conn_free(struct conn *c);

/* Reading half of the turn: parse what is buffered if there is room for another request, read what the socket still holds. */
void conn_serve(struct conn *c);
/* Writing half: one write of all that is ready; then the end if there is nothing left to wait for. The only place that frees a
 * connection while the server lives. */
void conn_flush(struct conn *c);
/* The clock of its state, or of its writer, has passed. */
void conn_expired(struct conn *c);
void conn_write_expired(struct conn *c);
/* The server drains. The next request a connection brings, or half of which has arrived, is its last, and its answer says so; a
 * pending answer says so if nothing follows it. An idle connection has SERVER_FAREWELL_MS to bring one: a caller that sends at
 * the moment we close would see an error it can not explain. */
void conn_drain(struct conn *c);

/* exchange.c's. The answer's bytes go where conn_answer_buffer says (NULL: no memory), then it is called answered, which may
 * free x; or, without memory for an answer, the connection is broken. bytes: of head and body. */
struct evbuffer *conn_answer_buffer(struct exchange *x);
void conn_answered(struct exchange *x, size_t bytes);
void conn_break(struct conn *c);

/* Of an answer that is written bit by bit: bytes of x go behind what waits to be written; or, `now`, into the socket, as far as
 * it takes them and nothing waits before them. */
struct iovec;
void conn_stream(struct exchange *x, const struct iovec *parts, int count, bool now);
/* x's answer takes its time: a peer that vanished without a word is given up when it has not acknowledged for api.write_ms, and
 * what a slow one does not take waits here, where it is counted, and not in the kernel. */
void conn_hold(struct exchange *x);
/* No request behind x is looked at, and the connection ends with its answer. */
void conn_last(struct exchange *x);

/* Empties the server's pool of exchanges. */
void conn_pool_free(struct server *server);
