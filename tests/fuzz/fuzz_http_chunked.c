/* Chunked bodies: however the bytes are cut, and decoded in place or elsewhere, the outcome is the same.
 * The first two bytes say where the cuts are, the third bounds the body.
 * Covers: api/http_chunked.c */
#include <stdlib.h>

#include "api/http.h"

struct outcome {
    enum err error;
    bool done;
    size_t used, wrote;
    uint8_t *body;
};

static struct outcome run(struct span data, uint64_t max, size_t first, size_t step)
{
    struct http_chunked chunked;
    struct outcome o = {.body = malloc(data.len + 1)};
    assert(o.body);
    if (data.len)
        memcpy(o.body, data.data, data.len);
    http_chunked_start(&chunked, max);
    for (size_t have = MIN(first, data.len);; have = MIN(have + step, data.len)) {
        size_t used = 0, wrote = 0;
        o.error =
            http_chunked_read(&chunked, span_of(o.body + o.used, have - o.used), o.body + o.wrote, &used, &wrote, &o.done);
        if (o.error)
            return o;
        o.used += used;
        o.wrote += wrote;
        assert(wrote <= used && o.wrote <= max && o.wrote == chunked.body_bytes && o.used <= have);
        assert(o.done || o.used == have);
        if (o.done || have == data.len)
            return o;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    struct span in = span_of(data + 3, size - 3);
    uint64_t max = (uint64_t)data[2] * 8;
    struct outcome whole = run(in, max, in.len, 1), pieces = run(in, max, data[0], 1 + data[1] % 32);
    assert(whole.error == pieces.error);
    if (!whole.error) {
        assert(whole.done == pieces.done && whole.used == pieces.used && whole.wrote == pieces.wrote);
        assert(memcmp(whole.body, pieces.body, whole.wrote) == 0);
    }
    free(whole.body);
    free(pieces.body);
    return 0;
}
