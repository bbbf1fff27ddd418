/* The codec: whatever a role can say survives the way there, and nothing else gets through. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/shapes.h"

#include <ctype.h>
#include <sys/stat.h>

#include "common/json.h"
#include "proto/scan.h"

#define SEED   20261122
#define ROUNDS 60

/* --- counting allocations ------------------------------------------------------------------------------------------------- */

static unsigned allocations;
#ifndef __SANITIZE_ADDRESS__
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size)
{
    allocations++;
    return __libc_calloc(count, size);
}
void *realloc(void *p, size_t size)
{
    allocations++;
    return __libc_realloc(p, size);
}
#endif

/* --- a message to play with ----------------------------------------------------------------------------------------------- */

static struct span encode(const struct said *said, struct frame_buffer *out)
{
    assert_int_equal(frame_encode(said->message, said->fields, 1795341600000, 4096, out), ERR_OK);
    return span_of(out->data, out->len);
}

static struct frame frame;
static const char *why;

static enum err decode(const struct said *said, struct span header, unsigned peer_minor)
{
    why = NULL;
    enum err e = frame_decode(&frame, header, said->body, said->sender, said->receiver, peer_minor, &why);
    assert_true(e == ERR_OK || (why && *why));
    return e;
}

/* Calls test for every message, with contents from the dice. */
typedef void message_test(const struct said *said, struct span header, struct dice *dice);

static void each_message(unsigned rounds, message_test *test)
{
    struct frame_buffer out = {0};
    struct dice dice = {SEED};
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned number = 0; number < MESSAGE_NUMBERS; number++) {
            if (!message_row(number))
                continue;
            struct said said = say(number, round ? &dice : NULL);
            test(&said, encode(&said, &out), &dice);
            forget();
        }
    }
    frame_buffer_done(&out);
}

static int end(void **state)
{
    frame_done(&frame);
    return 0;
}

/* --- the way there and back ----------------------------------------------------------------------------------------------- */

static void check_round_trip(const struct said *said, struct span header, struct dice *dice)
{
    if (decode(said, header, 0))
        fail_msg("%s: %s", said->row->name, why);
    assert_int_equal(frame.message, said->message);
    assert_int_equal(frame.epoch, 1795341600000);
    assert_int_equal(frame.received, 4096);
    assert_true(span_equal(frame.body, said->body));
    if (!same(said->shape, &frame.hello, said->fields))
        fail_msg("%s came back different", said->row->name);
}
static void every_message_comes_back_the_same(void **state)
{
    each_message(ROUNDS, check_round_trip);
}

static void check_directions(const struct said *said, struct span header, struct dice *dice)
{
    for (unsigned from = ROLE_BROKER; from <= ROLE_MONITOR; from++) {
        for (unsigned to = ROLE_BROKER; to <= ROLE_MONITOR; to++) {
            struct said other = *said;
            other.sender = from;
            other.receiver = to;
            bool allowed = said->row->from & 1u << from && said->row->to & 1u << to;
            assert_int_equal(decode(&other, header, 0), allowed ? ERR_OK : ERR_MALFORMED);
        }
    }
}
static void only_its_sender_and_receiver_may_use_it(void **state)
{
    each_message(1, check_directions);
}

static void a_large_list_comes_back(void **state)
{
    struct frame_buffer out = {0};
    struct rec_lease *leases = calloc(20000, sizeof *leases);
    for (uint32_t i = 0; i < 20000; i++) {
        memcpy(leases[i].id.bytes, &i, sizeof i);
        leases[i].fence = (struct fence){i, UINT64_MAX - i};
    }
    struct msg_heartbeat heartbeat = {.leases = leases, .leases_count = 20000};
    assert_int_equal(frame_encode(MESSAGE_HEARTBEAT, &heartbeat, 1, 2, &out), ERR_OK);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(frame_decode(&frame, span_of(out.data, out.len), (struct span){0}, ROLE_WORKER, ROLE_BROKER, 0, &why),
                         ERR_OK);
        assert_int_equal(frame.heartbeat.leases_count, 20000);
        assert_memory_equal(frame.heartbeat.leases, leases, 20000 * sizeof *leases);
    }
    free(leases);
    frame_buffer_done(&out);
}

static void fences_compare_as_their_bytes_do(void **state)
{
    struct dice dice = {SEED};
    struct frame_buffer out[2] = {{0}, {0}};
    for (unsigned i = 0; i < 200; i++) {
        struct msg_cancel_run a = {.fence = {below(&dice, 3) << 40, roll(&dice)}},
                              b = {.fence = {below(&dice, 3) << 40, roll(&dice)}};
        assert_int_equal(frame_encode(MESSAGE_CANCEL_RUN, &a, 1, 1, &out[0]), ERR_OK);
        assert_int_equal(frame_encode(MESSAGE_CANCEL_RUN, &b, 1, 1, &out[1]), ERR_OK);
        int bytes = memcmp(out[0].data + out[0].len - 16, out[1].data + out[1].len - 16, 16);
        assert_int_equal(bytes < 0 ? -1 : bytes > 0, fence_compare(a.fence, b.fence));
    }
    frame_buffer_done(&out[0]);
    frame_buffer_done(&out[1]);
}

static void after_the_first_frames_nothing_is_allocated(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    skip();
#endif
    struct frame_buffer out = {0};
    const enum message messages[] = {MESSAGE_SUBMIT, MESSAGE_ACK, MESSAGE_JOB, MESSAGE_OUTCOME, MESSAGE_CANCEL};
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_COUNT(messages); i++) {
            struct said said = say(messages[i], NULL);
            unsigned before = allocations;
            struct span header = encode(&said, &out);
            enum err e = decode(&said, header, 0);
            unsigned made = allocations - before;
            assert_int_equal(e, ERR_OK);
            if (round)
                assert_int_equal(made, 0);
            forget();
        }
    }
    frame_buffer_done(&out);
}

/* --- what is broken ------------------------------------------------------------------------------------------------------- */

static void check_truncation(const struct said *said, struct span header, struct dice *dice)
{
    for (size_t len = 0; len < header.len; len++) {
        uint8_t *cut = malloc(len ? len : 1); /* on the heap of its own: one byte too far is seen by the sanitizer */
        memcpy(cut, header.data, len);
        assert_int_equal(decode(said, span_of(cut, len), 0), ERR_MALFORMED);
        free(cut);
    }
}
static void a_header_cut_anywhere_is_refused(void **state)
{
    each_message(3, check_truncation);
}

static void check_trailing(const struct said *said, struct span header, struct dice *dice)
{
    uint8_t *longer = malloc(header.len + 1);
    memcpy(longer, header.data, header.len);
    longer[header.len] = 0xc0;
    assert_int_equal(decode(said, span_of(longer, header.len + 1), 99), ERR_MALFORMED);
    free(longer);
}
static void bytes_behind_the_header_are_refused(void **state)
{
    each_message(1, check_trailing);
}

static void check_mutation(const struct said *said, struct span header, struct dice *dice)
{
    struct frame_buffer again = {0};
    uint8_t *bytes = malloc(header.len);
    for (unsigned i = 0; i < 200; i++) {
        memcpy(bytes, header.data, header.len);
        for (uint64_t n = 1 + below(dice, 3); n; n--)
            bytes[below(dice, header.len)] = (uint8_t)roll(dice);
        enum err e = decode(said, span_of(bytes, header.len), 0);
        assert_true(e == ERR_OK || e == ERR_MALFORMED || e == ERR_INCOMPATIBLE);
        if (!e) /* what was taken can be said */
            assert_int_equal(frame_encode(frame.message, &frame.hello, 1, 1, &again), ERR_OK);
    }
    free(bytes);
    frame_buffer_done(&again);
}
static void changed_bytes_never_do_harm(void **state)
{
    each_message(6, check_mutation);
}

static void check_body(const struct said *said, struct span header, struct dice *dice)
{
    static const enum message summed[] = {MESSAGE_BULK, MESSAGE_EVENTS, MESSAGE_RUN_EVENTS, MESSAGE_OUTCOME};
    bool exact = false;
    for (size_t i = 0; i < ARRAY_COUNT(summed); i++)
        exact |= said->message == summed[i];
    struct said other = *said;
    other.body = body_of(said->body.len + 1);
    assert_int_equal(decode(&other, header, 0), said->row->body == BODY_NONE || exact ? ERR_MALFORMED : ERR_OK);
    if (said->body.len && exact) {
        other.body = span_of(said->body.data, said->body.len - 1);
        assert_int_equal(decode(&other, header, 0), ERR_MALFORMED);
    }
    if (said->message == MESSAGE_SUBMIT) {
        other.body = span_of(said->body.data, 3); /* its display alone is 4 */
        assert_int_equal(decode(&other, header, 0), ERR_MALFORMED);
    }
}
static void a_body_must_be_what_the_fields_say(void **state)
{
    each_message(1, check_body);
}

static void refuse(const char *bytes, size_t len, enum err expected)
{
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, bytes, len);
    why = NULL;
    assert_int_equal(frame_decode(&frame, span_of(copy, len), (struct span){0}, ROLE_API, ROLE_BROKER, 9, &why), expected);
    assert_non_null(why);
    free(copy);
}
#define REFUSE(literal) refuse(literal, sizeof(literal) - 1, ERR_MALFORMED)

/* clang-format off */
static void junk_is_refused(void **state)
{
    REFUSE("");
    REFUSE("\x90");                                                     /* nothing in it */
    REFUSE("\x00");                                                     /* no array */
    REFUSE("\xc1");
    REFUSE("\xa3" "abc");                                                /* a text alone */
    REFUSE("\xc4\x03" "abc");
    REFUSE("\xcf\0\0\0\0\0\0\0\x01");
    REFUSE("\xdf\xff\xff\x4b\x4f");                                     /* a map of 4 thousand million */
    REFUSE("\xdd\xff\xff\xff\xff");                                     /* an array of as many */
    REFUSE("\xdd\x00\x00\x00\x05\x01\x02\x03\x04");                     /* one more than there is */
    REFUSE("\x94\x01\xc6\xff\xff\xff\xff\x00\x00");                     /* a bin of 4 GiB */
    REFUSE("\x94\x01\x02\x03\xc1");
    REFUSE("\x94\x01\x02\x03\x80");                                     /* an empty map */
    REFUSE("\x94\x01\x02\x03\xd4\x01\x01");                             /* an ext */
    REFUSE("\x95\x01\x19\x01\x01\x91\x91\x91\x91\x91\x91\x91\x00");     /* too deep */
    REFUSE("\x94\xa1" "1" "\x01\x01\x01");                              /* a major in letters */
    REFUSE("\x93\x01\x01\x01");                                         /* no `received` */
    REFUSE("\x94\x01\x1f\xcb\x3f\xf0\0\0\0\0\0\0\x01");                 /* an epoch in floating point */
    REFUSE("\x94\x01\xff\x01\x01");                                     /* message −1 */
    REFUSE("\x94\x01\x7f\x01\x01");                                     /* no such message */
    REFUSE("\x94\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01");
    REFUSE("\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"); /* a ZMTP greeting */
    REFUSE("GET / HTTP/1.1\r\nHost: quern\r\n\r\n");
    REFUSE("{\"jsonrpc\":\"2.0\"}");
    REFUSE("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");             /* TLS */
    refuse("\x94\x02\x01\x01\x01", 5, ERR_INCOMPATIBLE);
    refuse("\x91\x07", 2, ERR_INCOMPATIBLE);                            /* another major need not have our elements */
}

/* clang-format on */
static void the_limits_of_a_header_hold(void **state)
{
    size_t size = PROTO_HEADER_BYTES + 1;
    char *bytes = calloc(1, size);
    bytes[0] = (char)0x94;
    refuse(bytes, size, ERR_MALFORMED);
    assert_string_equal(why, "the header is too long");
    bytes[0] = (char)0xdd; /* an array of nodes, one too many */
    uint32_t count = PROTO_NODES;
    for (unsigned i = 0; i < 4; i++)
        bytes[1 + i] = (char)(count >> (24 - 8 * i));
    refuse(bytes, 5 + count, ERR_MALFORMED);
    assert_string_equal(why, "it has too many elements");
    memset(bytes, 0x91, 200);
    refuse(bytes, 200, ERR_MALFORMED);
    free(bytes);
}

/* --- values --------------------------------------------------------------------------------------------------------------- */

struct wrong {
    const struct said *said;
    msgpack_object *root;
    unsigned tried;
};

/* An object that this field cannot be, or can be only in another length or range. False when there is no such one. */
static bool spoil(const struct field *field, unsigned way, msgpack_object *object)
{
    static const char long_text[] = "a text that is longer than the sixteen bytes or so it should have, to be sure";
    switch (way) {
    case 0:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_NIL};
        return true;
    case 1:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_FLOAT64, .via.f64 = 1.0};
        return true;
    case 2:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_STR, .via.str = {7, "a\x01text"}};
        return true;
    case 3:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_BIN, .via.bin = {sizeof long_text, long_text}};
        return field->type != FIELD_BIN || field->max < sizeof long_text;
    case 4:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_NEGATIVE_INTEGER, .via.i64 = -1};
        return field->type != FIELD_I64;
    case 5:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = UINT64_MAX};
        return field->type != FIELD_U64;
    case 6:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_BOOLEAN, .via.boolean = true};
        return field->type != FIELD_FLAG;
    case 7:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = 61}; /* no word has it */
        return field->type == FIELD_WORDNUM;
    case 8:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_STR, .via.str = {3, "\xed\xa0\x80"}}; /* a lone surrogate */
        return field->type == FIELD_TEXT;
    case 9:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_BIN, .via.bin = {15, "123456789012345"}};
        return field->type == FIELD_JOBID || field->type == FIELD_FENCE || field->type == FIELD_FIXED;
    case 10:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = 256};
        return field->type == FIELD_U8;
    case 11:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = 65536};
        return field->type == FIELD_U16;
    case 12:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = (uint64_t)UINT32_MAX + 1};
        return field->type == FIELD_U32;
    case 13:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = (uint64_t)INT64_MAX + 1};
        return field->type == FIELD_I64;
    case 14: {
        char *text = keep(field->max + 1);
        memset(text, 'x', field->max + 1);
        *object = (msgpack_object){.type = MSGPACK_OBJECT_STR, .via.str = {field->max + 1, text}};
        return field->type == FIELD_TEXT;
    }
    case 15: {
        char *bytes = keep(field->max + 1);
        *object = (msgpack_object){.type = MSGPACK_OBJECT_BIN, .via.bin = {field->max + 1, bytes}};
        return field->type == FIELD_BIN;
    }
    case 16:
        *object = (msgpack_object){.type = MSGPACK_OBJECT_ARRAY, .via.array = {0, NULL}};
        return field->type != FIELD_NEST && field->type != FIELD_LIST;
    case 17: {
        msgpack_object *element = keep(sizeof *element); /* a list of something that is no record */
        *element = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER};
        *object = (msgpack_object){.type = MSGPACK_OBJECT_ARRAY, .via.array = {1, element}};
        return field->type == FIELD_LIST;
    }
    default: {
        uint32_t count = field->max + 1;
        msgpack_object *elements = keep(count * sizeof *elements);
        for (uint32_t i = 0; i < count; i++)
            elements[i].type = MSGPACK_OBJECT_ARRAY;
        *object = (msgpack_object){.type = MSGPACK_OBJECT_ARRAY, .via.array = {count, elements}};
        return field->type == FIELD_LIST && count <= 5000;
    }
    }
}
#define SPOIL_WAYS 19

static void spoil_fields(void *arg, const struct shape *shape, msgpack_object_array *array, uint32_t skip)
{
    struct wrong *wrong = arg;
    struct frame_buffer out = {0};
    for (uint32_t i = 0; i < shape->count; i++) {
        msgpack_object *item = &array->ptr[skip + i], good = *item;
        for (unsigned way = 0; way < SPOIL_WAYS; way++) {
            if (!spoil(&shape->fields[i], way, item))
                continue;
            pack(wrong->root, &out);
            if (decode(wrong->said, span_of(out.data, out.len), 99) != ERR_MALFORMED)
                fail_msg("%s.%s takes wrong value %u", shape->name, shape->fields[i].name, way);
            assert_non_null(strstr(why, shape->fields[i].name));
            wrong->tried++;
        }
        *item = good;
    }
    frame_buffer_done(&out);
}

static void check_values(const struct said *said, struct span header, struct dice *dice)
{
    msgpack_zone zone;
    msgpack_zone_init(&zone, 65536);
    msgpack_object root = unpack(&zone, header);
    struct wrong wrong = {said, &root, 0};
    each_record(said->shape, &root.via.array, 4, spoil_fields, &wrong);
    assert_true(wrong.tried >= 5 * said->shape->count);
    msgpack_zone_destroy(&zone);
}
static void a_wrong_value_in_any_field_is_refused(void **state)
{
    each_message(1, check_values);
}

static void what_the_row_does_not_allow_is_not_said(void **state)
{
    struct frame_buffer out = {0};
    char text[PROTO_ROUTE_BYTES + 1];
    memset(text, 'x', sizeof text);
    struct msg_submit submit = {.spec.route = span_of(text, sizeof text)};
    assert_int_equal(frame_encode(MESSAGE_SUBMIT, &submit, 1, 1, &out), ERR_LIMIT);
    assert_int_equal(out.len, 0);
    submit.spec.route = span_of(text, PROTO_ROUTE_BYTES);
    assert_int_equal(frame_encode(MESSAGE_SUBMIT, &submit, 1, 1, &out), ERR_OK);
    submit.idem = span_of(text, 33);
    assert_int_equal(frame_encode(MESSAGE_SUBMIT, &submit, 1, 1, &out), ERR_LIMIT);
    submit.idem = (struct span){0};
    submit.spec.tenant = span_str("a\rb");
    assert_int_equal(frame_encode(MESSAGE_SUBMIT, &submit, 1, 1, &out), ERR_MALFORMED);
    assert_int_equal(out.len, 0);
    submit.spec.tenant = span_of("\xc3", 1);
    assert_int_equal(frame_encode(MESSAGE_SUBMIT, &submit, 1, 1, &out), ERR_MALFORMED);

    struct rec_lease *leases = calloc(PROTO_HELD + 1, sizeof *leases);
    struct msg_heartbeat heartbeat = {.leases = leases, .leases_count = PROTO_HELD + 1};
    assert_int_equal(frame_encode(MESSAGE_HEARTBEAT, &heartbeat, 1, 1, &out), ERR_LIMIT);
    heartbeat.leases_count = PROTO_HELD; /* allowed by its row, but more bytes than a header may have */
    assert_int_equal(frame_encode(MESSAGE_HEARTBEAT, &heartbeat, 1, 1, &out), ERR_LIMIT);
    assert_int_equal(out.len, 0);
    free(leases);
    frame_buffer_done(&out);
}

/* Five bytes of a broker's answer made quernctl's msgpack-c ask for 256 GB. */
static void an_answer_that_claims_more_than_it_holds_is_refused(void **state)
{
    assert_non_null(scan_answer(span_of("\xdf\xff\xff\x4b\x4f", 5)));
    assert_non_null(scan_answer(span_of("\xdd\xff\xff\x4b\x4f", 5)));
    assert_non_null(scan_answer(span_of("\x82\x01\x02\x03", 4)));
    assert_non_null(scan_answer(span_of("\x81\x81\x81\x81\x81\x81\x81\x01", 8)));
    assert_non_null(scan_answer(span_of("\x80\x80", 2)));
    assert_null(scan_answer(span_of("\x82\x01\x02\xa1k\xde\x00\x01\x01\x90", 10)));
    assert_null(scan_answer(span_of("\x01", 1)));
    assert_non_null(scan_header(span_of("\x91\x80", 2)));
}

static void any_text_can_be_made_to_fit(void **state)
{
    char out[16];
    assert_true(span_is(frame_text_fit(out, sizeof out, span_str("plain")), "plain"));
    assert_true(span_is(frame_text_fit(out, 3, span_str("plain")), "pla"));
    assert_true(span_is(frame_text_fit(out, 4, span_str("日本")), "日"));
    assert_true(span_is(frame_text_fit(out, 6, span_str("日本")), "日本"));
    assert_true(span_is(frame_text_fit(out, sizeof out, span_str("a\x1b[31m\r\n\tb")), "a?[31m?\n\tb"));
    assert_true(span_is(frame_text_fit(out, sizeof out, span_of("\xff\xc3(\xed\xa0\x80", 6)), "?"
                                                                                              "?"
                                                                                              "(???"));
    assert_true(span_is(frame_text_fit(out, sizeof out, span_of("a\0b", 3)), "a?b"));
    assert_true(span_is(frame_text_fit(out, sizeof out, span_of("\xe6\x97", 2)), "??"));
    assert_true(span_is(frame_text_fit(out, 0, span_str("x")), ""));
}

/* --- versions ------------------------------------------------------------------------------------------------------------- */

static void check_shorter(const struct said *said, struct span header, struct dice *dice)
{
    msgpack_zone zone;
    msgpack_zone_init(&zone, 65536);
    struct frame_buffer out = {0};
    msgpack_object root = unpack(&zone, header);
    for (uint32_t n = 0; n < said->shape->count; n++) { /* the fields before field n are sent */
        struct said less = *said;
        uint8_t *fields = keep(said->shape->bytes);
        const struct field *field = &said->shape->fields[n];
        memcpy(fields, said->fields, field->at);
        less.fields = fields;
        if (said->row->body == BODY_ANY)
            less.body = (struct span){0};
        root.via.array.size = 4 + n;
        pack(&root, &out);
        enum err e = decode(&less, span_of(out.data, out.len), 0);
        if (e && said->row->body == BODY_ANY)
            continue; /* lengths of parts of a body that is not there */
        assert_int_equal(e, ERR_OK);
        if (!same(said->shape, &frame.hello, fields))
            fail_msg("%s with %u fields came back different", said->row->name, n);
    }
    frame_buffer_done(&out);
    msgpack_zone_destroy(&zone);
}
static void a_missing_tail_is_zero(void **state)
{
    each_message(4, check_shorter);
}

static void a_missing_tail_inside_a_list_is_zero(void **state)
{
    struct frame_buffer out = {0};
    struct said said = say(MESSAGE_BULK, NULL); /* leaves the memory that lists are made in full of other things */
    assert_int_equal(decode(&said, encode(&said, &out), 0), ERR_OK);
    static const char header[] = "\x96\x01\x15\x07\x08\x09\x92\x90\x92\xc4\x10"
                                 "0123456789abcdef"
                                 "\xc3";
    assert_int_equal(frame_decode(&frame, span_of(header, sizeof header - 1), (struct span){0}, ROLE_API, ROLE_BROKER, 0, &why),
                     ERR_OK);
    struct rec_bulk_item zero = {0}, second = {.again = true};
    memcpy(second.id.bytes, "0123456789abcdef", 16);
    assert_int_equal(frame.bulk.items_count, 2);
    assert_true(same(shape_get(SHAPE_rec_bulk_item), &frame.bulk.items[0], &zero));
    assert_true(same(shape_get(SHAPE_rec_bulk_item), &frame.bulk.items[1], &second));
    frame_buffer_done(&out);
    forget();
}

struct longer {
    const struct said *said;
    msgpack_object *root;
    unsigned arrays;
};

/* A field more than we know, at the end of every record there is, one after the other. */
static void lengthen(void *arg, const struct shape *shape, msgpack_object_array *array, uint32_t skip)
{
    struct longer *longer = arg;
    static msgpack_object nothing = {.type = MSGPACK_OBJECT_NIL};
    msgpack_object_array before = *array, inner = {1, &nothing};
    msgpack_object *items = keep((array->size + 2) * sizeof *items);
    memcpy(items, array->ptr, array->size * sizeof *items);
    items[array->size] = (msgpack_object){.type = MSGPACK_OBJECT_ARRAY, .via.array = inner};
    items[array->size + 1] = (msgpack_object){.type = MSGPACK_OBJECT_FLOAT64, .via.f64 = 0.5};
    array->ptr = items;
    array->size += 2;
    struct frame_buffer out = {0};
    pack(longer->root, &out);
    struct span header = span_of(out.data, out.len);
    assert_int_equal(decode(longer->said, header, PROTO_MINOR), ERR_MALFORMED);
    assert_non_null(strstr(why, "more fields than its version"));
    if (decode(longer->said, header, PROTO_MINOR + 1) && longer->said->message != MESSAGE_HELLO &&
        longer->said->message != MESSAGE_WELCOME)
        fail_msg("%s in %s: %s", shape->name, longer->said->row->name, why);
    frame_buffer_done(&out);
    *array = before;
    longer->arrays++;
}

static void check_longer(const struct said *said, struct span header, struct dice *dice)
{
    msgpack_zone zone;
    msgpack_zone_init(&zone, 65536);
    msgpack_object root = unpack(&zone, header);
    struct longer longer = {said, &root, 0};
    each_record(said->shape, &root.via.array, 4, lengthen, &longer);
    assert_true(longer.arrays >= 1);
    msgpack_zone_destroy(&zone);
}
static void an_extra_tail_is_taken_from_a_later_minor_only(void **state)
{
    each_message(4, check_longer);
}

static void hello_and_welcome_say_their_minor_themselves(void **state)
{
    static const enum message first[] = {MESSAGE_HELLO, MESSAGE_WELCOME};
    for (size_t i = 0; i < ARRAY_COUNT(first); i++) {
        msgpack_zone zone;
        msgpack_zone_init(&zone, 65536);
        struct frame_buffer out = {0}, first_out = {0};
        struct said said = say(first[i], NULL);
        msgpack_object root = unpack(&zone, encode(&said, &first_out));
        msgpack_object *items = keep((root.via.array.size + 1) * sizeof *items);
        memcpy(items, root.via.array.ptr, root.via.array.size * sizeof *items);
        items[4].via.u64 = PROTO_MINOR + 1;
        items[root.via.array.size++] = (msgpack_object){.type = MSGPACK_OBJECT_BOOLEAN, .via.boolean = true};
        root.via.array.ptr = items;
        pack(&root, &out);
        if (decode(&said, span_of(out.data, out.len), 0))
            fail_msg("%s: %s", said.row->name, why);
        frame_buffer_done(&out);
        frame_buffer_done(&first_out);
        msgpack_zone_destroy(&zone);
        forget();
    }
}

/* --- golden vectors ------------------------------------------------------------------------------------------------------- */

#define VECTORS "proto/vectors"

static void put_hex(FILE *file, const char *what, struct span bytes)
{
    fprintf(file, "%s", what);
    for (size_t i = 0; i < bytes.len; i++)
        fprintf(file, "%s%02x", i % 48 == 0 ? (i ? "\n  " : " ") : "", bytes.data[i]);
    fprintf(file, "\n");
}

static void put_vector(FILE *file, const char *comment, const char *verdict, const struct said *said, const char *minor,
                       struct span header)
{
    fprintf(file, "# %s\n%s %s %s %s\n", comment, verdict, role_name(said->sender), role_name(said->receiver), minor);
    put_hex(file, "header", header);
    put_hex(file, "body", said->body);
    fprintf(file, "\n");
}

static struct span with_last(struct span header, uint8_t byte, struct frame_buffer *out)
{
    msgpack_zone zone;
    msgpack_zone_init(&zone, 65536);
    msgpack_object root = unpack(&zone, header);
    msgpack_object *items = calloc(root.via.array.size + 1, sizeof *items);
    memcpy(items, root.via.array.ptr, root.via.array.size * sizeof *items);
    items[root.via.array.size++] = (msgpack_object){.type = MSGPACK_OBJECT_POSITIVE_INTEGER, .via.u64 = byte};
    root.via.array.ptr = items;
    pack(&root, out);
    free(items);
    msgpack_zone_destroy(&zone);
    return span_of(out->data, out->len);
}

static void write_vectors(const char *path, enum message message)
{
    struct frame_buffer out = {0}, changed = {0};
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    struct said said = say(message, NULL);
    const struct message_row *row = said.row;
    fprintf(
        file,
        "# %s (%u): %s\n# Blocks: good or bad, sender, receiver, the sender's minor against ours; header and body in hex.\n\n",
        row->code, message, said.shape->sentence);
    struct span header = encode(&said, &out);
    put_vector(file, "Every field set.", "good", &said, "same", header);
    bool says_minor = message == MESSAGE_HELLO || message == MESSAGE_WELCOME;
    if (!says_minor)
        put_vector(file, "A field at the end that a later minor added.", "good", &said, "later",
                   with_last(header, 7, &changed));
    put_vector(file, "The same from a sender of our own minor.", "bad", &said, "same", with_last(header, 7, &changed));
    put_vector(file, "The last byte is missing.", "bad", &said, "same", span_of(header.data, header.len - 1));
    put_vector(file, "A byte too many.", "bad", &said, "later",
               span_of(memcpy(keep(header.len + 1), header.data, header.len), header.len + 1));

    struct said wrong = said;
    if (row->body == BODY_NONE) {
        wrong.body = span_str("x");
        put_vector(file, "It has no body.", "bad", &wrong, "same", header);
    }
    wrong = said;
    wrong.sender = row->from & FROM_BROKER ? ROLE_API : ROLE_BROKER;
    wrong.receiver = row->from & FROM_BROKER ? ROLE_BROKER : first_role(row->from);
    if (message != MESSAGE_DRAIN)
        put_vector(file, "Said by the wrong side.", "bad", &wrong, "same", header);
    uint8_t *other = memcpy(keep(header.len), header.data, header.len);
    other[header.data[0] == 0xdc ? 3 : 1] = 2;
    put_vector(file, "Another major version.", "bad", &said, "same", span_of(other, header.len));

    uint8_t head[4 + 9 + 4] = {0x94, PROTO_MAJOR, (uint8_t)message, 0, 0};
    wrong = said;
    wrong.body = (struct span){0};
    put_vector(file, "No field at all: each is zero.", "good", &wrong, "same", span_of(head, 5));
    fclose(file);
    frame_buffer_done(&out);
    frame_buffer_done(&changed);
    forget();
}

struct vector {
    bool good;
    char sender[16], receiver[16], minor[16];
    struct frame_buffer header, body;
};

static void add_hex(struct frame_buffer *out, const char *text)
{
    unsigned byte;
    for (; sscanf(text, " %2x", &byte) == 1; text += strspn(text, " ") + 2)
        pack_to(out, (const char *)&(uint8_t){(uint8_t)byte}, 1);
}

/* The next block of the file. */
static bool next_vector(FILE *file, struct vector *vector)
{
    char line[512], verdict[16] = "";
    struct frame_buffer *part = NULL;
    vector->header.len = vector->body.len = 0;
    while (fgets(line, sizeof line, file)) {
        if (line[0] == '#')
            continue;
        if (strncmp(line, "header", 6) == 0)
            add_hex(part = &vector->header, line + 6);
        else if (strncmp(line, "body", 4) == 0)
            add_hex(part = &vector->body, line + 4);
        else if (line[0] == ' ')
            add_hex(part, line);
        else if (line[0] != '\n')
            assert_int_equal(sscanf(line, "%15s %15s %15s %15s", verdict, vector->sender, vector->receiver, vector->minor), 4);
        else if (verdict[0])
            break;
    }
    vector->good = strcmp(verdict, "good") == 0;
    assert_true(!verdict[0] || vector->good || strcmp(verdict, "bad") == 0);
    return verdict[0];
}

static unsigned check_vectors(const char *path, enum message message)
{
    FILE *file = fopen(path, "r");
    if (!file)
        fail_msg("%s is missing: `test_frame write` makes it", path);
    struct vector vector = {0};
    struct frame_buffer again = {0};
    unsigned count = 0, good = 0;
    while (next_vector(file, &vector)) {
        struct span header = span_of(vector.header.data, vector.header.len), body = span_of(vector.body.data, vector.body.len);
        unsigned minor = strcmp(vector.minor, "later") == 0 ? PROTO_MINOR + 1 : PROTO_MINOR;
        enum err e = frame_decode(&frame, header, body, (enum role)word_number("role", span_str(vector.sender)),
                                  (enum role)word_number("role", span_str(vector.receiver)), minor, &why);
        if (!e != vector.good)
            fail_msg("%s, block %u: %s", path, count + 1, e ? why : "it was taken");
        if (!e) {
            assert_int_equal(frame.message, message);
            assert_int_equal(frame_encode(frame.message, &frame.hello, frame.epoch, frame.received, &again), ERR_OK);
            if (good == 0) /* every field set: what we say is byte for byte what it says */
                assert_true(span_equal(span_of(again.data, again.len), header));
            good++;
        }
        count++;
    }
    assert_true(good >= 2 && count - good >= 5);
    fclose(file);
    frame_buffer_done(&vector.header);
    frame_buffer_done(&vector.body);
    frame_buffer_done(&again);
    return count;
}

static const char *vector_path(enum message message)
{
    static char path[128];
    snprintf(path, sizeof path, VECTORS "/%s.hex", message_name(message));
    return path;
}

static void the_golden_vectors_hold(void **state)
{
    unsigned count = 0;
    for (unsigned number = 0; number < MESSAGE_NUMBERS; number++)
        if (message_row(number))
            count += check_vectors(vector_path(number), number);
    assert_true(count > 300);
}

static int write_missing(void)
{
    for (unsigned number = 0; number < MESSAGE_NUMBERS; number++) {
        struct stat st;
        if (message_row(number) && stat(vector_path(number), &st) != 0)
            write_vectors(vector_path(number), number);
    }
    return 0;
}

/* --- the table itself ----------------------------------------------------------------------------------------------------- */

static void names_are_the_tables(void **state)
{
    assert_string_equal(message_name(MESSAGE_SUBMIT), "submit");
    assert_string_equal(message_name(MESSAGE_HEARTBEAT_ACK), "heartbeat_ack");
    assert_string_equal(message_name(0), "");
    assert_string_equal(message_name(127), "");
    assert_string_equal(message_name(UINT32_MAX), "");
}

static void the_readme_has_the_tables(void **state)
{
    struct json_out tables = {0};
    frame_describe(&tables);
    assert_false(tables.failed);
    FILE *file = fopen("proto/README.md", "r");
    assert_non_null(file);
    char *text = calloc(1, 1 << 18);
    assert_true(fread(text, 1, (1 << 18) - 1, file) > 0);
    fclose(file);
    if (!strstr(text, tables.data))
        fail_msg("proto/README.md does not hold what `test_frame describe` prints");
    free(text);
    json_out_done(&tables);
}

static int print_tables(void)
{
    struct json_out tables = {0};
    frame_describe(&tables);
    (void)fwrite(tables.data, 1, tables.len, stdout);
    json_out_done(&tables);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "write") == 0)
        return write_missing();
    if (argc == 2 && strcmp(argv[1], "describe") == 0)
        return print_tables();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_comes_back_the_same),
        cmocka_unit_test(only_its_sender_and_receiver_may_use_it),
        cmocka_unit_test(a_large_list_comes_back),
        cmocka_unit_test(fences_compare_as_their_bytes_do),
        cmocka_unit_test(after_the_first_frames_nothing_is_allocated),
        cmocka_unit_test(a_header_cut_anywhere_is_refused),
        cmocka_unit_test(bytes_behind_the_header_are_refused),
        cmocka_unit_test(changed_bytes_never_do_harm),
        cmocka_unit_test(a_body_must_be_what_the_fields_say),
        cmocka_unit_test(junk_is_refused),
        cmocka_unit_test(the_limits_of_a_header_hold),
        cmocka_unit_test(a_wrong_value_in_any_field_is_refused),
        cmocka_unit_test(what_the_row_does_not_allow_is_not_said),
        cmocka_unit_test(an_answer_that_claims_more_than_it_holds_is_refused),
        cmocka_unit_test(any_text_can_be_made_to_fit),
        cmocka_unit_test(a_missing_tail_is_zero),
        cmocka_unit_test(a_missing_tail_inside_a_list_is_zero),
        cmocka_unit_test(an_extra_tail_is_taken_from_a_later_minor_only),
        cmocka_unit_test(hello_and_welcome_say_their_minor_themselves),
        cmocka_unit_test(the_golden_vectors_hold),
        cmocka_unit_test(names_are_the_tables),
        cmocka_unit_test(the_readme_has_the_tables),
    };
    return cmocka_run_group_tests(tests, NULL, end);
}
