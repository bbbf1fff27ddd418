/* Key files, CURVE pairs and provider keys: what is read has the form that is used later, and any other text is refused with a
 * reason. The files lie in memory.
 * Covers: proto/keyfile.c worker/secret.c */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/wire.h"
#include "worker/secret.h"

static int file_of(const uint8_t *data, size_t size, char path[32])
{
    int fd = memfd_create("key", MFD_CLOEXEC);
    assert(fd >= 0 && fchmod(fd, 0600) == 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

static void check_pair(const char *path)
{
    struct wire_key public_key, secret_key;
    if (wire_key_read(path, &public_key, &secret_key))
        return;
    assert(strlen(public_key.text) == 40 && strlen(secret_key.text) == 40);
    assert(!strpbrk(public_key.text, "\"\n") && !strpbrk(secret_key.text, "\"\n"));
}

static void check_secret(const char *path, const uint8_t *data, size_t size)
{
    AUTO(secret_free) struct secret *secret = NULL;
    const char *why = NULL;
    char evidence[64];
    if (secret_load(path, &secret, &why)) {
        assert(!secret && why && why[0]);
        return;
    }
    const char *text = secret_text(secret);
    size_t len = strlen(text);
    assert(len && len <= SECRET_MAX && len <= size && memcmp(text, data, len) == 0);
    for (size_t i = 0; i < len; i++)
        assert(text[i] > ' ' && text[i] <= '~');
    size_t made = MIN((size_t)snprintf(evidence, sizeof evidence, "it said %s twice: %s", text, text), sizeof evidence - 1);
    secret_hide(secret, evidence, made);
    if (!strchr(text, '*')) /* what it is overwritten with */
        assert(!memmem(evidence, made, text, len));
    AUTO(secret_free) struct secret *joined = secret_join("Authorization: Bearer ", secret);
    assert(joined && strcmp(secret_text(joined) + 22, text) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[32];
    int fd = file_of(data, size, path);
    check_pair(path);
    check_secret(path, data, size);
    close(fd);
    return 0;
}
