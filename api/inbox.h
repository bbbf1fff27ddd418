/* What has arrived on a connection and was not served yet. It is taken from the server's pool when bytes arrive and given back
 * when none are left, so that an idle connection owns nothing but its struct. A request lies in one piece in it:
 *
 *      data ─► │ served │ head │ body as decoded │ not yet decoded │ room │
 *                       at     body_at           raw_at            len    size
 *
 * and its body is decoded where it lies. The buffer grows with what has arrived, never with what was announced. */
#pragma once

#include "api/http.h"
#include "common/list.h"

struct server;

struct inbox {
    struct list in_pool;
    uint8_t *data;
    size_t at, len, size;
    bool head_done;
    bool continue_due; /* 100 Continue is owed */
    size_t body_at, raw_at;
    struct http_chunked chunked;
    struct http_head head;
    struct http_field fields[];
};

/* NULL: no memory, or the child's requests hold all they may. */
MUST_USE struct inbox *inbox_take(struct server *server);
/* Accepts NULL, clears the pointer. */
void inbox_give_back(struct server *s, struct inbox **in_ptr);

/* Room behind what is there for what the request needs next. ERR_OVERLOADED, ERR_NOMEM. */
MUST_USE enum err inbox_make_room(struct server *server, struct inbox *inbox);

/* Reads on in the request at the front. *ret_whole: it is complete, its head in inbox->head and its body in *ret_body, both
 * lent until inbox_next. ERR_TOO_LARGE and the errors of http.h: the input can not be read any further. */
MUST_USE enum err inbox_parse(struct server *server, struct inbox *inbox, bool *ret_whole, struct span *ret_body);
/* The request was served: on to what follows it. */
void inbox_next(struct server *server, struct inbox *inbox);

static inline bool inbox_has_input(const struct inbox *inbox)
{
    return inbox && inbox->len > inbox->at;
}

/* Empties the pool. */
void inbox_pool_free(struct server *server);
