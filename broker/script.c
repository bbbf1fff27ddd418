#include "broker/script.h"

#include <openssl/evp.h>
#include <stdio.h>

/* The assembler copies the file; the Makefile knows that this object depends on it. */
#define INCLUDE_FILE(name, path)                                                                                               \
    __asm__(".pushsection .rodata\n"                                                                                           \
            ".global " #name "_begin, " #name "_end\n" #name "_begin: .incbin \"" path "\"\n" #name "_end: .byte 0\n"          \
            ".popsection");                                                                                                    \
    extern const uint8_t name##_begin[], name##_end[] __attribute__((visibility("hidden")))

INCLUDE_FILE(script_store, "broker/store.lua");
INCLUDE_FILE(script_leader, "broker/leader.lua");

static enum err load(struct script *script, const uint8_t *begin, const uint8_t *end)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    script->text = span_of(begin, (size_t)(end - begin));
    if (!EVP_Digest(begin, script->text.len, digest, &len, EVP_sha1(), NULL) || len != 20)
        return ERR_SYSTEM;
    for (unsigned i = 0; i < len; i++)
        snprintf(script->sha + 2 * i, 3, "%02x", digest[i]);
    return ERR_OK;
}

enum err script_load(struct script *ret_store, struct script *ret_leader)
{
    enum err e = load(ret_store, script_store_begin, script_store_end);
    return e != ERR_OK ? e : load(ret_leader, script_leader_begin, script_leader_end);
}
