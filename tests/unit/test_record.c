/* Stored records: what Redis gives back is what was stored, or it is known not to be. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/shapes.h"

#include <sys/stat.h>

#include "proto/crc32c.h"
#include "proto/record.h"

#define SEED 20261122

static const struct sort {
    enum record_kind kind;
    enum shape_id shape;
    const char *name;
} kinds[] = {
    {RECORD_JOB, SHAPE_rec_job, "job"},
    {RECORD_ENDED, SHAPE_rec_ended, "ended"},
    {RECORD_IDEM, SHAPE_rec_idem, "idem"},
};

static struct record record;

static int end(void **state)
{
    record_done(&record);
    return 0;
}

/* A record of that kind whose body is as long as its fields say. */
static struct blob *make(const struct sort *kind, struct dice *dice, void **ret_fields)
{
    const struct shape *shape = shape_get(kind->shape);
    void *fields = keep(shape->bytes);
    fill(shape, fields, dice);
    struct span parts[3] = {span_str("{\"d\":1}"), span_str("{\"result\":[]}"), span_str("{}\n{}\n")};
    if (kind->kind == RECORD_ENDED) {
        struct rec_ended *ended = fields;
        ended->display_bytes = (uint32_t)parts[0].len;
        ended->result_bytes = (uint32_t)parts[1].len;
        ended->log_bytes = (uint32_t)parts[2].len;
    }
    struct blob *blob = NULL;
    assert_int_equal(record_pack(kind->kind, fields, parts, kind->kind == RECORD_IDEM ? 0 : 3, &blob), ERR_OK);
    *ret_fields = fields;
    return blob;
}

static void every_kind_comes_back_the_same(void **state)
{
    struct dice dice = {SEED};
    for (unsigned i = 0; i < 300; i++) {
        const struct sort *kind = &kinds[i % 3];
        void *fields;
        AUTO(blob_free) struct blob *blob = make(kind, &dice, &fields);
        assert_int_equal(record_unpack(&record, kind->kind, blob_span(blob)), ERR_OK);
        assert_int_equal(record.kind, kind->kind);
        assert_true(same(shape_get(kind->shape), &record.job, fields));
        assert_true(span_is(record.body, kind->kind == RECORD_IDEM ? "" : "{\"d\":1}{\"result\":[]}{}\n{}\n"));
        forget();
    }
}

static void each_changed_bit_is_seen(void **state)
{
    for (size_t k = 0; k < ARRAY_COUNT(kinds); k++) {
        void *fields;
        AUTO(blob_free) struct blob *blob = make(&kinds[k], NULL, &fields);
        uint8_t *bytes = (uint8_t *)blob->data;
        for (size_t bit = 0; bit < blob->len * 8; bit++) {
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(record_unpack(&record, kinds[k].kind, blob_span(blob)), ERR_CORRUPT);
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        assert_int_equal(record_unpack(&record, kinds[k].kind, blob_span(blob)), ERR_OK);
        forget();
    }
}

static void each_cut_and_each_longer_one_is_seen(void **state)
{
    for (size_t k = 0; k < ARRAY_COUNT(kinds); k++) {
        void *fields;
        AUTO(blob_free) struct blob *blob = make(&kinds[k], NULL, &fields);
        for (size_t len = 0; len < blob->len; len++) {
            uint8_t *cut = malloc(len ? len : 1);
            memcpy(cut, blob->data, len);
            assert_int_equal(record_unpack(&record, kinds[k].kind, span_of(cut, len)), ERR_CORRUPT);
            free(cut);
        }
        uint8_t *longer = calloc(1, blob->len + 1);
        memcpy(longer, blob->data, blob->len);
        assert_int_equal(record_unpack(&record, kinds[k].kind, span_of(longer, blob->len + 1)), ERR_CORRUPT);
        free(longer);
        forget();
    }
}

static void one_kind_is_not_another(void **state)
{
    void *fields;
    AUTO(blob_free) struct blob *blob = make(&kinds[0], NULL, &fields);
    assert_int_equal(record_unpack(&record, RECORD_ENDED, blob_span(blob)), ERR_CORRUPT);
    assert_int_equal(record_unpack(&record, RECORD_IDEM, blob_span(blob)), ERR_CORRUPT);
    forget();
}

/* The bytes with the checksum that belongs to them. */
static void seal(uint8_t *bytes, size_t len)
{
    uint32_t crc = crc32c(crc32c(0, span_of(bytes, 4)), span_of(bytes + 8, len - 8));
    memcpy(bytes + 4, &crc, sizeof crc);
}

static void a_record_of_minor(unsigned minor, bool longer, enum err expected)
{
    void *fields;
    AUTO(blob_free) struct blob *blob = make(&kinds[2], NULL, &fields);
    AUTO(frame_buffer_done) struct frame_buffer out = {0};
    uint8_t *bytes = keep(blob->len + 16);
    size_t len = blob->len;
    memcpy(bytes, blob->data, len);
    if (longer) { /* one more field: 0x92 … becomes 0x93 … and a number */
        assert_int_equal(bytes[12], 0x92);
        bytes[12] = 0x93;
        bytes[len++] = 5;
        uint32_t header_len = (uint32_t)len - 12;
        memcpy(bytes + 8, &header_len, sizeof header_len);
    }
    memcpy(bytes + 2, &(uint16_t){(uint16_t)minor}, 2);
    seal(bytes, len);
    assert_int_equal(record_unpack(&record, RECORD_IDEM, span_of(bytes, len)), expected);
    if (!expected)
        assert_true(same(shape_get(SHAPE_rec_idem), &record.idem, fields));
    forget();
}

static void a_neighbouring_minor_is_read_a_later_one_is_not(void **state)
{
    a_record_of_minor(PROTO_MINOR, false, ERR_OK);
    a_record_of_minor(PROTO_MINOR, true, ERR_CORRUPT);
    a_record_of_minor(PROTO_MINOR + 1, false, ERR_OK);
    a_record_of_minor(PROTO_MINOR + 1, true, ERR_OK);
    a_record_of_minor(PROTO_MINOR + 2, false, ERR_INCOMPATIBLE);
    a_record_of_minor(PROTO_MINOR + 2, true, ERR_INCOMPATIBLE);
}

/* A header that is well sealed but nonsense, and lengths that do not fit. */
static void a_checksum_alone_is_not_enough(void **state)
{
    static const struct {
        const char *header;
        uint32_t len, claimed;
    } bad[] = {
        {"\xdf\xff\xff\x4b\x4f", 5, 5},
        {"\xdd\xff\xff\xff\xff", 5, 5},
        {"\x92\xc4\x10", 3, 3},
        {"\x90", 1, 4000000000u},
        {"\x90", 1, 2},
        {"\x90", 1, 0},
        {"\xa1x", 2, 2},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        uint8_t *bytes = calloc(1, 12 + bad[i].len);
        memcpy(bytes, "Q\x03", 2);
        memcpy(bytes + 8, &bad[i].claimed, 4);
        memcpy(bytes + 12, bad[i].header, bad[i].len);
        seal(bytes, 12 + bad[i].len);
        assert_int_equal(record_unpack(&record, RECORD_IDEM, span_of(bytes, 12 + bad[i].len)), ERR_CORRUPT);
        free(bytes);
    }
}

static void an_ended_jobs_parts_are_its_body(void **state)
{
    struct rec_ended ended = {.display_bytes = 3, .result_bytes = 2, .log_bytes = 1};
    struct span body = span_str("dddrrl");
    struct blob *blob = NULL;
    assert_int_equal(record_pack(RECORD_ENDED, &ended, &body, 1, &blob), ERR_OK);
    assert_int_equal(record_unpack(&record, RECORD_ENDED, blob_span(blob)), ERR_OK);
    blob_free(&blob);
    ended.log_bytes = 2;
    assert_int_equal(record_pack(RECORD_ENDED, &ended, &body, 1, &blob), ERR_OK);
    assert_int_equal(record_unpack(&record, RECORD_ENDED, blob_span(blob)), ERR_CORRUPT);
    blob_free(&blob);
}

static void what_the_row_does_not_allow_is_not_stored(void **state)
{
    char text[PROTO_TENANT_BYTES + 1];
    memset(text, 't', sizeof text);
    struct rec_job job = {.spec.tenant = span_of(text, sizeof text)};
    struct blob *blob = NULL;
    assert_int_equal(record_pack(RECORD_JOB, &job, NULL, 0, &blob), ERR_LIMIT);
    job.spec.tenant = span_of("\xff", 1);
    assert_int_equal(record_pack(RECORD_JOB, &job, NULL, 0, &blob), ERR_MALFORMED);
    assert_null(blob);
}

/* --- the checksum --------------------------------------------------------------------------------------------------------- */

static void the_checksum_is_castagnolis(void **state)
{
    static const uint8_t zeros[32], *ones = (const uint8_t *)"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
                                                             "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    uint8_t up[32];
    for (unsigned i = 0; i < 32; i++)
        up[i] = (uint8_t)i;
    /* RFC 3720, appendix B.4 */
    assert_int_equal(crc32c(0, span_of(zeros, 32)), 0x8a9136aa);
    assert_int_equal(crc32c(0, span_of(ones, 32)), 0x62a8ab43);
    assert_int_equal(crc32c(0, span_of(up, 32)), 0x46dd794e);
    assert_int_equal(crc32c(0, span_str("123456789")), 0xe3069283);
    assert_int_equal(crc32c(0, span_str("")), 0);
}

static void both_ways_to_the_checksum_agree(void **state)
{
    uint8_t bytes[300];
    struct dice dice = {SEED};
    any_bytes(&dice, bytes, sizeof bytes);
    for (size_t from = 0; from < 16; from++) {
        for (size_t len = 0; len + from <= sizeof bytes; len += 1 + len / 9) {
            struct span whole = span_of(bytes + from, len);
            uint32_t crc = crc32c(0, whole);
            assert_int_equal(crc32c_portable(0, whole), crc);
            size_t cut = below(&dice, len + 1);
            uint32_t half = crc32c(0, span_of(bytes + from, cut));
            assert_int_equal(crc32c(half, span_of(bytes + from + cut, len - cut)), crc);
            assert_int_equal(crc32c_portable(half, span_of(bytes + from + cut, len - cut)), crc);
        }
    }
}

/* --- keys ----------------------------------------------------------------------------------------------------------------- */

static void keys_lie_in_the_shards_slot(void **state)
{
    char key[RECORD_KEY_BYTES + 1];
    struct id id = {{0x01, 0x8f, 0x22, 0x33, 0x44, 0x55, 0x00, 0x71, 1, 2, 3, 4, 5, 6, 7, 8}};
    char text[ID_TEXT_LEN + 1], expected[RECORD_KEY_BYTES + 1];
    id_print(&id, text);
    snprintf(expected, sizeof expected, "{q7}:j:%s", text + 4);
    assert_int_equal(record_key_job(key, 7, &id), strlen(expected));
    assert_string_equal(key, expected);
    snprintf(expected, sizeof expected, "{q4095}:b:%s", text + 4);
    record_key_body(key, 4095, &id);
    assert_string_equal(key, expected);
    snprintf(expected, sizeof expected, "{q0}:r:%s", text + 4);
    record_key_ended(key, 0, &id);
    assert_string_equal(key, expected);
    uint8_t hash[32] = {0xab, 0x01};
    assert_int_equal(record_key_idem(key, 7, hash), strlen("{q7}:idem:") + 64);
    assert_memory_equal(key, "{q7}:idem:ab0100", 16);
    record_key_named(key, 7, "leader");
    assert_string_equal(key, "{q7}:leader");
    assert_int_equal(record_key_index(key, 7, span_str("acme"), 1795341600000), strlen("{q7}:ix:acme:498706"));
    assert_string_equal(key, "{q7}:ix:acme:498706");
    char tenant[PROTO_TENANT_BYTES];
    memset(tenant, 't', sizeof tenant);
    assert_true(record_key_index(key, 4095, span_of(tenant, sizeof tenant), INT64_MAX) <= RECORD_KEY_BYTES);
}

/* --- golden vectors ------------------------------------------------------------------------------------------------------- */

static const char *vector_path(const struct sort *kind)
{
    static char path[128];
    snprintf(path, sizeof path, "proto/vectors/record_%s.hex", kind->name);
    return path;
}

static int write_missing(void)
{
    for (size_t k = 0; k < ARRAY_COUNT(kinds); k++) {
        struct stat st;
        if (stat(vector_path(&kinds[k]), &st) == 0)
            continue;
        void *fields;
        AUTO(blob_free) struct blob *blob = make(&kinds[k], NULL, &fields);
        FILE *file = fopen(vector_path(&kinds[k]), "w");
        fprintf(file, "# Stored record %s with every field set, from prefix to body; any changed bit makes it corrupt.\n",
                kinds[k].name);
        for (size_t i = 0; i < blob->len; i++)
            fprintf(file, "%02x%s", blob->data[i], i % 48 == 47 || i + 1 == blob->len ? "\n" : "");
        fclose(file);
        forget();
    }
    return 0;
}

static void the_golden_vectors_hold(void **state)
{
    for (size_t k = 0; k < ARRAY_COUNT(kinds); k++) {
        FILE *file = fopen(vector_path(&kinds[k]), "r");
        if (!file)
            fail_msg("%s is missing: `test_record write` makes it", vector_path(&kinds[k]));
        struct frame_buffer bytes = {0};
        char line[256];
        unsigned byte;
        while (fgets(line, sizeof line, file))
            for (const char *p = line; line[0] != '#' && sscanf(p, "%2x", &byte) == 1; p += 2)
                pack_to(&bytes, (const char *)&(uint8_t){(uint8_t)byte}, 1);
        fclose(file);
        void *fields;
        AUTO(blob_free) struct blob *blob = make(&kinds[k], NULL, &fields);
        assert_int_equal(record_unpack(&record, kinds[k].kind, span_of(bytes.data, bytes.len)), ERR_OK);
        assert_true(same(shape_get(kinds[k].shape), &record.job, fields));
        assert_true(span_equal(span_of(bytes.data, bytes.len), blob_span(blob)));
        frame_buffer_done(&bytes);
        forget();
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "write") == 0)
        return write_missing();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_comes_back_the_same),
        cmocka_unit_test(each_changed_bit_is_seen),
        cmocka_unit_test(each_cut_and_each_longer_one_is_seen),
        cmocka_unit_test(one_kind_is_not_another),
        cmocka_unit_test(a_neighbouring_minor_is_read_a_later_one_is_not),
        cmocka_unit_test(a_checksum_alone_is_not_enough),
        cmocka_unit_test(an_ended_jobs_parts_are_its_body),
        cmocka_unit_test(what_the_row_does_not_allow_is_not_stored),
        cmocka_unit_test(the_checksum_is_castagnolis),
        cmocka_unit_test(both_ways_to_the_checksum_agree),
        cmocka_unit_test(keys_lie_in_the_shards_slot),
        cmocka_unit_test(the_golden_vectors_hold),
    };
    return cmocka_run_group_tests(tests, NULL, end);
}
