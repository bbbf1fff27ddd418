/* Key files: which are taken, which refused, and that a key does not show. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/secret.h"

static char dir[] = "/tmp/quern-secret-XXXXXX";
static char path[64];

static int make_dir(void **state)
{
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/key", dir);
    return 0;
}

static int remove_dir(void **state)
{
    unlink(path);
    return rmdir(dir);
}

static void put(const char *text, size_t len, mode_t mode)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_int_equal(write(fd, text, len), len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void refuse(const char *what)
{
    struct secret *secret = NULL;
    const char *why = NULL;
    assert_int_equal(secret_load(path, &secret, &why), ERR_SETTINGS);
    assert_null(secret);
    assert_non_null(strstr(why, what));
}

static void take(const char *key)
{
    struct secret *secret = NULL;
    const char *why;
    assert_int_equal(secret_load(path, &secret, &why), ERR_OK);
    assert_string_equal(secret_text(secret), key);
    secret_free(&secret);
    assert_null(secret);
}

static void a_relative_path_names_a_credential(void **state)
{
    struct secret *secret = NULL;
    const char *why;
    put("sk-credential\n", 14, 0400);
    setenv("CREDENTIALS_DIRECTORY", dir, 1);
    assert_int_equal(secret_load("key", &secret, &why), ERR_OK);
    assert_string_equal(secret_text(secret), "sk-credential");
    secret_free(&secret);
    setenv("CREDENTIALS_DIRECTORY", "/nowhere", 1);
    assert_int_equal(secret_load("key", &secret, &why), ERR_SETTINGS);
    take("sk-credential"); /* by its whole path as ever */
    unsetenv("CREDENTIALS_DIRECTORY");
}

static void keys_that_are_taken(void **state)
{
    put("sk-0123", 7, 0600);
    take("sk-0123");
    put("sk-0123\n", 8, 0400);
    take("sk-0123");
    put("sk-0123\r\n", 9, 0640);
    take("sk-0123");
    static char long_key[SECRET_MAX];
    memset(long_key, 'k', sizeof long_key);
    put(long_key, sizeof long_key, 0600);
    struct secret *secret = NULL;
    const char *why;
    assert_int_equal(secret_load(path, &secret, &why), ERR_OK);
    assert_int_equal(strlen(secret_text(secret)), SECRET_MAX);
    secret_free(&secret);
}

static void keys_that_are_refused(void **state)
{
    put("sk-0123\n", 8, 0644);
    refuse("by others");
    put("sk-0123\n", 8, 0602);
    refuse("by others");
    put("", 0, 0600);
    refuse("empty");
    put("\n", 1, 0600);
    refuse("empty");
    put("a\r\nX-Evil: 1", 12, 0600);
    refuse("visible ASCII");
    put("two words", 9, 0600);
    refuse("visible ASCII");
    put("a\0b", 3, 0600);
    refuse("visible ASCII");
    static char long_key[SECRET_MAX + 1];
    memset(long_key, 'k', sizeof long_key);
    put(long_key, sizeof long_key, 0600);
    refuse("longer");
    unlink(path);
    refuse("opened");
    assert_int_equal(mkfifo(path, 0600), 0);
    refuse("regular");
}

static void joining_and_hiding(void **state)
{
    struct secret *secret = NULL;
    const char *why;
    put("sk-0123\n", 8, 0600);
    assert_int_equal(secret_load(path, &secret, &why), ERR_OK);
    struct secret *line = secret_join("Authorization: Bearer ", secret);
    assert_string_equal(secret_text(line), "Authorization: Bearer sk-0123");
    secret_free(&line);
    char text[] = "key sk-0123 and sk-0123; sk-012";
    secret_hide(secret, text, strlen(text));
    assert_string_equal(text, "key ******* and *******; sk-012");
    secret_free(&secret);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_that_are_taken),
        cmocka_unit_test(a_relative_path_names_a_credential),
        cmocka_unit_test(keys_that_are_refused),
        cmocka_unit_test(joining_and_hiding),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
