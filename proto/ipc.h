/* A listening unix socket that only this user reaches. libzmq would make one whose mode depends on the umask, and would
 * remove the old file before the new one can be connected to; here the file appears in one step, complete, with mode 0700,
 * and a second broker on the same path takes it over without a gap. */
#pragma once

#include <sys/stat.h>

#include "common/base.h"

struct ipc_listener {
    int fd; /* listening; −1: none */
    dev_t dev;
    ino_t ino; /* of the file, to remove it later only if it is still this one */
};

/* path: absolute or relative, its directory is made with mode 0700 if it is not there.
 * ERR_SETTINGS: too long, or the directory belongs to or is open to others; ERR_SYSTEM with errno. */
MUST_USE enum err ipc_listen(const char *path, struct ipc_listener *ret_listener);

/* Removes the file unless somebody else has put theirs in its place. The descriptor is not touched. */
void ipc_remove(const char *path, const struct ipc_listener *listener);
