#include "broker/body.h"

#include "proto/crc32c.h"
#include "proto/limits.h"

#define PREFIX_BYTES 8
#define CHECKED_AT   4

static uint32_t checksum(const uint8_t *head, struct span body)
{
    return crc32c(crc32c(0, span_of(head, CHECKED_AT)), body);
}

enum err body_pack(struct span body, struct blob **ret_packed)
{
    uint8_t *data;
    struct blob *packed = blob_new(PREFIX_BYTES + body.len, &data);
    if (!packed)
        return ERR_NOMEM;
    data[0] = 'Q';
    data[1] = 'B';
    data[2] = PROTO_MINOR & 0xff;
    data[3] = PROTO_MINOR >> 8;
    if (body.len)
        memcpy(data + PREFIX_BYTES, body.data, body.len);
    uint32_t crc = checksum(data, body);
    memcpy(data + CHECKED_AT, &crc, sizeof crc);
    *ret_packed = packed;
    return ERR_OK;
}

enum err body_unpack(struct span packed, struct blob **ret_body)
{
    if (packed.len < PREFIX_BYTES || packed.data[0] != 'Q' || packed.data[1] != 'B')
        return ERR_CORRUPT;
    struct span body = span_of(packed.data + PREFIX_BYTES, packed.len - PREFIX_BYTES);
    uint32_t crc;
    memcpy(&crc, packed.data + CHECKED_AT, sizeof crc);
    if (crc != checksum(packed.data, body))
        return ERR_CORRUPT;
    if ((packed.data[2] | packed.data[3] << 8) > PROTO_MINOR + 1)
        return ERR_INCOMPATIBLE;
    struct blob *copy = blob_copy(body);
    if (!copy)
        return ERR_NOMEM;
    *ret_body = copy;
    return ERR_OK;
}
