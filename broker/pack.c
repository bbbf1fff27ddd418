#include "broker/pack.h"

void pack_init(struct pack *p)
{
    msgpack_sbuffer_init(&p->buffer);
    msgpack_packer_init(&p->packer, &p->buffer, msgpack_sbuffer_write);
}

void pack_done(struct pack *p)
{
    msgpack_sbuffer_destroy(&p->buffer);
}

struct blob *pack_blob(const struct pack *p)
{
    return blob_copy(span_of(p->buffer.data, p->buffer.size));
}

void pack_map(struct pack *p, uint32_t pairs)
{
    msgpack_pack_map(&p->packer, pairs);
}
void pack_list(struct pack *p, uint32_t items)
{
    msgpack_pack_array(&p->packer, items);
}

void pack_text(struct pack *p, struct span text)
{
    msgpack_pack_str(&p->packer, text.len);
    msgpack_pack_str_body(&p->packer, text.data, text.len);
}

void pack_key(struct pack *p, const char *key)
{
    pack_text(p, span_str(key));
}

void pack_number(struct pack *p, const char *key, uint64_t value)
{
    pack_key(p, key);
    msgpack_pack_uint64(&p->packer, value);
}

void pack_instant(struct pack *p, const char *key, int64_t value)
{
    pack_key(p, key);
    msgpack_pack_int64(&p->packer, value);
}

void pack_flag(struct pack *p, const char *key, bool value)
{
    pack_key(p, key);
    if (value)
        msgpack_pack_true(&p->packer);
    else
        msgpack_pack_false(&p->packer);
}

void pack_string(struct pack *p, const char *key, const char *value)
{
    pack_span(p, key, span_str(value));
}

void pack_span(struct pack *p, const char *key, struct span value)
{
    pack_key(p, key);
    pack_text(p, value);
}
