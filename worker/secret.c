#include "worker/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct secret {
    char *text; /* pages of its own */
    size_t len, mapped;
};

static struct secret *reserve(size_t size)
{
    struct secret *secret = calloc(1, sizeof *secret);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!secret)
        return NULL;
    secret->mapped = (size + page) / page * page; /* at least one byte more, for the NUL */
    secret->text = mmap(NULL, secret->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (secret->text == MAP_FAILED) {
        free(secret);
        return NULL;
    }
    mlock(secret->text, secret->mapped); /* RLIMIT_MEMLOCK may forbid it: then a key can reach the swap, as any memory can */
    madvise(secret->text, secret->mapped, MADV_DONTDUMP);
    madvise(secret->text, secret->mapped, MADV_WIPEONFORK);
    return secret;
}

void secret_free(struct secret **secret_ptr)
{
    struct secret *secret = TAKE(*secret_ptr);
    if (!secret)
        return;
    explicit_bzero(secret->text, secret->mapped);
    munmap(secret->text, secret->mapped);
    free(secret);
}

const char *secret_text(const struct secret *secret)
{
    return secret->text;
}

static void close_file(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* A relative path names a credential of the unit where systemd handed some over (LoadCredential=). */
static int open_key(const char *path)
{
    const char *credentials = path[0] == '/' ? NULL : getenv("CREDENTIALS_DIRECTORY");
    AUTO(close_file) int dir = credentials ? open(credentials, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (credentials && dir < 0)
        return -1;
    return openat(credentials ? dir : AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

/* NULL when the file may be used. */
static const char *refusal(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return "the file cannot be examined";
    if (!S_ISREG(st.st_mode))
        return "it is not a regular file";
    if (st.st_mode & (S_IROTH | S_IWOTH))
        return "the file is readable or writable by others";
    return NULL;
}

static enum err fill(struct secret *secret, int fd)
{
    while (secret->len <= SECRET_MAX) {
        ssize_t got = read(fd, secret->text + secret->len, SECRET_MAX + 1 - secret->len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ERR_SYSTEM;
        if (got == 0)
            return ERR_OK;
        secret->len += (size_t)got;
    }
    return ERR_LIMIT;
}

static bool visible(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return false;
    return len > 0;
}

enum err secret_load(const char *path, struct secret **ret_secret, const char **ret_why)
{
    AUTO(close_file) int fd = open_key(path);
    *ret_why = "the file cannot be opened";
    if (fd < 0)
        return ERR_SETTINGS;
    *ret_why = refusal(fd);
    if (*ret_why)
        return ERR_SETTINGS;
    AUTO(secret_free) struct secret *secret = reserve(SECRET_MAX + 1);
    *ret_why = "no memory";
    if (!secret)
        return ERR_NOMEM;
    enum err e = fill(secret, fd);
    *ret_why = e == ERR_LIMIT ? "the key is longer than 4096 bytes" : "the file cannot be read";
    if (e)
        return ERR_SETTINGS;
    if (secret->len && secret->text[secret->len - 1] == '\n')
        secret->len--;
    if (secret->len && secret->text[secret->len - 1] == '\r')
        secret->len--;
    secret->text[secret->len] = '\0';
    *ret_why = "the key is empty or holds bytes other than visible ASCII";
    if (!visible(secret->text, secret->len))
        return ERR_SETTINGS;
    *ret_secret = TAKE(secret);
    return ERR_OK;
}

struct secret *secret_join(const char *prefix, const struct secret *secret)
{
    size_t before = strlen(prefix);
    struct secret *joined = reserve(before + secret->len);
    if (!joined)
        return NULL;
    memcpy(joined->text, prefix, before);
    memcpy(joined->text + before, secret->text, secret->len);
    joined->len = before + secret->len;
    return joined;
}

void secret_hide(const struct secret *secret, char *text, size_t len)
{
    char *found;
    while (secret->len && (found = memmem(text, len, secret->text, secret->len))) {
        memset(found, '*', secret->len);
        len -= (size_t)(found - text) + secret->len;
        text = found + secret->len;
    }
}
