/* Under `quernctl run`: log files that end, a directory with one owner, and leftovers that are found wherever they are. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "broker/run_log.c"
#include "broker/run_state.c"

static char dir[64];

static int make_test_dir(void **state)
{
    strcpy(dir, "/tmp/quern-test-run-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_test_dir(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static size_t size_of(const char *name)
{
    AUTO(release_text) char *path = run_state_path(dir, name);
    struct stat st;
    return stat(path, &st) == 0 ? (size_t)st.st_size : SIZE_MAX;
}

/* --- logs ------------------------------------------------------------------------------------------------------- */

static void test_a_log_fills_two_files_and_no_more(void **state)
{
    static uint8_t block[1 << 20];
    memset(block, 'x', sizeof block);
    AUTO(release_text) char *path = run_state_path(dir, "a.log");
    struct run_log log;
    assert_int_equal(run_log_init(&log, path), ERR_OK);
    for (int i = 0; i < 8; i++)
        run_log_write(&log, span_of(block, sizeof block));
    assert_int_equal(size_of("a.log"), RUN_LOG_MAX);
    assert_int_equal(size_of("a.log.1"), SIZE_MAX);
    run_log_write(&log, span_of(block, 1));
    assert_int_equal(size_of("a.log"), 1);
    assert_int_equal(size_of("a.log.1"), RUN_LOG_MAX);
    for (int i = 0; i < 20; i++)
        run_log_write(&log, span_of(block, sizeof block));
    assert_true(size_of("a.log") <= RUN_LOG_MAX && size_of("a.log.1") <= RUN_LOG_MAX);
    assert_int_equal(size_of("a.log.2"), SIZE_MAX);
    run_log_done(&log);
}

static void test_a_log_goes_on_where_it_was(void **state)
{
    AUTO(release_text) char *path = run_state_path(dir, "a.log");
    for (int i = 0; i < 2; i++) {
        struct run_log log;
        assert_int_equal(run_log_init(&log, path), ERR_OK);
        run_log_write(&log, span_str("line\n"));
        run_log_done(&log);
    }
    assert_int_equal(size_of("a.log"), 10);
}

static void test_what_a_log_lost_is_said(void **state)
{
    AUTO(release_text) char *path = run_state_path(dir, "none/a.log");
    AUTO(release_text) char *parent = run_state_path(dir, "none");
    struct run_log log;
    assert_int_equal(run_log_init(&log, path), ERR_OK);
    run_log_write(&log, span_str("lost\n"));
    assert_int_equal(log.lost_bytes, 5);
    assert_int_equal(mkdir(parent, 0700), 0);
    run_log_write(&log, span_str("kept\n"));
    assert_int_equal(log.lost_bytes, 0);
    run_log_done(&log);
    char text[128] = "";
    FILE *f = fopen(path, "r");
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_string_equal(text, "... 5 bytes were lost here: the disk refused them\nkept\n");
}

/* --- the directory ---------------------------------------------------------------------------------------------- */

static void test_the_directory_is_made_closed(void **state)
{
    AUTO(release_text) char *path = run_state_path(dir, "state");
    AUTO(release_text) char *made = NULL;
    AUTO(release_text) char *again = NULL;
    struct stat st;
    assert_int_equal(run_state_make(path, &made), ERR_OK);
    assert_string_equal(made, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_true(size_of("state/run") != SIZE_MAX && size_of("state/logs") != SIZE_MAX && size_of("state/redis") != SIZE_MAX);
    assert_int_equal(run_state_make(path, &again), ERR_OK);
}

static void test_a_directory_open_to_others_is_refused(void **state)
{
    AUTO(release_text) char *path = run_state_path(dir, "state");
    AUTO(release_text) char *file = run_state_path(dir, "file");
    char *made = NULL;
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(chmod(path, 0750), 0);
    assert_int_equal(run_state_make(path, &made), ERR_SYSTEM);
    fclose(fopen(file, "w"));
    assert_int_equal(run_state_make(file, &made), ERR_SYSTEM);
    assert_null(made);
    assert_int_equal(chmod(path, 0700), 0);
}

static void test_files_are_replaced_whole(void **state)
{
    AUTO(release_text) char *path = run_state_path(dir, "secret");
    struct stat st;
    assert_int_equal(run_state_write(dir, "secret", "long text"), ERR_OK);
    assert_int_equal(run_state_write(dir, "secret", "x"), ERR_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 1);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(size_of("secret.new"), SIZE_MAX);
    run_state_remove(dir, "secret");
    assert_int_equal(size_of("secret"), SIZE_MAX);
}

/* --- processes -------------------------------------------------------------------------------------------------- */

/* Waits until the child has said that it is set up. */
static void await(int fd)
{
    char byte;
    assert_int_equal(read(fd, &byte, 1), 1);
    close(fd);
}

static void say_up(int fd)
{
    (void)!write(fd, "u", 1);
}

static void test_one_process_has_the_directory(void **state)
{
    AUTO(release_text) char *made = NULL;
    AUTO(release_text) char *path = run_state_path(dir, "state");
    int up[2];
    assert_int_equal(run_state_make(path, &made), ERR_OK);
    assert_int_equal(run_state_holder(made), 0);
    assert_int_equal(pipe(up), 0);
    pid_t child = fork();
    if (child == 0) {
        pid_t nobody = 0;
        if (run_state_lock(made, &nobody))
            _exit(1);
        say_up(up[1]);
        pause();
        _exit(0);
    }
    await(up[0]);
    close(up[1]);
    pid_t holder = 0;
    assert_int_equal(run_state_lock(made, &holder), ERR_CONFLICT);
    assert_int_equal(holder, child);
    assert_int_equal(run_state_holder(made), child);
    assert_true(run_state_end(child, 10000));
    waitpid(child, NULL, 0);
    assert_int_equal(run_state_holder(made), 0);
}

/* A process with `mark` in its environment, which execve alone can put there; it says "u" on standard output once it is up. */
static pid_t marked(const char *mark, const char *script)
{
    int up[2];
    assert_int_equal(pipe(up), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(up[1], 1);
        execle("/bin/sh", "sh", "-c", script, NULL, (char *[]){(char *)"PATH=/usr/bin:/bin", (char *)mark, NULL});
        _exit(127);
    }
    close(up[1]);
    await(up[0]);
    return child;
}

#define WAIT_FOR_TERM "printf u; exec sleep 1000"
#define IGNORE_TERM   "trap '' TERM; printf u; while :; do sleep 1000; done"

static bool lives(pid_t pid)
{
    return waitpid(pid, NULL, WNOHANG) == 0;
}

static void test_leftovers_are_ended_and_nobody_else(void **state)
{
    char mark[128], other[128], prefix[128];
    snprintf(mark, sizeof mark, "%s=%s", RUN_MARK, dir);
    snprintf(other, sizeof other, "%s=%s-2", RUN_MARK, dir);
    snprintf(prefix, sizeof prefix, "X%s=%s", RUN_MARK, dir);
    pid_t mine = marked(mark, WAIT_FOR_TERM), stubborn = marked(mark, IGNORE_TERM);
    pid_t neighbour = marked(other, WAIT_FOR_TERM), stranger = marked(prefix, WAIT_FOR_TERM);
    assert_true(run_state_sweep(dir) >= 2); /* the shell's sleep may outlive it and be found in a second round */
    int status;
    assert_int_equal(waitpid(mine, &status, 0), mine);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    assert_int_equal(waitpid(stubborn, &status, 0), stubborn);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(lives(neighbour) && lives(stranger));
    assert_int_equal(run_state_sweep(dir), 0);
    kill(neighbour, SIGKILL);
    kill(stranger, SIGKILL);
    waitpid(neighbour, NULL, 0);
    waitpid(stranger, NULL, 0);
}

static void test_an_end_is_bounded(void **state)
{
    pid_t stubborn = marked("A=b", "trap '' TERM; printf u; while :; do :; done");
    assert_false(run_state_end(stubborn, 50));
    int status;
    assert_int_equal(waitpid(stubborn, &status, 0), stubborn);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(run_state_end(stubborn, 50)); /* long gone */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_test_dir, remove_test_dir)
    const struct CMUnitTest tests[] = {
        TEST(test_a_log_fills_two_files_and_no_more),
        TEST(test_a_log_goes_on_where_it_was),
        TEST(test_what_a_log_lost_is_said),
        TEST(test_the_directory_is_made_closed),
        TEST(test_a_directory_open_to_others_is_refused),
        TEST(test_files_are_replaced_whole),
        TEST(test_one_process_has_the_directory),
        TEST(test_leftovers_are_ended_and_nobody_else),
        TEST(test_an_end_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
