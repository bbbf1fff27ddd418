/* Job identifiers: 128 bits, sortable by time, carrying their shard, and verifiable.
 *
 *      48 bits           12      4        40              24
 *   | ms since 1970 | shard | version | random | tag over tenant and the rest |
 *
 * Big endian. Printed as "job_" and 26 lower-case Crockford base32 characters (the first carries 3 bits): text and bytes sort
 * alike. The tag is the low 24 bits of SipHash-2-4 over the tenant's bytes and then the first 13 bytes, under a key made once
 * per shard: it tells *forgotten* (ours, gone) from *never yours* without a tombstone. It is no secret and no signature; 24
 * bits only make guessing pointless beside the 404 both give.
 *
 * A tag costs about 0.13 µs. The hash context is kept per process: one thread only. */
#pragma once

#include "common/base.h"

#define ID_BYTES     16
#define ID_TEXT_LEN  30 /* "job_" + 26, without the NUL */
#define ID_KEY_BYTES 16
#define ID_SHARDS    4096

enum id_version {
    ID_STORED = 1,
    ID_EPHEMERAL = 2,
};

struct id {
    uint8_t bytes[ID_BYTES];
};

struct id_key {
    uint8_t bytes[ID_KEY_BYTES];
};

/* Makes the hash context ahead of the first id, so that want of memory shows at start (ERR_NOMEM). Without it the first id_make
 * or id_belongs does so, and a refusal there ends the process. Good before and after a fork. */
MUST_USE enum err id_start(void);

/* wall_ms since 1970, of which 48 bits are used (until the year 10889); of random, 40. shard < ID_SHARDS. */
struct id id_make(msec wall_ms, unsigned shard, enum id_version version, uint64_t random, const struct id_key *key,
                  struct span tenant);

/* Whether the tag says that `id` was made under `key` for `tenant`. Constant time in the tag. */
bool id_belongs(const struct id *id, const struct id_key *key, struct span tenant);

/* What the bytes say. An id that was parsed may carry any version: whoever accepts one compares it with enum id_version. */
msec id_made_at(const struct id *id);
unsigned id_shard(const struct id *id);
unsigned id_version(const struct id *id);

/* out gets ID_TEXT_LEN characters and a NUL. */
void id_print(const struct id *id, char out[ID_TEXT_LEN + 1]);

/* Takes exactly the form id_print gives, in lower case; any other spelling is ERR_MALFORMED, so one job has one name. */
MUST_USE enum err id_parse(struct span text, struct id *ret_id);

static inline bool id_equal(const struct id *a, const struct id *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}
