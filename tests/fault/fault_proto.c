/* Frames and stored records without memory: every message and every kind of record, written and read. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/shapes.h"

#include "broker/body.h"
#include "common/json.h"
#include "proto/record.h"
#include "proto/scan.h"
#include "tests/lib/fault.h"

/* One message on its way: what is said, and what it is on the wire. */
struct sample {
    struct said said;
    struct frame_buffer whole, out; /* as it must be; as it is written */
    struct frame frame;
};

static enum err encode(void *arg)
{
    struct sample *s = arg;
    return frame_encode(s->said.message, s->said.fields, 9, 0, &s->out);
}

static void encoded(void *arg, enum err e)
{
    struct sample *s = arg;
    assert_true(e ? s->out.len == 0 : span_equal(span_of(s->out.data, s->out.len), span_of(s->whole.data, s->whole.len)));
    frame_buffer_done(&s->out);
}

static enum err decode(void *arg)
{
    struct sample *s = arg;
    const char *why;
    return frame_decode(&s->frame, span_of(s->whole.data, s->whole.len), s->said.body, s->said.sender, s->said.receiver, 0,
                        &why);
}

/* A frame that was refused memory is good for the next decode. */
static void decoded(void *arg, enum err e)
{
    struct sample *s = arg;
    if (e)
        assert_int_equal(decode(s), ERR_OK);
    assert_true(same(s->said.shape, s->said.fields, &s->frame.ack));
    frame_done(&s->frame);
    s->frame = (struct frame){0};
}

static void every_message(void **state)
{
    unsigned long written = 0, read = 0;
    for (unsigned number = 0; number < MESSAGE_NUMBERS; number++) {
        if (!message_row(number))
            continue;
        struct sample s = {.said = say(number, NULL)};
        assert_int_equal(frame_encode(number, s.said.fields, 9, 0, &s.whole), ERR_OK);
        written += fault_sweep(s.said.row->name, encode, encoded, &s);
        read += fault_sweep(s.said.row->name, decode, decoded, &s);
        frame_buffer_done(&s.whole);
        forget();
    }
    fault_tell("frame_encode", written);
    fault_tell("frame_decode", read);
}

/* One record, as it is stored. */
struct stored {
    enum record_kind kind;
    const struct shape *shape;
    void *fields;
    struct blob *whole, *packed;
    struct record record;
};

static const struct span parts[] = {{(const uint8_t *)"display", 7}, {(const uint8_t *)"result", 6}};

static size_t parts_of(enum record_kind kind)
{
    return kind == RECORD_ENDED ? ARRAY_COUNT(parts) : 0;
}

static enum err pack_record(void *arg)
{
    struct stored *s = arg;
    return record_pack(s->kind, s->fields, parts, parts_of(s->kind), &s->packed);
}

static void packed(void *arg, enum err e)
{
    struct stored *s = arg;
    assert_true(e ? !s->packed : span_equal(blob_span(s->packed), blob_span(s->whole)));
    blob_free(&s->packed);
}

static enum err unpack_record(void *arg)
{
    struct stored *s = arg;
    return record_unpack(&s->record, s->kind, blob_span(s->whole));
}

static void unpacked(void *arg, enum err e)
{
    struct stored *s = arg;
    if (e)
        assert_int_equal(unpack_record(s), ERR_OK);
    assert_true(same(s->shape, s->fields, &s->record.job));
    assert_true(span_is(s->record.body, parts_of(s->kind) ? "displayresult" : ""));
    record_done(&s->record);
    s->record = (struct record){0};
}

static void every_record(void **state)
{
    static const enum shape_id shapes[] = {
        [RECORD_JOB] = SHAPE_rec_job, [RECORD_ENDED] = SHAPE_rec_ended, [RECORD_IDEM] = SHAPE_rec_idem};
    unsigned long written = 0, read = 0;
    for (unsigned kind = RECORD_JOB; kind < ARRAY_COUNT(shapes); kind++) {
        struct stored s = {.kind = kind, .shape = shape_get(shapes[kind])};
        s.fields = keep(s.shape->bytes);
        fill(s.shape, s.fields, NULL);
        if (kind == RECORD_ENDED) {
            struct rec_ended *ended = s.fields;
            ended->display_bytes = (uint32_t)parts[0].len;
            ended->result_bytes = (uint32_t)parts[1].len;
            ended->log_bytes = 0;
        }
        assert_int_equal(record_pack(kind, s.fields, parts, parts_of(kind), &s.whole), ERR_OK);
        written += fault_sweep("record_pack", pack_record, packed, &s);
        read += fault_sweep("record_unpack", unpack_record, unpacked, &s);
        blob_free(&s.whole);
    }
    forget();
    fault_tell("record_pack", written);
    fault_tell("record_unpack", read);
}

static enum err pack_and_unpack_body(void *arg)
{
    AUTO(blob_free) struct blob *stored = NULL;
    AUTO(blob_free) struct blob *body = NULL;
    enum err e = body_pack(span_str("a body"), &stored);
    if (!e)
        e = body_unpack(blob_span(stored), &body);
    if (!e && !span_is(blob_span(body), "a body"))
        e = ERR_CORRUPT;
    return e;
}

static void a_body(void **state)
{
    fault_tell("body_pack, body_unpack", fault_sweep("body", pack_and_unpack_body, NULL, NULL));
}

static enum err scan(void *arg)
{
    static const uint8_t header[] = {0x94, 1, 2, 3, 0xc0}, claim[] = {0xdd, 0xff, 0xff, 0xff, 0xff};
    (void)scan_header(span_of(header, sizeof header));
    return scan_header(span_of(claim, sizeof claim)) ? ERR_MALFORMED : ERR_OK;
}

static enum err describe(void *arg)
{
    struct json_out out = {0};
    frame_describe(&out);
    enum err e = out.failed ? ERR_NOMEM : ERR_OK;
    json_out_done(&out);
    return e;
}

static void what_is_said_of_them(void **state)
{
    fault_tell("scan_header", fault_sweep("scan_header", scan, NULL, NULL));
    fault_tell("frame_describe", fault_sweep("frame_describe", describe, NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message),
        cmocka_unit_test(every_record),
        cmocka_unit_test(a_body),
        cmocka_unit_test(what_is_said_of_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
