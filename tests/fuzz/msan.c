/* MemorySanitizer knows nothing of what a library without its instrumentation writes. For the few functions through which bytes
 * of the outside come back from one, the linker's --wrap puts these in between: what they wrote is declared as written, and
 * what they call in turn is not checked. */
#include <cjson/cJSON.h>
#include <msgpack.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <sanitizer/msan_interface.h>
#include <sys/stat.h>
#include <zmq.h>

#define WRAPPED(type, name, ...)                                                                                               \
    type __real_##name(__VA_ARGS__);                                                                                           \
    type __wrap_##name(__VA_ARGS__);                                                                                           \
    type __wrap_##name(__VA_ARGS__)

/* ---- cJSON ---- */

static void know_tree(const cJSON *node)
{
    for (; node; node = node->next) {
        __msan_unpoison(node, sizeof *node);
        if (node->string)
            __msan_unpoison_string(node->string);
        if (node->valuestring)
            __msan_unpoison_string(node->valuestring);
        know_tree(node->child);
    }
}

WRAPPED(cJSON *, cJSON_ParseWithLength, const char *text, size_t len)
{
    __msan_check_mem_is_initialized(text, len);
    __msan_scoped_disable_interceptor_checks();
    cJSON *tree = __real_cJSON_ParseWithLength(text, len);
    __msan_scoped_enable_interceptor_checks();
    know_tree(tree);
    return tree;
}

/* ---- msgpack-c ---- */

static void know_object(const msgpack_object *object)
{
    __msan_unpoison(object, sizeof *object);
    if (object->type == MSGPACK_OBJECT_ARRAY)
        for (uint32_t i = 0; i < object->via.array.size; i++)
            know_object(&object->via.array.ptr[i]);
    if (object->type != MSGPACK_OBJECT_MAP)
        return;
    for (uint32_t i = 0; i < object->via.map.size; i++) {
        know_object(&object->via.map.ptr[i].key);
        know_object(&object->via.map.ptr[i].val);
    }
}

WRAPPED(msgpack_unpack_return, msgpack_unpack, const char *data, size_t len, size_t *off, msgpack_zone *zone,
        msgpack_object *result)
{
    __msan_check_mem_is_initialized(data, len);
    msgpack_unpack_return code = __real_msgpack_unpack(data, len, off, zone, result);
    __msan_unpoison(off, sizeof *off);
    __msan_unpoison(zone, sizeof *zone);
    if (code == MSGPACK_UNPACK_SUCCESS)
        know_object(result);
    return code;
}

WRAPPED(msgpack_unpack_return, msgpack_unpack_next, msgpack_unpacked *result, const char *data, size_t len, size_t *off)
{
    __msan_check_mem_is_initialized(data, len);
    msgpack_unpack_return code = __real_msgpack_unpack_next(result, data, len, off);
    __msan_unpoison(off, sizeof *off);
    __msan_unpoison(result, sizeof *result);
    if (code == MSGPACK_UNPACK_SUCCESS)
        know_object(&result->data);
    return code;
}

WRAPPED(bool, msgpack_zone_init, msgpack_zone *zone, size_t size)
{
    __msan_unpoison(zone, sizeof *zone);
    return __real_msgpack_zone_init(zone, size);
}

/* ---- libcrypto ---- */

WRAPPED(unsigned char *, SHA256, const unsigned char *data, size_t len, unsigned char *digest)
{
    __msan_check_mem_is_initialized(data, len);
    __msan_scoped_disable_interceptor_checks();
    unsigned char *made = __real_SHA256(data, len, digest);
    __msan_scoped_enable_interceptor_checks();
    __msan_unpoison(made, SHA256_DIGEST_LENGTH);
    return made;
}

WRAPPED(EVP_MAC *, EVP_MAC_fetch, OSSL_LIB_CTX *context, const char *name, const char *properties)
{
    __msan_scoped_disable_interceptor_checks();
    EVP_MAC *mac = __real_EVP_MAC_fetch(context, name, properties);
    __msan_scoped_enable_interceptor_checks();
    return mac;
}

WRAPPED(int, EVP_MAC_final, EVP_MAC_CTX *context, unsigned char *out, size_t *len, size_t size)
{
    __msan_scoped_disable_interceptor_checks();
    int good = __real_EVP_MAC_final(context, out, len, size);
    __msan_scoped_enable_interceptor_checks();
    __msan_unpoison(len, sizeof *len);
    __msan_unpoison(out, size);
    return good;
}

/* ---- others ---- */

WRAPPED(uint8_t *, zmq_z85_decode, uint8_t *to, const char *text)
{
    uint8_t *decoded = __real_zmq_z85_decode(to, text);
    if (decoded)
        __msan_unpoison(decoded, strlen(text) / 5 * 4);
    return decoded;
}

/* glibc 2.33 and later export it under a name that the sanitizer of clang 14 does not know. */
WRAPPED(int, fstat64, int fd, struct stat *st)
{
    int rc = __real_fstat64(fd, st);
    if (rc == 0)
        __msan_unpoison(st, sizeof *st);
    return rc;
}
