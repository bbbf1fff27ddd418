#include "broker/run_redis.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/run_state.h"

#define PASSWORD_BYTES 32
#define HEX_LEN        (2 * PASSWORD_BYTES)
_Static_assert(PASSWORD_BYTES == 32, "a SHA-256 has as many bytes, so both print into HEX_LEN characters");

/* What each user may do. The broker writes, and asks Redis how durable and how full it is; the api reads keys whose names it
 * knows. Neither may see other keys, list the key space at large, or change Redis. */
#define BROKER_RIGHTS "~{q*}* +@read +@write +@connection -@dangerous +evalsha +script|load +info +config|get +wait"
#define API_RIGHTS    "%R~{q*}* +@read +@connection -@dangerous -scan -randomkey -dbsize"

static void release_text(char **text)
{
    free(TAKE(*text));
}

static void print_hex(const uint8_t *bytes, char out[HEX_LEN + 1])
{
    for (int i = 0; i < PASSWORD_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

/* Makes a password, keeps it in `file` and gives back its SHA-256 as Redis wants it. */
static enum err make_password(const char *state, const char *file, char ret_hash[HEX_LEN + 1])
{
    uint8_t bytes[PASSWORD_BYTES], digest[EVP_MAX_MD_SIZE];
    char text[HEX_LEN + 2];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return ERR_SYSTEM;
    print_hex(bytes, text);
    bool hashed = EVP_Digest(text, HEX_LEN, digest, NULL, EVP_sha256(), NULL) == 1;
    strcpy(text + HEX_LEN, "\n");
    enum err e = hashed ? run_state_write(state, file, text) : ERR_NOMEM;
    explicit_bzero(bytes, sizeof bytes);
    explicit_bzero(text, sizeof text);
    if (!e)
        print_hex(digest, ret_hash);
    return e;
}

/* The default user is off, so nobody can be it, yet it keeps every right: Redis 7.0 loads its AOF in its name, and what a
 * script wrote (MULTI … EXEC in the AOF) is refused and lost if that user may not run it. */
static enum err write_users(const char *state)
{
    char broker[HEX_LEN + 1], api[HEX_LEN + 1];
    AUTO(release_text) char *text = NULL;
    enum err e = make_password(state, "redis-broker.password", broker);
    if (e || (e = make_password(state, "redis-api.password", api)))
        return e;
    if (asprintf(&text,
                 "user default off resetpass ~* &* +@all\n"
                 "user broker on #%s resetchannels %s\n"
                 "user api on #%s resetchannels %s\n",
                 broker, BROKER_RIGHTS, api, API_RIGHTS) < 0)
        return ERR_NOMEM;
    return run_state_write(state, "redis.acl", text);
}

/* A path as a quoted word of Redis's configuration. */
static char *quoted(const char *state, const char *name)
{
    AUTO(release_text) char *path = run_state_path(state, name);
    char *out = path ? malloc(2 * strlen(path) + 3) : NULL;
    if (!out)
        return NULL;
    char *p = out;
    *p++ = '"';
    for (const char *c = path; *c; c++) {
        if (*c == '"' || *c == '\\')
            *p++ = '\\';
        *p++ = *c;
    }
    *p++ = '"';
    *p = '\0';
    return out;
}

/* Half of the machine, since the broker stops taking jobs at a share of what Redis may use (DESIGN.md, section 4). */
static unsigned long long memory_for_redis(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (unsigned long long)pages * (unsigned long long)page / 2 : 1ull << 30;
}

static enum err write_conf(const char *state)
{
    AUTO(release_text) char *socket = quoted(state, "redis.sock");
    AUTO(release_text) char *acl = quoted(state, "redis.acl");
    AUTO(release_text) char *dir = quoted(state, "redis");
    AUTO(release_text) char *text = NULL;
    if (!socket || !acl || !dir)
        return ERR_NOMEM;
    if (asprintf(&text,
                 "port 0\n"
                 "unixsocket %s\n"
                 "unixsocketperm 700\n"
                 "aclfile %s\n"
                 "dir %s\n"
                 "databases 1\n"
                 "appendonly yes\n"
                 "appendfsync everysec\n"
                 "save \"\"\n"
                 "maxmemory %llu\n"
                 "maxmemory-policy noeviction\n"
                 "daemonize no\n"
                 "set-proc-title no\n" /* it is written over the environment, which holds our mark */
                 "logfile \"\"\n",
                 socket, acl, dir, memory_for_redis()) < 0)
        return ERR_NOMEM;
    return run_state_write(state, "redis.conf", text);
}

enum err run_redis_prepare(const char *state)
{
    enum err e = write_users(state);
    return e ? e : write_conf(state);
}

bool run_redis_data_listed(const char *state)
{
    AUTO(release_text) char *path = run_state_path(state, "redis/appendonlydir");
    DIR *dir = path ? opendir(path) : NULL;
    bool data = false, listed = false;
    for (const struct dirent *file; dir && (file = readdir(dir));) {
        const char *suffix = strrchr(file->d_name, '.');
        data |= suffix && (strcmp(suffix, ".aof") == 0 || strcmp(suffix, ".rdb") == 0);
        listed |= suffix && strcmp(suffix, ".manifest") == 0;
    }
    if (dir)
        closedir(dir);
    return listed || !data;
}

enum err run_redis_setup(const char *dir)
{
    AUTO(release_text) char *conf = run_state_path(dir, "redis.conf");
    AUTO(release_text) char *data = run_state_path(dir, "redis");
    if (!conf || !data)
        return ERR_NOMEM;
    if (access(conf, F_OK) == 0) { /* written last, so all of it is there */
        if (run_redis_data_listed(dir))
            return ERR_OK;
        fprintf(stderr, "%s/appendonlydir: the manifest is missing; Redis would start empty\n", data);
        return ERR_SYSTEM;
    }
    if (mkdir(data, 0700) != 0 && errno != EEXIST) {
        fprintf(stderr, "%s: %s\n", data, strerror(errno));
        return ERR_SYSTEM;
    }
    return run_redis_prepare(dir);
}

bool run_redis_answers(const char *state)
{
    AUTO(release_text) char *path = run_state_path(state, "redis.sock");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || strlen(path) >= sizeof address.sun_path)
        return false;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool connected = fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0)
        close(fd);
    return connected;
}
