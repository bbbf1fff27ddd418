#include "broker/run_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void open_file(struct run_log *log)
{
    struct stat st;
    log->fd = open(log->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    log->size = log->fd >= 0 && fstat(log->fd, &st) == 0 ? (size_t)st.st_size : 0;
}

enum err run_log_init(struct run_log *log, const char *path)
{
    *log = (struct run_log){.path = strdup(path), .fd = -1};
    if (!log->path)
        return ERR_NOMEM;
    open_file(log);
    return ERR_OK;
}

static void close_file(struct run_log *log)
{
    if (log->fd >= 0)
        close(log->fd);
    log->fd = -1;
}

void run_log_done(struct run_log *log)
{
    close_file(log);
    free(log->path);
    log->path = NULL;
}

static void rotate(struct run_log *log)
{
    char *old = NULL;
    if (asprintf(&old, "%s.1", log->path) < 0)
        return; /* larger than meant, once */
    close_file(log);
    (void)rename(log->path, old);
    free(old);
    open_file(log);
}

static bool put(struct run_log *log, struct span bytes)
{
    ssize_t put = log->fd < 0 ? -1 : write(log->fd, bytes.data, bytes.len);
    if (put > 0)
        log->size += (size_t)put;
    return put == (ssize_t)bytes.len;
}

static void say_lost(struct run_log *log)
{
    char line[96];
    int len = snprintf(line, sizeof line, "... %llu bytes were lost here: the disk refused them\n",
                       (unsigned long long)log->lost_bytes);
    if (put(log, span_of(line, (size_t)len)))
        log->lost_bytes = 0;
}

void run_log_write(struct run_log *log, struct span bytes)
{
    if (log->fd < 0)
        open_file(log);
    if (log->size + bytes.len > RUN_LOG_MAX && log->size > 0)
        rotate(log);
    if (log->lost_bytes)
        say_lost(log);
    if (!put(log, bytes))
        log->lost_bytes += bytes.len;
}
