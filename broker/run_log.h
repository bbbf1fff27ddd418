/* A role's log file under the supervisor: what the role prints goes there; at 8 MiB the file becomes FILE.1 and a new one
 * starts, so two files bound what a role can fill. */
#pragma once

#include "common/base.h"

#define RUN_LOG_MAX ((size_t)8 << 20)

struct run_log {
    char *path;
    int fd; /* −1: it could not be opened; tried again with the next bytes */
    size_t size;
    uint64_t lost_bytes; /* what the disk refused */
};

/* path is copied. Goes on with a file that is there. ERR_NOMEM. */
MUST_USE enum err run_log_init(struct run_log *log, const char *path);
void run_log_done(struct run_log *log);

/* Appends. What cannot be written is counted, and said in the file once it can. */
void run_log_write(struct run_log *log, struct span bytes);
