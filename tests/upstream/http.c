/* HTTP/1.1 as a server sees it: see http.h. */
#include "tests/upstream/http.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* What the head says about the body; checked as a whole when all headers are known. */
struct framing {
    bool length_given, chunked, bad;
    size_t length;
    int hosts;
};

void http_reader_reset(struct http_reader *r)
{
    *r = (struct http_reader){0};
}

static enum http_progress refuse(struct http_reader *r, int status)
{
    r->refusal = status;
    return HTTP_REFUSED;
}

/* tchar of RFC 9110 §5.6.2. */
static bool is_token_char(unsigned char c)
{
    return isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_token_char((unsigned char)p[i]))
            return false;
    return n > 0;
}

static bool is_visible(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p[i] <= ' ' || p[i] == 0x7f)
            return false;
    return n > 0;
}

/* Field values may hold anything but control characters (RFC 9110 §5.5). */
static bool is_value(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)p[i] < ' ' && p[i] != '\t') || p[i] == 0x7f)
            return false;
    return true;
}

static bool equals(const char *p, size_t n, const char *name)
{
    return strlen(name) == n && strncasecmp(p, name, n) == 0;
}

static bool read_decimal(const char *p, size_t n, size_t *ret)
{
    size_t value = 0;
    if (!n || n > 15)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!isdigit((unsigned char)p[i]))
            return false;
        value = value * 10 + (size_t)(p[i] - '0');
    }
    *ret = value;
    return true;
}

static struct http_field field(const char *base, const char *p, size_t n)
{
    return (struct http_field){(uint32_t)(p - base), (uint32_t)n, true};
}

/* "POST /path?query HTTP/1.1" */
static bool read_request_line(struct http_request *q, const char *base, const char *p, const char *end)
{
    const char *target = memchr(p, ' ', (size_t)(end - p));
    if (!target || !is_token(p, (size_t)(target - p)))
        return false;
    q->method = field(base, p, (size_t)(target++ - p));

    const char *version = memchr(target, ' ', (size_t)(end - target));
    if (!version || *target != '/' || !is_visible(target, (size_t)(version - target)))
        return false;
    size_t target_len = (size_t)(version++ - target);
    const char *mark = memchr(target, '?', target_len);
    size_t path_len = mark ? (size_t)(mark - target) : target_len;
    q->path = field(base, target, path_len);
    if (mark)
        q->query = field(base, mark + 1, target_len - path_len - 1);

    q->http_1_0 = equals(version, (size_t)(end - version), "HTTP/1.0");
    q->keep_alive = !q->http_1_0;
    return q->http_1_0 || equals(version, (size_t)(end - version), "HTTP/1.1");
}

static void note_length(struct framing *f, const char *p, size_t n)
{
    size_t length;
    if (!read_decimal(p, n, &length) || (f->length_given && f->length != length))
        f->bad = true;
    else
        f->length = length, f->length_given = true;
}

static void note_connection(struct http_request *q, const char *p, size_t n)
{
    if (equals(p, n, "close"))
        q->keep_alive = false;
    else if (equals(p, n, "keep-alive"))
        q->keep_alive = true;
}

static void note_header(struct http_reader *r, struct framing *f, const char *base, const char *name, size_t name_len,
                        const char *p, size_t n)
{
    struct http_request *q = &r->request;
    const struct {
        const char *name;
        struct http_field *into;
    } kept[] = {
        {"authorization", &q->authorization},
        {"idempotency-key", &q->idempotency_key},
        {"x-request-id", &q->request_id},
        {"traceparent", &q->traceparent},
    };
    if (equals(name, name_len, "content-length"))
        note_length(f, p, n);
    else if (equals(name, name_len, "transfer-encoding"))
        f->bad |= f->chunked || !equals(p, n, "chunked"), f->chunked = true;
    else if (equals(name, name_len, "connection"))
        note_connection(q, p, n);
    else if (equals(name, name_len, "expect"))
        r->expects_continue = equals(p, n, "100-continue");
    else if (equals(name, name_len, "host"))
        q->host = field(base, p, n), f->hosts++;
    for (size_t i = 0; i < ARRAY_COUNT(kept); i++)
        if (equals(name, name_len, kept[i].name))
            *kept[i].into = field(base, p, n);
}

/* "Name: value"; no space before the colon, no folded lines. */
static bool read_header(struct http_reader *r, struct framing *f, const char *base, const char *p, const char *end)
{
    const char *colon = memchr(p, ':', (size_t)(end - p));
    if (!colon || !is_token(p, (size_t)(colon - p)))
        return false;
    const char *value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (!is_value(value, (size_t)(end - value)))
        return false;
    note_header(r, f, base, p, (size_t)(colon - p), value, (size_t)(end - value));
    return true;
}

static bool read_head(struct http_reader *r, struct framing *f, const char *base, size_t len)
{
    const char *p = base, *stop = base + len - 2; /* the last CRLF is the empty line */
    for (bool first = true; p < stop; first = false) {
        const char *end = memchr(p, '\r', (size_t)(stop - p));
        if (!end || end[1] != '\n')
            return false;
        if (!(first ? read_request_line(&r->request, base, p, end) : read_header(r, f, base, p, end)))
            return false;
        p = end + 2;
    }
    return r->request.method.present;
}

static enum http_progress enter_body(struct http_reader *r, const struct framing *f, size_t head_len)
{
    r->request.body_at = r->request.size = r->scanned = head_len;
    if (f->bad || (f->chunked && (f->length_given || r->request.http_1_0)) || f->hosts > 1 ||
        (!f->hosts && !r->request.http_1_0))
        return refuse(r, 400);
    if (f->length > HTTP_BODY_MAX)
        return refuse(r, 413);
    r->request.body_len = f->length; /* of a chunked body: grows with each chunk */
    r->phase = f->chunked ? HTTP_IN_CHUNK_SIZE : HTTP_IN_BODY;
    return r->expects_continue && (f->chunked || f->length) ? HTTP_CONTINUE : HTTP_MORE;
}

/* Finds the empty line, then understands everything before it. */
static enum http_progress look_for_head(struct http_reader *r, const struct bytes *in)
{
    const char *base = bytes_at(in);
    size_t held = bytes_left(in), from = r->scanned > 3 ? r->scanned - 3 : 0;
    const char *blank = held > from ? memmem(base + from, held - from, "\r\n\r\n", 4) : NULL;
    size_t len = blank ? (size_t)(blank - base) + 4 : held;
    if (len > HTTP_HEAD_MAX)
        return refuse(r, 431);
    r->scanned = held;
    if (!blank)
        return HTTP_MORE;
    struct framing f = {0};
    if (!read_head(r, &f, base, len))
        return refuse(r, 400);
    return enter_body(r, &f, len);
}

/* A line of chunked framing at the scan position; its length without CRLF, or -1: not all here. */
static ptrdiff_t line_length(const struct http_reader *r, const struct bytes *in)
{
    const char *p = bytes_at(in) + r->scanned;
    const char *end = memmem(p, bytes_left(in) - r->scanned, "\r\n", 2);
    return end ? end - p : -1;
}

static bool read_hex(const char *p, size_t n, size_t *ret)
{
    size_t value = 0;
    if (!n || n > 8)
        return false;
    for (size_t i = 0; i < n; i++) {
        int c = tolower((unsigned char)p[i]);
        if (!isxdigit(c))
            return false;
        value = value * 16 + (size_t)(isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    *ret = value;
    return true;
}

static enum http_progress read_chunk_size(struct http_reader *r, const struct bytes *in)
{
    ptrdiff_t line = line_length(r, in);
    if (line < 0)
        return bytes_left(in) - r->scanned > 1024 ? refuse(r, 400) : HTTP_MORE;
    const char *p = bytes_at(in) + r->scanned;
    const char *extension = memchr(p, ';', (size_t)line);
    size_t digits = extension ? (size_t)(extension - p) : (size_t)line;
    if (!read_hex(p, digits, &r->chunk_left))
        return refuse(r, 400);
    if (r->request.body_len + r->chunk_left > HTTP_BODY_MAX)
        return refuse(r, 413);
    r->scanned += (size_t)line + 2;
    r->trailer_from = r->scanned;
    r->phase = r->chunk_left ? HTTP_IN_CHUNK : HTTP_IN_TRAILER;
    return HTTP_CONTINUE;
}

/* Moves what is here of the chunk to the end of the body so far. */
static enum http_progress read_chunk(struct http_reader *r, const struct bytes *in)
{
    struct http_request *q = &r->request;
    char *base = bytes_at(in);
    size_t here = bytes_left(in) - r->scanned, n = here < r->chunk_left ? here : r->chunk_left;
    memmove(base + q->body_at + q->body_len, base + r->scanned, n);
    q->body_len += n;
    r->scanned += n;
    r->chunk_left -= n;
    if (r->chunk_left || here - n < 2)
        return HTTP_MORE;
    if (memcmp(base + r->scanned, "\r\n", 2) != 0)
        return refuse(r, 400);
    r->scanned += 2;
    r->phase = HTTP_IN_CHUNK_SIZE;
    return HTTP_CONTINUE;
}

/* Trailers are read and forgotten. */
static enum http_progress read_trailer(struct http_reader *r, const struct bytes *in)
{
    ptrdiff_t line = line_length(r, in);
    size_t seen = line < 0 ? bytes_left(in) : r->scanned + (size_t)line;
    if (seen - r->trailer_from > HTTP_HEAD_MAX)
        return refuse(r, 431);
    if (line < 0)
        return HTTP_MORE;
    r->scanned += (size_t)line + 2;
    r->request.size = r->scanned;
    return line ? HTTP_CONTINUE : HTTP_REQUEST;
}

static enum http_progress read_chunked(struct http_reader *r, const struct bytes *in)
{
    enum http_progress p;
    do
        p = r->phase == HTTP_IN_CHUNK_SIZE ? read_chunk_size(r, in)
            : r->phase == HTTP_IN_CHUNK    ? read_chunk(r, in)
                                           : read_trailer(r, in);
    while (p == HTTP_CONTINUE);
    return p;
}

enum http_progress http_read(struct http_reader *r, struct bytes *in)
{
    if (r->phase == HTTP_IN_HEAD) {
        enum http_progress p = look_for_head(r, in);
        bool body_here = bytes_left(in) > r->request.size;
        if (r->phase == HTTP_IN_HEAD || p == HTTP_REFUSED || (p == HTTP_CONTINUE && !body_here))
            return p;
    }
    if (r->phase != HTTP_IN_BODY)
        return read_chunked(r, in);
    r->request.size = r->request.body_at + r->request.body_len;
    return bytes_left(in) >= r->request.size ? HTTP_REQUEST : HTTP_MORE;
}

bool http_is(const struct bytes *in, struct http_field f, const char *text)
{
    return f.present && strlen(text) == f.len && memcmp(bytes_at(in) + f.at, text, f.len) == 0;
}

static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } reasons[] = {
        {200, "OK"},
        {307, "Temporary Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {402, "Payment Required"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].text;
    return "Unnamed";
}

void http_head(struct bytes *out, int status)
{
    bytes_puts(out, "HTTP/1.1 ");
    bytes_number(out, status);
    bytes_puts(out, " ");
    bytes_puts(out, reason(status));
    bytes_puts(out, "\r\n");
}

void http_add(struct bytes *out, const char *name, const char *value)
{
    bytes_puts(out, name);
    bytes_puts(out, ": ");
    bytes_puts(out, value);
    bytes_puts(out, "\r\n");
}

void http_add_number(struct bytes *out, const char *name, int64_t value)
{
    bytes_puts(out, name);
    bytes_puts(out, ": ");
    bytes_number(out, value);
    bytes_puts(out, "\r\n");
}

void http_head_end(struct bytes *out)
{
    bytes_puts(out, "\r\n");
}
