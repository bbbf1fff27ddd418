/* Counts calls per key: see firsts.h. */
#include "tests/upstream/firsts.h"

#include "tests/upstream/bytes.h"

#include <stdlib.h>
#include <uthash.h>

#define KEYS_MAX (1000 * 1000)

struct key {
    uint64_t hash; /* stands for the text: a collision of 64 bits would only blur a test */
    int64_t count;
    UT_hash_handle hh;
};

struct firsts {
    struct key *keys;
};

struct firsts *firsts_new(void)
{
    struct firsts *f = must_alloc(sizeof *f);
    f->keys = NULL;
    return f;
}

void firsts_clear(struct firsts *f)
{
    struct key *k, *next;
    HASH_ITER(hh, f->keys, k, next)
    {
        HASH_DEL(f->keys, k);
        free(k);
    }
}

void firsts_free(struct firsts **f)
{
    if (*f)
        firsts_clear(*f);
    free(*f);
    *f = NULL;
}

/* FNV-1a. */
static uint64_t hash_text(const char *p, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return h;
}

int64_t firsts_count(struct firsts *f, const char *key, size_t len)
{
    struct key *k = NULL;
    uint64_t hash = hash_text(key, len);
    HASH_FIND(hh, f->keys, &hash, sizeof hash, k);
    if (k)
        return k->count++;
    if (HASH_COUNT(f->keys) >= KEYS_MAX)
        return -1;
    k = must_alloc(sizeof *k);
    *k = (struct key){.hash = hash, .count = 1};
    HASH_ADD(hh, f->keys, hash, sizeof k->hash, k);
    return 0;
}
