/* Strict HTTP/1.1 requests in, replies out; pure: bytes and limits, no socket and no clock.
 *
 * The rules are RFC 9112 (framing) and RFC 9110 (fields), read 2026-11-22, and where those leave a choice the one that two
 * parsers in a row cannot read differently: what is ambiguous is refused, never repaired. LIMITS decision 2 says why this is
 * not a library. Whatever is refused here ends the connection, because where the next request begins can no longer be trusted.
 *
 * A head is read where it lies: the caller keeps its bytes together in one buffer and calls http_head_read as more arrive; all
 * results are offsets from the first byte, so the buffer may move between calls. Every byte is looked at once and in order,
 * therefore any way of cutting the input into pieces gives the same result. */
#pragma once

#include "common/base.h"

#define HTTP_LINE_MAX         8192  /* request line, without its CRLF */
#define HTTP_CHUNK_DIGITS_MAX 16    /* digits of a chunk size, leading zeros included */
#define HTTP_CHUNK_EXT_MAX    256   /* bytes of one chunk's extensions … */
#define HTTP_CHUNK_EXT_TOTAL  16384 /* … and of all of them in one body */
#define HTTP_TRAILER_MAX      4096  /* bytes of all trailer fields, which are checked and then ignored */
#define HTTP_REPLY_HEAD_MAX   1536  /* http_reply_head never needs more */

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_PATCH,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_OTHER, /* any other token: no route takes it */
};

/* Part of the head, counted from its first byte. */
struct http_slice {
    uint32_t at, len;
};

struct http_field {
    struct http_slice name;  /* as sent; compare without case */
    struct http_slice value; /* without the white space around it */
};

struct http_head {
    /* limits and storage, set by http_head_start */
    uint32_t bytes_max, fields_max;
    struct http_field *fields;

    /* progress */
    uint32_t line_at; /* where the line being read begins */
    uint32_t scanned; /* bytes looked at so far */
    bool line_seen;   /* the request line is behind us */
    bool blank_seen;  /* the one empty line that may come before it is, too */

    /* the request, complete when http_head_read says so */
    const uint8_t *base; /* the caller's buffer at the last call; set it again if the buffer moves */
    uint32_t bytes;      /* of the whole head */
    enum http_method method;
    struct http_slice path, query; /* still percent-encoded; query without its '?' */
    struct http_slice authority;   /* host and port: the target's if it is absolute, else the Host field's */
    bool options_star;             /* OPTIONS * */
    uint8_t minor;                 /* HTTP/1.minor */
    bool keep_alive;
    bool chunked;
    bool expect_continue;
    bool has_length;
    uint64_t content_length;
    uint32_t fields_count;
    uint8_t hosts, lengths, codings; /* how many of each field were seen */
};

/* fields: room for fields_max, lent until the head is done with. */
void http_head_start(struct http_head *head, struct http_field *fields, uint32_t fields_max, uint32_t bytes_max);

/* data: everything from the first byte of the head to the last byte that has arrived, in one piece.
 * *ret_done: the empty line was reached; `head->bytes` of `data` are the head and the body follows.
 * ERR_BAD_REQUEST, ERR_HEADER_TOO_LARGE, ERR_VERSION, ERR_EXPECTATION: answer, then close. */
MUST_USE enum err http_head_read(struct http_head *head, struct span data, bool *ret_done);

static inline struct span http_span(const struct http_head *head, struct http_slice slice)
{
    return span_of(head->base + slice.at, slice.len);
}

/* The value of the first field called `name` (given in lower case). ret_count, may be NULL, tells how many there are.
 * false: none. */
bool http_find(const struct http_head *head, const char *name, struct span *ret_value, unsigned *ret_count);

/* Equality without regard to ASCII case. */
bool http_same(struct span a, const char *lower);
/* RFC 9110 section 5.6.2: what methods and field names are made of. */
bool http_is_token(uint8_t c);
/* The value of a hex digit of either case, or −1. */
int http_hex(uint8_t c);
static inline bool http_is_control(uint8_t c)
{
    return c < 0x20 || c == 0x7f;
}

/* Percent-decoding of a path segment or a query part: %XX only with two hex digits, and nothing that decodes to a control
 * byte. plus: '+' is a space (queries). out: room for in.len bytes. ERR_BAD_REQUEST. */
MUST_USE enum err http_unescape(struct span in, bool plus, uint8_t *out, size_t *ret_len);

/* A query's parameters one by one: cuts the next `name=value` off the front of *query, both still encoded. false: no more. */
bool http_next_param(struct span *query, struct span *ret_name, struct span *ret_value);

/* A chunked body, decoded as it arrives. */
struct http_chunked {
    uint8_t state;
    uint8_t digits;
    uint32_t ext_bytes; /* of this chunk's extensions */
    uint32_t ext_total; /* of all */
    uint32_t trailer_bytes;
    uint64_t left;       /* of the chunk being read */
    uint64_t body_bytes; /* decoded so far */
    uint64_t body_max;
};

void http_chunked_start(struct http_chunked *chunked, uint64_t body_max);

/* Decodes all of `in`, or up to the end of the body. out: room for in.len bytes; may be in.data or any place before it, so that
 * a body is decoded where it lies. *ret_used of `in` were read, *ret_wrote went to `out`, *ret_done: the body is complete and
 * what is left of `in` belongs to the next request.
 * ERR_BAD_REQUEST; ERR_TOO_LARGE as soon as a chunk's size says that the body will pass body_max. */
MUST_USE enum err http_chunked_read(struct http_chunked *chunked, struct span in, uint8_t *out, size_t *ret_used,
                                    size_t *ret_wrote, bool *ret_done);

/* A reply's head. Strings may be NULL: that line is left out. All of them are ours or checked before: no CR or LF. */
struct http_reply {
    int status;
    const char *date;       /* http_date */
    const char *type;       /* Content-Type; NULL for 204 and 304 */
    const char *request_id; /* X-Request-Id */
    const char *traceparent;
    const char *allow;      /* Allow, with 405 */
    unsigned retry_after_s; /* Retry-After; 0: none */
    bool final;             /* x-should-retry: false */
    bool close;             /* Connection: close */
    bool streams;           /* the body comes bit by bit: no Content-Length, and proxies are asked not to gather it … */
    bool chunked;           /* … in chunks; else it ends with the connection */
    uint64_t body_bytes;    /* Content-Length, left out with 204 */
};

/* out: room for HTTP_REPLY_HEAD_MAX. Returns the length. At most 128 characters: request_id, allow; 64: traceparent, type. */
size_t http_reply_head(const struct http_reply *reply, char *out);

/* "OK", "Not Found" …; "" for a status this server does not use. */
const char *http_reason(int status);

#define HTTP_DATE_LEN 29
/* IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT */
void http_date(int64_t unix_s, char out[HTTP_DATE_LEN + 1]);
