/* Chunked bodies (RFC 9112 section 7.1), byte by byte but for the data.
 *
 *   SIZE ──CR──► SIZE_LF ──size 0──► TRAILER ──CR──► END_LF ──► done
 *    │ ';' EXT ──CR──┘ │               │ name NAME ':' VALUE ──CR──► VALUE_LF ─┐
 *    ▲               DATA               └◄─────────────────────────────────────┘
 *    └─DATA_LF◄─DATA_CR┘                                                          */
#include "api/http.h"

enum chunk_state {
    CHUNK_SIZE,
    CHUNK_EXT,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER,
    CHUNK_TRAILER_NAME,
    CHUNK_TRAILER_VALUE,
    CHUNK_TRAILER_LF,
    CHUNK_END_LF,
    CHUNK_DONE,
};

void http_chunked_start(struct http_chunked *c, uint64_t body_max)
{
    *c = (struct http_chunked){.state = CHUNK_SIZE, .body_max = body_max};
}

static enum err chunk_size_byte(struct http_chunked *c, uint8_t b)
{
    int digit = http_hex(b);
    if (digit >= 0) {
        if (++c->digits > HTTP_CHUNK_DIGITS_MAX)
            return ERR_BAD_REQUEST;
        c->left = c->left << 4 | (unsigned)digit; /* 16 digits fit 64 bits */
        return ERR_OK;
    }
    if (c->digits == 0 || (b != '\r' && b != ';'))
        return ERR_BAD_REQUEST;
    if (c->left > c->body_max - c->body_bytes)
        return ERR_TOO_LARGE;
    c->state = b == ';' ? CHUNK_EXT : CHUNK_SIZE_LF;
    return ERR_OK;
}

static enum err chunk_ext_byte(struct http_chunked *c, uint8_t b)
{
    if (b == '\r') {
        c->state = CHUNK_SIZE_LF;
        return ERR_OK;
    }
    if (http_is_control(b) && b != '\t')
        return ERR_BAD_REQUEST;
    return ++c->ext_bytes > HTTP_CHUNK_EXT_MAX || ++c->ext_total > HTTP_CHUNK_EXT_TOTAL ? ERR_BAD_REQUEST : ERR_OK;
}

static enum err chunk_trailer_byte(struct http_chunked *c, uint8_t b)
{
    if (++c->trailer_bytes > HTTP_TRAILER_MAX)
        return ERR_BAD_REQUEST;
    switch (c->state) {
    case CHUNK_TRAILER:
        c->state = b == '\r' ? CHUNK_END_LF : CHUNK_TRAILER_NAME;
        return b == '\r' || http_is_token(b) ? ERR_OK : ERR_BAD_REQUEST;
    case CHUNK_TRAILER_NAME:
        if (b == ':')
            c->state = CHUNK_TRAILER_VALUE;
        return b == ':' || http_is_token(b) ? ERR_OK : ERR_BAD_REQUEST;
    case CHUNK_TRAILER_VALUE:
        if (b == '\r')
            c->state = CHUNK_TRAILER_LF;
        return b == '\r' || b == '\t' || !http_is_control(b) ? ERR_OK : ERR_BAD_REQUEST;
    default: /* CHUNK_TRAILER_LF */
        c->state = CHUNK_TRAILER;
        return b == '\n' ? ERR_OK : ERR_BAD_REQUEST;
    }
}

static enum err chunk_byte(struct http_chunked *c, uint8_t b)
{
    switch (c->state) {
    case CHUNK_SIZE:
        return chunk_size_byte(c, b);
    case CHUNK_EXT:
        return chunk_ext_byte(c, b);
    case CHUNK_SIZE_LF:
        c->state = c->left ? CHUNK_DATA : CHUNK_TRAILER;
        c->digits = 0;
        c->ext_bytes = 0;
        return b == '\n' ? ERR_OK : ERR_BAD_REQUEST;
    case CHUNK_DATA_CR:
        c->state = CHUNK_DATA_LF;
        return b == '\r' ? ERR_OK : ERR_BAD_REQUEST;
    case CHUNK_DATA_LF:
        c->state = CHUNK_SIZE;
        return b == '\n' ? ERR_OK : ERR_BAD_REQUEST;
    case CHUNK_END_LF:
        c->state = CHUNK_DONE;
        return b == '\n' ? ERR_OK : ERR_BAD_REQUEST;
    default:
        return chunk_trailer_byte(c, b);
    }
}

enum err http_chunked_read(struct http_chunked *c, struct span in, uint8_t *out, size_t *ret_used, size_t *ret_wrote,
                           bool *ret_done)
{
    size_t used = 0, wrote = 0;
    while (used < in.len && c->state != CHUNK_DONE) {
        if (c->state == CHUNK_DATA) {
            size_t n = (size_t)MIN(c->left, (uint64_t)(in.len - used));
            memmove(out + wrote, in.data + used, n);
            used += n;
            wrote += n;
            c->left -= n;
            c->body_bytes += n;
            if (c->left == 0)
                c->state = CHUNK_DATA_CR;
            continue;
        }
        enum err e = chunk_byte(c, in.data[used++]);
        if (e)
            return e;
    }
    *ret_used = used;
    *ret_wrote = wrote;
    *ret_done = c->state == CHUNK_DONE;
    return ERR_OK;
}
