/* The monitor's answers: msgpack maps with text keys, written front to back. Pure. */
#pragma once

#include <msgpack.h>

#include "common/blob.h"

struct pack {
    msgpack_sbuffer buffer;
    msgpack_packer packer;
};

void pack_init(struct pack *pack);
void pack_done(struct pack *pack);
/* What was written, as a blob. NULL: no memory. */
MUST_USE struct blob *pack_blob(const struct pack *pack);

void pack_map(struct pack *pack, uint32_t pairs);
void pack_list(struct pack *pack, uint32_t items);
void pack_text(struct pack *pack, struct span text);
void pack_key(struct pack *pack, const char *key);
void pack_number(struct pack *pack, const char *key, uint64_t value);
void pack_instant(struct pack *pack, const char *key, int64_t value);
void pack_flag(struct pack *pack, const char *key, bool value);
void pack_string(struct pack *pack, const char *key, const char *value);
void pack_span(struct pack *pack, const char *key, struct span value);
