/* One pass per wake-up (step) looks at what is due: a role to start, a role to end, a look at whether users are served. What
 * happened in between, by signal, pipe or timer, is only noted. */
#include "broker/run_roles.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/util.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/run_log.h"
#include "broker/run_redis.h"
#include "broker/run_state.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/notify.h"

#define BACKOFF_FIRST_MS 100
#define BACKOFF_MAX_MS   5000
#define STEADY_MS        10000 /* a role that lived this long was no failure to start */
#define REDIS_LOOK_MS    10    /* until Redis listens, it is looked for this often */
#define REDIS_WAIT_MS    10000 /* then the others start without: they wait for it by themselves */
#define PROBE_EVERY_MS   50
#define PROBE_LIMIT_S    2
#define STOP_MAX_MS      8000 /* api and worker, whatever their stop_ms: a terminal is waiting */
#define STOP_STORE_MS    5000 /* broker and Redis */
#define OWN_LOG_MAX      ((off_t)RUN_LOG_MAX)

/* In the order they start; they stop in the opposite order. */
enum { REDIS, BROKER, WORKER, API, ROLES };

struct role {
    const char *name;
    char **argv;
    pid_t pid; /* 0: not running */
    msec started_at;
    msec start_at;     /* due then, when not running */
    unsigned failures; /* in a row */
    msec stop_ms;
    msec kill_at; /* MSEC_NEVER until it was asked to end */
    struct run_log log;
    int pipe[2]; /* kept over restarts, so that it never ends */
    struct event *readable;
};

struct run {
    const struct run_plan *plan;
    struct loop *loop;
    struct timer *timer;
    struct role roles[ROLES];
    msec began_at;
    bool redis_seen;
    bool stopping;
    bool ready;
    struct bufferevent *probe; /* NULL: none on its way */
    msec probe_at;
    char url[96];
};

static void release_text(char **text)
{
    free(TAKE(*text));
}

/* --- making a role ---------------------------------------------------------------------------------------------- */

/* The program beside this one. */
static char *program_path(const char *name)
{
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len <= 0)
        return NULL;
    self[len] = '\0';
    char *slash = strrchr(self, '/'), *path = NULL;
    return slash && asprintf(&path, "%.*s/%s", (int)(slash - self), self, name) >= 0 ? path : NULL;
}

static char **role_argv(const struct run_plan *plan, const char *name)
{
    AUTO(release_text) char *program = NULL;
    if (asprintf(&program, "quern-%s", name) < 0)
        return NULL;
    char **argv = calloc(2 * plan->settings_count + 2, sizeof *argv), **next = argv;
    if (!argv || !(*next++ = program_path(program)))
        return argv;
    for (size_t i = 0; i < plan->settings_count; i++) {
        *next++ = strdup("--settings");
        *next++ = strdup(plan->settings[i]);
    }
    return argv;
}

static char **redis_argv(const struct run_plan *plan)
{
    char **argv = calloc(3, sizeof *argv);
    if (argv) {
        argv[0] = strdup("redis-server");
        argv[1] = run_state_path(plan->state, "redis.conf");
    }
    return argv;
}

static void on_output(evutil_socket_t fd, short what, void *arg)
{
    struct role *role = arg;
    uint8_t bytes[65536];
    ssize_t len = read(fd, bytes, sizeof bytes);
    if (len > 0)
        run_log_write(&role->log, span_of(bytes, (size_t)len));
}

static enum err role_init(struct run *r, struct role *role, const char *name, msec stop_ms)
{
    char file[32];
    snprintf(file, sizeof file, "logs/%s.log", name);
    AUTO(release_text) char *log = run_state_path(r->plan->state, file);
    *role = (struct role){.name = name, .stop_ms = stop_ms, .kill_at = MSEC_NEVER, .log.fd = -1, .pipe = {-1, -1}};
    role->argv = role == &r->roles[REDIS] ? redis_argv(r->plan) : role_argv(r->plan, name);
    if (!log || !role->argv || !role->argv[0] || run_log_init(&role->log, log))
        return ERR_NOMEM;
    if (pipe2(role->pipe, O_CLOEXEC) != 0 || evutil_make_socket_nonblocking(role->pipe[0]) != 0)
        return ERR_SYSTEM;
    role->readable = event_new(loop_base(r->loop), role->pipe[0], EV_READ | EV_PERSIST, on_output, role);
    return role->readable && event_add(role->readable, NULL) == 0 ? ERR_OK : ERR_NOMEM;
}

/* What was printed before the end is still in the pipe. */
static void role_drain(struct role *role)
{
    uint8_t bytes[65536];
    for (ssize_t len; role->pipe[0] >= 0 && (len = read(role->pipe[0], bytes, sizeof bytes)) > 0;)
        run_log_write(&role->log, span_of(bytes, (size_t)len));
}

static void role_done(struct role *role)
{
    role_drain(role);
    if (role->readable)
        event_free(role->readable);
    for (int i = 0; i < 2; i++)
        if (role->pipe[i] >= 0)
            close(role->pipe[i]);
    for (char **arg = role->argv; arg && *arg; arg++)
        free(*arg);
    free(role->argv);
    run_log_done(&role->log);
}

/* --- starting --------------------------------------------------------------------------------------------------- */

static void note_pid(const struct run *r, const char *name, pid_t pid)
{
    char file[32], text[16];
    snprintf(file, sizeof file, "run/%s.pid", name);
    snprintf(text, sizeof text, "%d\n", (int)pid);
    if (!pid)
        run_state_remove(r->plan->state, file);
    else if (run_state_write(r->plan->state, file, text))
        log_event(LOG_RUN_FILE, "file=%s", file);
}

/* In the child, with every signal blocked: nothing of the supervisor may act here any more. Does not return. */
static void become(const struct role *role, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);  /* it died before the line above */
    setpgid(0, 0); /* the terminal's ^C is for the supervisor, which stops roles in order */
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, 0) < 0 || dup2(role->pipe[1], 1) < 0 || dup2(role->pipe[1], 2) < 0)
        _exit(1);
    static const char *const not_theirs[] = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"};
    for (size_t i = 0; i < ARRAY_COUNT(not_theirs); i++)
        unsetenv(not_theirs[i]);
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC); /* whatever the supervisor was given */
    execvp(role->argv[0], role->argv);
    dprintf(2, "%s: %s\n", role->argv[0], strerror(errno));
    _exit(127);
}

static void role_failed(struct run *r, struct role *role)
{
    msec wait = role->failures ? MIN(BACKOFF_FIRST_MS << MIN(role->failures - 1, 10u), BACKOFF_MAX_MS) : 0;
    role->failures++;
    role->start_at = loop_now(r->loop) + wait;
}

static void role_start(struct run *r, struct role *role)
{
    if (role == &r->roles[REDIS] && !run_redis_data_listed(r->plan->state)) {
        log_event(LOG_RUN_DATA, "directory=redis/appendonlydir missing=appendonly.aof.manifest");
        role_failed(r, role);
        return;
    }
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become(role, parent);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0) {
        log_event(LOG_CHILD_EXIT, "name=%s error=%s", role->name, log_str(span_str(strerror(errno))));
        role_failed(r, role);
        return;
    }
    role->pid = pid;
    role->started_at = loop_now(r->loop);
    note_pid(r, role->name, pid);
    log_event(LOG_CHILD_START, "name=%s child=%d", role->name, (int)pid);
}

/* --- ends ------------------------------------------------------------------------------------------------------- */

static struct role *role_of(struct run *r, pid_t pid)
{
    for (int i = 0; i < ROLES; i++)
        if (r->roles[i].pid == pid)
            return &r->roles[i];
    return NULL;
}

static void role_ended(struct run *r, struct role *role, int status)
{
    if (WIFSIGNALED(status))
        log_event(LOG_CHILD_EXIT, "name=%s child=%d signal=%d", role->name, (int)role->pid, WTERMSIG(status));
    else
        log_event(LOG_CHILD_EXIT, "name=%s child=%d status=%d", role->name, (int)role->pid, WEXITSTATUS(status));
    role->pid = 0;
    note_pid(r, role->name, 0);
    if (loop_now(r->loop) - role->started_at >= STEADY_MS)
        role->failures = 0;
    role_failed(r, role);
}

/* Also ends what roles left behind when they were killed: this process inherits their children (PR_SET_CHILD_SUBREAPER). */
static void on_child(void *arg, int signo)
{
    struct run *r = arg;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        struct role *role = role_of(r, pid);
        if (role)
            role_ended(r, role, status);
    }
}

/* Ends every child that is no role: what a killed role left behind. */
static void kill_orphans(struct run *r)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "re");
    for (int pid; f && fscanf(f, "%d", &pid) == 1;)
        if (!role_of(r, pid))
            kill(pid, SIGKILL);
    if (f)
        fclose(f);
}

static void stop_now(struct run *r)
{
    for (int i = 0; i < ROLES; i++)
        if (r->roles[i].pid)
            kill(r->roles[i].pid, SIGKILL);
}

static void on_stop(void *arg, int signo)
{
    struct run *r = arg;
    if (r->stopping)
        stop_now(r);
    else {
        log_event(LOG_DRAIN, "signal=%d", signo);
        notify_stopping();
    }
    r->stopping = true;
}

static void on_hangup(void *arg, int signo)
{
    struct run *r = arg;
    if (isatty(STDIN_FILENO)) {
        on_stop(r, signo); /* the terminal has gone */
        return;
    }
    static const int told[] = {BROKER, API}; /* the broker tells the workers, wherever they are */
    for (size_t i = 0; i < ARRAY_COUNT(told); i++)
        if (r->roles[told[i]].pid)
            kill(r->roles[told[i]].pid, SIGHUP);
}

/* --- are users served? ------------------------------------------------------------------------------------------ */

static unsigned api_port(const struct run *r)
{
    AUTO(release_text) char *path = run_state_path(r->plan->state, "run/api.port");
    FILE *f = path ? fopen(path, "re") : NULL;
    unsigned port = 0;
    if (f && fscanf(f, "%u", &port) != 1)
        port = 0;
    if (f)
        fclose(f);
    return port <= 65535 ? port : 0;
}

/* Where to knock: the address users connect to, or loopback when that is every address or a name. */
static void api_url(const struct run *r, unsigned port, char out[96], char address[80])
{
    const char *host = r->plan->conf->api.host;
    struct sockaddr_storage parsed;
    int len = sizeof parsed;
    bool six = strchr(host, ':') != NULL;
    snprintf(address, 80, six && host[0] != '[' ? "[%.60s]:%u" : "%.60s:%u", host, port);
    bool any = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || strcmp(host, "[::]") == 0;
    if (any || evutil_parse_sockaddr_port(address, (struct sockaddr *)&parsed, &len) != 0)
        snprintf(address, 80, "127.0.0.1:%u", port);
    snprintf(out, 96, "http://%s", address);
}

static void probe_end(struct run *r)
{
    if (r->probe)
        bufferevent_free(r->probe);
    r->probe = NULL;
    r->probe_at = loop_now(r->loop) + PROBE_EVERY_MS;
}

static void on_probe_event(struct bufferevent *b, short what, void *arg)
{
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT))
        probe_end(arg);
}

static void on_probe_answer(struct bufferevent *b, void *arg)
{
    static const char good[] = "HTTP/1.1 200 ";
    struct run *r = arg;
    char head[sizeof good - 1];
    if (evbuffer_copyout(bufferevent_get_input(b), head, sizeof head) < (ssize_t)sizeof head)
        return;
    bool served = memcmp(head, good, sizeof head) == 0;
    probe_end(r);
    if (!served)
        return;
    r->ready = true;
    log_event(LOG_READY, "url=%s", r->url);
    notify_ready();
    r->plan->ready(r->plan->arg, r->url);
}

static void probe_start(struct run *r)
{
    char address[80];
    struct sockaddr_storage to;
    int len = sizeof to;
    unsigned port = api_port(r);
    r->probe_at = loop_now(r->loop) + PROBE_EVERY_MS;
    if (!port)
        return;
    api_url(r, port, r->url, address);
    if (evutil_parse_sockaddr_port(address, (struct sockaddr *)&to, &len) != 0)
        return;
    r->probe = bufferevent_socket_new(loop_base(r->loop), -1, BEV_OPT_CLOSE_ON_FREE);
    if (!r->probe)
        return;
    const struct timeval limit = {.tv_sec = PROBE_LIMIT_S};
    bufferevent_setcb(r->probe, on_probe_answer, NULL, on_probe_event, r);
    bufferevent_set_timeouts(r->probe, &limit, &limit);
    evbuffer_add_printf(bufferevent_get_output(r->probe), "GET /readyz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
                        address);
    bufferevent_enable(r->probe, EV_READ | EV_WRITE);
    if (bufferevent_socket_connect(r->probe, (struct sockaddr *)&to, len) != 0 && r->probe)
        probe_end(r);
}

/* --- the step --------------------------------------------------------------------------------------------------- */

/* Whether the others may start; until then *next is when to look again. */
static bool redis_listens(struct run *r, msec now, msec *next)
{
    if (!r->redis_seen)
        r->redis_seen = run_redis_answers(r->plan->state) || now - r->began_at >= REDIS_WAIT_MS;
    if (!r->redis_seen)
        *next = MIN(*next, now + REDIS_LOOK_MS);
    return r->redis_seen;
}

static msec step_run(struct run *r, msec now)
{
    msec next = MSEC_NEVER;
    bool all = true;
    for (int i = 0; i < ROLES; i++) {
        struct role *role = &r->roles[i];
        if (!role->pid && now >= role->start_at && (i == REDIS || redis_listens(r, now, &next)))
            role_start(r, role);
        if (!role->pid && now < role->start_at)
            next = MIN(next, role->start_at);
        all = all && role->pid;
    }
    if (r->ready || r->probe || !all)
        return next;
    if (now >= r->probe_at)
        probe_start(r);
    return MIN(next, r->probe_at);
}

/* One role after the other, the last started first. */
static msec step_stop(struct run *r, msec now)
{
    for (int i = ROLES; i-- > 0;) {
        struct role *role = &r->roles[i];
        if (!role->pid)
            continue;
        if (role->kill_at == MSEC_NEVER) {
            kill(role->pid, SIGTERM);
            role->kill_at = now + role->stop_ms;
        } else if (now >= role->kill_at) {
            log_event(LOG_CHILD_KILL, "name=%s child=%d", role->name, (int)role->pid);
            kill(role->pid, SIGKILL);
            role->kill_at = now + 1000;
        }
        return role->kill_at;
    }
    kill_orphans(r);
    loop_stop(r->loop);
    return MSEC_NEVER;
}

/* The supervisor's own log, when standard error is that file: it says little, but a role that never starts makes it say it
 * for ever. */
static void renew_own_log(const struct run *r)
{
    struct stat out, file;
    if (fstat(STDERR_FILENO, &out) != 0 || out.st_size < OWN_LOG_MAX)
        return;
    AUTO(release_text) char *path = run_state_path(r->plan->state, "logs/run.log");
    AUTO(release_text) char *before = run_state_path(r->plan->state, "logs/run.log.1");
    if (!path || !before || stat(path, &file) != 0 || file.st_ino != out.st_ino || file.st_dev != out.st_dev)
        return;
    if (rename(path, before) != 0)
        return;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static void step(void *arg)
{
    struct run *r = arg;
    msec now = loop_now(r->loop);
    renew_own_log(r);
    notify_alive(now);
    msec next = r->stopping ? step_stop(r, now) : step_run(r, now);
    timer_set(r->timer, notify_owes() ? MIN(next, now + NOTIFY_AGAIN_MS) : next);
}

static void on_timer(void *arg) {} /* the step comes after it */

/* --- from start to end ------------------------------------------------------------------------------------------ */

static enum err run_init(struct run *r, const struct run_plan *plan)
{
    static const char *const names[ROLES] = {[REDIS] = "redis", [BROKER] = "broker", [WORKER] = "worker", [API] = "api"};
    const msec stop_ms[ROLES] = {[REDIS] = STOP_STORE_MS,
                                 [BROKER] = STOP_STORE_MS,
                                 [WORKER] = MIN((msec)plan->conf->worker.stop_ms + 1000, STOP_MAX_MS),
                                 [API] = MIN((msec)plan->conf->api.stop_ms + 1000, STOP_MAX_MS)};
    r->plan = plan;
    for (int i = 0; i < ROLES; i++)
        r->roles[i].pipe[0] = r->roles[i].pipe[1] = r->roles[i].log.fd = -1;
    if (!(r->loop = loop_new(step, r)) || !(r->timer = timer_new(r->loop, on_timer, r)))
        return ERR_NOMEM;
    r->began_at = loop_now(r->loop);
    enum err e = ERR_OK;
    for (int i = 0; i < ROLES && !e; i++)
        e = role_init(r, &r->roles[i], names[i], stop_ms[i]);
    if (e || (e = loop_signal(r->loop, SIGCHLD, on_child, r)) || (e = loop_signal(r->loop, SIGTERM, on_stop, r)) ||
        (e = loop_signal(r->loop, SIGINT, on_stop, r)))
        return e;
    return loop_signal(r->loop, SIGHUP, on_hangup, r);
}

static void run_done(struct run *r)
{
    if (r->probe)
        bufferevent_free(r->probe);
    for (int i = 0; i < ROLES; i++)
        role_done(&r->roles[i]);
    timer_free(&r->timer);
    loop_free(&r->loop);
}

/* A program that is not there would be started again for ever. */
static bool programs_are_there(const struct run *r)
{
    for (int i = BROKER; i < ROLES; i++)
        if (access(r->roles[i].argv[0], X_OK) != 0) {
            fprintf(stderr, "%s: %s\n", r->roles[i].argv[0], strerror(errno));
            return false;
        }
    return true;
}

int run_roles(const struct run_plan *plan)
{
    AUTO(run_done) struct run r = {0};
    enum err e = run_init(&r, plan);
    if (e) {
        log_event(LOG_FATAL, "error=%s", err_name(e));
        return EXIT_FAILURE;
    }
    if (!programs_are_there(&r))
        return EXIT_FAILURE;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    run_state_remove(plan->state, "run/api.port");
    note_pid(&r, "run", getpid());
    log_event(LOG_START, "state=%s", log_str(span_str(plan->state)));
    loop_run(r.loop);
    note_pid(&r, "run", 0);
    run_state_remove(plan->state, "run/api.port");
    log_event(LOG_STOP, "state=%s", log_str(span_str(plan->state)));
    return EXIT_SUCCESS;
}
