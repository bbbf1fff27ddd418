/* Structs of messages.def filled, compared and taken apart by their tables, for tests of frames and records. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "proto/codec.h"

/* --- memory: what fill allocates lives until forget() --- */

static void *kept[65536];
static size_t kept_count;

static UNUSED void *keep(size_t size)
{
    assert(kept_count < ARRAY_COUNT(kept));
    void *p = calloc(1, size ? size : 1);
    kept[kept_count++] = p;
    return p;
}

static UNUSED void forget(void)
{
    while (kept_count)
        free(kept[--kept_count]);
}

/* --- random numbers from a seed --- */

struct dice {
    uint64_t state;
};

static uint64_t roll(struct dice *dice)
{
    uint64_t z = dice->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static uint64_t below(struct dice *dice, uint64_t n)
{
    return n ? roll(dice) % n : 0;
}

/* Small, large and at the edges. */
static uint64_t any_number(struct dice *dice, uint64_t max)
{
    switch (below(dice, 6)) {
    case 0:
        return 0;
    case 1:
        return max;
    case 2:
        return MIN(max, below(dice, 200));
    default:
        return roll(dice) >> below(dice, 64) & max;
    }
}

static struct span any_text(struct dice *dice, size_t max)
{
    static const char *const pieces[] = {"a", "Z", "0", " ", "\n", "\t", "\"", "\\", "\x7f", "é", "日", "😀", "\xef\xbf\xbd"};
    size_t len = 0, want = below(dice, 8) == 0 ? max : below(dice, MIN(max, (size_t)40) + 1);
    char *text = keep(want);
    while (len < want) {
        const char *piece = pieces[below(dice, ARRAY_COUNT(pieces))];
        if (strlen(piece) > want - len)
            piece = "x";
        memcpy(text + len, piece, strlen(piece));
        len += strlen(piece);
    }
    return span_of(text, len);
}

static void any_bytes(struct dice *dice, uint8_t *out, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)roll(dice);
}

static struct span any_bin(struct dice *dice, size_t max)
{
    size_t len = below(dice, max + 1);
    uint8_t *bytes = keep(len);
    any_bytes(dice, bytes, len);
    return span_of(bytes, len);
}

static uint8_t any_word(struct dice *dice, enum words set)
{
    uint8_t number;
    do
        number = (uint8_t)below(dice, 64);
    while (number && !words_have(set, number));
    return number;
}

/* --- filling --- */

/* dice: NULL for values that are the same every time and tell what they are. */
static void fill(const struct shape *shape, void *base, struct dice *dice);

static uint32_t fill_list(const struct field *field, void **ret_elements, struct dice *dice)
{
    const struct shape *of = shape_get(field->of);
    uint32_t count = dice ? (uint32_t)below(dice, below(dice, 8) == 0 ? 40 : 4) : 2;
    count = MIN(count, field->max);
    uint8_t *elements = keep((size_t)count * of->bytes);
    for (uint32_t i = 0; i < count; i++)
        fill(of, elements + (size_t)i * of->bytes, dice);
    *ret_elements = count ? elements : NULL;
    return count;
}

static void fill_field(const struct field *field, uint32_t index, uint8_t *base, struct dice *dice)
{
    void *at = base + field->at;
    switch (field->type) {
    case FIELD_U8:
        *(uint8_t *)at = dice ? (uint8_t)any_number(dice, UINT8_MAX) : (uint8_t)(index + 1);
        return;
    case FIELD_U16:
        *(uint16_t *)at = dice ? (uint16_t)any_number(dice, UINT16_MAX) : (uint16_t)(300 + index);
        return;
    case FIELD_U32:
        *(uint32_t *)at = dice ? (uint32_t)any_number(dice, UINT32_MAX) : 70000 + index;
        return;
    case FIELD_U64:
        *(uint64_t *)at = dice ? any_number(dice, UINT64_MAX) : 5000000000u + index;
        return;
    case FIELD_I64:
        *(int64_t *)at = dice ? (int64_t)any_number(dice, UINT64_MAX) : 1795341600000 + index;
        return;
    case FIELD_FLAG:
        *(bool *)at = dice ? below(dice, 2) : true;
        return;
    case FIELD_WORDNUM:
        *(uint8_t *)at = dice ? any_word(dice, field->of) : words_have(field->of, 2) ? 2 : 1;
        return;
    case FIELD_JOBID:
    case FIELD_FIXED:
        if (dice)
            any_bytes(dice, at, field->max);
        else
            for (uint32_t i = 0; i < field->max; i++)
                ((uint8_t *)at)[i] = (uint8_t)(0xa0 + i);
        return;
    case FIELD_FENCE:
        *(struct fence *)at = dice ? (struct fence){any_number(dice, UINT64_MAX), any_number(dice, UINT64_MAX)}
                                   : (struct fence){1795341600000, 42};
        return;
    case FIELD_TEXT:
        *(struct span *)at = dice ? any_text(dice, field->max) : span_str(field->name);
        return;
    case FIELD_BIN:
        *(struct span *)at = dice ? any_bin(dice, field->max) : span_of("0123456789abcdef", 16);
        return;
    case FIELD_NEST:
        fill(shape_get(field->of), at, dice);
        return;
    case FIELD_LIST:
        *(uint32_t *)(base + field->count_at) = fill_list(field, at, dice);
        return;
    }
}

static void fill(const struct shape *shape, void *base, struct dice *dice)
{
    for (uint32_t i = 0; i < shape->count; i++)
        fill_field(&shape->fields[i], i, base, dice);
}

/* --- a message to play with --- */

struct said {
    const struct message_row *row;
    enum message message;
    const struct shape *shape;
    void *fields;
    struct span body;
    enum role sender, receiver;
};

static enum role first_role(unsigned roles)
{
    for (unsigned role = ROLE_BROKER; role <= ROLE_MONITOR; role++)
        if (roles & 1u << role)
            return role;
    assert(!"nobody");
    return ROLE_BROKER;
}

static struct span body_of(size_t len)
{
    uint8_t *bytes = keep(len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)('0' + i % 10);
    return span_of(bytes, len);
}

static uint32_t small(struct dice *dice, uint32_t fixed)
{
    return dice ? (uint32_t)below(dice, 30) : fixed;
}

/* Makes the lengths that a message gives for parts of its body true, and the body to match. */
static size_t agree_on_body(enum message message, void *fields, struct dice *dice)
{
    size_t sum = 0;
    switch (message) {
    case MESSAGE_SUBMIT:
        ((struct msg_submit *)fields)->spec.display_bytes = small(dice, 4);
        return ((struct msg_submit *)fields)->spec.display_bytes + small(dice, 6);
    case MESSAGE_BULK: {
        struct msg_bulk *bulk = fields;
        for (uint32_t i = 0; i < bulk->items_count; i++) {
            struct rec_bulk_item *item = (struct rec_bulk_item *)&bulk->items[i];
            item->spec.display_bytes = small(dice, 4);
            item->body_bytes = item->spec.display_bytes + small(dice, 6);
            sum += item->body_bytes;
        }
        return sum;
    }
    case MESSAGE_EVENTS: {
        struct msg_events *events = fields;
        for (uint32_t i = 0; i < events->items_count; i++)
            sum += ((struct rec_event *)events->items)[i].bytes = small(dice, 3);
        return sum;
    }
    case MESSAGE_RUN_EVENTS: {
        struct msg_run_events *events = fields;
        for (uint32_t i = 0; i < events->items_count; i++)
            sum += ((struct rec_run_event *)events->items)[i].bytes = small(dice, 3);
        return sum;
    }
    case MESSAGE_OUTCOME: {
        struct msg_outcome *outcome = fields;
        outcome->result_bytes = small(dice, 5);
        outcome->log_bytes = small(dice, 3);
        return outcome->result_bytes + outcome->log_bytes;
    }
    default:
        return message_row(message)->body == BODY_ANY ? 7 : 0;
    }
}

static UNUSED struct said say(enum message message, struct dice *dice)
{
    struct said said = {.row = message_row(message), .message = message};
    said.shape = shape_get(said.row->shape);
    said.fields = keep(said.shape->bytes);
    fill(said.shape, said.fields, dice);
    if (message == MESSAGE_HELLO)
        ((struct msg_hello *)said.fields)->minor = PROTO_MINOR;
    if (message == MESSAGE_WELCOME)
        ((struct msg_welcome *)said.fields)->minor = PROTO_MINOR;
    said.body = body_of(agree_on_body(message, said.fields, dice));
    said.sender = first_role(said.row->from);
    said.receiver = first_role(said.row->to & ~(said.sender == ROLE_BROKER ? FROM_BROKER : 0));
    return said;
}

/* --- comparing --- */

static bool same(const struct shape *shape, const void *a, const void *b);

static bool same_field(const struct field *field, const uint8_t *a, const uint8_t *b)
{
    static const size_t sizes[] = {
        [FIELD_U8] = 1,  [FIELD_U16] = 2,  [FIELD_U32] = 4,     [FIELD_U64] = 8,
        [FIELD_I64] = 8, [FIELD_FLAG] = 1, [FIELD_WORDNUM] = 1, [FIELD_FENCE] = sizeof(struct fence)};
    const void *x = a + field->at, *y = b + field->at;
    switch (field->type) {
    case FIELD_JOBID:
    case FIELD_FIXED:
        return memcmp(x, y, field->max) == 0;
    case FIELD_TEXT:
    case FIELD_BIN:
        return span_equal(*(const struct span *)x, *(const struct span *)y);
    case FIELD_NEST:
        return same(shape_get(field->of), x, y);
    case FIELD_LIST: {
        uint32_t count = *(const uint32_t *)(a + field->count_at);
        if (*(const uint32_t *)(b + field->count_at) != count)
            return false;
        const struct shape *of = shape_get(field->of);
        const uint8_t *list_x = *(const uint8_t *const *)x, *list_y = *(const uint8_t *const *)y;
        for (uint32_t i = 0; i < count; i++)
            if (!same(of, list_x + (size_t)i * of->bytes, list_y + (size_t)i * of->bytes))
                return false;
        return true;
    }
    default:
        return memcmp(x, y, sizes[field->type]) == 0;
    }
}

static bool same(const struct shape *shape, const void *a, const void *b)
{
    for (uint32_t i = 0; i < shape->count; i++)
        if (!same_field(&shape->fields[i], a, b))
            return false;
    return true;
}

/* --- taking apart: msgpack objects that can be changed and packed again --- */

static UNUSED msgpack_object unpack(msgpack_zone *zone, struct span bytes)
{
    msgpack_object object;
    size_t off = 0;
    msgpack_unpack_return rc = msgpack_unpack((const char *)bytes.data, bytes.len, &off, zone, &object);
    assert(rc == MSGPACK_UNPACK_SUCCESS);
    return object;
}

static int pack_to(void *arg, const char *bytes, size_t len)
{
    struct frame_buffer *out = arg;
    uint8_t *data = realloc(out->data, out->len + len);
    assert(data);
    memcpy(data + out->len, bytes, len);
    *out = (struct frame_buffer){data, out->len + len, out->len + len};
    return 0;
}

static UNUSED void pack(const msgpack_object *object, struct frame_buffer *out)
{
    msgpack_packer packer;
    out->len = 0;
    msgpack_packer_init(&packer, out, pack_to);
    msgpack_pack_object(&packer, *object);
}

/* Calls visit for the array of each record inside `array`, itself included; `skip` elements stand before its fields. */
typedef void visit_record(void *arg, const struct shape *shape, msgpack_object_array *array, uint32_t skip);

static UNUSED void each_record(const struct shape *shape, msgpack_object_array *array, uint32_t skip, visit_record *visit,
                               void *arg)
{
    for (uint32_t i = 0; i < shape->count && skip + i < array->size; i++) {
        msgpack_object_array *item = &array->ptr[skip + i].via.array;
        const struct field *field = &shape->fields[i];
        if (field->type == FIELD_NEST)
            each_record(shape_get(field->of), item, 0, visit, arg);
        for (uint32_t k = 0; field->type == FIELD_LIST && k < item->size; k++)
            each_record(shape_get(field->of), &item->ptr[k].via.array, 0, visit, arg);
    }
    visit(arg, shape, array, skip);
}
