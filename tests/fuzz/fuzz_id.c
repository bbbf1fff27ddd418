/* Job ids as callers write them: a job has one spelling, and what is taken prints as it was given.
 * Covers: common/id.c */
#include "common/id.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct id_key key = {"a key of 16 byte"};
    struct span text = span_of(data, size);
    struct id id;
    char again[ID_TEXT_LEN + 1];
    if (id_parse(text, &id)) {
        if (size < ID_BYTES)
            return 0;
        memcpy(&id, data, sizeof id); /* any 16 bytes are an id, and print as one */
        struct id parsed;
        id_print(&id, again);
        assert(!id_parse(span_str(again), &parsed) && id_equal(&parsed, &id));
        struct id made = id_make(id_made_at(&id), id_shard(&id), ID_STORED, size, &key, text);
        assert(id_belongs(&made, &key, text) && id_made_at(&made) == id_made_at(&id) && id_shard(&made) == id_shard(&id) &&
               id_version(&made) == ID_STORED);
        return 0;
    }
    id_print(&id, again);
    assert(span_is(text, again) && id_shard(&id) < ID_SHARDS);
    return 0;
}
