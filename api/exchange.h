/* One request and its answer. A handler gets both, looks at the request while it is called, and answers through the exchange
 * then or in any later turn; answers of one connection are written in the order of its requests, whatever order they come in.
 *
 *   pending ──exchange_reply, exchange_fail──► answered ──all before it written──► gone
 *      │└─exchange_stream─► streaming ─exchange_end─┘                               │
 *      └──────────── the connection breaks: left(gone) ─────────────────────────────┘ */
#pragma once

#include "api/http.h"
#include "api/trace.h"
#include "common/json.h"
#include "common/list.h"

struct conn;
struct evbuffer;
struct exchange_form;

/* Lent for the handler's call. */
struct request {
    const struct http_head *head;
    enum http_method method;
    struct span path;  /* still percent-encoded, begins with '/'; empty for OPTIONS * */
    struct span query; /* still percent-encoded */
    struct span body;
};

struct exchange {
    /* connection's */
    struct conn *conn;
    struct list in_conn;     /* in its order of arrival */
    struct evbuffer *answer; /* answered while others are before it */
    bool answered;
    bool close;     /* the connection ends with this answer */
    bool head_only; /* HEAD: no body is sent */
    bool chunked;   /* HTTP/1.1: a streamed body comes in chunks */
    bool told;      /* left(x, false) was called */

    const struct exchange_form *form; /* of the route's front end; NULL: ours */

    char request_id[TRACE_ID_MAX + 1];
    char trace[TRACE_PARENT_LEN + 1]; /* "" without one */

    /* The handler's, while it has not answered. left: the caller has closed its sending side (gone = false) and will send no
     * more; it may have left or may still read, so an answer is welcome, at once rather than later. gone = true: the
     * connection broke, the exchange is freed after the call and must not be answered. */
    void (*left)(struct exchange *x, bool gone);
    void *owner;
};

struct reply {
    int status;
    const char *type; /* NULL: application/json */
    struct span body; /* lent for the call */
    const char *allow;
    msec retry_after_ms; /* rounded up to whole seconds, at least 1; with 429 and 503 always sent */
    bool final;
};

/* x may be freed by the time this returns: do not use it again. */
void exchange_reply(struct exchange *x, const struct reply *reply);

/* As exchange_reply with a body written into `body`, which is handed over without a copy when large, and emptied. A `body` that
 * failed is answered with out_of_memory. */
void exchange_reply_json(struct exchange *x, int status, struct json_out *body);

/* {"error":{"code","message","param","request_id"}}. param: the field at fault or NULL; message: NULL for the error's own
 * sentence. */
struct fault {
    enum err error;
    const char *param;
    const char *message;
    msec retry_after_ms;
};
void exchange_fail(struct exchange *x, const struct fault *fault);

/* How another front end writes what went wrong. */
struct exchange_form {
    void (*fault)(struct json_out *out, const struct exchange *x, const struct fault *fault);
};
/* ,"param":…,"request_id":… */
void exchange_put_fault(struct json_out *out, const struct exchange *x, const struct fault *fault);
void exchange_error_body(const struct exchange *x, const struct fault *fault, struct json_out *out);
void exchange_fail_with(struct exchange *x, enum err error);

/* An answer whose body comes bit by bit: the head now, with status 200; each write is one chunk; the end answers x. Writes go
 * straight into the socket if it takes them and nothing waits before them, so bytes that many readers get are copied only for
 * those who are behind: gather what a turn brings and write it once. What the socket does not take waits in the connection's
 * output, under its clock and the server's bound; the caller bounds it by exchange_unsent. After a connection broke, and of a
 * HEAD's body, nothing is written. type: Content-Type. */
void exchange_stream(struct exchange *x, const char *type);
void exchange_write(struct exchange *x, struct span bytes);
/* With the last bytes, which may be none. x may be freed by the time this returns. */
void exchange_end(struct exchange *x, struct span last);
/* The connection ends without an end of the answer, so that the reader knows that there is more. */
void exchange_cut(struct exchange *x);
/* Bytes that the connection's reader has not taken. */
size_t exchange_unsent(const struct exchange *x);
