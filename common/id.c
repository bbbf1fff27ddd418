#include "common/id.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdlib.h>

#define TAGGED_BYTES 13 /* all but the tag */

static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";
static const char prefix[4] = {'j', 'o', 'b', '_'};

/* One hash context for the life of the process: making one costs more than hashing with it, and setting the key anew in it
 * allocates nothing. It is no state that anyone could see: every use begins by setting the key. */
static EVP_MAC_CTX *hash_context(void)
{
    static EVP_MAC_CTX *cached;
    if (cached)
        return cached;
    size_t out_bytes = 8;
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &out_bytes), OSSL_PARAM_END};
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
    EVP_MAC_CTX *context = mac ? EVP_MAC_CTX_new(mac) : NULL;
    EVP_MAC_free(mac); /* the context holds its own reference */
    if (context && !EVP_MAC_CTX_set_params(context, params)) {
        EVP_MAC_CTX_free(context);
        context = NULL;
    }
    return cached = context;
}

enum err id_start(void)
{
    return hash_context() ? ERR_OK : ERR_NOMEM;
}

/* The low 24 bits of SipHash-2-4's 64-bit value. */
static uint32_t tag(const struct id *id, const struct id_key *key, struct span tenant)
{
    EVP_MAC_CTX *context = hash_context();
    uint8_t out[8];
    size_t out_len = 0;
    /* Only making the context can be refused for want of memory. Going on without a tag would deny a tenant its own job. */
    if (!context || !EVP_MAC_init(context, key->bytes, sizeof key->bytes, NULL) ||
        !EVP_MAC_update(context, tenant.data, tenant.len) || !EVP_MAC_update(context, id->bytes, TAGGED_BYTES) ||
        !EVP_MAC_final(context, out, &out_len, sizeof out) || out_len != sizeof out)
        abort();
    return out[0] | (uint32_t)out[1] << 8 | (uint32_t)out[2] << 16;
}

static uint64_t read_be(const uint8_t *from, size_t count)
{
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++)
        value = value << 8 | from[i];
    return value;
}

static void write_be(uint8_t *to, size_t count, uint64_t value)
{
    while (count--) {
        to[count] = (uint8_t)value;
        value >>= 8;
    }
}

struct id id_make(msec wall_ms, unsigned shard, enum id_version version, uint64_t random, const struct id_key *key,
                  struct span tenant)
{
    assert(shard < ID_SHARDS && (version == ID_STORED || version == ID_EPHEMERAL));
    struct id id;
    write_be(id.bytes, 6, (uint64_t)wall_ms);
    write_be(id.bytes + 6, 2, shard << 4 | version);
    write_be(id.bytes + 8, 5, random);
    write_be(id.bytes + TAGGED_BYTES, 3, tag(&id, key, tenant));
    return id;
}

bool id_belongs(const struct id *id, const struct id_key *key, struct span tenant)
{
    uint32_t carried = (uint32_t)read_be(id->bytes + TAGGED_BYTES, 3);
    return (carried ^ tag(id, key, tenant)) == 0;
}

msec id_made_at(const struct id *id)
{
    return (msec)read_be(id->bytes, 6);
}
unsigned id_shard(const struct id *id)
{
    return (unsigned)read_be(id->bytes + 6, 2) >> 4;
}
unsigned id_version(const struct id *id)
{
    return id->bytes[7] & 15;
}

/* The 130 bits of 26 characters hold the 128 of the id right-aligned: the first character is its highest 3 bits. */
void id_print(const struct id *id, char out[ID_TEXT_LEN + 1])
{
    uint64_t high = read_be(id->bytes, 8), low = read_be(id->bytes + 8, 8);
    memcpy(out, prefix, sizeof prefix);
    for (size_t i = ID_TEXT_LEN; i-- > sizeof prefix;) {
        out[i] = alphabet[low & 31];
        low = low >> 5 | high << 59;
        high >>= 5;
    }
    out[ID_TEXT_LEN] = '\0';
}

enum err id_parse(struct span text, struct id *ret_id)
{
    if (text.len != ID_TEXT_LEN || memcmp(text.data, prefix, sizeof prefix) != 0)
        return ERR_MALFORMED;
    uint64_t high = 0, low = 0;
    for (size_t i = sizeof prefix; i < ID_TEXT_LEN; i++) {
        const char *digit = memchr(alphabet, text.data[i], sizeof alphabet - 1);
        if (!digit || (i == sizeof prefix && digit - alphabet > 7))
            return ERR_MALFORMED;
        high = high << 5 | low >> 59;
        low = low << 5 | (uint64_t)(digit - alphabet);
    }
    write_be(ret_id->bytes, 8, high);
    write_be(ret_id->bytes + 8, 8, low);
    return ERR_OK;
}
