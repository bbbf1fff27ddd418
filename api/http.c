/* Request heads: one pass over the bytes finds line ends and refuses control bytes; a line is parsed when its CRLF is seen. */
#include "api/http.h"

/* --- character sets (RFC 9110 5.6.2 and 5.5, RFC 3986 appendix A) --- */

#define TOKEN 1
#define PCHAR 2 /* unreserved, sub-delims, ':' and '@'; '%' is looked at apart */

static const uint8_t sets[256] = {
    ['a' ... 'z'] = TOKEN | PCHAR,
    ['A' ... 'Z'] = TOKEN | PCHAR,
    ['0' ... '9'] = TOKEN | PCHAR,
    ['!'] = TOKEN | PCHAR,
    ['$'] = TOKEN | PCHAR,
    ['&'] = TOKEN | PCHAR,
    ['\''] = TOKEN | PCHAR,
    ['*'] = TOKEN | PCHAR,
    ['+'] = TOKEN | PCHAR,
    ['-'] = TOKEN | PCHAR,
    ['.'] = TOKEN | PCHAR,
    ['_'] = TOKEN | PCHAR,
    ['~'] = TOKEN | PCHAR,
    ['#'] = TOKEN,
    ['%'] = TOKEN,
    ['^'] = TOKEN,
    ['`'] = TOKEN,
    ['|'] = TOKEN,
    ['('] = PCHAR,
    [')'] = PCHAR,
    [','] = PCHAR,
    [';'] = PCHAR,
    ['='] = PCHAR,
    [':'] = PCHAR,
    ['@'] = PCHAR,
};

bool http_is_token(uint8_t c)
{
    return sets[c] & TOKEN;
}

static bool is_pchar(uint8_t c)
{
    return sets[c] & PCHAR;
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

int http_hex(uint8_t c)
{
    if (is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

bool http_same(struct span a, const char *expected)
{
    for (size_t i = 0; i < a.len; i++)
        if (!expected[i] || lower(a.data[i]) != (uint8_t)expected[i])
            return false;
    return expected[a.len] == '\0';
}

/* --- the request line (RFC 9112 section 3) --- */

static enum http_method method_of(struct span name)
{
    static const struct {
        const char *name;
        enum http_method method;
    } known[] = {
        {"GET", HTTP_GET},     {"POST", HTTP_POST},       {"DELETE", HTTP_DELETE}, {"HEAD", HTTP_HEAD},
        {"PATCH", HTTP_PATCH}, {"OPTIONS", HTTP_OPTIONS}, {"PUT", HTTP_PUT},
    };
    for (size_t i = 0; i < ARRAY_COUNT(known); i++)
        if (span_is(name, known[i].name))
            return known[i].method;
    return HTTP_OTHER;
}

static enum err parse_version(struct span v, uint8_t *ret_minor)
{
    if (v.len != 8 || memcmp(v.data, "HTTP/", 5) != 0 || !is_digit(v.data[5]) || v.data[6] != '.' || !is_digit(v.data[7]))
        return ERR_BAD_REQUEST;
    if (v.data[5] != '1' || v.data[7] > '1')
        return ERR_VERSION;
    *ret_minor = v.data[7] - '0';
    return ERR_OK;
}

/* The length of the run of `s` that is pchar, "%XX" or one of `also`. */
static size_t encoded_run(struct span s, const char *also)
{
    size_t i = 0;
    while (i < s.len) {
        if (is_pchar(s.data[i]) || (s.data[i] && strchr(also, s.data[i])))
            i++;
        else if (s.data[i] == '%' && i + 2 < s.len && http_hex(s.data[i + 1]) >= 0 && http_hex(s.data[i + 2]) >= 0)
            i += 3;
        else
            break;
    }
    return i;
}

static bool valid_ip_literal(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if (http_hex(s.data[i]) < 0 && s.data[i] != ':' && s.data[i] != '.')
            return false;
    return s.len >= 2;
}

/* uri-host [":" port], RFC 9110 section 7.2; no user information, not empty. */
static bool valid_authority(struct span a)
{
    size_t host;
    if (a.len && a.data[0] == '[') {
        const uint8_t *end = memchr(a.data, ']', a.len);
        if (!end || !valid_ip_literal(span_of(a.data + 1, (size_t)(end - a.data) - 1)))
            return false;
        host = (size_t)(end - a.data) + 1;
    } else {
        const uint8_t *colon = a.len ? memchr(a.data, ':', a.len) : NULL;
        host = colon ? (size_t)(colon - a.data) : a.len;
        struct span name = span_of(a.data, host);
        if (host == 0 || encoded_run(name, "") != host || memchr(a.data, '@', host))
            return false;
    }
    if (host == a.len)
        return true;
    if (a.data[host] != ':' || a.len - host > 6)
        return false;
    for (size_t i = host + 1; i < a.len; i++)
        if (!is_digit(a.data[i]))
            return false;
    return true;
}

static struct http_slice slice_of(const struct http_head *h, struct span s)
{
    return (struct http_slice){(uint32_t)(s.data - h->base), (uint32_t)s.len};
}

/* path ["?" query] to the end of the target; an empty path only where the authority came before it. */
static enum err parse_path(struct http_head *h, struct span t)
{
    size_t path = encoded_run(t, "/");
    h->path = slice_of(h, span_of(t.data, path));
    struct span rest = span_of(t.data + path, t.len - path);
    if (rest.len == 0)
        return ERR_OK;
    if (rest.data[0] != '?')
        return ERR_BAD_REQUEST;
    rest = span_of(rest.data + 1, rest.len - 1);
    h->query = slice_of(h, rest);
    return encoded_run(rest, "/?") == rest.len ? ERR_OK : ERR_BAD_REQUEST;
}

/* http://authority[/path][?query], RFC 9112 section 3.2.2. The target's authority replaces Host. */
static enum err parse_absolute(struct http_head *h, struct span t)
{
    size_t skip = t.len >= 7 && http_same(span_of(t.data, 7), "http://")    ? 7
                  : t.len >= 8 && http_same(span_of(t.data, 8), "https://") ? 8
                                                                            : 0;
    if (!skip)
        return ERR_BAD_REQUEST;
    t = span_of(t.data + skip, t.len - skip);
    size_t len = 0;
    while (len < t.len && t.data[len] != '/' && t.data[len] != '?')
        len++;
    struct span authority = span_of(t.data, len);
    if (!valid_authority(authority))
        return ERR_BAD_REQUEST;
    h->authority = slice_of(h, authority);
    h->options_star = len == t.len && h->method == HTTP_OPTIONS;
    return parse_path(h, span_of(t.data + len, t.len - len));
}

static enum err parse_target(struct http_head *h, struct span t)
{
    if (t.len == 0)
        return ERR_BAD_REQUEST;
    if (t.data[0] == '/')
        return parse_path(h, t);
    if (span_is(t, "*") && h->method == HTTP_OPTIONS) {
        h->options_star = true;
        return ERR_OK;
    }
    return parse_absolute(h, t);
}

static enum err parse_request_line(struct http_head *h, struct span line)
{
    size_t method = 0;
    while (method < line.len && http_is_token(line.data[method]))
        method++;
    const uint8_t *space = method < line.len ? memrchr(line.data, ' ', line.len) : NULL;
    if (method == 0 || !space || line.data[method] != ' ' || space == line.data + method)
        return ERR_BAD_REQUEST;
    size_t target_end = (size_t)(space - line.data);

    enum err e = parse_version(span_of(space + 1, line.len - target_end - 1), &h->minor);
    if (e)
        return e;
    h->method = method_of(span_of(line.data, method));
    h->keep_alive = h->minor == 1;
    h->line_seen = true;
    return parse_target(h, span_of(line.data + method + 1, target_end - method - 1));
}

/* --- fields (RFC 9112 section 5, RFC 9110 section 5) --- */

static enum err take_host(struct http_head *h, struct span value)
{
    if (h->hosts++ || !valid_authority(value))
        return ERR_BAD_REQUEST;
    if (!h->authority.len)
        h->authority = slice_of(h, value);
    return ERR_OK;
}

/* Digits and nothing else, once: neither a list of equal values nor a sign is repaired. */
static enum err take_length(struct http_head *h, struct span value)
{
    if (h->lengths++ || value.len == 0 || value.len > 18)
        return ERR_BAD_REQUEST;
    uint64_t n = 0;
    for (size_t i = 0; i < value.len; i++) {
        if (!is_digit(value.data[i]))
            return ERR_BAD_REQUEST;
        n = n * 10 + (value.data[i] - '0');
    }
    h->has_length = true;
    h->content_length = n;
    return ERR_OK;
}

static enum err take_coding(struct http_head *h, struct span value)
{
    if (h->codings++ || !http_same(value, "chunked"))
        return ERR_BAD_REQUEST;
    h->chunked = true;
    return ERR_OK;
}

static enum err take_connection(struct http_head *h, struct span value)
{
    while (value.len) {
        const uint8_t *comma = memchr(value.data, ',', value.len);
        size_t len = comma ? (size_t)(comma - value.data) : value.len;
        if (http_same(span_trim(span_of(value.data, len)), "close"))
            h->keep_alive = false;
        size_t skip = comma ? len + 1 : len;
        value = span_of(value.data + skip, value.len - skip);
    }
    return ERR_OK;
}

static enum err take_expect(struct http_head *h, struct span value)
{
    if (!http_same(value, "100-continue"))
        return ERR_EXPECTATION;
    h->expect_continue = h->minor == 1; /* RFC 9110 10.1.1: ignored in HTTP/1.0 */
    return ERR_OK;
}

static enum err take_special(struct http_head *h, struct span name, struct span value)
{
    switch (name.len) {
    case 4:
        return http_same(name, "host") ? take_host(h, value) : ERR_OK;
    case 6:
        return http_same(name, "expect") ? take_expect(h, value) : ERR_OK;
    case 10:
        return http_same(name, "connection") ? take_connection(h, value) : ERR_OK;
    case 14:
        return http_same(name, "content-length") ? take_length(h, value) : ERR_OK;
    case 17:
        return http_same(name, "transfer-encoding") ? take_coding(h, value) : ERR_OK;
    default:
        return ERR_OK;
    }
}

static enum err parse_field(struct http_head *h, struct span line)
{
    size_t name = 0;
    while (name < line.len && http_is_token(line.data[name]))
        name++;
    /* white space first is a folded line, white space here a name that another parser may trim: both are refused */
    if (name == 0 || name == line.len || line.data[name] != ':')
        return ERR_BAD_REQUEST;
    if (h->fields_count == h->fields_max)
        return ERR_HEADER_TOO_LARGE;
    struct span key = span_of(line.data, name);
    struct span value = span_trim(span_of(line.data + name + 1, line.len - name - 1));
    h->fields[h->fields_count++] = (struct http_field){slice_of(h, key), slice_of(h, value)};
    return take_special(h, key, value);
}

/* What only the whole head can tell. */
static enum err check_head(const struct http_head *h)
{
    if (h->minor == 1 && h->hosts != 1)
        return ERR_BAD_REQUEST;
    if (h->codings && (h->lengths || h->minor == 0))
        return ERR_BAD_REQUEST;
    return ERR_OK;
}

void http_head_start(struct http_head *h, struct http_field *fields, uint32_t fields_max, uint32_t bytes_max)
{
    *h = (struct http_head){.fields = fields, .fields_max = fields_max, .bytes_max = bytes_max};
}

static enum err parse_line(struct http_head *h, struct span line, bool *ret_done)
{
    if (line.len) {
        for (size_t i = 0; i < line.len; i++) /* the scan let tabs pass; only values may hold one */
            if (line.data[i] == '\t' && !h->line_seen)
                return ERR_BAD_REQUEST;
        return h->line_seen ? parse_field(h, line) : parse_request_line(h, line);
    }
    if (h->line_seen) {
        *ret_done = true;
        return check_head(h);
    }
    if (h->blank_seen) /* RFC 9112 2.2: one empty line before the request is overlooked */
        return ERR_BAD_REQUEST;
    h->blank_seen = true;
    return ERR_OK;
}

enum err http_head_read(struct http_head *h, struct span data, bool *ret_done)
{
    h->base = data.data;
    *ret_done = false;
    while (!*ret_done) {
        /* `bound`: the line's CRLF must begin before it */
        size_t bound = h->bytes_max - 1;
        if (!h->line_seen)
            bound = MIN(bound, (size_t)h->line_at + HTTP_LINE_MAX + 1);
        size_t end = MIN(data.len, bound), i = h->scanned;
        while (i < end && (!http_is_control(data.data[i]) || data.data[i] == '\t'))
            i++;
        h->scanned = (uint32_t)i;
        if (i == bound)
            return ERR_HEADER_TOO_LARGE;
        if (i == end)
            return ERR_OK;
        if (data.data[i] != '\r')
            return ERR_BAD_REQUEST;
        if (i + 1 == data.len)
            return ERR_OK;
        if (data.data[i + 1] != '\n')
            return ERR_BAD_REQUEST;
        struct span line = span_of(data.data + h->line_at, i - h->line_at);
        h->line_at = h->scanned = (uint32_t)i + 2;
        enum err e = parse_line(h, line, ret_done);
        if (e) {
            *ret_done = false;
            return e;
        }
    }
    h->bytes = h->line_at;
    return ERR_OK;
}

bool http_find(const struct http_head *h, const char *name, struct span *ret_value, unsigned *ret_count)
{
    unsigned count = 0;
    size_t len = strlen(name);
    for (uint32_t i = 0; i < h->fields_count; i++) {
        if (h->fields[i].name.len != len || !http_same(http_span(h, h->fields[i].name), name))
            continue;
        if (count++ == 0)
            *ret_value = http_span(h, h->fields[i].value);
        if (!ret_count)
            break;
    }
    if (ret_count)
        *ret_count = count;
    return count > 0;
}

/* --- percent-encoding --- */

enum err http_unescape(struct span in, bool plus, uint8_t *out, size_t *ret_len)
{
    size_t n = 0;
    for (size_t i = 0; i < in.len; i++) {
        uint8_t c = in.data[i];
        if (c == '%') {
            int high = i + 2 < in.len ? http_hex(in.data[i + 1]) : -1;
            int low = high >= 0 ? http_hex(in.data[i + 2]) : -1;
            if (low < 0)
                return ERR_BAD_REQUEST;
            c = (uint8_t)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (http_is_control(c))
            return ERR_BAD_REQUEST;
        out[n++] = c;
    }
    *ret_len = n;
    return ERR_OK;
}

bool http_next_param(struct span *query, struct span *ret_name, struct span *ret_value)
{
    while (query->len) {
        const uint8_t *amp = memchr(query->data, '&', query->len);
        size_t len = amp ? (size_t)(amp - query->data) : query->len;
        struct span part = span_of(query->data, len);
        size_t skip = amp ? len + 1 : len;
        *query = span_of(query->data + skip, query->len - skip);
        if (part.len == 0)
            continue;
        const uint8_t *equals = memchr(part.data, '=', part.len);
        size_t name = equals ? (size_t)(equals - part.data) : part.len;
        size_t value = equals ? name + 1 : name;
        *ret_name = span_of(part.data, name);
        *ret_value = span_of(part.data + value, part.len - value);
        return true;
    }
    return false;
}
