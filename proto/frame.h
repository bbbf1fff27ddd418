/* Pure: bytes <-> typed messages. A frame is two parts: a header, one msgpack array [major, message, epoch, received, field,
 * …] in the order of messages.def, and an opaque body. Nothing reaches msgpack before the claimed counts have been held
 * against the bytes left (5 bytes make msgpack-c ask for 256 GB). What the table does not allow is refused,
 * whoever sent it. */
#pragma once

#include "common/blob.h"
#include "proto/messages.h"

struct frame {
    enum message message;
    uint64_t epoch;    /* the sender's broker epoch; 0 in a HELLO */
    uint64_t received; /* bytes the sender has received in this session, for flow control */
    union {
#define MESSAGE(CODE, name, number, from, to, body, sentence) struct msg_##name name;
#include "proto/rows.h"
#include "proto/messages.def"
#include "proto/undef.h"
    };
    struct span body;
    struct frame_memory *memory; /* of decoded lists; reused by the next decode into this frame */
};

/* Growing bytes that are reused. Zero-initialise; frame_buffer_done releases. */
struct frame_buffer {
    uint8_t *data;
    size_t len, size;
};
void frame_buffer_done(struct frame_buffer *buffer);

/* Header of `message` into `out` (from its start). fields: the message's struct, lent. What it writes, frame_decode takes.
 * ERR_NOMEM; ERR_LIMIT: a text or list is longer than its row allows, or all of it than PROTO_HEADER_BYTES or PROTO_NODES;
 * ERR_MALFORMED: a TEXT that is none (frame_text_fit makes one). On failure `out` is empty. */
MUST_USE enum err frame_encode(enum message message, const void *fields, uint64_t epoch, uint64_t received,
                               struct frame_buffer *out);

/* frame: zero-initialised before its first use, reused after. What it holds is lent until the next decode into it and as
 * long as header and body live. sender: who is at the other end; receiver: who we are; peer_minor: from its HELLO or WELCOME
 * (0 before; those two say it themselves): more array elements than we know are accepted only from a higher minor.
 * ERR_MALFORMED with *ret_why a clause for the log, lent until the next decode; ERR_INCOMPATIBLE: another major; ERR_NOMEM. */
MUST_USE enum err frame_decode(struct frame *frame, struct span header, struct span body, enum role sender, enum role receiver,
                               unsigned peer_minor, const char **ret_why);
void frame_done(struct frame *frame);

/* As much of `from` as TEXT(name, max, …) takes, cut between characters; a byte that no TEXT may hold becomes '?'. For words
 * of others (a provider's error, a host's name). out: at least max bytes; the result lies in it. */
struct span frame_text_fit(char *out, size_t max, struct span from);

/* "submit", or "" outside the table. */
const char *message_name(unsigned message);

/* The frame grammar as Markdown rows, for proto/README.md and its test. */
struct json_out;
void frame_describe(struct json_out *out);
