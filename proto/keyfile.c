/* CURVE key pairs in files, in the format of czmq's certificates, so that its tools read them too. Reading does without
 * zconfig, which prints to standard output what it does not like. */
#include "proto/wire.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#define FILE_MAX 4096

/* Ours and nobody else's. systemd hands credentials over as root's, with an access list that shows as the group's right to
 * read. */
static bool is_private(const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return false;
    if (st->st_uid == geteuid())
        return (st->st_mode & 077) == 0;
    return st->st_uid == 0 && (st->st_mode & 037) == 0;
}

/* The whole file as text. The caller wipes it. */
static enum err read_text(const char *path, char text[FILE_MAX + 1])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return ERR_SETTINGS;
    struct stat st;
    ssize_t len = -1;
    if (fstat(fd, &st) == 0 && is_private(&st) && st.st_size <= FILE_MAX)
        len = read(fd, text, FILE_MAX);
    close(fd);
    if (len < 0)
        return ERR_SETTINGS;
    text[len] = 0;
    return ERR_OK;
}

/* Takes the value of the line: name = "value". */
static bool take_key(const char *text, const char *name, struct wire_key *key)
{
    const char *at = strstr(text, name);
    if (!at)
        return false;
    at += strlen(name);
    at += strspn(at, " \t");
    if (*at++ != '=')
        return false;
    at += strspn(at, " \t");
    uint8_t bytes[32];
    if (*at++ != '"' || strcspn(at, "\"\n") != 40 || at[40] != '"')
        return false;
    memcpy(key->text, at, 40);
    key->text[40] = 0;
    bool good = zmq_z85_decode(bytes, key->text);
    explicit_bzero(bytes, sizeof bytes);
    return good;
}

enum err wire_key_read(const char *path, struct wire_key *ret_public, struct wire_key *ret_secret)
{
    char text[FILE_MAX + 1];
    enum err e = read_text(path, text);
    if (e)
        return e;
    struct wire_key public_key, secret_key;
    bool good = take_key(text, "public-key", &public_key) && take_key(text, "secret-key", &secret_key);
    if (good) {
        *ret_public = public_key;
        *ret_secret = secret_key;
    }
    explicit_bzero(text, sizeof text);
    explicit_bzero(&secret_key, sizeof secret_key);
    return good ? ERR_OK : ERR_SETTINGS;
}

static bool write_all(int fd, const char *text)
{
    size_t len = strlen(text);
    return write(fd, text, len) == (ssize_t)len && fsync(fd) == 0;
}

enum err wire_key_make(const char *path, struct wire_key *ret_public)
{
    struct wire_key public_key, secret_key;
    if (zmq_curve_keypair(public_key.text, secret_key.text) != 0)
        return ERR_SYSTEM;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0;
    if (good) {
        char text[512];
        snprintf(text, sizeof text,
                 "#   CURVE key pair. The secret key must stay in this file.\n"
                 "curve\n"
                 "    public-key = \"%s\"\n"
                 "    secret-key = \"%s\"\n",
                 public_key.text, secret_key.text);
        good = write_all(fd, text);
        explicit_bzero(text, sizeof text);
        good = close(fd) == 0 && good;
        if (!good)
            unlink(path);
    }
    explicit_bzero(&secret_key, sizeof secret_key);
    if (!good)
        return ERR_SYSTEM;
    *ret_public = public_key;
    return ERR_OK;
}
