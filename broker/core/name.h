/* Interned text: one counted copy of every route, worker and deployment name that jobs mention. Same text, same pointer. */
#pragma once

#include "broker/core/hash.h"
#include "common/base.h"

struct name {
    UT_hash_handle hh;
    struct name *dead; /* the next of those that are to be freed */
    uint32_t refs;
    uint32_t len;
    char text[];
};

struct names {
    struct name *all;
    struct name *dead;
};

/* With one more reference. NULL: no memory. */
MUST_USE struct name *name_get(struct names *names, struct span text);
/* Gives one back and clears the pointer. Accepts NULL. The text is good until names_sweep, so that what lends it may outlive
 * this. */
void name_put(struct names *names, struct name **name);
void names_sweep(struct names *names);

static inline struct name *name_ref(struct name *name)
{
    if (name)
        name->refs++;
    return name;
}
static inline struct span name_span(const struct name *name)
{
    return name ? span_of(name->text, name->len) : (struct span){0};
}
