/* A growing run of bytes: see bytes.h. */
#include "tests/upstream/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *must_alloc(size_t size)
{
    void *p = malloc(size);
    if (!p) {
        fprintf(stderr, "quern-upstream: no memory for %zu bytes\n", size);
        exit(EXIT_FAILURE);
    }
    return p;
}

void bytes_done(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

static void grow(struct bytes *b, size_t want)
{
    size_t cap = b->cap ? b->cap : 1024;
    while (cap < want)
        cap *= 2;
    char *data = must_alloc(cap);
    size_t held = bytes_left(b);
    if (held)
        memcpy(data, bytes_at(b), held);
    free(b->data);
    *b = (struct bytes){.data = data, .to = held, .cap = cap};
}

char *bytes_room(struct bytes *b, size_t n)
{
    if (b->cap - b->to < n)
        grow(b, bytes_left(b) + n);
    return b->data + b->to;
}

void bytes_drop(struct bytes *b, size_t n)
{
    b->from += n;
    if (b->from == b->to)
        bytes_clear(b);
}

void bytes_add(struct bytes *b, const void *data, size_t n)
{
    if (n)
        memcpy(bytes_room(b, n), data, n);
    b->to += n;
}

void bytes_puts(struct bytes *b, const char *text)
{
    bytes_add(b, text, strlen(text));
}

void bytes_number(struct bytes *b, int64_t n)
{
    char digits[24], *p = digits + sizeof digits;
    uint64_t rest = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    do
        *--p = (char)('0' + rest % 10);
    while (rest /= 10);
    if (n < 0)
        *--p = '-';
    bytes_add(b, p, (size_t)(digits + sizeof digits - p));
}

void bytes_printf(struct bytes *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(bytes_room(b, 128), 128, format, args);
    if (n >= 128)
        n = vsnprintf(bytes_room(b, (size_t)n + 1), (size_t)n + 1, format, again);
    va_end(again);
    va_end(args);
    if (n > 0)
        b->to += (size_t)n;
}

/* Length of the UTF-8 sequence at p, 0 when it is none (RFC 3629 §4). */
static size_t utf8_length(const unsigned char *p, size_t n)
{
    if (p[0] < 0x80)
        return 1;
    size_t want = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n < want)
        return 0;
    for (size_t i = 1; i < want; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool surrogate = p[0] == 0xed && p[1] > 0x9f;
    bool beyond = p[0] == 0xf4 && p[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : want;
}

static bool plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* One character that cannot be copied as it is; returns how many bytes it took. */
static size_t escape_one(struct bytes *b, const unsigned char *p, size_t n)
{
    static const char short_names[] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't', ['"'] = '"', ['\\'] = '\\'};
    size_t length = utf8_length(p, n);
    if (!length) {
        bytes_puts(b, "\\ufffd");
        return 1;
    }
    if (length > 1)
        bytes_add(b, p, length);
    else if (*p < sizeof short_names && short_names[*p])
        bytes_add(b, (char[]){'\\', short_names[*p]}, 2);
    else
        bytes_printf(b, "\\u%04x", *p);
    return length;
}

void bytes_escape(struct bytes *b, const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + n;
    while (p < end) {
        const unsigned char *start = p;
        while (p < end && plain(*p))
            p++;
        bytes_add(b, start, (size_t)(p - start));
        if (p < end)
            p += escape_one(b, p, (size_t)(end - p));
    }
}

void bytes_string(struct bytes *b, const char *text)
{
    if (!text) {
        bytes_puts(b, "null");
        return;
    }
    bytes_puts(b, "\"");
    bytes_escape(b, text, strlen(text));
    bytes_puts(b, "\"");
}
