#include "proto/record.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "proto/codec.h"
#include "proto/crc32c.h"

#define MAGIC        'Q'
#define CHECKED_AT   8 /* the checksum covers the four bytes before it and all from here on */
#define PREFIX_BYTES 12
#define HOUR_MS      3600000

static const struct shape *shape_of(enum record_kind kind)
{
    switch (kind) {
    case RECORD_JOB:
        return shape_get(SHAPE_rec_job);
    case RECORD_ENDED:
        return shape_get(SHAPE_rec_ended);
    case RECORD_IDEM:
        return shape_get(SHAPE_rec_idem);
    }
    assert(false);
    return NULL;
}

static void put16(uint8_t *p, uint16_t value)
{
    memcpy(p, &value, sizeof value);
}
static void put32(uint8_t *p, uint32_t value)
{
    memcpy(p, &value, sizeof value);
}
static uint16_t get16(const uint8_t *p)
{
    uint16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}
static uint32_t get32(const uint8_t *p)
{
    uint32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the prefix is little endian");

static uint32_t checksum(struct span bytes)
{
    uint32_t crc = crc32c(0, span_of(bytes.data, 4));
    return crc32c(crc, span_of(bytes.data + CHECKED_AT, bytes.len - CHECKED_AT));
}

static enum err encode(enum record_kind kind, const void *fields, struct frame_buffer *out)
{
    const struct shape *shape = shape_of(kind);
    struct writer writer;
    writer_init(&writer, out);
    write_array(&writer, shape->count);
    write_fields(&writer, shape, fields);
    return writer_end(&writer);
}

enum err record_pack(enum record_kind kind, const void *fields, const struct span *parts, size_t parts_count,
                     struct blob **ret_bytes)
{
    AUTO(frame_buffer_done) struct frame_buffer header = {0};
    enum err e = encode(kind, fields, &header);
    if (e)
        return e;
    size_t len = PREFIX_BYTES + header.len;
    for (size_t i = 0; i < parts_count; i++) {
        if (parts[i].len > UINT32_MAX - len)
            return ERR_LIMIT;
        len += parts[i].len;
    }
    uint8_t *data;
    struct blob *blob = blob_new(len, &data);
    if (!blob)
        return ERR_NOMEM;
    data[0] = MAGIC;
    data[1] = (uint8_t)kind;
    put16(data + 2, PROTO_MINOR);
    put32(data + 8, (uint32_t)header.len);
    memcpy(data + PREFIX_BYTES, header.data, header.len);
    uint8_t *at = data + PREFIX_BYTES + header.len;
    for (size_t i = 0; i < parts_count; i++) {
        if (parts[i].len)
            memcpy(at, parts[i].data, parts[i].len);
        at += parts[i].len;
    }
    put32(data + 4, checksum(span_of(data, len)));
    *ret_bytes = blob;
    return ERR_OK;
}

static bool body_fits(const struct record *record)
{
    if (record->kind != RECORD_ENDED)
        return true;
    const struct rec_ended *ended = &record->ended;
    return (uint64_t)ended->display_bytes + ended->result_bytes + ended->log_bytes == record->body.len;
}

enum err record_unpack(struct record *record, enum record_kind kind, struct span bytes)
{
    if (bytes.len < PREFIX_BYTES || bytes.data[0] != MAGIC || bytes.data[1] != kind)
        return ERR_CORRUPT;
    if (get32(bytes.data + 4) != checksum(bytes))
        return ERR_CORRUPT;
    unsigned minor = get16(bytes.data + 2);
    if (minor > PROTO_MINOR + 1)
        return ERR_INCOMPATIBLE;
    size_t header_len = get32(bytes.data + 8);
    if (header_len > bytes.len - PREFIX_BYTES)
        return ERR_CORRUPT;

    const char *why;
    msgpack_object_array array;
    enum err e = read_array(&record->memory, span_of(bytes.data + PREFIX_BYTES, header_len), &array, &why);
    if (!e)
        e = read_fields(record->memory, shape_of(kind), array.ptr, array.size, minor > PROTO_MINOR, &record->job, &why);
    if (e)
        return e == ERR_NOMEM ? ERR_NOMEM : ERR_CORRUPT;
    record->kind = kind;
    record->body = span_of(bytes.data + PREFIX_BYTES + header_len, bytes.len - PREFIX_BYTES - header_len);
    return body_fits(record) ? ERR_OK : ERR_CORRUPT;
}

void record_done(struct record *record)
{
    frame_memory_free(&record->memory);
    *record = (struct record){0};
}

/* --- keys ----------------------------------------------------------------------------------------------------------------- */

static size_t print_key(char out[RECORD_KEY_BYTES + 1], const char *format, ...) PRINTF(2, 3);
static size_t print_key(char out[RECORD_KEY_BYTES + 1], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(out, RECORD_KEY_BYTES + 1, format, args);
    va_end(args);
    assert(len > 0 && len <= RECORD_KEY_BYTES);
    return (size_t)len;
}

static size_t key_of_id(char out[RECORD_KEY_BYTES + 1], unsigned shard, char what, const struct id *id)
{
    char text[ID_TEXT_LEN + 1];
    id_print(id, text);
    return print_key(out, "{q%u}:%c:%s", shard, what, text + strlen("job_"));
}

size_t record_key_job(char out[RECORD_KEY_BYTES + 1], unsigned shard, const struct id *id)
{
    return key_of_id(out, shard, 'j', id);
}

size_t record_key_body(char out[RECORD_KEY_BYTES + 1], unsigned shard, const struct id *id)
{
    return key_of_id(out, shard, 'b', id);
}

size_t record_key_ended(char out[RECORD_KEY_BYTES + 1], unsigned shard, const struct id *id)
{
    return key_of_id(out, shard, 'r', id);
}

size_t record_key_idem(char out[RECORD_KEY_BYTES + 1], unsigned shard, const uint8_t hash[32])
{
    static const char digits[] = "0123456789abcdef";
    char text[65] = {0};
    for (size_t i = 0; i < 32; i++) {
        text[2 * i] = digits[hash[i] >> 4];
        text[2 * i + 1] = digits[hash[i] & 15];
    }
    return print_key(out, "{q%u}:idem:%s", shard, text);
}

size_t record_key_named(char out[RECORD_KEY_BYTES + 1], unsigned shard, const char *name)
{
    return print_key(out, "{q%u}:%s", shard, name);
}

size_t record_key_index(char out[RECORD_KEY_BYTES + 1], unsigned shard, struct span tenant, msec ended_at)
{
    assert(tenant.len <= PROTO_TENANT_BYTES);
    return print_key(out, "{q%u}:ix:%.*s:%" PRId64, shard, SPAN_ARG(tenant), ended_at / HOUR_MS);
}
