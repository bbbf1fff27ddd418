/* HTTP/1.1 as a server sees it: strict about requests, free about replies.  Pure.
 *
 * A reader takes one request from the front of a buffer that may grow between calls.  It keeps
 * offsets, never pointers, so the buffer may move.  A chunked body is joined in place: when the
 * request is complete its body is one run whichever way it came.  RFC 9112; anything that two
 * parsers could read in two ways is refused. */
#pragma once

#include "tests/upstream/bytes.h"

#define HTTP_HEAD_MAX (64 * 1024)
#define HTTP_BODY_MAX (32 * 1024 * 1024)

enum http_progress {
    HTTP_MORE,     /* not complete: read more and call again */
    HTTP_CONTINUE, /* the head is complete and the caller waits for "100 Continue"; said once */
    HTTP_REQUEST,  /* complete */
    HTTP_REFUSED,  /* not a request we take: `refusal` is the status to answer before closing */
};

/* A piece of the head, by offset from the start of the request. */
struct http_field {
    uint32_t at, len;
    bool present;
};

struct http_request {
    struct http_field method, path, query; /* query: after the '?', which is not part of it */
    struct http_field host, authorization, idempotency_key, request_id, traceparent;
    bool keep_alive;
    bool http_1_0;
    size_t body_at, body_len;
    size_t size; /* bytes of the buffer it occupies; drop them when done with it */
};

struct http_reader {
    struct http_request request;
    int refusal;
    /* Private. */
    enum { HTTP_IN_HEAD, HTTP_IN_BODY, HTTP_IN_CHUNK_SIZE, HTTP_IN_CHUNK, HTTP_IN_TRAILER } phase;
    size_t scanned;      /* bytes already looked at */
    size_t chunk_left;   /* of the current chunk */
    size_t trailer_from; /* where the trailer section began */
    bool expects_continue;
};

/* Forget the request, ready for the next one. */
void http_reader_reset(struct http_reader *r);

/* Look at what `in` holds. */
enum http_progress http_read(struct http_reader *r, struct bytes *in);

/* The bytes of a field; valid until the buffer changes.  NULL when absent. */
static inline const char *http_text(const struct bytes *in, struct http_field f)
{
    return f.present ? bytes_at(in) + f.at : NULL;
}

bool http_is(const struct bytes *in, struct http_field f, const char *text);

/* A reply's head: open, any number of fields, then the empty line. */
void http_head(struct bytes *out, int status);
void http_add(struct bytes *out, const char *name, const char *value);
void http_add_number(struct bytes *out, const char *name, int64_t value);
void http_head_end(struct bytes *out);
