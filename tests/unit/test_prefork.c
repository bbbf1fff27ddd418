/* common/prefork, run as it is: a parent forked from the test, its children, and pipes on which they tell what they do. */
#include "common/prefork.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"

#define PATIENCE_MS 10000
#define CHILDREN    3

/* One thing told on the pipe. Small enough for an atomic write. */
struct told {
    char what; /* S: a child has started, E: it was asked to end, R: reload was called */
    unsigned index;
    pid_t pid;
    unsigned long value;
};

static struct world {
    char dir[64];
    char pid_file[96];
    int tell_fd, hear_fd;
    pid_t parent;
    struct prefork_options options;
    char bad_settings[96];          /* exists: reload refuses */
    char hang[96];                  /* exists: children do nothing any more, not even say that they live */
    char crash[96];                 /* exists: children end as soon as they started */
    bool silent;                    /* children do not call prefork_ready */
    bool deaf;                      /* children do not end on SIGTERM */
    unsigned long (*measure)(void); /* in the child, after the start: becomes `value` */
} w;

static void tell(char what, unsigned index, unsigned long value)
{
    struct told told = {what, index, getpid(), value};
    if (write(w.tell_fd, &told, sizeof told) != sizeof told)
        _exit(99);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void touch(const char *path)
{
    close(open(path, O_CREAT | O_WRONLY, 0600));
}

/* As a child's loop does it: with a sign of life as often as the parent wants one. */
static int wait_for_signal(const sigset_t *signals)
{
    msec every_ms = prefork_alive_every_ms();
    struct timespec wait = {.tv_nsec = every_ms * 1000000};
    int signo = -1;
    while (every_ms && signo < 0) {
        while (exists(w.hang))
            pause();
        prefork_alive();
        signo = sigtimedwait(signals, NULL, &wait);
    }
    if (signo < 0)
        sigwait(signals, &signo);
    return signo;
}

static int child(void *arg, unsigned index)
{
    unsigned long value = w.measure ? w.measure() : 0;
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigaddset(&term, SIGUSR1); /* the test's: ask for a new generation */
    sigprocmask(SIG_BLOCK, &term, NULL);
    tell('S', index, value);
    if (exists(w.crash))
        return 3;
    if (!w.silent)
        prefork_ready();
    int signo;
    do {
        signo = wait_for_signal(&term);
        if (signo == SIGUSR1)
            prefork_reload();
    } while (w.deaf || signo == SIGUSR1);
    tell('E', index, 0);
    return 0;
}

static enum err reload(void *arg)
{
    tell('R', 0, 0);
    return exists(w.bad_settings) ? ERR_SETTINGS : ERR_OK;
}

static int setup(void **state)
{
    memset(&w, 0, sizeof w);
    strcpy(w.dir, "/tmp/quern-prefork-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    snprintf(w.pid_file, sizeof w.pid_file, "%s/pid", w.dir);
    snprintf(w.bad_settings, sizeof w.bad_settings, "%s/bad", w.dir);
    snprintf(w.hang, sizeof w.hang, "%s/hang", w.dir);
    snprintf(w.crash, sizeof w.crash, "%s/crash", w.dir);
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    w.hear_fd = fds[0];
    w.tell_fd = fds[1];
    w.options = (struct prefork_options){
        .role = "test", .children = CHILDREN, .stop_ms = PATIENCE_MS, .pid_file = w.pid_file, .child = child, .reload = reload};
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int teardown(void **state)
{
    if (w.parent > 0) {
        kill(w.parent, SIGTERM);
        kill(w.parent, SIGTERM);
        waitpid(w.parent, NULL, 0);
    }
    close(w.hear_fd);
    if (w.tell_fd >= 0)
        close(w.tell_fd);
    nftw(w.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}

static void start(void)
{
    w.parent = fork();
    assert_true(w.parent >= 0);
    if (w.parent == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(w.hear_fd);
        _exit(prefork_run(&w.options));
    }
    close(w.tell_fd); /* so that the end of all of them is the end of the pipe */
    w.tell_fd = -1;
}

/* False at the end of the pipe. */
static bool hear(struct told *told)
{
    struct pollfd ready = {.fd = w.hear_fd, .events = POLLIN};
    if (poll(&ready, 1, PATIENCE_MS) != 1)
        fail_msg("nobody told anything");
    return read(w.hear_fd, told, sizeof *told) == sizeof *told;
}

static struct told expect(char what)
{
    struct told told;
    assert_true(hear(&told));
    if (told.what != what)
        fail_msg("expected %c, heard %c of child %u", what, told.what, told.index);
    return told;
}

/* One `what` from every index; their pids by index. */
static void expect_all(char what, pid_t pids[CHILDREN])
{
    memset(pids, 0, CHILDREN * sizeof *pids);
    for (int i = 0; i < CHILDREN; i++) {
        struct told told = expect(what);
        assert_true(told.index < CHILDREN);
        assert_int_equal(pids[told.index], 0);
        pids[told.index] = told.pid;
    }
}

static void expect_end_of_all(void)
{
    struct told told;
    assert_false(hear(&told));
}

static int parent_status(void)
{
    int status;
    assert_int_equal(waitpid(w.parent, &status, 0), w.parent);
    w.parent = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* systemd's end of NOTIFY_SOCKET. */
static int notify_fd;

static void listen_for_notifications(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", w.dir);
    notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(notify_fd, (struct sockaddr *)&address, sizeof address), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
}

/* The next one; feeding the watchdog counts only for who waits for it. */
static void expect_notification(const char *wanted)
{
    bool for_watchdog = strcmp(wanted, "WATCHDOG=1") == 0;
    char text[256];
    struct pollfd ready = {.fd = notify_fd, .events = POLLIN};
    do {
        if (poll(&ready, 1, PATIENCE_MS) != 1)
            fail_msg("systemd was not told %s", wanted);
        ssize_t len = recv(notify_fd, text, sizeof text - 1, 0);
        text[MAX(len, 0)] = '\0';
    } while (for_watchdog != (strcmp(text, "WATCHDOG=1") == 0));
    assert_string_equal(text, wanted);
}

static void stop_listening_for_notifications(void)
{
    unsetenv("NOTIFY_SOCKET");
    close(notify_fd);
}

/* ---- tests ---- */

static void test_children_start_serve_and_drain(void **state)
{
    pid_t started[CHILDREN], ended[CHILDREN];
    listen_for_notifications();
    start();
    expect_all('S', started);
    expect_notification("READY=1");
    char text[32] = "";
    int fd = open(w.pid_file, O_RDONLY);
    assert_true(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    assert_int_equal(atoi(text), w.parent);
    kill(w.parent, SIGTERM);
    expect_notification("STOPPING=1");
    expect_all('E', ended);
    assert_memory_equal(started, ended, sizeof started);
    expect_end_of_all();
    assert_int_equal(parent_status(), 0);
    assert_false(exists(w.pid_file));
    stop_listening_for_notifications();
}

static void test_dead_child_is_replaced(void **state)
{
    pid_t pids[CHILDREN];
    start();
    expect_all('S', pids);
    kill(pids[1], SIGKILL);
    struct told told = expect('S');
    assert_int_equal(told.index, 1);
    assert_int_not_equal(told.pid, pids[1]);
    assert_int_equal(kill(pids[0], 0), 0);
    assert_int_equal(kill(pids[2], 0), 0);
}

/* Starts at 0, 0, +100, +200, +400 ms. */
static void test_crashing_children_are_restarted_with_backoff(void **state)
{
    w.options.children = 1;
    touch(w.crash);
    msec before = clock_mono();
    start();
    for (int i = 0; i < 5; i++)
        expect('S');
    assert_in_range(clock_mono() - before, 700, 9000);
    assert_false(exists(w.pid_file));
}

static void test_child_that_does_not_end_is_killed(void **state)
{
    pid_t pids[CHILDREN];
    w.deaf = true;
    w.options.stop_ms = 100;
    start();
    expect_all('S', pids);
    msec before = clock_mono();
    kill(w.parent, SIGTERM);
    expect_end_of_all();
    assert_in_range(clock_mono() - before, 100, 9000);
    assert_int_equal(parent_status(), 1);
}

static void test_second_signal_kills_at_once(void **state)
{
    pid_t pids[CHILDREN];
    w.deaf = true;
    w.options.stop_ms = 3600000;
    listen_for_notifications();
    start();
    expect_all('S', pids);
    expect_notification("READY=1");
    kill(w.parent, SIGINT);
    expect_notification("STOPPING=1"); /* the first was taken: two of a kind that are pending are one */
    kill(w.parent, SIGTERM);
    expect_end_of_all();
    assert_int_equal(parent_status(), 1);
    stop_listening_for_notifications();
}

static void test_new_generation_replaces_the_old(void **state)
{
    pid_t old[CHILDREN], fresh[CHILDREN], ended[CHILDREN];
    listen_for_notifications();
    start();
    expect_all('S', old);
    expect_notification("READY=1");
    kill(w.parent, SIGHUP);
    expect_notification("RELOADING=1");
    expect('R');
    expect_all('S', fresh); /* all of them, before the first old one is asked to end */
    expect_notification("READY=1");
    expect_all('E', ended);
    assert_memory_equal(old, ended, sizeof old);
    kill(fresh[0], SIGKILL); /* the new ones are the ones that are replaced now */
    assert_int_equal(expect('S').index, 0);
    stop_listening_for_notifications();
}

static void test_a_child_may_ask_for_a_new_generation(void **state)
{
    pid_t old[CHILDREN], fresh[CHILDREN], ended[CHILDREN];
    prefork_reload(); /* in no child: nobody is signalled */
    start();
    expect_all('S', old);
    kill(old[1], SIGUSR1);
    expect('R');
    expect_all('S', fresh);
    expect_all('E', ended);
    assert_memory_equal(old, ended, sizeof old);
}

static void test_bad_settings_change_nothing(void **state)
{
    pid_t pids[CHILDREN], ended[CHILDREN];
    listen_for_notifications();
    start();
    expect_all('S', pids);
    expect_notification("READY=1");
    touch(w.bad_settings);
    kill(w.parent, SIGHUP);
    expect('R');
    expect_notification("RELOADING=1");
    expect_notification("READY=1");
    kill(w.parent, SIGTERM);
    expect_all('E', ended); /* and no start in between */
    assert_memory_equal(pids, ended, sizeof pids);
    stop_listening_for_notifications();
}

static void test_generation_that_crashes_leaves_the_old_one_serving(void **state)
{
    pid_t old[CHILDREN], ended[CHILDREN];
    w.options.reload = NULL;
    listen_for_notifications();
    start();
    expect_all('S', old);
    expect_notification("READY=1");
    touch(w.crash);
    kill(w.parent, SIGHUP);
    expect_notification("RELOADING=1");
    for (int i = 0; i < 3 * CHILDREN; i++)
        expect('S');
    for (int i = 0; i < CHILDREN; i++)
        assert_int_equal(kill(old[i], 0), 0);
    unlink(w.crash);
    kill(w.parent, SIGHUP);
    expect_notification("RELOADING=1");
    expect_notification("READY=1");
    /* Starts of the crashing generation may still be heard before those of the last one; the old end after all of them. */
    int ends = 0;
    memset(ended, 0, sizeof ended);
    while (ends < CHILDREN) {
        struct told told;
        assert_true(hear(&told));
        if (told.what == 'E' && told.pid == old[told.index])
            ends++, ended[told.index] = told.pid;
    }
    assert_memory_equal(old, ended, sizeof old);
    kill(w.parent, SIGTERM);
    for (struct told told; hear(&told);)
        ; /* a child of the crashing generation may have come through at last, and ends too */
    assert_int_equal(parent_status(), 0);
    stop_listening_for_notifications();
}

static void test_killed_parent_lets_children_drain(void **state)
{
    pid_t started[CHILDREN], ended[CHILDREN];
    start();
    expect_all('S', started);
    kill(w.parent, SIGKILL);
    expect_all('E', ended);
    assert_memory_equal(started, ended, sizeof started);
    expect_end_of_all();
    assert_int_equal(parent_status(), 128 + SIGKILL);
}

static void test_child_that_says_nothing_runs_after_a_second(void **state)
{
    w.silent = true;
    listen_for_notifications();
    msec before = clock_mono();
    start();
    expect_notification("READY=1");
    assert_in_range(clock_mono() - before, 1000, 9000);
    stop_listening_for_notifications();
}

static void test_watchdog_is_fed(void **state)
{
    listen_for_notifications();
    setenv("WATCHDOG_USEC", "100000", 1);
    start();
    unsetenv("WATCHDOG_USEC");
    for (int i = 0; i < 3; i++)
        expect_notification("WATCHDOG=1");
    stop_listening_for_notifications();
}

static void test_a_child_that_hangs_is_started_again(void **state)
{
    pid_t before[CHILDREN], after[CHILDREN];
    listen_for_notifications();
    setenv("WATCHDOG_USEC", "400000", 1);
    start();
    unsetenv("WATCHDOG_USEC");
    expect_all('S', before);
    for (int i = 0; i < 6; i++) /* each half of the watchdog's time: who lives is left alone, or would be heard of below */
        expect_notification("WATCHDOG=1");
    touch(w.hang);
    expect_all('S', after);
    unlink(w.hang);
    for (int i = 0; i < CHILDREN; i++)
        assert_int_not_equal(before[i], after[i]);
    stop_listening_for_notifications();
}

static void forget_notifications(void)
{
    char text[256];
    while (recv(notify_fd, text, sizeof text, MSG_DONTWAIT) >= 0)
        ;
}

/* A machine that slept, a container that was frozen: nobody could say anything, and nobody could hear it. */
static void test_children_that_stood_still_with_their_parent_live_on(void **state)
{
    pid_t children[CHILDREN];
    struct pollfd told = {.fd = w.hear_fd, .events = POLLIN};
    listen_for_notifications();
    setenv("WATCHDOG_USEC", "1000000", 1);
    start();
    unsetenv("WATCHDOG_USEC");
    expect_all('S', children);
    expect_notification("WATCHDOG=1");
    kill(w.parent, SIGSTOP);
    for (int i = 0; i < CHILDREN; i++)
        kill(children[i], SIGSTOP);
    poll(&told, 1, 1500); /* longer than any of them may be silent */
    forget_notifications();
    kill(w.parent, SIGCONT);
    expect_notification("WATCHDOG=1"); /* it has looked around */
    for (int i = 0; i < CHILDREN; i++)
        kill(children[i], SIGCONT);
    for (int i = 0; i < 2; i++)
        expect_notification("WATCHDOG=1");
    assert_int_equal(poll(&told, 1, 0), 0); /* no other was started */
    stop_listening_for_notifications();
}

static void test_foreign_pid_file_is_left_alone(void **state)
{
    pid_t pids[CHILDREN];
    listen_for_notifications();
    start();
    expect_all('S', pids);
    expect_notification("READY=1");
    FILE *file = fopen(w.pid_file, "w");
    fputs("1\n", file);
    fclose(file);
    kill(w.parent, SIGTERM);
    expect_all('E', pids);
    assert_int_equal(parent_status(), 0);
    assert_true(exists(w.pid_file));
    stop_listening_for_notifications();
}

static void test_pid_file_that_cannot_be_written_is_no_reason_to_stop(void **state)
{
    pid_t pids[CHILDREN];
    w.options.pid_file = "/nonexistent/dir/pid";
    listen_for_notifications();
    start();
    expect_all('S', pids);
    expect_notification("READY=1");
    kill(w.parent, SIGTERM);
    expect_all('E', pids);
    assert_int_equal(parent_status(), 0);
    stop_listening_for_notifications();
}

/* What a child finds: one bit per thing that is not as promised. */
static unsigned long inherited_faults(void)
{
    unsigned long faults = 0;
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    for (int signo = 1; signo < 32; signo++) {
        struct sigaction action;
        if (sigismember(&blocked, signo))
            faults |= 1;
        if (sigaction(signo, NULL, &action) == 0 && signo != SIGPIPE && action.sa_handler != SIG_DFL)
            faults |= 2;
    }
    if (getenv("NOTIFY_SOCKET") || getenv("LISTEN_FDS") || getenv("WATCHDOG_USEC"))
        faults |= 4;
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    if (strncmp(name, "quern-test:", 11) != 0)
        faults |= 8;
    int death_signal = 0;
    prctl(PR_GET_PDEATHSIG, &death_signal);
    if (death_signal != SIGTERM)
        faults |= 16;
    char path[32];
    for (int fd = 3; fd < 64; fd++) {
        char target[64] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (readlink(path, target, sizeof target - 1) > 0 && strstr(target, "signalfd"))
            faults |= 32;
    }
    return faults;
}

static void ignore(int signo) {}

static void test_what_a_child_inherits(void **state)
{
    w.measure = inherited_faults;
    setenv("LISTEN_FDS", "0", 1);
    listen_for_notifications();
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, ignore);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    start();
    sigprocmask(SIG_UNBLOCK, &blocked, NULL);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
    unsetenv("LISTEN_FDS");
    for (int i = 0; i < CHILDREN; i++)
        assert_int_equal(expect('S').value, 0);
    stop_listening_for_notifications();
}

/* The parent has taken every signal it was sent and waits again. */
static void wait_until_idle(void)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)w.parent);
    for (msec before = clock_mono();;) {
        FILE *file = fopen(path, "re");
        assert_non_null(file);
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
        if (strstr(text, "ShdPnd:\t0000000000000000") && strstr(text, "State:\tS"))
            return;
        assert_true(clock_mono() - before < PATIENCE_MS);
        sched_yield();
    }
}

/* Four generations are alive, none of which ends: the next SIGHUP waits until one of them has gone. */
static void test_generations_are_bounded(void **state)
{
    w.deaf = true;
    w.options.children = 1;
    listen_for_notifications();
    start();
    pid_t first = expect('S').pid, last = 0;
    expect_notification("READY=1");
    for (int generation = 2; generation <= 4; generation++) {
        kill(w.parent, SIGHUP);
        expect_notification("RELOADING=1");
        expect('R');
        last = expect('S').pid;
        expect_notification("READY=1");
    }
    kill(w.parent, SIGHUP);
    wait_until_idle();
    struct pollfd told = {.fd = w.hear_fd, .events = POLLIN};
    assert_int_equal(poll(&told, 1, 0), 0);
    kill(first, SIGKILL);
    expect('R');
    assert_int_not_equal(expect('S').pid, last);
    stop_listening_for_notifications();
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_children_start_serve_and_drain),
        T(test_dead_child_is_replaced),
        T(test_crashing_children_are_restarted_with_backoff),
        T(test_child_that_does_not_end_is_killed),
        T(test_second_signal_kills_at_once),
        T(test_new_generation_replaces_the_old),
        T(test_a_child_may_ask_for_a_new_generation),
        T(test_bad_settings_change_nothing),
        T(test_generation_that_crashes_leaves_the_old_one_serving),
        T(test_killed_parent_lets_children_drain),
        T(test_child_that_says_nothing_runs_after_a_second),
        T(test_watchdog_is_fed),
        T(test_a_child_that_hangs_is_started_again),
        T(test_children_that_stood_still_with_their_parent_live_on),
        T(test_foreign_pid_file_is_left_alone),
        T(test_pid_file_that_cannot_be_written_is_no_reason_to_stop),
        T(test_what_a_child_inherits),
        T(test_generations_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
