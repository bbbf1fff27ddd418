/* The set of failures, and that users read the same in api/README.md: every failure of a request (numbers below 70) has there a
 * row of a table that begins
 *
 *     | `invalid_json` | 400 |
 *
 * and every row of that form is one of the set. */
#include "common/error.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIRST_INTERNAL 70

static const struct row {
    unsigned number;
    const char *name;
    int http_status;
    const char *sentence;
} rows[] = {
#define ERROR(code, number, name, http_status, sentence) {number, name, http_status, sentence},
#include "common/error.def"
#undef ERROR
};
static const size_t rows_count = sizeof rows / sizeof rows[0];

static void test_rows_are_distinct_and_whole(void **state)
{
    for (size_t i = 0; i < rows_count; i++) {
        assert_true(rows[i].number < 256);
        assert_true(rows[i].http_status >= (rows[i].number ? 400 : 200) && rows[i].http_status < 600);
        assert_int_equal(strspn(rows[i].name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(rows[i].name));
        assert_true(strlen(rows[i].sentence) > 3);
        assert_int_not_equal(rows[i].sentence[strlen(rows[i].sentence) - 1], '.');
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(rows[i].number, rows[j].number);
            assert_string_not_equal(rows[i].name, rows[j].name);
        }
    }
}

static void test_lookups(void **state)
{
    for (size_t i = 0; i < rows_count; i++) {
        assert_true(err_known(rows[i].number));
        assert_string_equal(err_name(rows[i].number), rows[i].name);
        assert_string_equal(err_sentence(rows[i].number), rows[i].sentence);
        assert_int_equal(err_http_status(rows[i].number), rows[i].http_status);
    }
    assert_int_equal(ERR_OK, 0);
    assert_string_equal(err_name(ERR_BAD_JSON), "invalid_json");
}

static void test_number_outside_the_set(void **state)
{
    assert_false(err_known(9999));
    assert_string_equal(err_name((enum err)9999), "unknown_error");
    assert_non_null(err_sentence((enum err)9999));
    assert_int_equal(err_http_status((enum err)9999), 500);
}

/* The row of the set that a line of the table is about, with its status; NULL when it is no such line. */
static bool table_row(const char *line, char name[64], int *ret_status)
{
    return sscanf(line, " | `%63[a-z0-9_]` | %d |", name, ret_status) == 2;
}

static void test_users_read_the_same(void **state)
{
    FILE *file = fopen("api/README.md", "r");
    if (!file)
        fail_msg("api/README.md is not there; tests run from the root of the tree");
    bool told[256] = {false};
    char line[1024], name[64];
    int status;
    while (fgets(line, sizeof line, file)) {
        if (!table_row(line, name, &status))
            continue;
        size_t i = 0;
        while (i < rows_count && (strcmp(rows[i].name, name) != 0 || rows[i].http_status != status))
            i++;
        if (i == rows_count)
            fail_msg("api/README.md tells of `%s` with status %d", name, status);
        told[rows[i].number] = true;
    }
    fclose(file);
    for (size_t i = 0; i < rows_count; i++)
        if (rows[i].number && rows[i].number < FIRST_INTERNAL && !told[rows[i].number])
            fail_msg("api/README.md does not tell of `%s` with status %d", rows[i].name, rows[i].http_status);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_distinct_and_whole),
        cmocka_unit_test(test_lookups),
        cmocka_unit_test(test_number_outside_the_set),
        cmocka_unit_test(test_users_read_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
