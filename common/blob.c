#include "common/blob.h"

#include <stdatomic.h>
#include <stdlib.h>

struct blob *blob_new(size_t len, uint8_t **ret_data)
{
    if (len > SIZE_MAX - sizeof(struct blob))
        return NULL;
    struct blob *b = malloc(sizeof *b + len);
    if (!b)
        return NULL;
    atomic_init(&b->refs, 1);
    b->len = len;
    b->data = (const uint8_t *)(b + 1);
    *ret_data = (uint8_t *)(b + 1);
    return b;
}

struct blob *blob_copy(struct span bytes)
{
    uint8_t *data;
    struct blob *b = blob_new(bytes.len, &data);
    if (b && bytes.len)
        memcpy(data, bytes.data, bytes.len);
    return b;
}

struct blob *blob_ref(struct blob *b)
{
    if (b)
        atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

void blob_free(struct blob **b)
{
    struct blob *mine = TAKE(*b);
    if (mine && atomic_fetch_sub_explicit(&mine->refs, 1, memory_order_acq_rel) == 1)
        free(mine);
}
