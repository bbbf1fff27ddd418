/* The structs of messages.def. Decoded texts, bytes and lists are lent by the frame or record they were decoded from. */
#pragma once

#include "common/base.h"
#include "common/id.h"
#include "proto/limits.h"
#include "proto/words.h"

/* Orders leases of one job: by the broker's epoch, then by its count. {0, 0} is before every lease. */
struct fence {
    uint64_t epoch;
    uint64_t n;
};

static inline int fence_compare(struct fence a, struct fence b)
{
    if (a.epoch != b.epoch)
        return a.epoch < b.epoch ? -1 : 1;
    return a.n == b.n ? 0 : a.n < b.n ? -1 : 1;
}

/* Senders and receivers, as bits. A peer is any role but the broker. */
enum {
    FROM_BROKER = 1 << ROLE_BROKER,
    FROM_API = 1 << ROLE_API,
    FROM_WORKER = 1 << ROLE_WORKER,
    FROM_MONITOR = 1 << ROLE_MONITOR,
    FROM_PEER = FROM_API | FROM_WORKER | FROM_MONITOR,
    TO_BROKER = FROM_BROKER,
    TO_API = FROM_API,
    TO_WORKER = FROM_WORKER,
    TO_MONITOR = FROM_MONITOR,
    TO_PEER = FROM_PEER,
};

#define U8(name, sentence)           uint8_t name;
#define U16(name, sentence)          uint16_t name;
#define U32(name, sentence)          uint32_t name;
#define U64(name, sentence)          uint64_t name;
#define I64(name, sentence)          int64_t name;
#define FLAG(name, sentence)         bool name;
#define WORDNUM(name, set, sentence) uint8_t name;
#define JOBID(name, sentence)        struct id name;
#define FENCE(name, sentence)        struct fence name;
#define FIXED(name, size, sentence)  uint8_t name[size];
#define TEXT(name, max, sentence)    struct span name;
#define BIN(name, max, sentence)     struct span name;
#define NEST(name, record, sentence) struct rec_##record name;
#define LIST(name, record, max, sentence)                                                                                      \
    const struct rec_##record *name;                                                                                           \
    uint32_t name##_count;
#define RECORD(name, sentence) struct rec_##name {
#define END_RECORD(name)                                                                                                       \
    }                                                                                                                          \
    ;
#define MESSAGE(CODE, name, number, from, to, body, sentence) struct msg_##name {
/* Never empty, so that a message without fields is still a C struct. */
#define END_MESSAGE(name)                                                                                                      \
    char end_[0];                                                                                                              \
    }                                                                                                                          \
    ;
#include "proto/rows.h"
#include "proto/messages.def"
#include "proto/undef.h"

enum message {
#define MESSAGE(CODE, name, number, from, to, body, sentence) MESSAGE_##CODE = number,
#include "proto/rows.h"
#include "proto/messages.def"
#include "proto/undef.h"
};
