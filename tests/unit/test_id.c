#include "common/id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct id_key key = {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}};

static struct id example(void)
{
    return id_make(0x0123456789ab, 0xcde, ID_STORED, 0xfedcba9876, &key, span_str("acme"));
}

static void test_fields_are_where_the_header_draws_them(void **state)
{
    struct id id = example();
    static const uint8_t head[13] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xe1, 0xfe, 0xdc, 0xba, 0x98, 0x76};
    assert_memory_equal(id.bytes, head, sizeof head);
    assert_int_equal(id_made_at(&id), 0x0123456789ab);
    assert_int_equal(id_shard(&id), 0xcde);
    assert_int_equal(id_version(&id), ID_STORED);
    assert_int_equal(id_start(), ERR_OK);
}

static void test_only_the_bits_there_is_room_for_are_used(void **state)
{
    struct id all = id_make(-1, ID_SHARDS - 1, ID_EPHEMERAL, UINT64_MAX, &key, span_str("acme"));
    for (int i = 0; i < 13; i++)
        assert_int_equal(all.bytes[i], i == 7 ? 0xf2 : 0xff);
}

/* SipHash-2-4 with the key 00…0f over the 15 bytes 00…0e is a129ca6149be45e5 (its authors' test vector). A tenant of two bytes
 * and the 13 that follow make those 15. */
static void test_tag_is_siphash(void **state)
{
    const struct id id = {{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xbe, 0x45, 0xe5}};
    assert_true(id_belongs(&id, &key, span_of("\0\1", 2)));
}

static void test_belongs_to_its_tenant_and_key_only(void **state)
{
    struct id id = example();
    struct id_key other = key;
    other.bytes[0] ^= 1;
    assert_true(id_belongs(&id, &key, span_str("acme")));
    assert_false(id_belongs(&id, &key, span_str("acmf")));
    assert_false(id_belongs(&id, &key, span_str("acm")));
    assert_false(id_belongs(&id, &key, span_str("")));
    assert_false(id_belongs(&id, &other, span_str("acme")));
    for (int bit = 0; bit < 128; bit++) {
        struct id changed = id;
        changed.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(id_belongs(&changed, &key, span_str("acme")));
    }
    struct id empty = id_make(1, 0, ID_STORED, 0, &key, (struct span){0});
    assert_true(id_belongs(&empty, &key, (struct span){0}));
}

static void expect_round_trip(const struct id *id)
{
    char text[ID_TEXT_LEN + 1];
    struct id back;
    id_print(id, text);
    assert_int_equal(strlen(text), ID_TEXT_LEN);
    assert_int_equal(id_parse(span_str(text), &back), ERR_OK);
    assert_true(id_equal(id, &back));
}

static void test_text_form(void **state)
{
    struct id id;
    char text[ID_TEXT_LEN + 1];
    memset(&id, 0, sizeof id);
    id_print(&id, text);
    assert_string_equal(text, "job_00000000000000000000000000");
    expect_round_trip(&id);
    memset(&id, 0xff, sizeof id);
    id_print(&id, text);
    assert_string_equal(text, "job_7zzzzzzzzzzzzzzzzzzzzzzzzz");
    expect_round_trip(&id);
    /* Counting up the last character goes through the whole alphabet. */
    memset(&id, 0, sizeof id);
    for (int i = 0; i < 32; i++) {
        id.bytes[15] = (uint8_t)i;
        id_print(&id, text);
        assert_int_equal(text[29], "0123456789abcdefghjkmnpqrstvwxyz"[i]);
    }
    for (int i = 0; i < 10000; i++) {
        for (int b = 0; b < ID_BYTES; b++)
            id.bytes[b] = (uint8_t)(random() >> 7);
        expect_round_trip(&id);
    }
}

static void test_text_sorts_by_time(void **state)
{
    char earlier[ID_TEXT_LEN + 1], later[ID_TEXT_LEN + 1];
    for (msec at = 1; at < (msec)1 << 47; at = at * 3 + 1) {
        struct id a = id_make(at, ID_SHARDS - 1, ID_STORED, UINT64_MAX, &key, span_str("a"));
        struct id b = id_make(at + 1, 0, ID_STORED, 0, &key, span_str("b"));
        id_print(&a, earlier);
        id_print(&b, later);
        assert_true(strcmp(earlier, later) < 0);
    }
}

/* Every single-byte change of a good text is either another id or refused; nothing gives the same id twice. */
static void test_one_job_has_one_name(void **state)
{
    struct id id = example(), other;
    char good[ID_TEXT_LEN + 1];
    id_print(&id, good);
    for (size_t at = 0; at < ID_TEXT_LEN; at++)
        for (int c = 0; c < 256; c++) {
            char text[ID_TEXT_LEN + 1];
            memcpy(text, good, sizeof text);
            text[at] = (char)c;
            if (c == (uint8_t)good[at])
                continue;
            enum err e = id_parse(span_of(text, ID_TEXT_LEN), &other);
            bool digit = at >= 4 && c && strchr("0123456789abcdefghjkmnpqrstvwxyz", c) && !(at == 4 && strchr("89", c)) &&
                         !(at == 4 && c >= 'a');
            assert_int_equal(e, digit ? ERR_OK : ERR_MALFORMED);
            if (e == ERR_OK)
                assert_false(id_equal(&id, &other));
        }
}

static void test_other_spellings_are_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "job_",
                                      "job_0000000000000000000000000",
                                      "job_000000000000000000000000000",
                                      "JOB_00000000000000000000000000",
                                      "job-00000000000000000000000000",
                                      "job_80000000000000000000000000",
                                      "job_0000000000000000000000000O",
                                      "job_0000000000000000000000000i",
                                      "job_0000000000000000000000000l",
                                      "job_0000000000000000000000000o",
                                      "job_0000000000000000000000000u",
                                      "job_0000000000000000000000000A",
                                      " job_0000000000000000000000000",
                                      "job_0000000000000000000000000 ",
                                      "job_00000000-00000000-00000000"};
    struct id untouched = example(), before = untouched;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_int_equal(id_parse(span_str(bad[i]), &untouched), ERR_MALFORMED);
    assert_int_equal(id_parse((struct span){0}, &untouched), ERR_MALFORMED);
    assert_true(id_equal(&untouched, &before));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields_are_where_the_header_draws_them),
        cmocka_unit_test(test_only_the_bits_there_is_room_for_are_used),
        cmocka_unit_test(test_tag_is_siphash),
        cmocka_unit_test(test_belongs_to_its_tenant_and_key_only),
        cmocka_unit_test(test_text_form),
        cmocka_unit_test(test_text_sorts_by_time),
        cmocka_unit_test(test_one_job_has_one_name),
        cmocka_unit_test(test_other_spellings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
