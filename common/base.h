/* The few words C lacks. Every file may use them; nothing here knows of jobs, sockets or clocks. */
#pragma once

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/error.h"

/* The result must be looked at. */
#define MUST_USE          __attribute__((warn_unused_result))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define UNUSED            __attribute__((unused))

/* AUTO(x_free) struct x *p = NULL; runs x_free(&p) when p leaves scope, on every path. */
#define AUTO(release) __attribute__((cleanup(release)))

/* Hand on what an AUTO local owns: yields its value and clears it. */
#define TAKE(p)                                                                                                                \
    (__extension__({                                                                                                           \
        __typeof__(p) taken_ = (p);                                                                                            \
        (p) = NULL;                                                                                                            \
        taken_;                                                                                                                \
    }))

#define ARRAY_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)      ((a) < (b) ? (a) : (b))
#define MAX(a, b)      ((a) > (b) ? (a) : (b))

/* The struct that holds `member` at `ptr`. */
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* A point in time or a length of time, in milliseconds. Names tell which: `_at` instants, `_ms` durations. Which axis an
 * instant is on is said where it is declared; inside the broker's core it is always core time (DESIGN.md, section 4). */
typedef int64_t msec;
#define MSEC_NEVER INT64_MAX

/* Bytes that someone else owns. `data` may be NULL only when `len` is 0. Not NUL-terminated. */
struct span {
    const uint8_t *data;
    size_t len;
};

static inline struct span span_of(const void *data, size_t len)
{
    return (struct span){data, len};
}
static inline struct span span_str(const char *s)
{
    return (struct span){(const uint8_t *)s, s ? strlen(s) : 0};
}
static inline bool span_equal(struct span a, struct span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}
/* Without the blanks (space, tab) around it. */
static inline struct span span_trim(struct span s)
{
    while (s.len && (s.data[0] == ' ' || s.data[0] == '\t'))
        s = span_of(s.data + 1, s.len - 1);
    while (s.len && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t'))
        s.len--;
    return s;
}
static inline bool span_is(struct span a, const char *s)
{
    return span_equal(a, span_str(s));
}

/* printf("%.*s", SPAN_ARG(s)) */
#define SPAN_ARG(s) (int)(s).len, (const char *)((s).data ? (const void *)(s).data : "")
