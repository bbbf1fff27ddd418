/* The parent waits in one poll: for its signals, which are blocked and read from a signalfd, and for what children say, on a
 * pipe they all write to. What is due when the poll returns is done in one pass, so that no state depends on which
 * of the two came first. */
#include "common/prefork.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/role.h"

#define RUNS_AFTER_MS    1000  /* a child that lived this long counts as running without having said so */
#define STEADY_MS        10000 /* and this long, as no failure to start */
#define BACKOFF_FIRST_MS 100
#define BACKOFF_MAX_MS   5000
#define GENERATIONS_MAX  4 /* alive at once, counted in children: a SIGHUP beyond waits until some have drained */

/* A process. It is of the newest generation, or an old one that serves on until the newest runs, and then drains. */
struct child {
    struct list node;
    pid_t pid;
    unsigned index;
    unsigned generation;
    msec started_at;
    msec heard_at;
    bool running;
    msec kill_at; /* MSEC_NEVER until it was asked to end */
    bool killed;
};

/* A place in the newest generation. */
struct slot {
    struct child *child; /* NULL: none; one is due at start_at */
    msec start_at;
    unsigned failures; /* in a row */
};

struct parent {
    const struct prefork_options *options;
    pid_t pid;
    struct list children; /* of struct child, owned */
    size_t children_count;
    struct slot *slots;
    unsigned generation;
    unsigned announced; /* the newest generation whose children all ran; 0: none */
    bool reload_wanted;
    unsigned stops; /* SIGTERM and SIGINT so far */
    bool killed_any;
    bool pid_file_written;
    int signal_fd;
    int said_fds[2]; /* children write to [1]; −1 when not open */
    msec watch_ms;   /* a child silent for this long is killed; 0: they are not watched */
    msec passed_at;  /* when it last looked around; 0: not yet */
    sigset_t mask_before;
};

/* What a child writes: that it lives and, from when it can, that it serves. Small enough to arrive whole. */
struct said {
    pid_t pid;
    unsigned serves; /* a bool would send bytes that nobody set */
};

/* In a child. */
static int said_fd = -1;
static pid_t child_parent = 0;
static msec alive_every_ms = 0;

static void say(bool serves)
{
    struct said said = {.pid = getpid(), .serves = serves};
    ssize_t done = said_fd < 0 ? 0 : write(said_fd, &said, sizeof said);
    (void)done; /* a parent that is gone, or does not read, finds out by the child's age and its exit */
}

void prefork_ready(void)
{
    static bool ready;
    if (!ready)
        say(true);
    ready = true;
}

void prefork_alive(void)
{
    say(false);
}

msec prefork_alive_every_ms(void)
{
    return alive_every_ms;
}

void prefork_reload(void)
{
    if (child_parent && getppid() == child_parent) /* whoever took its place must not be signalled */
        kill(child_parent, SIGHUP);
}

/* ---- the child's first steps ---- */

static void default_signals(void)
{
    for (int signo = 1; signo < NSIG; signo++)
        signal(signo, signo == SIGPIPE ? SIG_IGN : SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The parent alone speaks to systemd. */
static void forget_systemd(void)
{
    static const char *const names[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
                                        "LISTEN_FDS",    "LISTEN_PID",    "LISTEN_FDNAMES"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        unsetenv(names[i]);
}

static int child_main(const struct parent *parent, unsigned index)
{
    const struct prefork_options *options = parent->options;
    pid_t parent_pid = parent->pid;
    /* The parent may have died before this call took effect; then nobody would ever tell. */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent_pid)
        return 1;
    char name[32]; /* the kernel keeps the first 15 characters */
    snprintf(name, sizeof name, "quern-%s:%u", options->role, index);
    prctl(PR_SET_NAME, name);
    close(parent->signal_fd);
    close(parent->said_fds[0]);
    said_fd = parent->said_fds[1];
    child_parent = parent_pid;
    alive_every_ms = parent->watch_ms / 4;
    forget_systemd();
    default_signals();
    return options->child(options->arg, index);
}

/* ---- starting ---- */

/* How long after its `failures`th death in a row a child is started again. */
static msec backoff_ms(unsigned failures)
{
    if (failures <= 1)
        return 0;
    unsigned doublings = failures - 2;
    return doublings < 6 ? MIN(BACKOFF_FIRST_MS << doublings, BACKOFF_MAX_MS) : BACKOFF_MAX_MS;
}

static void slot_failed(struct slot *slot, msec now)
{
    slot->child = NULL;
    slot->failures++;
    slot->start_at = now + backoff_ms(slot->failures);
}

static struct child *fork_child(struct parent *parent, unsigned index)
{
    struct child *child = malloc(sizeof *child);
    if (!child)
        return NULL;
    fflush(NULL); /* or the child would write out what is buffered once more */
    pid_t pid = fork();
    if (pid < 0) {
        free(child);
        return NULL;
    }
    if (pid == 0) {
        free(child);
        exit(child_main(parent, index));
    }
    *child = (struct child){.pid = pid, .index = index, .generation = parent->generation, .kill_at = MSEC_NEVER};
    child->started_at = child->heard_at = clock_mono();
    list_init(&child->node);
    list_push_back(&parent->children, &child->node);
    parent->children_count++;
    return child;
}

static void start_due(struct parent *parent, msec now)
{
    for (unsigned index = 0; index < parent->options->children; index++) {
        struct slot *slot = &parent->slots[index];
        if (slot->child || slot->start_at > now)
            continue;
        slot->child = fork_child(parent, index);
        if (!slot->child) {
            slot_failed(slot, now);
            log_event(LOG_CHILD_EXIT, "child=%u reason=fork_refused again_ms=%lld", index, (long long)(slot->start_at - now));
            continue;
        }
        log_event(LOG_CHILD_START, "child=%u child_pid=%d generation=%u failures=%u", index, (int)slot->child->pid,
                  parent->generation, slot->failures);
    }
}

/* ---- ending ---- */

static void force(struct child *child)
{
    child->killed = true;
    kill(child->pid, SIGKILL);
}

static void ask_to_end(struct parent *parent, struct child *child, msec now)
{
    if (child->kill_at != MSEC_NEVER)
        return;
    child->kill_at = now + parent->options->stop_ms;
    kill(child->pid, SIGTERM);
}

static void kill_child(struct parent *parent, struct child *child)
{
    if (child->killed)
        return;
    parent->killed_any = true;
    force(child);
    log_event(LOG_CHILD_KILL, "child=%u child_pid=%d generation=%u", child->index, (int)child->pid, child->generation);
}

static void kill_overdue(struct parent *parent, msec now)
{
    struct list *node;
    LIST_EACH (node, &parent->children) {
        struct child *child = CONTAINER_OF(node, struct child, node);
        if (child->kill_at <= now)
            kill_child(parent, child);
    }
}

/* It looks around twice in the time that a child may be silent. What is beyond that it stood still, as its children may have,
 * on a machine that slept: no silence of theirs. */
static void excuse_pause(struct parent *parent, msec now)
{
    msec missed = parent->passed_at ? now - parent->passed_at - parent->watch_ms / 2 : 0;
    parent->passed_at = now;
    if (missed <= 0)
        return;
    struct list *node;
    LIST_EACH (node, &parent->children) {
        struct child *child = CONTAINER_OF(node, struct child, node);
        child->heard_at = MIN(now, child->heard_at + missed);
    }
}

/* SIGKILL and not SIGABRT: a stopped process takes no other. */
static void kill_silent(struct parent *parent, msec now)
{
    struct list *node;
    LIST_EACH (node, &parent->children) {
        struct child *child = CONTAINER_OF(node, struct child, node);
        if (child->killed || now - child->heard_at < parent->watch_ms)
            continue;
        force(child);
        log_event(LOG_CHILD_SILENT, "child=%u child_pid=%d silent_ms=%lld", child->index, (int)child->pid,
                  (long long)(now - child->heard_at));
    }
}

static void child_ended(struct parent *parent, struct child *child, int status, msec now)
{
    struct slot *slot = &parent->slots[child->index];
    msec lived_ms = now - child->started_at, again_ms = -1;
    if (slot->child == child) {
        if (lived_ms >= STEADY_MS)
            slot->failures = 0;
        slot_failed(slot, now);
        again_ms = slot->start_at - now;
    }
    log_event(LOG_CHILD_EXIT, "child=%u child_pid=%d generation=%u %s=%d lived_ms=%lld asked=%s again_ms=%lld", child->index,
              (int)child->pid, child->generation, WIFSIGNALED(status) ? "signal" : "status",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), (long long)lived_ms,
              child->kill_at == MSEC_NEVER ? "no" : "yes", (long long)(parent->stops ? -1 : again_ms));
    list_remove(&child->node);
    parent->children_count--;
    free(child);
}

/* Only our own: a process that someone else in this program started is not ours to reap. */
static void reap(struct parent *parent, msec now)
{
    struct list *node, *after;
    LIST_EACH_SAFE (node, after, &parent->children) {
        struct child *child = CONTAINER_OF(node, struct child, node);
        int status;
        if (waitpid(child->pid, &status, WNOHANG) == child->pid)
            child_ended(parent, child, status, now);
    }
}

/* ---- generations ---- */

static struct child *find_child(const struct parent *parent, pid_t pid)
{
    struct list *node;
    LIST_EACH (node, &parent->children) {
        struct child *child = CONTAINER_OF(node, struct child, node);
        if (child->pid == pid)
            return child;
    }
    return NULL;
}

static void hear_children(struct parent *parent, msec now)
{
    struct said said[64];
    ssize_t len;
    while ((len = read(parent->said_fds[0], said, sizeof said)) > 0)
        for (size_t i = 0; i < (size_t)len / sizeof *said; i++) {
            struct child *child = find_child(parent, said[i].pid);
            if (!child)
                continue;
            child->heard_at = now;
            child->running |= said[i].serves;
        }
    struct list *node;
    LIST_EACH (node, &parent->children) {
        struct child *child = CONTAINER_OF(node, struct child, node);
        child->running |= now - child->started_at >= RUNS_AFTER_MS;
    }
}

static bool all_run(const struct parent *parent)
{
    for (unsigned index = 0; index < parent->options->children; index++)
        if (!parent->slots[index].child || !parent->slots[index].child->running)
            return false;
    return true;
}

static void remove_pid_file(const char *path, pid_t pid)
{
    int held = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    bool ours = fscanf(file, "%d", &held) == 1 && held == (int)pid;
    fclose(file);
    if (ours)
        unlink(path);
}

/* Every child of the newest generation runs: the role is ready, and the generation before may go. */
static void announce(struct parent *parent, msec now)
{
    struct list *node;
    LIST_EACH (node, &parent->children) {
        struct child *child = CONTAINER_OF(node, struct child, node);
        if (child->generation != parent->generation)
            ask_to_end(parent, child, now);
    }
    const char *path = parent->options->pid_file;
    if (path && !parent->pid_file_written) {
        parent->pid_file_written = role_write_number(path, (unsigned long)parent->pid) == ERR_OK;
        if (!parent->pid_file_written)
            log_event(LOG_PID_FILE_BAD, "path=%s reason=%s", log_str(span_str(path)), log_str(span_str(strerror(errno))));
    }
    log_event(parent->announced ? LOG_RELOADED : LOG_READY, "children=%u generation=%u", parent->options->children,
              parent->generation);
    parent->announced = parent->generation;
    notify_ready();
}

static void new_generation(struct parent *parent, msec now)
{
    const struct prefork_options *options = parent->options;
    parent->reload_wanted = false;
    notify_reloading();
    if (options->reload && options->reload(options->arg) != ERR_OK) {
        notify_ready();
        return;
    }
    parent->generation++;
    for (unsigned index = 0; index < options->children; index++)
        parent->slots[index] = (struct slot){.start_at = now};
}

/* ---- signals ---- */

static void stop(struct parent *parent, msec now)
{
    struct list *node;
    if (parent->stops++ == 0) {
        log_event(LOG_DRAIN, "children=%zu stop_ms=%lld", parent->children_count, (long long)parent->options->stop_ms);
        notify_stopping();
        LIST_EACH (node, &parent->children)
            ask_to_end(parent, CONTAINER_OF(node, struct child, node), now);
    } else {
        LIST_EACH (node, &parent->children)
            kill_child(parent, CONTAINER_OF(node, struct child, node));
    }
}

static void take_signals(struct parent *parent, msec now)
{
    struct signalfd_siginfo info;
    while (read(parent->signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
            stop(parent, now);
        else if (info.ssi_signo == SIGHUP)
            parent->reload_wanted = true;
        /* SIGCHLD has no more to say than that reap will find something */
    }
}

/* ---- the parent's life ---- */

/* When something has to be done though nothing comes; MSEC_NEVER when nothing has. */
static msec next_due(const struct parent *parent, msec now)
{
    msec due = MSEC_NEVER;
    const struct list *node;
    LIST_EACH (node, &parent->children) {
        const struct child *child = CONTAINER_OF(node, struct child, node);
        if (!child->running)
            due = MIN(due, child->started_at + RUNS_AFTER_MS);
        if (!child->killed)
            due = MIN(due, child->kill_at);
        if (!child->killed && parent->watch_ms)
            due = MIN(due, child->heard_at + parent->watch_ms);
    }
    for (unsigned index = 0; !parent->stops && index < parent->options->children; index++)
        if (!parent->slots[index].child)
            due = MIN(due, parent->slots[index].start_at);
    if (notify_owes())
        due = MIN(due, now + NOTIFY_AGAIN_MS);
    return parent->watch_ms ? MIN(due, now + notify_alive_every_ms()) : due;
}

static void wait_for_something(const struct parent *parent)
{
    struct pollfd fds[] = {{.fd = parent->signal_fd, .events = POLLIN}, {.fd = parent->said_fds[0], .events = POLLIN}};
    msec now = clock_mono(), due = next_due(parent, now);
    int wait_ms = due == MSEC_NEVER ? -1 : (int)MAX(0, MIN(due - now, 3600000));
    poll(fds, ARRAY_COUNT(fds), wait_ms); /* whatever it says, the pass that follows looks for itself */
}

static bool has_room_for_a_generation(const struct parent *parent)
{
    return parent->children_count + parent->options->children <= (size_t)GENERATIONS_MAX * parent->options->children;
}

static void run(struct parent *parent)
{
    while (!parent->stops || parent->children_count) {
        msec now = clock_mono();
        notify_alive(now);
        excuse_pause(parent, now);
        take_signals(parent, now);
        reap(parent, now);
        hear_children(parent, now);
        kill_overdue(parent, now);
        if (parent->watch_ms)
            kill_silent(parent, now);
        if (!parent->stops) {
            if (parent->reload_wanted && has_room_for_a_generation(parent))
                new_generation(parent, now);
            start_due(parent, now);
            if (parent->announced != parent->generation && all_run(parent))
                announce(parent, now);
        }
        if (!parent->stops || parent->children_count)
            wait_for_something(parent);
    }
}

static enum err open_parent(struct parent *parent)
{
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGHUP);
    sigaddset(&ours, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ours, &parent->mask_before);
    signal(SIGCHLD, SIG_DFL); /* ignored, as some starters leave it, it would reap in our place */
    parent->slots = calloc(parent->options->children, sizeof *parent->slots);
    if (!parent->slots)
        return ERR_NOMEM;
    parent->signal_fd = signalfd(-1, &ours, SFD_NONBLOCK | SFD_CLOEXEC);
    if (parent->signal_fd < 0 || pipe2(parent->said_fds, O_NONBLOCK | O_CLOEXEC) != 0)
        return ERR_SYSTEM;
    return ERR_OK;
}

static void close_parent(struct parent *parent)
{
    if (parent->pid_file_written)
        remove_pid_file(parent->options->pid_file, parent->pid);
    if (parent->signal_fd >= 0)
        close(parent->signal_fd);
    for (int i = 0; i < 2; i++)
        if (parent->said_fds[i] >= 0)
            close(parent->said_fds[i]);
    free(parent->slots);
    sigprocmask(SIG_SETMASK, &parent->mask_before, NULL);
}

int prefork_run(const struct prefork_options *options)
{
    assert(options->children > 0 && options->child);
    struct parent parent = {.options = options,
                            .pid = getpid(),
                            .generation = 1,
                            .signal_fd = -1,
                            .said_fds = {-1, -1},
                            .watch_ms = 2 * notify_alive_every_ms()};
    list_init(&parent.children);
    enum err e = open_parent(&parent);
    if (e != ERR_OK)
        log_event(LOG_FATAL, "reason=%s errno=%d", err_name(e), errno);
    else
        run(&parent);
    close_parent(&parent);
    if (e == ERR_OK)
        log_event(LOG_STOP, "killed=%s", parent.killed_any ? "yes" : "no");
    return e != ERR_OK || parent.killed_any;
}
