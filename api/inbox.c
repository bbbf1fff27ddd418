#include "api/inbox.h"

#include <stdlib.h>

#include "api/server.h"

#define INBOX_BYTES 4096 /* the usual request fits */
#define CHUNK_ROOM  4096 /* beside a chunked body: framing on its way */
#define POOL_MAX    64

/* --- pool --- */

static void start_request(const struct server *s, struct inbox *in)
{
    in->head_done = false;
    in->continue_due = false;
    http_head_start(&in->head, in->fields, (uint32_t)s->conf->api.headers, (uint32_t)s->conf->api.head_bytes);
}

struct inbox *inbox_take(struct server *s)
{
    struct list *node = list_first(&s->inboxes);
    if (node) {
        list_remove(node);
        s->inboxes_free--;
        struct inbox *used = CONTAINER_OF(node, struct inbox, in_pool);
        start_request(s, used);
        return used;
    }
    size_t fields = s->conf->api.headers;
    struct inbox *in = server_input_room(s, INBOX_BYTES) ? malloc(sizeof *in + fields * sizeof in->fields[0]) : NULL;
    if (!in)
        return NULL;
    *in = (struct inbox){.data = malloc(INBOX_BYTES), .size = INBOX_BYTES};
    list_init(&in->in_pool);
    if (!in->data) {
        free(in);
        return NULL;
    }
    s->input_bytes += in->size;
    start_request(s, in);
    return in;
}

static void discard(struct server *s, struct inbox *in)
{
    s->input_bytes -= in->size;
    free(in->data);
    free(in);
}

void inbox_give_back(struct server *s, struct inbox **in_ptr)
{
    struct inbox *in = TAKE(*in_ptr);
    if (!in)
        return;
    if (s->inboxes_free == POOL_MAX || in->size != INBOX_BYTES) {
        discard(s, in);
        return;
    }
    in->at = in->len = 0;
    list_push_front(&s->inboxes, &in->in_pool);
    s->inboxes_free++;
}

void inbox_pool_free(struct server *s)
{
    struct list *node;
    while ((node = list_first(&s->inboxes))) {
        list_remove(node);
        discard(s, CONTAINER_OF(node, struct inbox, in_pool));
    }
}

/* --- room --- */

/* How many bytes the request on its way needs next. */
static size_t wanted(const struct inbox *in)
{
    if (!in->head_done)
        return in->size > in->len ? 1 : INBOX_BYTES;
    if (in->head.chunked)
        return CHUNK_ROOM;
    /* not all that was announced at once: memory is paid for with bytes sent */
    size_t have = in->len - in->body_at, left = (size_t)in->head.content_length - have;
    return MIN(left, MAX(have, INBOX_BYTES));
}

/* Room for `more` bytes behind what is there. */
static enum err make_room(struct server *s, struct inbox *in, size_t more)
{
    if (in->size - in->len >= more)
        return ERR_OK;
    if (in->at) { /* the request moves to the front */
        size_t gone = in->at;
        memmove(in->data, in->data + gone, in->len - gone);
        in->len -= gone;
        in->at = 0;
        if (in->head_done) {
            in->body_at -= gone;
            in->raw_at -= gone;
        }
        in->head.base = in->data;
        if (in->size - in->len >= more)
            return ERR_OK;
    }
    size_t size = MAX(in->len + more, in->size * 2);
    if (!server_input_room(s, size - in->size))
        return ERR_OVERLOADED;
    uint8_t *data = realloc(in->data, size);
    if (!data)
        return ERR_NOMEM;
    s->input_bytes += size - in->size;
    in->data = data;
    in->size = size;
    in->head.base = data;
    return ERR_OK;
}

enum err inbox_make_room(struct server *s, struct inbox *in)
{
    return make_room(s, in, wanted(in));
}

/* --- reading --- */

static enum err start_body(const struct server *s, struct inbox *in)
{
    in->head_done = true;
    in->body_at = in->raw_at = in->at + in->head.bytes;
    if (in->head.chunked)
        http_chunked_start(&in->chunked, s->conf->api.body_bytes);
    else if (in->head.content_length > s->conf->api.body_bytes)
        return ERR_TOO_LARGE;
    in->continue_due = in->head.expect_continue;
    return ERR_OK;
}

static enum err read_chunks(struct inbox *in, bool *ret_done, size_t *ret_body)
{
    size_t used, wrote, have = in->raw_at - in->body_at; /* decoded bytes end where raw ones begin */
    enum err e = http_chunked_read(&in->chunked, span_of(in->data + in->raw_at, in->len - in->raw_at), in->data + in->raw_at,
                                   &used, &wrote, ret_done);
    if (e)
        return e;
    have += wrote;
    *ret_body = have;
    if (*ret_done) {
        in->raw_at += used; /* what follows is the next request's */
    } else {
        in->raw_at = in->len = in->body_at + have;
    }
    return ERR_OK;
}

/* The body of the request whose head is done, as far as it has arrived. */
static enum err read_body(struct inbox *in, bool *ret_done, struct span *ret_body)
{
    size_t len;
    if (in->head.chunked) {
        enum err e = read_chunks(in, ret_done, &len);
        if (e)
            return e;
    } else {
        len = (size_t)in->head.content_length;
        *ret_done = in->len - in->body_at >= len;
        in->raw_at = in->body_at + (*ret_done ? len : 0);
    }
    *ret_body = span_of(in->data + in->body_at, len);
    return ERR_OK;
}

enum err inbox_parse(struct server *s, struct inbox *in, bool *ret_whole, struct span *ret_body)
{
    *ret_whole = false;
    if (!in->head_done) {
        bool done;
        enum err e = http_head_read(&in->head, span_of(in->data + in->at, in->len - in->at), &done);
        if (!e && done)
            e = start_body(s, in);
        if (e || !done)
            return e;
    }
    return read_body(in, ret_whole, ret_body);
}

void inbox_next(struct server *s, struct inbox *in)
{
    in->at = in->raw_at;
    start_request(s, in);
}
