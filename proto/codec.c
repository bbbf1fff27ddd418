#include "proto/codec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/utf8.h"
#include "proto/scan.h"

#define ZONE_BYTES   16384 /* a frame without long lists fits into the zone's first chunk, which is kept */
#define BUFFER_BYTES 1024

/* --- the tables ----------------------------------------------------------------------------------------------------------- */

/* Each struct's rows become a table inside their own block, where `self` names the struct: the rows do not say it. */
const struct shape *shape_get(enum shape_id id)
{
/* clang-format off */
#define ROW(type, name, sentence, ...) {type, offsetof(self, name), __VA_ARGS__, #name, sentence},
#define U8(name, sentence) ROW(FIELD_U8, name, sentence, 0, 0, 0)
#define U16(name, sentence) ROW(FIELD_U16, name, sentence, 0, 0, 0)
#define U32(name, sentence) ROW(FIELD_U32, name, sentence, 0, 0, 0)
#define U64(name, sentence) ROW(FIELD_U64, name, sentence, 0, 0, 0)
#define I64(name, sentence) ROW(FIELD_I64, name, sentence, 0, 0, 0)
#define FLAG(name, sentence) ROW(FIELD_FLAG, name, sentence, 0, 0, 0)
#define WORDNUM(name, set, sentence) ROW(FIELD_WORDNUM, name, sentence, 0, 0, WORDS_##set)
#define JOBID(name, sentence) ROW(FIELD_JOBID, name, sentence, 0, ID_BYTES, 0)
#define FENCE(name, sentence) ROW(FIELD_FENCE, name, sentence, 0, FENCE_BYTES, 0)
#define FIXED(name, size, sentence) ROW(FIELD_FIXED, name, sentence, 0, size, 0)
#define TEXT(name, max, sentence) ROW(FIELD_TEXT, name, sentence, 0, max, 0)
#define BIN(name, max, sentence) ROW(FIELD_BIN, name, sentence, 0, max, 0)
#define NEST(name, record, sentence) ROW(FIELD_NEST, name, sentence, 0, 0, SHAPE_rec_##record)
#define LIST(name, record, max, sentence) ROW(FIELD_LIST, name, sentence, offsetof(self, name##_count), max, SHAPE_rec_##record)
#define BEGIN(kind, name, sentence)                                                                                               \
    case SHAPE_##kind##_##name: {                                                                                                 \
        typedef struct kind##_##name self;                                                                                        \
        static const char words[] = sentence;                                                                                     \
        static const struct field fields[] = {
#define END(kind, name)                                                                                                           \
        };                                                                                                                        \
        static const struct shape shape = {#name, words, fields, ARRAY_COUNT(fields), sizeof(self)};                              \
        return &shape;                                                                                                            \
    }
#define RECORD(name, sentence) BEGIN(rec, name, sentence)
#define END_RECORD(name) END(rec, name)
#define MESSAGE(CODE, name, number, from, to, body, sentence) BEGIN(msg, name, sentence)
#define END_MESSAGE(name) END(msg, name)
    switch (id) {
#include "proto/rows.h"
#include "proto/messages.def"
    case SHAPES:
        break;
    }
#include "proto/undef.h"
#undef ROW
#undef BEGIN
#undef END
    /* clang-format on */
    assert(false);
    return NULL;
}

bool shape_is_record(enum shape_id id)
{
    switch (id) {
#define RECORD(name, sentence) case SHAPE_rec_##name:
#include "proto/rows.h"
#include "proto/messages.def"
#include "proto/undef.h"
        return true;
    default:
        return false;
    }
}

static const struct message_row rows[MESSAGE_NUMBERS] = {
#define MESSAGE(CODE, name, number, from, to, body, sentence) [number] = {#CODE, #name, from, to, body, SHAPE_msg_##name},
#include "proto/rows.h"
#include "proto/messages.def"
#include "proto/undef.h"
};

const struct message_row *message_row(uint64_t number)
{
    return number < MESSAGE_NUMBERS && rows[number].code ? &rows[number] : NULL;
}

const char *message_name(unsigned message)
{
    const struct message_row *row = message_row(message);
    return row ? row->name : "";
}

/* --- text ----------------------------------------------------------------------------------------------------------------- */

static bool is_control(uint8_t c)
{
    return c < 0x20 && c != '\n' && c != '\t';
}

/* Almost every text is short and plain ASCII: one pass says so. */
static bool text_valid(struct span text)
{
    uint8_t high = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (is_control(text.data[i]))
            return false;
        high |= text.data[i];
    }
    return high < 0x80 || utf8_valid(text);
}

/* Bytes of the character at the start of `text`, 0 if it is no valid one. */
static size_t character_len(struct span text)
{
    uint8_t c = text.data[0];
    size_t len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    return len <= text.len && text_valid(span_of(text.data, len)) ? len : 0;
}

struct span frame_text_fit(char *out, size_t max, struct span from)
{
    size_t len = 0;
    for (size_t at = 0; at < from.len;) {
        size_t step = character_len(span_of(from.data + at, from.len - at));
        if (len + MAX(step, (size_t)1) > max)
            break;
        if (step)
            memcpy(out + len, from.data + at, step);
        else
            out[len] = '?';
        len += MAX(step, (size_t)1);
        at += MAX(step, (size_t)1);
    }
    return span_of(out, len);
}

/* --- writing -------------------------------------------------------------------------------------------------------------- */

void frame_buffer_done(struct frame_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct frame_buffer){0};
}

static bool grow(struct frame_buffer *buffer, size_t len)
{
    size_t size = MAX(buffer->size, (size_t)BUFFER_BYTES);
    while (size - buffer->len < len)
        size *= 2;
    uint8_t *data = realloc(buffer->data, size);
    if (!data)
        return false;
    buffer->data = data;
    buffer->size = size;
    return true;
}

/* msgpack_packer_write. An error is kept in the writer, because looking at the result of each pack call would hide the rest. */
static int append(void *arg, const char *bytes, size_t len)
{
    struct writer *writer = arg;
    struct frame_buffer *out = writer->out;
    if (writer->error)
        return -1;
    if (len > PROTO_HEADER_BYTES - out->len) {
        writer->error = ERR_LIMIT;
        return -1;
    }
    if (out->size - out->len < len && !grow(out, len)) {
        writer->error = ERR_NOMEM;
        return -1;
    }
    memcpy(out->data + out->len, bytes, len);
    out->len += len;
    return 0;
}

static void set_error(struct writer *writer, enum err error)
{
    if (!writer->error)
        writer->error = error;
}

static void count_nodes(struct writer *writer, uint32_t count)
{
    if (count > PROTO_NODES - writer->nodes)
        set_error(writer, ERR_LIMIT);
    else
        writer->nodes += count;
}

void writer_init(struct writer *writer, struct frame_buffer *out)
{
    *writer = (struct writer){.out = out, .nodes = 1};
    msgpack_packer_init(&writer->packer, writer, append);
    out->len = 0;
}

enum err writer_end(struct writer *writer)
{
    if (writer->error)
        writer->out->len = 0;
    return writer->error;
}

void write_array(struct writer *writer, uint32_t count)
{
    count_nodes(writer, count);
    msgpack_pack_array(&writer->packer, count);
}

void write_uint(struct writer *writer, uint64_t value)
{
    msgpack_pack_uint64(&writer->packer, value);
}

static void write_bin(struct writer *writer, const void *bytes, size_t len)
{
    msgpack_pack_bin(&writer->packer, len);
    if (len)
        msgpack_pack_bin_body(&writer->packer, bytes, len);
}

static void write_text(struct writer *writer, struct span text)
{
    if (!text_valid(text)) {
        set_error(writer, ERR_MALFORMED);
        return;
    }
    msgpack_pack_str(&writer->packer, text.len);
    if (text.len)
        msgpack_pack_str_body(&writer->packer, text.data, text.len);
}

static void put_big_endian(uint8_t out[8], uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(out, &value, sizeof value);
}

static uint64_t get_big_endian(const void *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return __builtin_bswap64(value);
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are turned round unconditionally");

static void write_fence(struct writer *writer, const struct fence *fence)
{
    uint8_t bytes[FENCE_BYTES];
    put_big_endian(bytes, fence->epoch);
    put_big_endian(bytes + 8, fence->n);
    write_bin(writer, bytes, sizeof bytes);
}

static void write_record(struct writer *writer, const struct shape *shape, const void *base)
{
    write_array(writer, shape->count);
    write_fields(writer, shape, base);
}

static void write_list(struct writer *writer, const struct field *field, const uint8_t *elements, uint32_t count)
{
    if (count > field->max) {
        set_error(writer, ERR_LIMIT);
        return;
    }
    const struct shape *shape = shape_get(field->of);
    write_array(writer, count);
    for (uint32_t i = 0; i < count && !writer->error; i++)
        write_record(writer, shape, elements + (size_t)i * shape->bytes);
}

static void write_field(struct writer *writer, const struct field *field, const uint8_t *base)
{
    const void *at = base + field->at;
    const struct span *span = at;
    switch (field->type) {
    case FIELD_U8:
        write_uint(writer, *(const uint8_t *)at);
        return;
    case FIELD_U16:
        write_uint(writer, *(const uint16_t *)at);
        return;
    case FIELD_U32:
        write_uint(writer, *(const uint32_t *)at);
        return;
    case FIELD_U64:
        write_uint(writer, *(const uint64_t *)at);
        return;
    case FIELD_I64:
        msgpack_pack_int64(&writer->packer, *(const int64_t *)at);
        return;
    case FIELD_FLAG:
        *(const bool *)at ? msgpack_pack_true(&writer->packer) : msgpack_pack_false(&writer->packer);
        return;
    case FIELD_WORDNUM:
        assert(*(const uint8_t *)at == 0 || words_have(field->of, *(const uint8_t *)at));
        write_uint(writer, *(const uint8_t *)at);
        return;
    case FIELD_JOBID:
    case FIELD_FIXED:
        write_bin(writer, at, field->max);
        return;
    case FIELD_FENCE:
        write_fence(writer, at);
        return;
    case FIELD_TEXT:
    case FIELD_BIN:
        if (span->len > field->max)
            set_error(writer, ERR_LIMIT);
        else if (field->type == FIELD_TEXT)
            write_text(writer, *span);
        else
            write_bin(writer, span->data, span->len);
        return;
    case FIELD_NEST:
        write_record(writer, shape_get(field->of), at);
        return;
    case FIELD_LIST:
        write_list(writer, field, *(const uint8_t *const *)at, *(const uint32_t *)(base + field->count_at));
        return;
    }
}

void write_fields(struct writer *writer, const struct shape *shape, const void *base)
{
    for (uint32_t i = 0; i < shape->count && !writer->error; i++)
        write_field(writer, &shape->fields[i], base);
}

/* --- reading -------------------------------------------------------------------------------------------------------------- */

void frame_memory_free(struct frame_memory **memory)
{
    struct frame_memory *mine = TAKE(*memory);
    if (!mine)
        return;
    msgpack_zone_destroy(&mine->zone);
    free(mine);
}

static enum err memory_ready(struct frame_memory **memory)
{
    if (*memory) {
        msgpack_zone_clear(&(*memory)->zone);
        return ERR_OK;
    }
    struct frame_memory *made = malloc(sizeof *made);
    if (!made || !msgpack_zone_init(&made->zone, ZONE_BYTES)) {
        free(made);
        return ERR_NOMEM;
    }
    *memory = made;
    return ERR_OK;
}

enum err read_array(struct frame_memory **memory, struct span bytes, msgpack_object_array *ret_array, const char **ret_why)
{
    if (bytes.len > PROTO_HEADER_BYTES) {
        *ret_why = "the header is too long";
        return ERR_MALFORMED;
    }
    const char *why = scan_header(bytes);
    if (why) {
        *ret_why = why;
        return ERR_MALFORMED;
    }
    if (memory_ready(memory)) {
        *ret_why = "no memory";
        return ERR_NOMEM;
    }
    size_t off = 0;
    msgpack_object object;
    switch (msgpack_unpack((const char *)bytes.data, bytes.len, &off, &(*memory)->zone, &object)) {
    case MSGPACK_UNPACK_SUCCESS:
        break;
    case MSGPACK_UNPACK_NOMEM_ERROR: /* depth is not it: scan_header allows less than msgpack-c's 32 */
        *ret_why = "no memory";
        return ERR_NOMEM;
    default:
        *ret_why = "it is not msgpack";
        return ERR_MALFORMED;
    }
    assert(object.type == MSGPACK_OBJECT_ARRAY); /* scan_header saw to it */
    *ret_array = object.via.array;
    return ERR_OK;
}

struct reader {
    struct frame_memory *memory;
    bool newer;
    const char *why;
};

static enum err refuse(struct reader *reader, const struct shape *shape, const struct field *field, const char *what)
{
    snprintf(reader->memory->why, sizeof reader->memory->why, "%s%s%s %s", shape->name, field ? "." : "",
             field ? field->name : "", what);
    reader->why = reader->memory->why;
    return ERR_MALFORMED;
}

static enum err read_record(struct reader *reader, const struct shape *shape, const msgpack_object *items, uint32_t count,
                            void *base);

static bool get_uint(const msgpack_object *item, uint64_t max, uint64_t *ret_value)
{
    if (item->type != MSGPACK_OBJECT_POSITIVE_INTEGER || item->via.u64 > max)
        return false;
    *ret_value = item->via.u64;
    return true;
}

static bool get_int(const msgpack_object *item, int64_t *ret_value)
{
    if (item->type != MSGPACK_OBJECT_NEGATIVE_INTEGER &&
        (item->type != MSGPACK_OBJECT_POSITIVE_INTEGER || item->via.u64 > INT64_MAX))
        return false;
    *ret_value = item->via.i64;
    return true;
}

static bool get_fence(const msgpack_object *item, struct fence *ret_fence)
{
    if (item->type != MSGPACK_OBJECT_BIN || item->via.bin.size != FENCE_BYTES)
        return false;
    ret_fence->epoch = get_big_endian(item->via.bin.ptr);
    ret_fence->n = get_big_endian(item->via.bin.ptr + 8);
    return true;
}

static enum err read_list(struct reader *reader, const struct shape *shape, const struct field *field,
                          const msgpack_object *item, uint8_t *base)
{
    if (item->type != MSGPACK_OBJECT_ARRAY)
        return refuse(reader, shape, field, "is not a list");
    uint32_t count = item->via.array.size;
    if (count > field->max)
        return refuse(reader, shape, field, "is too long");
    if (count == 0)
        return ERR_OK;
    const struct shape *of = shape_get(field->of);
    size_t bytes = (size_t)count * of->bytes;
    uint8_t *elements = msgpack_zone_malloc(&reader->memory->zone, bytes);
    if (!elements) {
        reader->why = "no memory";
        return ERR_NOMEM;
    }
    memset(elements, 0, bytes);
    for (uint32_t i = 0; i < count; i++) {
        const msgpack_object *element = &item->via.array.ptr[i];
        if (element->type != MSGPACK_OBJECT_ARRAY)
            return refuse(reader, shape, field, "holds something that is not an array");
        enum err e = read_record(reader, of, element->via.array.ptr, element->via.array.size, elements + (size_t)i * of->bytes);
        if (e)
            return e;
    }
    *(const uint8_t **)(base + field->at) = elements;
    *(uint32_t *)(base + field->count_at) = count;
    return ERR_OK;
}

static enum err read_field(struct reader *reader, const struct shape *shape, const struct field *field,
                           const msgpack_object *item, uint8_t *base)
{
    void *at = base + field->at;
    uint64_t value;
    switch (field->type) {
    case FIELD_U8:
        if (!get_uint(item, UINT8_MAX, &value))
            break;
        *(uint8_t *)at = (uint8_t)value;
        return ERR_OK;
    case FIELD_U16:
        if (!get_uint(item, UINT16_MAX, &value))
            break;
        *(uint16_t *)at = (uint16_t)value;
        return ERR_OK;
    case FIELD_U32:
        if (!get_uint(item, UINT32_MAX, &value))
            break;
        *(uint32_t *)at = (uint32_t)value;
        return ERR_OK;
    case FIELD_U64:
        if (!get_uint(item, UINT64_MAX, at))
            break;
        return ERR_OK;
    case FIELD_I64:
        if (!get_int(item, at))
            break;
        return ERR_OK;
    case FIELD_FLAG:
        if (item->type != MSGPACK_OBJECT_BOOLEAN)
            break;
        *(bool *)at = item->via.boolean;
        return ERR_OK;
    case FIELD_WORDNUM:
        if (!get_uint(item, UINT8_MAX, &value) || (value && !words_have(field->of, (unsigned)value)))
            break;
        *(uint8_t *)at = (uint8_t)value;
        return ERR_OK;
    case FIELD_JOBID:
    case FIELD_FIXED:
        if (item->type != MSGPACK_OBJECT_BIN || item->via.bin.size != field->max)
            return refuse(reader, shape, field, "is not a bin of its fixed length");
        memcpy(at, item->via.bin.ptr, field->max);
        return ERR_OK;
    case FIELD_FENCE:
        if (!get_fence(item, at))
            return refuse(reader, shape, field, "is not a bin of 16");
        return ERR_OK;
    case FIELD_TEXT:
        if (item->type != MSGPACK_OBJECT_STR)
            return refuse(reader, shape, field, "is not a str");
        if (item->via.str.size > field->max)
            return refuse(reader, shape, field, "is too long");
        *(struct span *)at = span_of(item->via.str.ptr, item->via.str.size);
        if (!text_valid(*(struct span *)at))
            return refuse(reader, shape, field, "is not UTF-8 without control bytes");
        return ERR_OK;
    case FIELD_BIN:
        if (item->type != MSGPACK_OBJECT_BIN)
            return refuse(reader, shape, field, "is not a bin");
        if (item->via.bin.size > field->max)
            return refuse(reader, shape, field, "is too long");
        *(struct span *)at = span_of(item->via.bin.ptr, item->via.bin.size);
        return ERR_OK;
    case FIELD_NEST:
        if (item->type != MSGPACK_OBJECT_ARRAY)
            return refuse(reader, shape, field, "is not an array");
        return read_record(reader, shape_get(field->of), item->via.array.ptr, item->via.array.size, at);
    case FIELD_LIST:
        return read_list(reader, shape, field, item, base);
    }
    return refuse(reader, shape, field, "is not a value of its type");
}

/* `base` is zero already. */
static enum err read_record(struct reader *reader, const struct shape *shape, const msgpack_object *items, uint32_t count,
                            void *base)
{
    if (count > shape->count && !reader->newer)
        return refuse(reader, shape, NULL, "has more fields than its version");
    uint32_t known = MIN(count, shape->count);
    for (uint32_t i = 0; i < known; i++) {
        enum err e = read_field(reader, shape, &shape->fields[i], &items[i], base);
        if (e)
            return e;
    }
    return ERR_OK;
}

enum err read_fields(struct frame_memory *memory, const struct shape *shape, const msgpack_object *items, uint32_t count,
                     bool newer, void *base, const char **ret_why)
{
    struct reader reader = {memory, newer, NULL};
    memset(base, 0, shape->bytes);
    enum err e = read_record(&reader, shape, items, count, base);
    if (e)
        *ret_why = reader.why;
    return e;
}
