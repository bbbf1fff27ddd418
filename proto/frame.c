#include "proto/frame.h"

#include "proto/codec.h"

#define FIXED_FIELDS 4 /* major, message, epoch, received */

enum err frame_encode(enum message message, const void *fields, uint64_t epoch, uint64_t received, struct frame_buffer *out)
{
    const struct message_row *row = message_row(message);
    assert(row);
    const struct shape *shape = shape_get(row->shape);
    struct writer writer;
    writer_init(&writer, out);
    write_array(&writer, FIXED_FIELDS + shape->count);
    write_uint(&writer, PROTO_MAJOR);
    write_uint(&writer, message);
    write_uint(&writer, epoch);
    write_uint(&writer, received);
    write_fields(&writer, shape, fields);
    return writer_end(&writer);
}

static bool is_uint(const msgpack_object *item)
{
    return item->type == MSGPACK_OBJECT_POSITIVE_INTEGER;
}

/* major, message, epoch, received. */
static enum err read_fixed(struct frame *frame, const msgpack_object_array *array, const char **ret_why)
{
    const msgpack_object *items = array->ptr;
    if (array->size < 1 || !is_uint(&items[0])) {
        *ret_why = "there is no major version";
        return ERR_MALFORMED;
    }
    if (items[0].via.u64 != PROTO_MAJOR) {
        *ret_why = "another major version";
        return ERR_INCOMPATIBLE;
    }
    if (array->size < FIXED_FIELDS || !is_uint(&items[1]) || !is_uint(&items[2]) || !is_uint(&items[3])) {
        *ret_why = "message, epoch and received are not three numbers";
        return ERR_MALFORMED;
    }
    if (!message_row(items[1].via.u64)) {
        *ret_why = "there is no such message";
        return ERR_MALFORMED;
    }
    frame->message = (enum message)items[1].via.u64;
    frame->epoch = items[2].via.u64;
    frame->received = items[3].via.u64;
    return ERR_OK;
}

/* HELLO and WELCOME come before the other side's minor is known, and begin with it. */
static uint64_t minor_of(const struct frame *frame, const msgpack_object_array *array, unsigned peer_minor)
{
    bool says_it = frame->message == MESSAGE_HELLO || frame->message == MESSAGE_WELCOME;
    if (says_it && array->size > FIXED_FIELDS && is_uint(&array->ptr[FIXED_FIELDS]))
        return array->ptr[FIXED_FIELDS].via.u64;
    return peer_minor;
}

static bool bulk_fits(const struct msg_bulk *bulk, size_t body_bytes)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < bulk->items_count; i++) {
        if (bulk->items[i].spec.display_bytes > bulk->items[i].body_bytes)
            return false;
        sum += bulk->items[i].body_bytes;
    }
    return sum == body_bytes;
}

/* Whether the lengths that fields give for parts of the body add up to the body. */
static bool body_fits(const struct frame *frame)
{
    size_t len = frame->body.len;
    uint64_t sum = 0;
    switch (frame->message) {
    case MESSAGE_SUBMIT:
        return frame->submit.spec.display_bytes <= len;
    case MESSAGE_BULK:
        return bulk_fits(&frame->bulk, len);
    case MESSAGE_EVENTS:
        for (uint32_t i = 0; i < frame->events.items_count; i++)
            sum += frame->events.items[i].bytes;
        return sum == len;
    case MESSAGE_RUN_EVENTS:
        for (uint32_t i = 0; i < frame->run_events.items_count; i++)
            sum += frame->run_events.items[i].bytes;
        return sum == len;
    case MESSAGE_OUTCOME:
        return (uint64_t)frame->outcome.result_bytes + frame->outcome.log_bytes == len;
    default:
        return true;
    }
}

static const char *direction_fault(const struct message_row *row, struct span body, enum role sender, enum role receiver)
{
    if (!(row->from & 1u << sender))
        return "the sender may not say this";
    if (!(row->to & 1u << receiver))
        return "it is not meant for us";
    if (row->body == BODY_NONE && body.len)
        return "it has a body";
    if (body.len > PROTO_FRAME_BYTES)
        return "the body is too long";
    return NULL;
}

enum err frame_decode(struct frame *frame, struct span header, struct span body, enum role sender, enum role receiver,
                      unsigned peer_minor, const char **ret_why)
{
    msgpack_object_array array;
    enum err e = read_array(&frame->memory, header, &array, ret_why);
    if (!e)
        e = read_fixed(frame, &array, ret_why);
    if (e)
        return e;
    const struct message_row *row = message_row(frame->message);
    const char *why = direction_fault(row, body, sender, receiver);
    if (why) {
        *ret_why = why;
        return ERR_MALFORMED;
    }
    frame->body = body;
    bool newer = minor_of(frame, &array, peer_minor) > PROTO_MINOR;
    e = read_fields(frame->memory, shape_get(row->shape), array.ptr + FIXED_FIELDS, array.size - FIXED_FIELDS, newer,
                    &frame->hello, ret_why);
    if (e)
        return e;
    if (!body_fits(frame)) {
        *ret_why = "the lengths of its parts are not the body's";
        return ERR_MALFORMED;
    }
    return ERR_OK;
}

void frame_done(struct frame *frame)
{
    frame_memory_free(&frame->memory);
    *frame = (struct frame){0};
}
