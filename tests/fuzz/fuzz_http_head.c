/* Request heads: however the bytes are cut, the outcome is the same, and every slice lies inside the head.
 * The first two bytes say where the cuts are.
 * Covers: api/http.c */
#include <stdlib.h>

#include "api/http.h"

#define FIELDS 16
#define BYTES  2048
#define CUTS   32 /* places where the bytes are cut once, besides */

struct outcome {
    enum err error;
    bool done;
    struct http_head head;
    struct http_field fields[FIELDS];
};

static void check_slice(const struct http_head *h, struct http_slice s)
{
    assert(s.at <= h->bytes && s.len <= h->bytes - s.at);
}

static void check_done(const struct http_head *h, size_t len)
{
    struct span value;
    uint8_t text[BYTES];
    size_t n;
    assert(h->bytes <= len && h->bytes <= BYTES && h->fields_count <= FIELDS);
    assert(memcmp(h->base + h->bytes - 4, "\r\n\r\n", 4) == 0);
    assert(!(h->chunked && h->has_length) && (h->minor == 0 || h->authority.len));
    check_slice(h, h->path);
    check_slice(h, h->query);
    check_slice(h, h->authority);
    for (uint32_t i = 0; i < h->fields_count; i++) {
        check_slice(h, h->fields[i].name);
        check_slice(h, h->fields[i].value);
        assert(h->fields[i].name.len);
    }
    (void)http_find(h, "x-request-id", &value, NULL);
    struct span query = http_span(h, h->query), name;
    while (http_next_param(&query, &name, &value))
        if (!http_unescape(value, true, text, &n))
            assert(n <= value.len);
}

static void run(struct outcome *o, struct span data, size_t first, size_t step)
{
    http_head_start(&o->head, o->fields, FIELDS, BYTES);
    for (size_t have = MIN(first, data.len);; have = MIN(have + step, data.len)) {
        uint8_t *copy = malloc(have ? have : 1); /* so that reading past the piece is seen */
        assert(copy);
        if (have)
            memcpy(copy, data.data, have);
        o->error = http_head_read(&o->head, span_of(copy, have), &o->done);
        if (!o->error && o->done)
            check_done(&o->head, have);
        free(copy);
        if (o->error || o->done || have == data.len)
            return;
    }
}

static void check_same(struct outcome *whole, struct outcome *pieces)
{
    assert(whole->error == pieces->error && whole->done == pieces->done);
    if (!whole->done || whole->error)
        return;
    whole->head.base = pieces->head.base = NULL;
    pieces->head.fields = whole->head.fields;
    /* Both were zeroed before, padding and all. NOLINTNEXTLINE(bugprone-suspicious-memory-comparison,cert-*) */
    assert(memcmp(&whole->head, &pieces->head, sizeof whole->head) == 0);
    assert(memcmp(whole->fields, pieces->fields, sizeof whole->fields) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct span in = span_of(data + 2, size - 2);
    struct outcome whole = {0}, pieces = {0};
    run(&whole, in, in.len, 1);
    run(&pieces, in, data[0], 1 + data[1] % 64);
    check_same(&whole, &pieces);
    for (size_t first = 1; first < MIN(in.len, CUTS); first++) {
        run(&pieces, in, first, in.len);
        check_same(&whole, &pieces);
    }
    return 0;
}
