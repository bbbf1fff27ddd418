/* Counts calls per key, so that a fault can hit only the first ones (fail_first). */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct firsts;

struct firsts *firsts_new(void);
void firsts_free(struct firsts **f);
void firsts_clear(struct firsts *f);

/* How many calls of this key came before this one.  -1: a million keys are remembered already,
 * which is the limit. */
int64_t firsts_count(struct firsts *f, const char *key, size_t len);
