/* The request parser: every case is given whole, cut in two at every offset, and byte by byte, and must come out the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "api/http.h"

#define FIELDS 8
#define BYTES  512

/* --- heads --- */

struct head_case {
    const char *name, *bytes;
    size_t len; /* 0: strlen */
    enum err expected;
    const char *summary; /* of a good one: METHOD path?query @authority 1.x, what it asks for, length of the rest */
};

static const char *const method_names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "OTHER"};

static void summarise(const struct http_head *h, size_t rest, char *out, size_t size)
{
    struct span path = http_span(h, h->path), query = http_span(h, h->query), host = http_span(h, h->authority);
    char length[32] = "-";
    if (h->has_length)
        snprintf(length, sizeof length, "%llu", (unsigned long long)h->content_length);
    snprintf(out, size, "%s %.*s?%.*s%s @%.*s 1.%u keep=%d chunked=%d expect=%d length=%s fields=%u rest=%zu",
             method_names[h->method], SPAN_ARG(path), SPAN_ARG(query), h->options_star ? " *" : "", SPAN_ARG(host), h->minor,
             h->keep_alive, h->chunked, h->expect_continue, length, h->fields_count, rest);
}

#define GET   "GET / HTTP/1.1\r\n"
#define HOST  "Host: a\r\n"
#define END   "\r\n"
#define PLAIN "keep=1 chunked=0 expect=0"

static const struct head_case heads[] = {
    {"smallest", GET HOST END, 0, ERR_OK, "GET /? @a 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"rest is the next request's", GET HOST END "GET /b", 0, ERR_OK, "GET /? @a 1.1 " PLAIN " length=- fields=1 rest=6"},
    {"query", "GET /v1/jobs/x%2fy?wait=30s&a=b/? HTTP/1.1\r\n" HOST END, 0, ERR_OK,
     "GET /v1/jobs/x%2fy?wait=30s&a=b/? @a 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"one empty line first", END GET HOST END, 0, ERR_OK, "GET /? @a 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"two empty lines first", END END GET HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"1.0 without host", "GET / HTTP/1.0\r\n" END, 0, ERR_OK,
     "GET /? @ 1.0 keep=0 chunked=0 expect=0 length=- fields=0 rest=0"},
    {"1.0 asks to keep alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n" END, 0, ERR_OK,
     "GET /? @ 1.0 keep=0 chunked=0 expect=0 length=- fields=1 rest=0"},
    {"close in a list", GET HOST "Connection: TE ,\tClose \r\n" END, 0, ERR_OK,
     "GET /? @a 1.1 keep=0 chunked=0 expect=0 length=- fields=2 rest=0"},
    {"length", "POST / HTTP/1.1\r\n" HOST "content-LENGTH:007 \r\n" END, 0, ERR_OK,
     "POST /? @a 1.1 " PLAIN " length=7 fields=2 rest=0"},
    {"chunked, any case", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: CHUNKED\r\n" END, 0, ERR_OK,
     "POST /? @a 1.1 keep=1 chunked=1 expect=0 length=- fields=2 rest=0"},
    {"expect", "POST / HTTP/1.1\r\n" HOST "Expect: 100-Continue\r\n" END, 0, ERR_OK,
     "POST /? @a 1.1 keep=1 chunked=0 expect=1 length=- fields=2 rest=0"},
    {"expect in 1.0 is ignored", "POST / HTTP/1.0\r\nExpect: 100-continue\r\n" END, 0, ERR_OK,
     "POST /? @ 1.0 keep=0 chunked=0 expect=0 length=- fields=1 rest=0"},
    {"options of the server", "OPTIONS * HTTP/1.1\r\n" HOST END, 0, ERR_OK,
     "OPTIONS ? * @a 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"absolute target replaces host", "GET HTTP://b:80/p?q HTTP/1.1\r\n" HOST END, 0, ERR_OK,
     "GET /p?q @b:80 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"absolute target without path", "GET http://b?q HTTP/1.1\r\n" HOST END, 0, ERR_OK,
     "GET ?q @b 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"absolute options", "OPTIONS https://b HTTP/1.1\r\n" HOST END, 0, ERR_OK,
     "OPTIONS ? * @b 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"unknown method is a token", "BREW /pot HTTP/1.1\r\n" HOST END, 0, ERR_OK,
     "OTHER /pot? @a 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"methods know case", "get / HTTP/1.1\r\n" HOST END, 0, ERR_OK, "OTHER /? @a 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"v6 host with port", GET "Host: [::1]:8080\r\n" END, 0, ERR_OK,
     "GET /? @[::1]:8080 1.1 " PLAIN " length=- fields=1 rest=0"},
    {"tab and high bytes in a value", GET HOST "x: a\tb\xc3\xa9\r\n" END, 0, ERR_OK,
     "GET /? @a 1.1 " PLAIN " length=- fields=2 rest=0"},
    {"empty value", GET HOST "x:\r\n" END, 0, ERR_OK, "GET /? @a 1.1 " PLAIN " length=- fields=2 rest=0"},
    {"as many fields as allowed", GET HOST "b:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\n" END, 0, ERR_OK,
     "GET /? @a 1.1 " PLAIN " length=- fields=8 rest=0"},

    {"one field too many", GET HOST "b:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\n" END, 0, ERR_HEADER_TOO_LARGE, NULL},
    {"two lengths", "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"two equal lengths", "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n" END, 0, ERR_BAD_REQUEST,
     NULL},
    {"listed length", "POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"signed length", "POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"negative length", "POST / HTTP/1.1\r\n" HOST "Content-Length: -5\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"hex length", "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"spaced length", "POST / HTTP/1.1\r\n" HOST "Content-Length: 1 1\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"no length", "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"overflowing length", "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551617\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"length and coding", "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" END, 0,
     ERR_BAD_REQUEST, NULL},
    {"coding and length", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n" END, 0,
     ERR_BAD_REQUEST, NULL},
    {"gzip, chunked", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"chunked twice", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" END, 0,
     ERR_BAD_REQUEST, NULL},
    {"chunked listed twice", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, chunked\r\n" END, 0, ERR_BAD_REQUEST,
     NULL},
    {"identity", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"xchunked", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"quoted chunked", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \"chunked\"\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"vertical tab before chunked", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \vchunked\r\n" END, 0, ERR_BAD_REQUEST,
     NULL},
    {"chunked in 1.0", "POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"space before colon", "POST / HTTP/1.1\r\n" HOST "Content-Length : 5\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"tab before colon", "POST / HTTP/1.1\r\n" HOST "Content-Length\t: 5\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"folded line", GET HOST "x: a\r\n b\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"folded by a tab", GET HOST "x: a\r\n\tb\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"space before the first field", GET " " HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"no colon", GET HOST "x\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"no name", GET HOST ": x\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"name with a high byte", GET HOST "\xc3\xa9: x\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"name with a bracket", GET HOST "a[: x\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"bare LF after the request line", "GET / HTTP/1.1\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"bare LF after a field", GET "Host: a\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"bare LF at the end", GET HOST "\n", 0, ERR_BAD_REQUEST, NULL},
    {"bare CR in a value", GET HOST "x: a\rb\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"bare CR in the request line", "GET /\r HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"CR CR LF", GET HOST "x: a\r\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"NUL in a value", GET HOST "x: a\0b\r\n" END, sizeof(GET HOST "x: a\0b\r\n" END) - 1, ERR_BAD_REQUEST, NULL},
    {"NUL in the target", "GET /\0 HTTP/1.1\r\n", sizeof("GET /\0 HTTP/1.1\r\n") - 1, ERR_BAD_REQUEST, NULL},
    {"escape in a value", GET HOST "x: \x1b[0m\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"DEL in a value", GET HOST "x: \x7f\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"TLS hello", "\x16\x03\x01\x02", 0, ERR_BAD_REQUEST, NULL},
    {"no host", GET END, 0, ERR_BAD_REQUEST, NULL},
    {"two hosts", GET HOST HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"two hosts in 1.0", "GET / HTTP/1.0\r\n" HOST HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"no host beside an absolute target", "GET http://b/ HTTP/1.1\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"empty host", GET "Host:\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"host with a path", GET "Host: a/b\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"host with a user", GET "Host: u@a\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"host with a space", GET "Host: a b\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"host with a long port", GET "Host: a:123456\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"host with a bad port", GET "Host: a:8x\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"open bracket", GET "Host: [::1\r\n" END, 0, ERR_BAD_REQUEST, NULL},
    {"no target", "GET  HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"no version", "GET /\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"two spaces", "GET  / HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"two spaces before the version", "GET /  HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"space after the version", "GET / HTTP/1.1 \r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"space first", " GET / HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"tab in the request line", "GET\t/ HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"method is no token", "G(T / HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"version in lower case", "GET / http/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"version of three digits", "GET / HTTP/1.10\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"version 1.2", "GET / HTTP/1.2\r\n" HOST END, 0, ERR_VERSION, NULL},
    {"version 2.0", "PRI * HTTP/2.0\r\n" END, 0, ERR_VERSION, NULL},
    {"version 0.9", "GET / HTTP/0.9\r\n" HOST END, 0, ERR_VERSION, NULL},
    {"star for another method", "GET * HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"authority target", "CONNECT a:443 HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"other scheme", "GET ftp://a/ HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"absolute target with a user", "GET http://u@a/ HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"absolute target without host", "GET http:///p HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"fragment", "GET /#a HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"backslash", "GET /a\\b HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"space in the path", "GET /a b HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"high byte in the path", "GET /\xc3\xa9 HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"half an escape", "GET /%4 HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"escape that is none", "GET /%zz HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"escape that is none in the query", "GET /?%4 HTTP/1.1\r\n" HOST END, 0, ERR_BAD_REQUEST, NULL},
    {"another expectation", "POST / HTTP/1.1\r\n" HOST "Expect: 200-ok\r\n" END, 0, ERR_EXPECTATION, NULL},
    {"two expectations", "POST / HTTP/1.1\r\n" HOST "Expect: 100-continue, x\r\n" END, 0, ERR_EXPECTATION, NULL},
};

/* Gives the first `cut` bytes, then the rest `step` at a time. Each piece lies at another address. */
static enum err read_head(struct span all, size_t cut, size_t step, char *summary, size_t size)
{
    struct http_field fields[FIELDS];
    struct http_head head;
    http_head_start(&head, fields, FIELDS, BYTES);
    snprintf(summary, size, "incomplete");
    for (size_t have = MIN(cut, all.len);; have = MIN(have + step, all.len)) {
        uint8_t *copy = malloc(have + 1);
        if (have)
            memcpy(copy, all.data, have);
        bool done = false;
        enum err e = http_head_read(&head, span_of(copy, have), &done);
        if (!e && done)
            summarise(&head, all.len - head.bytes, summary, size);
        free(copy);
        if (e || done || have == all.len)
            return e;
    }
}

static void check_head_case(const char *name, struct span bytes, enum err expected, const char *summary)
{
    char text[1024];
    for (size_t cut = 0; cut <= bytes.len; cut++) {
        enum err e = read_head(bytes, cut, bytes.len, text, sizeof text);
        if (e != expected || (summary && strcmp(text, summary) != 0))
            fail_msg("%s, cut at %zu: %s, %s", name, cut, err_name(e), text);
    }
    enum err e = read_head(bytes, 0, 1, text, sizeof text);
    if (e != expected || (summary && strcmp(text, summary) != 0))
        fail_msg("%s, byte by byte: %s, %s", name, err_name(e), text);
}

static void test_heads(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(heads); i++) {
        const struct head_case *c = &heads[i];
        size_t len = c->len ? c->len : strlen(c->bytes);
        check_head_case(c->name, span_of(c->bytes, len), c->expected, c->summary);
    }
}

/* No prefix of a good head is refused, and none is taken for a whole one. */
static void test_prefixes_wait(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(heads); i++) {
        struct http_field fields[FIELDS];
        struct http_head head;
        if (heads[i].expected)
            continue;
        const char *end = strstr(heads[i].bytes[0] == '\r' ? heads[i].bytes + 2 : heads[i].bytes, "\r\n\r\n");
        size_t len = (size_t)(end - heads[i].bytes) + 4;
        for (size_t have = 0; have < len; have++) {
            bool done = true;
            http_head_start(&head, fields, FIELDS, BYTES);
            assert_int_equal(http_head_read(&head, span_of(heads[i].bytes, have), &done), ERR_OK);
            assert_false(done);
        }
    }
}

static void test_head_limits(void **state)
{
    char bytes[BYTES + 64];
    /* a head of exactly the limit, and one byte more */
    for (int more = 0; more <= 1; more++) {
        int len = snprintf(bytes, sizeof bytes, GET HOST "x: ");
        while (len < BYTES - 4 + more)
            bytes[len++] = 'a';
        memcpy(bytes + len, "\r\n\r\n", 4);
        check_head_case("head limit", span_of(bytes, (size_t)len + 4), more ? ERR_HEADER_TOO_LARGE : ERR_OK, NULL);
    }
    /* a head that never ends is refused without its end */
    memset(bytes, 'A', sizeof bytes);
    check_head_case("endless", span_of(bytes, sizeof bytes), ERR_HEADER_TOO_LARGE, NULL);
}

static void test_line_limit(void **state)
{
    size_t max = HTTP_LINE_MAX + 200;
    char *bytes = malloc(max);
    for (size_t line = HTTP_LINE_MAX; line <= HTTP_LINE_MAX + 1; line++) {
        struct http_field fields[FIELDS];
        struct http_head head;
        memset(bytes, 'a', line);
        memcpy(bytes, "GET /", 5);
        memcpy(bytes + line - 9, " HTTP/1.1", 9);
        memcpy(bytes + line, "\r\n" HOST END, sizeof("\r\n" HOST END) - 1);
        for (size_t cut = line - 2; cut < line + 4; cut++) {
            bool done;
            http_head_start(&head, fields, FIELDS, 1 << 20);
            enum err e = http_head_read(&head, span_of(bytes, cut), &done);
            if (!e)
                e = http_head_read(&head, span_of(bytes, line + sizeof("\r\n" HOST END) - 1), &done);
            assert_int_equal(e, line > HTTP_LINE_MAX ? ERR_HEADER_TOO_LARGE : ERR_OK);
        }
    }
    free(bytes);
}

static void test_find(void **state)
{
    struct http_field fields[FIELDS];
    struct http_head head;
    bool done;
    http_head_start(&head, fields, FIELDS, BYTES);
    assert_int_equal(http_head_read(&head, span_str(GET HOST "X-A: 1\r\nx-a:  2\t\r\n" END), &done), ERR_OK);
    assert_true(done);
    struct span value;
    unsigned count;
    assert_true(http_find(&head, "x-a", &value, &count));
    assert_true(span_is(value, "1"));
    assert_int_equal(count, 2);
    assert_false(http_find(&head, "x-b", &value, &count));
    assert_int_equal(count, 0);
}

/* --- percent-encoding and queries --- */

static void test_unescape(void **state)
{
    static const struct {
        const char *in, *out;
        bool plus;
    } cases[] = {
        {"a%20b+c", "a b c", true},
        {"a%20b+c", "a b+c", false},
        {"%2F%2f", "//", false},
        {"%C3%a9", "\xc3\xa9", false},
        {"", "", false},
        {"%", NULL, false},
        {"%4", NULL, false},
        {"%4g", NULL, false},
        {"%00", NULL, false},
        {"%0d%0A", NULL, false},
        {"%7F", NULL, false},
        {"%-1", NULL, false},
        {"a%2541", "a%41", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t out[32];
        size_t len = 0;
        enum err e = http_unescape(span_str(cases[i].in), cases[i].plus, out, &len);
        assert_int_equal(e, cases[i].out ? ERR_OK : ERR_BAD_REQUEST);
        if (cases[i].out)
            assert_true(span_is(span_of(out, len), cases[i].out));
    }
}

static void test_params(void **state)
{
    struct span query = span_str("&wait=30s&&flag&a=b=c&="), name, value;
    static const char *const expected[][2] = {{"wait", "30s"}, {"flag", ""}, {"a", "b=c"}, {"", ""}};
    for (size_t i = 0; i < ARRAY_COUNT(expected); i++) {
        assert_true(http_next_param(&query, &name, &value));
        assert_true(span_is(name, expected[i][0]));
        assert_true(span_is(value, expected[i][1]));
    }
    assert_false(http_next_param(&query, &name, &value));
}

/* --- chunked bodies --- */

struct chunk_case {
    const char *name, *bytes;
    size_t len;
    enum err expected;
    const char *body; /* NULL with ERR_OK: incomplete */
    const char *rest;
};

#define CHUNK_MAX 32

static const struct chunk_case chunks[] = {
    {"one", "5\r\nhello\r\n0\r\n\r\n", 0, ERR_OK, "hello", ""},
    {"empty", "0\r\n\r\n", 0, ERR_OK, "", ""},
    {"two and the next request", "3\r\nabc\r\n002\r\nde\r\n00\r\n\r\nGET", 0, ERR_OK, "abcde", "GET"},
    {"hex in both cases", "A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n", 0, ERR_OK, "01234567890123456789a", ""},
    {"data looks like framing", "5\r\n\r\n0\r\n\r\n0\r\n\r\n", 0, ERR_OK, "\r\n0\r\n", ""},
    {"extension", "1;a=b;c=\"d e\"\r\nx\r\n0;z\r\n\r\n", 0, ERR_OK, "x", ""},
    {"trailers", "1\r\nx\r\n0\r\nA: b\r\nC:\t\r\n\r\n", 0, ERR_OK, "x", ""},
    {"exactly the limit", "20\r\n0123456789abcdef0123456789abcdef\r\n0\r\n\r\n", 0, ERR_OK, "0123456789abcdef0123456789abcdef",
     ""},
    {"sixteen digits", "0000000000000001\r\nx\r\n0\r\n\r\n", 0, ERR_OK, "x", ""},
    {"incomplete", "5\r\nhel", 0, ERR_OK, NULL, ""},
    {"without the last line", "1\r\nx\r\n0\r\n", 0, ERR_OK, NULL, ""},

    {"over the limit", "21\r\n", 0, ERR_TOO_LARGE, NULL, ""},
    {"over the limit in two", "20\r\n0123456789abcdef0123456789abcdef\r\n1\r\n", 0, ERR_TOO_LARGE, NULL, ""},
    {"overflow to zero", "10000000000000000\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"largest", "ffffffffffffffff\r\n", 0, ERR_TOO_LARGE, NULL, ""},
    {"seventeen digits", "00000000000000001\r\nx\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"plus", "+5\r\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"minus", "-5\r\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"0x", "0x5\r\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"no size", "\r\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"only an extension", ";a\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"space before the size", " 5\r\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"space after the size", "5 \r\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"underscore", "1_0\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"bare LF after the size", "5\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"NUL in an extension", "5;\0\r\nhello\r\n0\r\n\r\n", sizeof("5;\0\r\nhello\r\n0\r\n\r\n") - 1, ERR_BAD_REQUEST, NULL, ""},
    {"data longer than its size", "5\r\nhelloX\r\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"data ends in LF", "5\r\nhello\n0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"data ends in two bytes", "5\r\nhello--0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"no data end", "5\r\nhello0\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"last line ends in LF", "0\r\n\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"last line ends in CR", "0\r\n\rX", 0, ERR_BAD_REQUEST, NULL, ""},
    {"trailer without colon", "0\r\nA\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"trailer folded", "0\r\nA: b\r\n c\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"trailer with space before colon", "0\r\nA : b\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
    {"trailer without name", "0\r\n: b\r\n\r\n", 0, ERR_BAD_REQUEST, NULL, ""},
};

static enum err read_chunked(struct span in, size_t cut, size_t step, char *body, size_t *ret_rest, bool *ret_done)
{
    struct http_chunked chunked;
    size_t at = 0, wrote = 0;
    uint8_t *bytes = malloc(in.len + 1); /* decoded where it lies */
    memcpy(bytes, in.data, in.len);
    http_chunked_start(&chunked, CHUNK_MAX);
    enum err e = ERR_OK;
    *ret_done = false;
    for (size_t have = MIN(cut, in.len); !e; have = MIN(have + step, in.len)) {
        size_t used = 0, n = 0;
        e = http_chunked_read(&chunked, span_of(bytes + at, have - at), bytes + wrote, &used, &n, ret_done);
        at += e ? 0 : used;
        wrote += e ? 0 : n;
        if (*ret_done || have == in.len)
            break;
    }
    memcpy(body, bytes, wrote);
    body[wrote] = '\0';
    free(bytes);
    *ret_rest = in.len - at;
    return e;
}

static void check_chunk_case(const struct chunk_case *c, size_t cut, size_t step)
{
    struct span in = span_of(c->bytes, c->len ? c->len : strlen(c->bytes));
    char body[256];
    size_t rest;
    bool done;
    enum err e = read_chunked(in, cut, step, body, &rest, &done);
    if (e != c->expected || (!e && done != (c->body != NULL)))
        fail_msg("%s, cut at %zu: %s, done %d", c->name, cut, err_name(e), done);
    if (!e && done && (strcmp(body, c->body) != 0 || rest != strlen(c->rest)))
        fail_msg("%s, cut at %zu: '%s' and %zu left", c->name, cut, body, rest);
}

static void test_chunked(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(chunks); i++) {
        size_t len = chunks[i].len ? chunks[i].len : strlen(chunks[i].bytes);
        for (size_t cut = 0; cut <= len; cut++)
            check_chunk_case(&chunks[i], cut, len);
        check_chunk_case(&chunks[i], 0, 1);
    }
}

/* Extensions and trailers are bounded: what is allowed passes, one byte more does not. */
static enum err chunked_all(const char *text, size_t body_max)
{
    struct http_chunked chunked;
    size_t used, wrote, len = strlen(text);
    bool done = false;
    char *out = malloc(len + 1);
    http_chunked_start(&chunked, body_max);
    enum err e = http_chunked_read(&chunked, span_of(text, len), (uint8_t *)out, &used, &wrote, &done);
    free(out);
    return e ? e : done ? ERR_OK : ERR_MALFORMED;
}

static void fill(char *out, size_t n, char c)
{
    memset(out, c, n);
    out[n] = '\0';
}

static void test_chunked_bounds(void **state)
{
    char *text = calloc(1, 1 << 20), part[HTTP_TRAILER_MAX + 16];
    for (size_t more = 0; more <= 1; more++) {
        fill(part, HTTP_CHUNK_EXT_MAX + more, 'e');
        sprintf(text, "1;%s\r\nx\r\n0\r\n\r\n", part);
        assert_int_equal(chunked_all(text, 10), more ? ERR_BAD_REQUEST : ERR_OK);

        /* the trailer section without its last two bytes, which are part of the count too */
        fill(part, HTTP_TRAILER_MAX - 5 + more, 't');
        sprintf(text, "0\r\nA:%s\r\n\r\n", part);
        assert_int_equal(chunked_all(text, 10), more ? ERR_BAD_REQUEST : ERR_OK);

        text[0] = '\0';
        fill(part, HTTP_CHUNK_EXT_MAX, 'e');
        char *at = text;
        for (size_t i = 0; i < HTTP_CHUNK_EXT_TOTAL / HTTP_CHUNK_EXT_MAX; i++)
            at += sprintf(at, "1;%s\r\nx\r\n", part);
        sprintf(at, "0%s\r\n\r\n", more ? ";e" : "");
        assert_int_equal(chunked_all(text, 1000), more ? ERR_BAD_REQUEST : ERR_OK);
    }
    free(text);
}

/* --- replies --- */

static void test_reply_head(void **state)
{
    char out[HTTP_REPLY_HEAD_MAX + 1];
    out[http_reply_head(&(struct http_reply){.status = 204, .close = true}, out)] = '\0';
    assert_string_equal(out, "HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
                             "Connection: close\r\n\r\n");

    struct http_reply full = {.status = 429,
                              .date = "Sun, 06 Nov 1994 08:49:37 GMT",
                              .type = "application/json",
                              .request_id = "r-1",
                              .traceparent = "00-a-b-01",
                              .allow = "GET, POST",
                              .retry_after_s = 17,
                              .final = true,
                              .body_bytes = 1234567890};
    out[http_reply_head(&full, out)] = '\0';
    assert_string_equal(out, "HTTP/1.1 429 Too Many Requests\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                             "Content-Type: application/json\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
                             "X-Request-Id: r-1\r\ntraceparent: 00-a-b-01\r\nAllow: GET, POST\r\nRetry-After: 17\r\n"
                             "x-should-retry: false\r\nContent-Length: 1234567890\r\n\r\n");
}

/* The longest a reply can be fits the promised size. */
static void test_reply_head_fits(void **state)
{
    char out[HTTP_REPLY_HEAD_MAX], id[129], trace[65], allow[129], type[65];
    fill(id, 128, 'i');
    fill(trace, 64, 't');
    fill(allow, 128, 'a');
    fill(type, 64, 'y');
    struct http_reply r = {.status = 431,
                           .date = "Sun, 06 Nov 1994 08:49:37 GMT",
                           .type = type,
                           .request_id = id,
                           .traceparent = trace,
                           .allow = allow,
                           .retry_after_s = UINT32_MAX,
                           .final = true,
                           .close = true,
                           .body_bytes = UINT64_MAX};
    assert_true(http_reply_head(&r, out) <= sizeof out);
}

/* Every status that the closed set of errors can give has its words. */
static void test_reasons(void **state)
{
    for (unsigned e = 0; e < 256; e++)
        if (err_known(e))
            assert_true(http_reason(err_http_status(e))[0] != '\0');
    assert_string_equal(http_reason(299), "");
}

static void test_date(void **state)
{
    char out[HTTP_DATE_LEN + 1];
    http_date(784111777, out);
    assert_string_equal(out, "Sun, 06 Nov 1994 08:49:37 GMT");
    http_date(0, out);
    assert_string_equal(out, "Thu, 01 Jan 1970 00:00:00 GMT");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_prefixes_wait),
        cmocka_unit_test(test_head_limits),
        cmocka_unit_test(test_line_limit),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_unescape),
        cmocka_unit_test(test_params),
        cmocka_unit_test(test_chunked),
        cmocka_unit_test(test_chunked_bounds),
        cmocka_unit_test(test_reply_head),
        cmocka_unit_test(test_reply_head_fits),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_date),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
