/* What systemd is told, and what is taken from it. Each case runs in a child, since the environment names one process. */
#include "common/notify.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"

static int heard_fd;

static int setup(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    heard_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* An autobound name in the abstract namespace: "@" and five digits. */
    assert_int_equal(bind(heard_fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
    socklen_t len = sizeof address;
    getsockname(heard_fd, (struct sockaddr *)&address, &len);
    char name[32];
    snprintf(name, sizeof name, "@%.*s", (int)(len - sizeof(sa_family_t) - 1), address.sun_path + 1);
    setenv("NOTIFY_SOCKET", name, 1);
    return 0;
}

static int teardown(void **state)
{
    unsetenv("NOTIFY_SOCKET");
    close(heard_fd);
    return 0;
}

/* The next message, or "" when there is none. */
static const char *heard(void)
{
    static char text[512];
    ssize_t len = recv(heard_fd, text, sizeof text - 1, 0);
    text[len > 0 ? len : 0] = '\0';
    return text;
}

static void test_states_are_told(void **state)
{
    notify_ready();
    assert_string_equal(heard(), "READY=1");
    notify_reloading();
    assert_string_equal(heard(), "RELOADING=1");
    notify_stopping();
    assert_string_equal(heard(), "STOPPING=1");
    notify_status("%d of %d", 2, 3);
    assert_string_equal(heard(), "STATUS=2 of 3");
    notify_status("two\nMAINPID=1\r");
    assert_string_equal(heard(), "STATUS=two MAINPID=1 ");
    char text[600];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    notify_status("%s", text);
    assert_int_equal(strlen(heard()), 7 + 255);
}

static void test_without_systemd_nothing_happens(void **state)
{
    unsetenv("NOTIFY_SOCKET");
    notify_ready();
    notify_status("x");
    notify_alive(1);
    assert_int_equal(notify_alive_every_ms(), 0);
    assert_int_equal(notify_listener(), -1);
    assert_string_equal(heard(), "");
}

static void test_watchdog_is_fed_in_time_and_not_more(void **state)
{
    setenv("WATCHDOG_USEC", "2000000", 1);
    assert_int_equal(notify_alive_every_ms(), 1000);
    notify_alive(5000);
    assert_string_equal(heard(), "WATCHDOG=1");
    notify_alive(5999);
    assert_string_equal(heard(), "");
    notify_alive(6000);
    assert_string_equal(heard(), "WATCHDOG=1");
    setenv("WATCHDOG_PID", "1", 1); /* meant for another */
    notify_alive(10000);
    assert_string_equal(heard(), "");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
}

/* Its queue holds a few words (net.unix.max_dgram_qlen); what follows must neither wait nor be lost. */
static void test_a_manager_that_does_not_read_holds_nobody_up(void **state)
{
    for (int i = 0; i < 2000; i++)
        notify_status("%d", i);
    msec before = clock_mono();
    notify_ready();
    assert_true(clock_mono() - before < 5000);
    assert_true(notify_owes());
    setenv("WATCHDOG_USEC", "2000000", 1);
    notify_alive(50000);
    assert_true(notify_owes());
    while (*heard()) /* it reads again */
        continue;
    notify_alive(50001);
    assert_string_equal(heard(), "READY=1");
    assert_string_equal(heard(), "WATCHDOG=1");
    assert_false(notify_owes());
    unsetenv("WATCHDOG_USEC");
}

/* A process with these as its first inherited descriptors. 0: the last of them is found to be the listener, as it must be. */
static int child_with(int first, int second, bool for_us)
{
    pid_t pid = fork();
    if (pid == 0) {
        /* Moved out of the way before they are put in place. */
        first = fcntl(first, F_DUPFD, 20);
        second = fcntl(second, F_DUPFD, 20);
        dup2(first, 3);
        dup2(second, 4);
        char text[16];
        snprintf(text, sizeof text, "%d", for_us ? (int)getpid() : 1);
        setenv("LISTEN_PID", text, 1);
        setenv("LISTEN_FDS", "2", 1);
        int fd = notify_listener();
        if (!for_us)
            _exit(fd == -1 ? 0 : 1);
        if (fd != 4)
            _exit(2);
        _exit((fcntl(fd, F_GETFL) & O_NONBLOCK) && (fcntl(fd, F_GETFD) & FD_CLOEXEC) && notify_listener() == fd ? 0 : 3);
    }
    int status;
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

static void test_inherited_listener(void **state)
{
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), idle = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&any, sizeof(sa_family_t)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(child_with(heard_fd, listener, true), 0); /* a datagram socket comes first */
    assert_int_equal(child_with(idle, listener, true), 0);     /* one that does not listen */
    assert_int_equal(child_with(idle, listener, false), 0);
    close(listener);
    close(idle);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_states_are_told),
        T(test_without_systemd_nothing_happens),
        T(test_watchdog_is_fed_in_time_and_not_more),
        T(test_a_manager_that_does_not_read_holds_nobody_up),
        T(test_inherited_listener),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
