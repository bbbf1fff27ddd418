/* words.h says what words.def says, and nothing more. That each row has its member is asserted in words.c by the compiler. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/words.h"

struct row {
    const char *set;
    const char *code;
    unsigned number;
    const char *name;
};

static const struct row rows[] = {
#define WORD(set, CODE, number, name) {#set, #CODE, number, name},
#include "proto/words.def"
#undef WORD
};

static const char *name_in(const char *set, unsigned number)
{
#define WORDS_CASE(s)                                                                                                          \
    if (strcmp(set, #s) == 0)                                                                                                  \
        return s##_name(number);
    WORDS_EACH(WORDS_CASE)
    fail_msg("no such set: %s", set);
    return NULL;
}

static void every_row_has_its_name_and_number(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        assert_string_equal(name_in(rows[i].set, rows[i].number), rows[i].name);
        assert_int_equal(word_number(rows[i].set, span_str(rows[i].name)), (int)rows[i].number);
        assert_true(word_known(rows[i].set, rows[i].number));
    }
}

static void no_two_rows_of_a_set_are_alike(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        for (size_t k = 0; k < i; k++) {
            if (strcmp(rows[i].set, rows[k].set) != 0)
                continue;
            assert_int_not_equal(rows[i].number, rows[k].number);
            assert_string_not_equal(rows[i].name, rows[k].name);
        }
    }
}

static void what_is_outside_a_set_has_no_name(void **state)
{
    assert_string_equal(state_name(0), "");
    assert_string_equal(state_name(8), "");
    assert_string_equal(kind_name(63), "");
    assert_string_equal(kind_name(64), "");
    assert_string_equal(kind_name(UINT32_MAX), "");
    assert_string_equal(question_name(11), "");
    assert_false(word_known("state", 0));
    assert_true(word_known("kind", 0));
    assert_false(word_known("kind", KINDS));
    assert_false(word_known("nothing", 1));
    assert_int_equal(word_number("state", span_str("Pending")), -1);
    assert_int_equal(word_number("state", span_str("")), -1);
    assert_int_equal(word_number("nothing", span_str("pending")), -1);
    assert_int_equal(words_have(WORDS_kind, KINDS), 0);
}

static void terminal_states_are_the_last_ones(void **state)
{
    for (unsigned s = STATE_PENDING; s <= STATE_EXPIRED; s++)
        assert_int_equal(state_is_terminal(s), s >= STATE_COMPLETED);
}

/* --- words.h itself: its enums are read as text, since C cannot list an enum's members ------------------------------------ */

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        fail_msg("cannot read %s: run this from the top of the tree", path);
    char *text = calloc(1, 65536);
    size_t len = fread(text, 1, 65535, file);
    assert_true(len < 65535);
    fclose(file);
    return text;
}

/* Whether `member` ("STATE_PENDING") with that number is a row. */
static bool is_row(const char *set, const char *member, unsigned number)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
        if (strcmp(rows[i].set, set) == 0 && rows[i].number == number && strcmp(member + strlen(set) + 1, rows[i].code) == 0)
            return true;
    return false;
}

/* Reads "enum name { A = 1, B, … };" at `text` and holds each member against the rows. */
static unsigned check_enum(const char *text, const char *set)
{
    unsigned number = 0, members = 0;
    const char *p = strchr(text, '{') + 1;
    while (*p != '}') {
        p += strspn(p, " \n");
        char member[64] = "";
        size_t len = strspn(p, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
        if (!len)
            break;
        assert_true(len < sizeof member);
        memcpy(member, p, len);
        p += len + strspn(p + len, " ");
        if (*p == '=')
            number = (unsigned)strtoul(p + 1, (char **)&p, 10);
        if (strcmp(member, "KINDS") != 0) {
            if (!is_row(set, member, number))
                fail_msg("words.h has %s = %u, words.def has not", member, number);
            members++;
        }
        number++;
        p += strspn(p, " ,\n");
    }
    return members;
}

static void words_h_has_no_member_without_a_row(void **state)
{
    char *text = read_file("proto/words.h");
    unsigned members = 0;
    for (enum words w = 0; w < WORDS_SETS; w++) {
        char start[64];
        const char *set = words_name(w);
        snprintf(start, sizeof start, "enum %s {", strcmp(set, "event") == 0 ? "job_event" : set);
        const char *at = strstr(strstr(text, "#pragma once"), start); /* behind the comment, which shows one */
        if (!at)
            fail_msg("words.h has no enum for the set %s", set);
        members += check_enum(at, set);
    }
    assert_int_equal(members, ARRAY_COUNT(rows));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_has_its_name_and_number),   cmocka_unit_test(no_two_rows_of_a_set_are_alike),
        cmocka_unit_test(what_is_outside_a_set_has_no_name),   cmocka_unit_test(terminal_states_are_the_last_ones),
        cmocka_unit_test(words_h_has_no_member_without_a_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
