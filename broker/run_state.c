#include "broker/run_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"

#define LEFTOVERS_MAX     1024 /* ended per round; there are a few dozen */
#define LEFTOVER_MS       2000
#define LEFTOVER_REDIS_MS 10000
#define ENVIRON_MAX       ((size_t)1 << 20)

static void release_text(char **text)
{
    free(TAKE(*text));
}

char *run_state_path(const char *state, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", state, name) < 0 ? NULL : path;
}

/* --- the directory ---------------------------------------------------------------------------------------------- */

static enum err refuse(const char *path, const char *why)
{
    fprintf(stderr, "%s: %s\n", path, why);
    return ERR_SYSTEM;
}

static enum err make_dir(const char *path)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return refuse(path, strerror(errno));
    struct stat st;
    if (stat(path, &st) != 0)
        return refuse(path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return refuse(path, "not a directory");
    if (st.st_uid != geteuid())
        return refuse(path, "belongs to another user");
    if (st.st_mode & 077)
        return refuse(path, "open to others; it holds sockets and passwords: chmod 700 it");
    return ERR_OK;
}

static enum err make_inside(const char *state, const char *name)
{
    AUTO(release_text) char *path = run_state_path(state, name);
    return path ? make_dir(path) : ERR_NOMEM;
}

enum err run_state_make(const char *dir, char **ret_state)
{
    enum err e = make_dir(dir);
    if (e)
        return e;
    AUTO(release_text) char *state = realpath(dir, NULL);
    if (!state)
        return refuse(dir, strerror(errno));
    if ((e = make_inside(state, "run")) || (e = make_inside(state, "logs")) || (e = make_inside(state, "redis")))
        return e;
    *ret_state = TAKE(state);
    return ERR_OK;
}

enum err run_state_write(const char *state, const char *name, const char *text)
{
    AUTO(release_text) char *path = run_state_path(state, name);
    AUTO(release_text) char *fresh = NULL;
    if (!path || asprintf(&fresh, "%s.new", path) < 0)
        return ERR_NOMEM;
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    size_t len = strlen(text);
    bool written = fd >= 0 && write(fd, text, len) == (ssize_t)len;
    if (fd >= 0 && close(fd) != 0)
        written = false;
    if (!written || rename(fresh, path) != 0)
        return refuse(path, strerror(errno));
    return ERR_OK;
}

void run_state_remove(const char *state, const char *name)
{
    AUTO(release_text) char *path = run_state_path(state, name);
    if (path)
        (void)unlink(path);
}

/* --- who has it ------------------------------------------------------------------------------------------------- */

static pid_t holder_of(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK ? lock.l_pid : 0;
}

enum err run_state_lock(const char *state, pid_t *ret_holder)
{
    AUTO(release_text) char *path = run_state_path(state, "run/lock");
    if (!path)
        return ERR_NOMEM;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600); /* stays open as long as the process */
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fd < 0)
        return refuse(path, strerror(errno));
    if (fcntl(fd, F_SETLK, &lock) == 0)
        return ERR_OK;
    bool held = errno == EACCES || errno == EAGAIN;
    if (held)
        *ret_holder = holder_of(fd);
    close(fd);
    return held ? ERR_CONFLICT : refuse(path, strerror(errno));
}

pid_t run_state_holder(const char *state)
{
    AUTO(release_text) char *path = run_state_path(state, "run/lock");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (fd < 0)
        return 0;
    pid_t holder = holder_of(fd);
    close(fd);
    return holder;
}

/* --- what is left running --------------------------------------------------------------------------------------- */

struct leftover {
    int fd; /* a pidfd: signals and waits mean this process and no later one with its number */
    bool redis;
};

static size_t read_proc(pid_t pid, const char *name, char *out, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size_t len = 0;
    for (ssize_t got; len < size - 1 && (got = read(fd, out + len, size - 1 - len)) > 0;)
        len += (size_t)got;
    close(fd);
    out[len] = '\0';
    return len;
}

/* Whether one of the NUL-terminated settings in a process's environment is exactly `mark`. */
static bool has_mark(pid_t pid, const char *mark, char *buffer)
{
    size_t len = read_proc(pid, "environ", buffer, ENVIRON_MAX);
    for (const char *p = buffer; p < buffer + len; p += strlen(p) + 1)
        if (strcmp(p, mark) == 0)
            return true;
    return false;
}

static bool is_redis(pid_t pid)
{
    char name[32];
    read_proc(pid, "comm", name, sizeof name);
    return strncmp(name, "redis-server", 12) == 0;
}

/* The pidfd is opened before the mark is read, so that both are of one process. */
static bool take_leftover(pid_t pid, const char *mark, char *buffer, struct leftover *ret_leftover)
{
    int fd = pidfd_open(pid, 0);
    if (fd < 0)
        return false;
    if (!has_mark(pid, mark, buffer)) {
        close(fd);
        return false;
    }
    *ret_leftover = (struct leftover){fd, is_redis(pid)};
    return true;
}

static unsigned find_leftovers(const char *mark, struct leftover *out, unsigned max)
{
    AUTO(release_text) char *buffer = malloc(ENVIRON_MAX);
    DIR *proc = buffer ? opendir("/proc") : NULL;
    unsigned count = 0;
    for (struct dirent *entry; proc && count < max && (entry = readdir(proc));) {
        pid_t pid = atoi(entry->d_name);
        if (pid > 1 && pid != getpid() && take_leftover(pid, mark, buffer, &out[count]))
            count++;
    }
    if (proc)
        closedir(proc);
    return count;
}

/* Whether the process ended by `deadline` (clock_mono). */
static bool wait_gone(int fd, msec deadline)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (;;) {
        msec left = deadline - clock_mono();
        int n = poll(&p, 1, (int)MAX(left, 0));
        if (n > 0 || (n < 0 && errno != EINTR))
            return n > 0;
        if (left <= 0)
            return false;
    }
}

static bool end_process(int fd, msec deadline)
{
    bool by_itself = wait_gone(fd, deadline);
    if (!by_itself) {
        (void)pidfd_send_signal(fd, SIGKILL, NULL, 0);
        (void)wait_gone(fd, clock_mono() + LEFTOVER_MS);
    }
    close(fd);
    return by_itself;
}

unsigned run_state_sweep(const char *state)
{
    AUTO(release_text) char *mark = NULL;
    struct leftover *found = calloc(LEFTOVERS_MAX, sizeof *found);
    unsigned total = 0;
    /* Again while there are some: a process may have forked between the listing and its end. */
    for (unsigned count = 1; count && found && asprintf(&mark, "%s=%s", RUN_MARK, state) > 0;) {
        count = find_leftovers(mark, found, LEFTOVERS_MAX);
        release_text(&mark);
        for (unsigned i = 0; i < count; i++)
            (void)pidfd_send_signal(found[i].fd, SIGTERM, NULL, 0);
        msec now = clock_mono();
        for (unsigned i = 0; i < count; i++)
            end_process(found[i].fd, now + (found[i].redis ? LEFTOVER_REDIS_MS : LEFTOVER_MS));
        total += count;
    }
    free(found);
    return total;
}

bool run_state_end(pid_t pid, msec bound)
{
    int fd = pidfd_open(pid, 0);
    if (fd < 0)
        return true;
    (void)pidfd_send_signal(fd, SIGTERM, NULL, 0);
    return end_process(fd, clock_mono() + bound);
}
