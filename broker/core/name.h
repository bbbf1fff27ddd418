/* Interned text: one counted copy of every route, worker and deployment name that jobs mention. Same text, same pointer. */
#pragma once

#include <uthash.h>

#include "common/base.h"

struct name {
    UT_hash_handle hh;
    uint32_t refs;
    uint32_t len;
    char text[];
};

struct names {
    struct name *all;
};

/* With one more reference. NULL: no memory. */
MUST_USE struct name *name_get(struct names *names, struct span text);
/* Gives one back and clears the pointer. Accepts NULL. */
void name_put(struct names *names, struct name **name);

static inline struct name *name_ref(struct name *name)
{
    if (name)
        name->refs++;
    return name;
}
static inline struct span name_span(const struct name *name) { return name ? span_of(name->text, name->len) : (struct span){0}; }
