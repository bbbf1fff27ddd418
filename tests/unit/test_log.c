/* What arrives at the other end of standard error, whatever that is. Each case runs in a child with a standard error of its
 * own. */
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char heard[1 << 20];
static size_t heard_len;

static void read_all(int fd)
{
    ssize_t len;
    heard_len = 0;
    while (heard_len < sizeof heard - 1 && (len = read(fd, heard + heard_len, sizeof heard - 1 - heard_len)) > 0)
        heard_len += (size_t)len;
    heard[heard_len] = '\0';
}

/* Runs `body` with `write_fd` as standard error; its exit status. */
static int run_with_stderr(int write_fd, void (*body)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        alarm(10); /* a write that blocks ends the test as a failure */
        dup2(write_fd, STDERR_FILENO);
        body();
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void log_to_pipe(void (*body)(void))
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(run_with_stderr(fds[1], body), 0);
    close(fds[1]);
    read_all(fds[0]);
    close(fds[0]);
}

static size_t lines_heard(void)
{
    size_t count = 0;
    for (size_t i = 0; i < heard_len; i++)
        count += heard[i] == '\n';
    return count;
}

/* ---- the form of a line ---- */

static void one_line(void)
{
    log_start("broker");
    log_event(LOG_START, "jobs=%d name=%s", 3, log_str(span_str("a b")));
}

static void test_line_with_time(void **state)
{
    log_to_pipe(one_line);
    int pid = 0, rest = 0;
    unsigned y, mo, d, h, mi, s, ms;
    assert_int_equal(sscanf(heard, "time=%4u-%2u-%2uT%2u:%2u:%2u.%3uZ level=notice event=role.start role=broker pid=%d%n", &y,
                            &mo, &d, &h, &mi, &s, &ms, &pid, &rest),
                     8);
    assert_string_equal(heard + rest, " jobs=3 name=\"a b\"\n");
    assert_int_equal(strlen(log_event_name(LOG_START)), 10);
}

static void without_fields_and_start(void)
{
    log_event(LOG_READY, "%s", "");
}

static void test_line_without_fields(void **state)
{
    log_to_pipe(without_fields_and_start);
    assert_non_null(strstr(heard, " event=role.ready role=- pid="));
    assert_int_equal(lines_heard(), 1);
    assert_true(heard[heard_len - 2] != ' ');
}

static void as_journal(int fds[2], const char *format)
{
    struct stat st;
    char text[64];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    fstat(fds[1], &st);
    snprintf(text, sizeof text, format, (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", text, 1);
}

static void log_to_journal(const char *format, void (*body)(void))
{
    int fds[2];
    as_journal(fds, format);
    assert_int_equal(run_with_stderr(fds[1], body), 0);
    unsetenv("JOURNAL_STREAM");
    close(fds[1]);
    read_all(fds[0]);
    close(fds[0]);
}

static void test_journal_gets_the_level_and_no_time(void **state)
{
    log_to_journal("%llu:%llu", one_line);
    assert_true(strncmp(heard, "<5>event=role.start role=broker pid=", 36) == 0);
}

static void test_journal_stream_of_someone_else(void **state)
{
    log_to_journal("%llu:1%llu", one_line); /* standard error was redirected since */
    assert_true(strncmp(heard, "time=", 5) == 0);
    log_to_journal("nonsense%.0llu%.0llu", one_line);
    assert_true(strncmp(heard, "time=", 5) == 0);
}

/* ---- text from outside ---- */

static void expect_shown(const char *in, size_t len, const char *out)
{
    assert_string_equal(log_str(span_of(in, len)), out);
}
#define EXPECT_SHOWN(in, out) expect_shown(in, sizeof in - 1, out)

static void test_escapes(void **state)
{
    EXPECT_SHOWN("", "\"\"");
    EXPECT_SHOWN("plain text", "\"plain text\"");
    EXPECT_SHOWN("a\"b\\c", "\"a\\\"b\\\\c\"");
    EXPECT_SHOWN("\n\r\t\0\x1b\x7f", "\"\\n\\r\\t\\x00\\x1b\\x7f\"");
    EXPECT_SHOWN("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "\"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"");
    EXPECT_SHOWN("\xe2\x80\xa8\xe2\x80\xa9", "\"\\u2028\\u2029\"");
    EXPECT_SHOWN("\xc2\x85\xc2\x9b", "\"\\u0085\\u009b\"");                            /* next line; the one-byte ESC [ */
    EXPECT_SHOWN("\xe2\x80\xae\xe2\x81\xa6\xe2\x80\x8f", "\"\\u202e\\u2066\\u200f\""); /* right-to-left */
    EXPECT_SHOWN("\xff\xc3", "\"\\xff\\xc3\"");
    EXPECT_SHOWN("\xc0\x8a", "\"\\xc0\\x8a\""); /* a line feed, overlong */
    EXPECT_SHOWN("\xe0\x80\x8a", "\"\\xe0\\x80\\x8a\"");
    EXPECT_SHOWN("\xf0\x80\x80\x8a", "\"\\xf0\\x80\\x80\\x8a\"");
    EXPECT_SHOWN("\xed\xa0\x80", "\"\\xed\\xa0\\x80\"");          /* a surrogate */
    EXPECT_SHOWN("\xf4\x90\x80\x80", "\"\\xf4\\x90\\x80\\x80\""); /* above U+10FFFF */
    EXPECT_SHOWN("\xe2\x82", "\"\\xe2\\x82\"");                   /* cut short */
}

/* Of any length, and wherever the cut falls: at most 256 bytes, quoted, no half character and no half escape. */
static void test_long_values_are_cut(void **state)
{
    static const char *const units[] = {"x",  "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                        "\n", "\xff",     "\xe2\x80\xa8", "\""};
    static const char *const shown[] = {"x", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\\n", "\\xff", "\\u2028", "\\\""};
    for (size_t u = 0; u < ARRAY_COUNT(units); u++)
        for (size_t lead = 0; lead < 8; lead++) {
            char in[4096] = "........";
            size_t len = lead;
            while (len + 4 < sizeof in) {
                memcpy(in + len, units[u], strlen(units[u]));
                len += strlen(units[u]);
            }
            const char *out = log_str(span_of(in, len));
            size_t out_len = strlen(out), step = strlen(shown[u]);
            assert_in_range(out_len, 240, 256);
            assert_true(out[0] == '"' && strcmp(out + out_len - 4, "\xe2\x80\xa6\"") == 0);
            assert_int_equal((out_len - 5 - lead) % step, 0);
            for (size_t at = 1 + lead; at + 4 < out_len; at += step)
                assert_memory_equal(out + at, shown[u], step);
        }
    char exact[253];
    memset(exact, 'x', sizeof exact);
    assert_null(strstr(log_str(span_of(exact, 251)), "\xe2\x80\xa6"));
}

static void test_eight_values_in_one_call(void **state)
{
    const char *values[8];
    char in[2] = "a";
    for (int i = 0; i < 8; i++, in[0]++)
        values[i] = log_str(span_str(in));
    assert_string_equal(values[0], "\"a\"");
    assert_string_equal(values[7], "\"h\"");
}

static const char hostile[] = "x\nevent=role.stop role=api\r\n<0>\x1b[2J\xe2\x80\xa8y\xc2\x85z\"\0";

static void hostile_fields(void)
{
    log_start("api");
    log_event(LOG_FRAME_BAD, "peer=%s", log_str(span_of(hostile, sizeof hostile)));
    log_event(LOG_FRAME_BAD, "peer=%s", hostile); /* raw, by mistake: still one line */
    log_event(LOG_FRAME_BAD, "peer=%s", "\xff\xfe");
}

static void test_a_value_never_starts_a_line(void **state)
{
    log_to_pipe(hostile_fields);
    assert_int_equal(lines_heard(), 3);
    for (size_t i = 0; i < heard_len; i++)
        assert_true(heard[i] == '\n' || ((uint8_t)heard[i] >= 0x20 && (uint8_t)heard[i] < 0x7f));
}

static void long_fields(void)
{
    static char text[3 * PIPE_BUF];
    log_start("api");
    for (size_t len = PIPE_BUF - 300; len < PIPE_BUF + 100; len++) {
        memset(text, 'x', len);
        text[len] = '\0';
        log_event(LOG_FRAME_BAD, "text=%s", text);
    }
    memset(text, '\n', sizeof text - 1); /* each becomes two */
    log_event(LOG_FRAME_BAD, "text=%s", text);
}

static void test_long_lines_are_cut(void **state)
{
    char path[] = "/tmp/quern-log-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(run_with_stderr(fd, long_fields), 0);
    lseek(fd, 0, SEEK_SET);
    static char whole[2 << 20];
    ssize_t len = read(fd, whole, sizeof whole);
    close(fd);
    unlink(path);
    size_t lines = 0, cut = 0;
    for (char *line = whole, *end; (end = memchr(line, '\n', (size_t)(whole + len - line))); line = end + 1) {
        assert_true(end + 1 - line <= PIPE_BUF);
        lines++;
        cut += memcmp(end - 3, "\xe2\x80\xa6", 3) == 0;
    }
    assert_int_equal(lines, 401);
    assert_in_range(cut, 100, 300);
}

/* ---- never waiting ---- */

static int full_pipe[2];

static void fill(int fd)
{
    char block[PIPE_BUF] = "";
    int flags = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    while (write(fd, block, sizeof block) > 0)
        ;
    while (write(fd, block, 1) > 0)
        ;
    fcntl(fd, F_SETFL, flags);
}

static void drain(int fd)
{
    char block[PIPE_BUF];
    while (recv(fd, block, sizeof block, MSG_DONTWAIT) > 0 || (errno == ENOTSOCK && read(fd, block, sizeof block) > 0))
        ;
}

static void into_a_full_pipe(void)
{
    int flags = fcntl(STDERR_FILENO, F_GETFL);
    log_start("api");
    if (fcntl(STDERR_FILENO, F_GETFL) != flags || (flags & O_NONBLOCK))
        _exit(1);
    fill(STDERR_FILENO);
    errno = 77;
    for (int i = 0; i < 5; i++)
        log_event(LOG_READY, "n=%d", i);
    if (errno != 77)
        _exit(2);
    fcntl(full_pipe[0], F_SETFL, O_NONBLOCK);
    drain(full_pipe[0]);
    log_event(LOG_READY, "n=%d", 5);
    log_event(LOG_READY, "n=%d", 6);
}

static void expect_five_dropped(void)
{
    char *line = strstr(heard, "event=");
    assert_non_null(line);
    assert_non_null(strstr(line, "lines_dropped=5 n=5\n"));
    assert_null(strstr(strchr(line, '\n'), "lines_dropped"));
    assert_non_null(strstr(line, " n=6\n"));
    assert_int_equal(lines_heard(), 2);
}

static void test_full_pipe_drops_and_says_so(void **state)
{
    assert_int_equal(pipe2(full_pipe, O_CLOEXEC), 0);
    assert_int_equal(run_with_stderr(full_pipe[1], into_a_full_pipe), 0);
    close(full_pipe[1]);
    read_all(full_pipe[0]);
    close(full_pipe[0]);
    expect_five_dropped();
}

/* Without rights to open it anew, which a change of user or a missing /proc brings about. */
static void into_a_full_pipe_of_another_user(void)
{
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0)
        _exit(3);
    if (open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK) >= 0)
        _exit(4);
    into_a_full_pipe();
}

static void test_full_pipe_that_cannot_be_opened_again(void **state)
{
    if (geteuid() != 0)
        return; /* only root can become someone else */
    assert_int_equal(pipe2(full_pipe, O_CLOEXEC), 0);
    assert_int_equal(run_with_stderr(full_pipe[1], into_a_full_pipe_of_another_user), 0);
    close(full_pipe[1]);
    read_all(full_pipe[0]);
    close(full_pipe[0]);
    expect_five_dropped();
}

static void test_full_socket_drops_and_says_so(void **state)
{
    as_journal(full_pipe, "%llu:%llu");
    assert_int_equal(run_with_stderr(full_pipe[1], into_a_full_pipe), 0);
    unsetenv("JOURNAL_STREAM");
    close(full_pipe[1]);
    fcntl(full_pipe[0], F_SETFL, 0);
    read_all(full_pipe[0]);
    close(full_pipe[0]);
    expect_five_dropped();
    assert_non_null(strstr(heard, "<5>event="));
}

static void to_nobody(void)
{
    log_start("api");
    close(full_pipe[0]);
    for (int i = 0; i < 3; i++)
        log_event(LOG_READY, "n=%d", i);
}

static void test_reader_that_went_away_kills_nobody(void **state)
{
    assert_int_equal(pipe2(full_pipe, O_CLOEXEC), 0);
    int write_fd = dup(full_pipe[1]), read_fd = full_pipe[0];
    close(full_pipe[1]);
    pid_t pid = fork(); /* so that no reader is left but the one that `to_nobody` closes */
    if (pid == 0) {
        dup2(write_fd, STDERR_FILENO);
        close(write_fd);
        to_nobody();
        _exit(0);
    }
    close(read_fd);
    close(write_fd);
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
}

/* ---- the table ---- */

static void test_events_are_distinct_and_explained(void **state)
{
    static const struct {
        int level;
        const char *name, *meaning;
    } rows[] = {
#define EVENT(code, level, name, meaning) {level, name, meaning},
#include "common/log.def"
#undef EVENT
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        assert_in_range(rows[i].level, 3, 7);
        assert_int_equal(strspn(rows[i].name, "abcdefghijklmnopqrstuvwxyz0123456789_."), strlen(rows[i].name));
        assert_non_null(strchr(rows[i].name, '.'));
        assert_true(strlen(rows[i].meaning) > 8);
        assert_string_equal(log_event_name((enum log_event)i), rows[i].name);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(rows[i].name, rows[j].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_with_time),
        cmocka_unit_test(test_line_without_fields),
        cmocka_unit_test(test_journal_gets_the_level_and_no_time),
        cmocka_unit_test(test_journal_stream_of_someone_else),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_long_values_are_cut),
        cmocka_unit_test(test_eight_values_in_one_call),
        cmocka_unit_test(test_a_value_never_starts_a_line),
        cmocka_unit_test(test_long_lines_are_cut),
        cmocka_unit_test(test_full_pipe_drops_and_says_so),
        cmocka_unit_test(test_full_pipe_that_cannot_be_opened_again),
        cmocka_unit_test(test_full_socket_drops_and_says_so),
        cmocka_unit_test(test_reader_that_went_away_kills_nobody),
        cmocka_unit_test(test_events_are_distinct_and_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
