/* Inside proto/: messages.def as tables of fields, and the one walk over them in each direction. A record is a msgpack array of
 * its fields in the order of the rows:
 *
 *   U8 … I64  integer      FLAG  boolean      WORDNUM  integer       TEXT  str       BIN, FIXED  bin
 *   JOBID     bin of 16    FENCE bin of 16: epoch and n, each eight bytes big endian, so that bytes compare as fences do
 *   NEST      array        LIST  array of arrays
 */
#pragma once

#include <msgpack/pack.h>
#include <msgpack/unpack.h>

#include "proto/frame.h"

#define FENCE_BYTES 16

enum field_type {
    FIELD_U8,
    FIELD_U16,
    FIELD_U32,
    FIELD_U64,
    FIELD_I64,
    FIELD_FLAG,
    FIELD_WORDNUM,
    FIELD_JOBID,
    FIELD_FENCE,
    FIELD_FIXED,
    FIELD_TEXT,
    FIELD_BIN,
    FIELD_NEST,
    FIELD_LIST,
};

struct field {
    enum field_type type;
    uint32_t at;       /* in the struct */
    uint32_t count_at; /* LIST: of its count */
    uint32_t max;      /* TEXT, BIN: bytes; LIST: elements; FIXED: exactly these bytes */
    unsigned of;       /* WORDNUM: enum words; NEST, LIST: enum shape_id */
    const char *name;
    const char *sentence;
};

/* The fields of one struct. */
struct shape {
    const char *name;
    const char *sentence;
    const struct field *fields;
    uint32_t count;
    uint32_t bytes; /* sizeof the struct */
};

enum shape_id {
#define RECORD(name, sentence)                                SHAPE_rec_##name,
#define MESSAGE(CODE, name, number, from, to, body, sentence) SHAPE_msg_##name,
#include "proto/rows.h"
#include "proto/messages.def"
#include "proto/undef.h"
    SHAPES
};

const struct shape *shape_get(enum shape_id id);
/* Whether it is a record, that is: no message. */
bool shape_is_record(enum shape_id id);

enum { BODY_NONE, BODY_ANY };

struct message_row {
    const char *code; /* "SUBMIT"; NULL in the gaps of the table */
    const char *name;
    unsigned from, to;
    unsigned body;
    enum shape_id shape;
};

#define MESSAGE_NUMBERS 128
/* NULL if there is no such message. */
const struct message_row *message_row(uint64_t number);

/* --- writing --- */

struct writer {
    msgpack_packer packer;
    struct frame_buffer *out;
    uint32_t nodes;
    enum err error; /* the first; what is written after it means nothing */
};
/* Empties `out`. */
void writer_init(struct writer *writer, struct frame_buffer *out);
void write_array(struct writer *writer, uint32_t count);
void write_uint(struct writer *writer, uint64_t value);
/* The fields of `base`, a struct of that shape, without an array around them. */
void write_fields(struct writer *writer, const struct shape *shape, const void *base);
/* ERR_NOMEM, ERR_LIMIT, ERR_MALFORMED; then `out` is empty. */
MUST_USE enum err writer_end(struct writer *writer);

/* --- reading --- */

/* Where a decoded array lives: msgpack's objects and the lists of structs made from them. */
struct frame_memory {
    msgpack_zone zone;
    char why[160];
};
void frame_memory_free(struct frame_memory **memory);

/* Makes *memory if it is NULL, else empties it. *ret_array: the outermost array, lent until the next call.
 * ERR_MALFORMED with *ret_why; ERR_NOMEM. */
MUST_USE enum err read_array(struct frame_memory **memory, struct span bytes, msgpack_object_array *ret_array,
                             const char **ret_why);

/* Fills `base`, a struct of that shape, from items: what they are short of is zero. newer: the sender's minor is above ours,
 * so that more items than fields are ignored, here and in what is nested. ERR_MALFORMED with *ret_why, lent by `memory`;
 * ERR_NOMEM. */
MUST_USE enum err read_fields(struct frame_memory *memory, const struct shape *shape, const msgpack_object *items,
                              uint32_t count, bool newer, void *base, const char **ret_why);
