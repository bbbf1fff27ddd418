#include "proto/ipc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024

/* Makes the directory if it is not there, and makes sure that it is ours alone. dir: with its trailing slash. */
static enum err check_directory(const char *dir)
{
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return ERR_SYSTEM;
    struct stat st;
    if (stat(dir, &st) != 0)
        return ERR_SYSTEM;
    bool ours = S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 077) == 0;
    return ours ? ERR_OK : ERR_SETTINGS;
}

/* "dir/file" → "dir/" and "dir/.<pid>": a name of our own in the same directory. */
static enum err split(const char *path, char dir[], char fresh[], size_t size)
{
    const char *slash = strrchr(path, '/');
    int dir_len = slash ? (int)(slash - path) + 1 : 0;
    if (strlen(path) >= size || !path[dir_len])
        return ERR_SETTINGS;
    int len = snprintf(dir, size, "%.*s", slash ? dir_len : 2, slash ? path : "./");
    assert(len > 0 && (size_t)len < size);
    len = snprintf(fresh, size, "%.*s.%d", dir_len, path, (int)getpid());
    return (size_t)len < size ? ERR_OK : ERR_SETTINGS;
}

/* Bound, listening and with its mode, then moved to its name: nobody sees it half made. */
static enum err publish(int fd, const struct sockaddr_un *fresh, const char *path, struct stat *st)
{
    unlink(fresh->sun_path);
    if (bind(fd, (const struct sockaddr *)fresh, sizeof *fresh) != 0)
        return ERR_SYSTEM;
    if (chmod(fresh->sun_path, 0700) == 0 && listen(fd, BACKLOG) == 0 && stat(fresh->sun_path, st) == 0 &&
        rename(fresh->sun_path, path) == 0)
        return ERR_OK;
    int error = errno;
    unlink(fresh->sun_path);
    errno = error;
    return ERR_SYSTEM;
}

enum err ipc_listen(const char *path, struct ipc_listener *ret_listener)
{
    struct sockaddr_un fresh = {.sun_family = AF_UNIX};
    char dir[sizeof fresh.sun_path];
    enum err e = split(path, dir, fresh.sun_path, sizeof fresh.sun_path);
    if (!e)
        e = check_directory(dir);
    if (e)
        return e;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return ERR_SYSTEM;
    struct stat st;
    e = publish(fd, &fresh, path, &st);
    if (e) {
        int error = errno;
        close(fd);
        errno = error;
        return e;
    }
    *ret_listener = (struct ipc_listener){fd, st.st_dev, st.st_ino};
    return ERR_OK;
}

void ipc_remove(const char *path, const struct ipc_listener *listener)
{
    struct stat st;
    if (lstat(path, &st) == 0 && st.st_dev == listener->dev && st.st_ino == listener->ino)
        unlink(path);
}
