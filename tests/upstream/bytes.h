/* A growing run of bytes: appended at the end, taken from the front.
 *
 * Used for what was read and not yet understood, and for what was said and not yet sent.  A test
 * tool without memory is of no use to anyone, so running out ends the process with a message. */
#pragma once

#include "common/base.h"

struct bytes {
    char *data;
    size_t from, to; /* what it holds is data[from, to) */
    size_t cap;
};

/* Memory or the end of the process. */
void *must_alloc(size_t size);

void bytes_done(struct bytes *b);

static inline char *bytes_at(const struct bytes *b)
{
    return b->data + b->from;
}
static inline size_t bytes_left(const struct bytes *b)
{
    return b->to - b->from;
}
static inline void bytes_clear(struct bytes *b)
{
    b->from = b->to = 0;
}

/* Room for n more bytes; the caller fills some and adds their number to b->to. */
char *bytes_room(struct bytes *b, size_t n);

/* Forget the first n bytes. */
void bytes_drop(struct bytes *b, size_t n);

void bytes_add(struct bytes *b, const void *data, size_t n);
void bytes_puts(struct bytes *b, const char *text);
void bytes_number(struct bytes *b, int64_t n);
void bytes_printf(struct bytes *b, const char *format, ...) PRINTF(2, 3);

/* Text as the inside of a JSON string, without the quotes.  Bytes that are not UTF-8 become
 * U+FFFD, so that whoever reads a log can always parse it. */
void bytes_escape(struct bytes *b, const char *text, size_t n);

/* A whole JSON string; NULL becomes null. */
void bytes_string(struct bytes *b, const char *text);
