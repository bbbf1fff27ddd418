#include "common/role.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static void release_text(char **text)
{
    free(TAKE(*text));
}

char *role_endpoint(const struct conf *conf, const char *setting, const char *name)
{
    if (setting[0])
        return strdup(setting);
    assert(strlen(name) + strlen(".sock") <= strlen(CONF_SOCKET_LONGEST)); /* conf_load has checked that the longest fits */
    char file[sizeof CONF_SOCKET_LONGEST];
    snprintf(file, sizeof file, "%s.sock", name);
    AUTO(release_text) char *path = conf_state_path(conf, file);
    char *endpoint = NULL;
    return path && asprintf(&endpoint, "ipc://%s", path) >= 0 ? endpoint : NULL;
}

/* `out` gets the file's first line, or nothing. */
static enum err read_password(const char *path, const char *setting, char *out, size_t size, struct conf_fault *fault)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, out, size);
    int why = errno;
    if (fd >= 0)
        close(fd);
    if (len < 0) {
        snprintf(fault->text, sizeof fault->text, "%s: %.300s: %s", setting, path, strerror(why));
        return ERR_SETTINGS;
    }
    size_t line = 0;
    while (line < (size_t)len && out[line] != '\n' && out[line] != '\r' && out[line] != '\0')
        line++;
    if (line > 0 && line < size) {
        explicit_bzero(out + line, size - line);
        return ERR_OK;
    }
    explicit_bzero(out, size);
    snprintf(fault->text, sizeof fault->text, "%s: %.300s: %s", setting, path,
             line ? "the password is longer than 255 bytes" : "the file is empty");
    return ERR_SETTINGS;
}

static enum err find_socket(const struct conf *conf, struct role_redis *store)
{
    AUTO(release_text) char *path = conf->redis.socket[0] ? strdup(conf->redis.socket) : conf_state_path(conf, "redis.sock");
    if (!path)
        return ERR_NOMEM;
    if (strlen(path) > CONF_SOCKET_PATH_MAX)
        return ERR_SETTINGS;
    strcpy(store->socket, path);
    return ERR_OK;
}

enum err role_redis(const struct conf *conf, bool writer, struct redis_options *ret_options, struct role_redis *store,
                    struct conf_fault *fault)
{
    const __typeof__(conf->redis) *r = &conf->redis;
    const char *user = writer ? r->user : r->reader_user;
    const char *file = writer ? r->password_file : r->reader_password_file;
    struct redis_options o = {.port = (unsigned)r->port, .tls = r->tls};
    *store = (struct role_redis){0};
    if (r->sentinels[0]) {
        o.sentinels = r->sentinels;
        o.master = r->master;
    } else if (r->socket[0] || !r->host[0]) {
        enum err e = find_socket(conf, store);
        if (e == ERR_SETTINGS)
            snprintf(fault->text, sizeof fault->text, "redis.socket: longer than %d bytes", CONF_SOCKET_PATH_MAX);
        if (e)
            return e;
        o.socket = store->socket;
        o.tls = false;
    } else {
        o.host = r->host;
    }
    o.tls_ca_file = o.tls && r->tls_ca_file[0] ? r->tls_ca_file : NULL;
    if (r->sentinel_password_file[0]) {
        enum err e = read_password(r->sentinel_password_file, "redis.sentinel_password_file", store->sentinel_password,
                                   sizeof store->sentinel_password, fault);
        if (e)
            return e;
        o.sentinel_user = r->sentinel_user[0] ? r->sentinel_user : NULL;
        o.sentinel_password = store->sentinel_password;
    }
    if (file[0]) {
        const char *setting = writer ? "redis.password_file" : "redis.reader_password_file";
        enum err e = read_password(file, setting, store->password, sizeof store->password, fault);
        if (e)
            return e;
        o.user = user[0] ? user : NULL;
        o.password = store->password;
    }
    *ret_options = o;
    return ERR_OK;
}

void role_redis_done(struct role_redis *store)
{
    explicit_bzero(store, sizeof *store);
}

uint64_t role_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 0;
    limit.rlim_cur = limit.rlim_max;
    (void)!setrlimit(RLIMIT_NOFILE, &limit); /* refused: what there is has to do */
    return getrlimit(RLIMIT_NOFILE, &limit) ? 0 : (uint64_t)limit.rlim_cur;
}

enum err role_write_number(const char *path, unsigned long number)
{
    char *draft = NULL;
    if (asprintf(&draft, "%s.%d", path, (int)getpid()) < 0) {
        errno = ENOMEM;
        return ERR_SYSTEM;
    }
    FILE *file = fopen(draft, "we");
    bool written = file && fprintf(file, "%lu\n", number) > 0;
    written = file && fclose(file) == 0 && written && rename(draft, path) == 0;
    int why = errno;
    if (file && !written)
        unlink(draft);
    free(draft);
    errno = why;
    return written ? ERR_OK : ERR_SYSTEM;
}
