#include "broker/run.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/run_redis.h"
#include "broker/run_roles.h"
#include "broker/run_state.h"
#include "common/clock.h"
#include "common/log.h"

#define EXIT_REFUSED      2
#define READY_WITHIN_MS   30000
#define READY_FD          3     /* in a detached supervisor */
#define STOPPED_WITHIN_MS 45000 /* longer than every role's bound together */

struct options {
    const char *state, *workers, *api_children, *port;
    const char **settings;
    size_t settings_count;
    int ready_fd; /* −1: none */
    bool daemon, alive, stop, help;
};

static void release_text(char **text)
{
    free(TAKE(*text));
}
static void options_done(struct options *o)
{
    free(o->settings);
}

static void put_help(FILE *out)
{
    fputs(
        "Usage: quernctl run --state DIR [options]\n"
        "\n"
        "Runs Redis, broker, worker and api on this machine, and starts again what dies.\n"
        "\n"
        "  --state DIR         where everything is kept: sockets, data, logs; made when missing\n"
        "  --settings FILE     read settings; given again, later files win over earlier ones\n"
        "  --workers N         worker.children\n"
        "  --api-children N    api.children\n"
        "  --port N            api.port; 0: any free port, said by DIR/run/api.port\n"
        "  --daemon            detach when users are served\n"
        "  --ready-fd N        write the URL to this descriptor when users are served\n"
        "  --alive             only say whether DIR is run: exit status 0 when it is, 1 when not\n"
        "  --stop              stop what runs in DIR, and return when it is gone\n"
        "  --help              print this\n"
        "\n"
        "Exit codes: 0 ended as asked; 1 could not go on; 2 the options or the settings were refused; 3 DIR is run already.\n",
        out);
}

static bool read_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {{"state", required_argument, NULL, 'd'},
                                          {"settings", required_argument, NULL, 's'},
                                          {"workers", required_argument, NULL, 'w'},
                                          {"api-children", required_argument, NULL, 'a'},
                                          {"port", required_argument, NULL, 'p'},
                                          {"daemon", no_argument, NULL, 'D'},
                                          {"stop", no_argument, NULL, 'S'},
                                          {"alive", no_argument, NULL, 'A'},
                                          {"ready-fd", required_argument, NULL, 'r'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    optind = 0; /* from the start: quernctl has looked at its own options */
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 'd':
            o->state = optarg;
            break;
        case 's':
            o->settings[o->settings_count++] = optarg;
            break;
        case 'w':
            o->workers = optarg;
            break;
        case 'a':
            o->api_children = optarg;
            break;
        case 'p':
            o->port = optarg;
            break;
        case 'r':
            o->ready_fd = atoi(optarg);
            break;
        case 'D':
            o->daemon = true;
            break;
        case 'A':
            o->alive = true;
            break;
        case 'S':
            o->stop = true;
            break;
        case 'h':
            o->help = true;
            break;
        default:
            return false;
        }
    }
    if (optind < argc)
        fprintf(stderr, "run: there is no argument \"%s\"\n", argv[optind]);
    else if (!o->state && !o->help)
        fprintf(stderr, "run: --state DIR is needed\n");
    return optind == argc && (o->state || o->help);
}

/* --- settings --------------------------------------------------------------------------------------------------- */

/* What the supervisor decides wins over every file, here and in the roles, because the environment does. */
static enum err set_environment(const struct options *o, const char *state)
{
    const struct {
        const char *variable, *file, *value;
    } rows[] = {
        {RUN_MARK, NULL, state},
        {"QUERN_QUERN_STATE_DIR", NULL, state},
        {"QUERN_QUERN_PID_FILE", NULL, ""}, /* the supervisor writes run/ROLE.pid */
        {"QUERN_REDIS_SOCKET", "redis.sock", NULL},
        {"QUERN_REDIS_USER", NULL, "broker"},
        {"QUERN_REDIS_PASSWORD_FILE", "redis-broker.password", NULL},
        {"QUERN_REDIS_READER_USER", NULL, "api"},
        {"QUERN_REDIS_READER_PASSWORD_FILE", "redis-api.password", NULL},
        {"QUERN_API_PORT_FILE", "run/api.port", NULL},
        {"QUERN_WORKER_CHILDREN", NULL, o->workers},
        {"QUERN_API_CHILDREN", NULL, o->api_children},
        {"QUERN_API_PORT", NULL, o->port},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        AUTO(release_text) char *path = rows[i].file ? run_state_path(state, rows[i].file) : NULL;
        const char *value = rows[i].file ? path : rows[i].value;
        if (rows[i].file && !path)
            return ERR_NOMEM;
        if (value && setenv(rows[i].variable, value, 1) != 0)
            return ERR_NOMEM;
    }
    return ERR_OK;
}

/* --- detaching -------------------------------------------------------------------------------------------------- */

/* The caller's side: waits for the line that the supervisor writes when users are served. Returns the exit status. */
static int wait_ready(pid_t supervisor, int fd, const char *state)
{
    msec deadline = clock_mono() + READY_WITHIN_MS;
    char url[128];
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, (int)MAX(deadline - clock_mono(), 0));
        if (n < 0 && errno == EINTR)
            continue;
        ssize_t len = n > 0 ? read(fd, url, sizeof url - 1) : -1;
        if (len > 0) {
            url[len] = '\0';
            printf("ready %s\n", url);
            return EXIT_SUCCESS;
        }
        int status;
        if (n > 0 && waitpid(supervisor, &status, 0) == supervisor) {
            fprintf(stderr, "it ended: see %s/logs/run.log\n", state);
            return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
        }
        fprintf(stderr, "not ready within %d s; it goes on trying: see %s/logs\n", READY_WITHIN_MS / 1000, state);
        return EXIT_FAILURE;
    }
}

/* Standard error becomes the log file, and nothing of the caller's stays open but the descriptor to report on, as READY_FD. */
static bool leave_terminal(const char *state, int ready_fd)
{
    AUTO(release_text) char *path = run_state_path(state, "logs/run.log");
    int log = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (log < 0 || null < 0) {
        fprintf(stderr, "%s: %s\n", path ? path : state, strerror(errno));
        return false;
    }
    setsid();
    bool done = dup2(null, 0) >= 0 && dup2(log, 1) >= 0 && dup2(log, 2) >= 0;
    if (ready_fd == READY_FD)
        done = done && fcntl(READY_FD, F_SETFD, 0) == 0;
    else
        done = done && dup2(ready_fd, READY_FD) >= 0;
    return done && close_range(READY_FD + 1, ~0u, 0) == 0;
}

/* The same command in a program started anew, so that what this one has opened and remembers stays behind. */
static void become_supervisor(int argc, char **argv)
{
    char self[PATH_MAX], number[8];
    char **args = calloc((size_t)argc + 4, sizeof *args), **next = args;
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (!args || len <= 0)
        return;
    self[len] = '\0';
    snprintf(number, sizeof number, "%d", READY_FD);
    *next++ = "quernctl";
    *next++ = "run";
    for (int i = 1; i < argc; i++)
        *next++ = argv[i];
    *next++ = "--ready-fd"; /* it also says that --daemon is done */
    *next++ = number;
    execv(self, args);
    fprintf(stderr, "%s: %s\n", self, strerror(errno));
    free(args);
}

static int detach(int argc, char **argv, const char *state)
{
    int fds[2];
    pid_t pid = pipe2(fds, O_CLOEXEC) == 0 ? fork() : -1;
    if (pid < 0) {
        perror("run");
        return EXIT_FAILURE;
    }
    if (pid == 0) {
        if (leave_terminal(state, fds[1]))
            become_supervisor(argc, argv);
        _exit(EXIT_FAILURE);
    }
    close(fds[1]);
    int status = wait_ready(pid, fds[0], state);
    close(fds[0]);
    return status;
}

static void say_ready(void *arg, const char *url)
{
    int *fd = arg;
    if (*fd < 0) {
        printf("ready %s\n", url);
        fflush(stdout);
        return;
    }
    ssize_t done = write(*fd, url, strlen(url));
    (void)done; /* whoever waited has gone */
    close(*fd);
}

/* --- run -------------------------------------------------------------------------------------------------------- */

static int refuse_living(const char *state, pid_t holder)
{
    fprintf(stderr, "%s: process %d runs it already\n", state, (int)holder);
    return RUN_LIVES;
}

/* The directory is this process's; what a killed one left running is ended, and Redis's files are written anew. */
static enum err take_state(const char *state, pid_t *ret_holder)
{
    enum err e = run_state_lock(state, ret_holder);
    if (e)
        return e;
    unsigned left = run_state_sweep(state);
    if (left)
        fprintf(stderr, "%s: ended %u processes that a killed supervisor had left\n", state, left);
    if (run_redis_answers(state)) {
        fprintf(stderr, "%s/redis.sock: a Redis that is not ours listens there\n", state);
        return ERR_SYSTEM;
    }
    return run_redis_prepare(state);
}

static int supervise(const struct options *o, const char *state, const struct conf *conf)
{
    int ready_fd = o->ready_fd;
    pid_t holder = 0;
    enum err e = take_state(state, &holder);
    if (e == ERR_CONFLICT)
        return refuse_living(state, holder);
    if (e)
        return EXIT_FAILURE;
    log_start("run");
    struct run_plan plan = {.state = state,
                            .conf = conf,
                            .settings = o->settings,
                            .settings_count = o->settings_count,
                            .ready = say_ready,
                            .arg = &ready_fd};
    return run_roles(&plan);
}

static int start(const struct options *o, int argc, char **argv)
{
    AUTO(release_text) char *state = NULL;
    AUTO(conf_free) struct conf *conf = NULL;
    struct conf_fault fault = {""};
    umask(077);
    enum err e = run_state_make(o->state, &state);
    if (e == ERR_SYSTEM)
        return EXIT_FAILURE;
    if (!e && !(e = set_environment(o, state)))
        e = conf_load(o->settings, o->settings_count, &conf, &fault);
    if (e) {
        fprintf(stderr, "%s\n", fault.text[0] ? fault.text : err_sentence(e));
        return e == ERR_SETTINGS ? EXIT_REFUSED : EXIT_FAILURE;
    }
    pid_t holder = run_state_holder(state);
    if (holder)
        return refuse_living(state, holder);
    return o->daemon && o->ready_fd < 0 ? detach(argc, argv, state) : supervise(o, state, conf);
}

/* --- stop ------------------------------------------------------------------------------------------------------- */

static int stop(const struct options *o)
{
    AUTO(release_text) char *state = realpath(o->state, NULL);
    if (!state) {
        printf("%s: nothing runs there\n", o->state);
        return EXIT_SUCCESS;
    }
    pid_t holder = run_state_holder(state);
    bool in_time = !holder || run_state_end(holder, STOPPED_WITHIN_MS);
    unsigned left = run_state_sweep(state);
    if (!in_time)
        fprintf(stderr, "%s: the supervisor did not stop within %d s and was killed\n", state, STOPPED_WITHIN_MS / 1000);
    printf("%s: %s\n", o->state, holder || left ? "stopped" : "nothing runs there");
    return in_time ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int say_alive(const struct options *o)
{
    AUTO(release_text) char *state = realpath(o->state, NULL);
    pid_t holder = state ? run_state_holder(state) : 0;
    if (holder)
        printf("%s: process %d runs it\n", state, (int)holder);
    else
        printf("%s: nothing runs there\n", o->state);
    return holder ? EXIT_SUCCESS : EXIT_FAILURE;
}

int run_main(int argc, char **argv)
{
    AUTO(options_done) struct options o = {.settings = calloc((size_t)argc + 1, sizeof(char *)), .ready_fd = -1};
    if (!o.settings)
        return EXIT_FAILURE;
    if (!read_options(argc, argv, &o)) {
        fprintf(stderr, "Try: quernctl run --help\n");
        return EXIT_REFUSED;
    }
    if (o.help) {
        put_help(stdout);
        return EXIT_SUCCESS;
    }
    if (o.alive)
        return say_alive(&o);
    return o.stop ? stop(&o) : start(&o, argc, argv);
}
