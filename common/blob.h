/* A counted run of bytes: a job's body or result, held by the core, the store's ring and a frame on its way at once.
 * Counts are atomic because ZeroMQ releases the bytes of a sent frame in its own thread. The bytes never change. */
#pragma once

#include "common/base.h"

struct blob {
    _Atomic uint32_t refs;
    size_t len;
    const uint8_t *data;
};

/* A copy of `bytes` with one reference. NULL when there is no memory. An empty blob is a valid blob. */
MUST_USE struct blob *blob_copy(struct span bytes);

/* A blob of `len` unset bytes, to be filled through `ret_data` before anyone else sees it. NULL when there is no memory. */
MUST_USE struct blob *blob_new(size_t len, uint8_t **ret_data);

/* One more reference; returns its argument, NULL stays NULL. */
struct blob *blob_ref(struct blob *b);

/* Gives one reference back and clears the pointer. Accepts NULL. */
void blob_free(struct blob **b);

/* Lent until the blob is freed; empty for NULL. */
static inline struct span blob_span(const struct blob *b)
{
    return b ? span_of(b->data, b->len) : (struct span){0};
}
