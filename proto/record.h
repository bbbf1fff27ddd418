/* Pure: stored records <-> bytes, with the codec and the versioning rule of frames. What Redis holds is
 *
 *   | 'Q' | kind (1) | minor (2) | CRC-32C (4) | header bytes (4) | header: msgpack array | body |
 *
 * little endian. The checksum is over the four bytes before it and all that follows it; it is ours because an AOF has none: two
 * changed bytes load silently. */
#pragma once

#include "proto/frame.h"

enum record_kind {
    RECORD_JOB = 1,
    RECORD_ENDED = 2,
    RECORD_IDEM = 3,
};

/* parts: the body, joined. The blob is the caller's. ERR_NOMEM; ERR_LIMIT, ERR_MALFORMED as frame_encode. */
MUST_USE enum err record_pack(enum record_kind kind, const void *fields, const struct span *parts, size_t parts_count,
                              struct blob **ret_bytes);

/* One decoded record. Zero-initialise; reused; lent as long as `bytes` lives and until the next unpack into it. */
struct record {
    enum record_kind kind;
    union {
        struct rec_job job;
        struct rec_ended ended;
        struct rec_idem idem;
    };
    struct span body;
    struct frame_memory *memory;
};
/* ERR_CORRUPT: too short, wrong kind, checksum or fields; ERR_INCOMPATIBLE: a newer minor than N+1; ERR_NOMEM. */
MUST_USE enum err record_unpack(struct record *record, enum record_kind kind, struct span bytes);
void record_done(struct record *record);

/* Key names, per shard: "{q7}:j:<26 characters>" … Each writes at most RECORD_KEY_BYTES and a NUL; returns the length. */
#define RECORD_KEY_BYTES 128
size_t record_key_job(char out[RECORD_KEY_BYTES + 1], unsigned shard, const struct id *id);   /* j: */
size_t record_key_body(char out[RECORD_KEY_BYTES + 1], unsigned shard, const struct id *id);  /* b: */
size_t record_key_ended(char out[RECORD_KEY_BYTES + 1], unsigned shard, const struct id *id); /* r: */
size_t record_key_idem(char out[RECORD_KEY_BYTES + 1], unsigned shard, const uint8_t hash[32]);
/* live, epoch, last, leader, tagkey … */
size_t record_key_named(char out[RECORD_KEY_BYTES + 1], unsigned shard, const char *name);
/* ix:<tenant>:<hour of end> */
size_t record_key_index(char out[RECORD_KEY_BYTES + 1], unsigned shard, struct span tenant, msec ended_at);
