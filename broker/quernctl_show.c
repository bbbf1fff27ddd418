#include "broker/quernctl_show.h"

#include <inttypes.h>
#include <msgpack.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/utf8.h"
#include "proto/scan.h"

#define DEPTH_MAX 8

static struct span text_of(const msgpack_object *o)
{
    return span_of(o->via.str.ptr, o->via.str.size);
}

/* ---- JSON ---- */

static void json_value(struct json_out *out, const msgpack_object *o, unsigned depth);

static void json_map(struct json_out *out, const msgpack_object_map *map, unsigned depth)
{
    json_lit(out, "{");
    for (uint32_t i = 0; i < map->size; i++) {
        if (i)
            json_lit(out, ",");
        json_value(out, &map->ptr[i].key, depth);
        json_lit(out, ":");
        json_value(out, &map->ptr[i].val, depth);
    }
    json_lit(out, "}");
}

static void json_list(struct json_out *out, const msgpack_object_array *list, unsigned depth)
{
    json_lit(out, "[");
    for (uint32_t i = 0; i < list->size; i++) {
        if (i)
            json_lit(out, ",");
        json_value(out, &list->ptr[i], depth);
    }
    json_lit(out, "]");
}

static void json_value(struct json_out *out, const msgpack_object *o, unsigned depth)
{
    if (depth > DEPTH_MAX) {
        out->failed = true;
        return;
    }
    switch (o->type) {
    case MSGPACK_OBJECT_BOOLEAN:
        json_lit(out, o->via.boolean ? "true" : "false");
        return;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        json_printf(out, "%" PRIu64, o->via.u64);
        return;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        json_printf(out, "%" PRId64, o->via.i64);
        return;
    case MSGPACK_OBJECT_STR:
        json_str(out, text_of(o));
        return;
    case MSGPACK_OBJECT_MAP:
        json_map(out, &o->via.map, depth + 1);
        return;
    case MSGPACK_OBJECT_ARRAY:
        json_list(out, &o->via.array, depth + 1);
        return;
    default:
        json_lit(out, "null");
    }
}

/* ---- for people ---- */

static void indent(struct json_out *out, unsigned depth)
{
    for (unsigned i = 0; i < depth; i++)
        json_lit(out, "  ");
}

/* What would steer the terminal shows as '?'; line ends stay where the text is long. */
static void put_text(struct json_out *out, struct span text)
{
    for (size_t i = 0, len; i < text.len; i += len) {
        const uint8_t *at = text.data + i;
        len = *at < 0x80 ? 1 : utf8_step(at, text.data + text.len);
        bool shown = len && (*at == '\n' || *at == '\t' || !utf8_is_unsafe(utf8_code(at, len)));
        json_raw(out, shown ? span_of(at, len) : span_str("?"));
        len = MAX(len, 1);
    }
}

static bool ends_with(struct span key, const char *end)
{
    size_t len = strlen(end);
    return key.len >= len && memcmp(key.data + key.len - len, end, len) == 0;
}

static bool is_scalar(const msgpack_object *o)
{
    return o->type != MSGPACK_OBJECT_MAP && o->type != MSGPACK_OBJECT_ARRAY;
}

static void put_scalar(struct json_out *out, struct span key, const msgpack_object *o)
{
    char time[CLOCK_TEXT_LEN + 1];
    bool number = o->type == MSGPACK_OBJECT_POSITIVE_INTEGER;
    if (number && (ends_with(key, "_at") || span_is(key, "now"))) {
        if (o->via.u64)
            clock_print((msec)o->via.u64, time);
        json_lit(out, o->via.u64 ? time : "-");
    } else if (o->type == MSGPACK_OBJECT_STR) {
        if (o->via.str.size)
            put_text(out, text_of(o));
        else
            json_lit(out, "-");
    } else {
        json_value(out, o, 0);
    }
}

static void put_map(struct json_out *out, const msgpack_object_map *map, unsigned depth);

static void put_list(struct json_out *out, const msgpack_object_array *list, unsigned depth)
{
    for (uint32_t i = 0; i < list->size; i++) {
        indent(out, depth);
        json_printf(out, "- %" PRIu32 "\n", i + 1);
        if (list->ptr[i].type == MSGPACK_OBJECT_MAP)
            put_map(out, &list->ptr[i].via.map, depth + 1);
    }
}

static void put_map(struct json_out *out, const msgpack_object_map *map, unsigned depth)
{
    if (depth > DEPTH_MAX) {
        out->failed = true;
        return;
    }
    for (uint32_t i = 0; i < map->size; i++) {
        const msgpack_object *value = &map->ptr[i].val;
        struct span key = map->ptr[i].key.type == MSGPACK_OBJECT_STR ? text_of(&map->ptr[i].key) : (struct span){0};
        indent(out, depth);
        put_text(out, key);
        if (is_scalar(value)) {
            for (size_t column = key.len + 2 * depth; column < 26; column++)
                json_lit(out, " ");
            put_scalar(out, key, value);
            json_lit(out, "\n");
        } else if (value->type == MSGPACK_OBJECT_MAP) {
            json_lit(out, "\n");
            put_map(out, &value->via.map, depth + 1);
        } else {
            json_lit(out, value->via.array.size ? "\n" : " none\n");
            put_list(out, &value->via.array, depth + 1);
        }
    }
}

/* ---- both ---- */

static enum err show(struct span bytes, struct json_out *out, bool json)
{
    msgpack_unpacked value;
    size_t at = 0;
    if (scan_answer(bytes))
        return ERR_MALFORMED;
    msgpack_unpacked_init(&value);
    bool good = msgpack_unpack_next(&value, (const char *)bytes.data, bytes.len, &at) == MSGPACK_UNPACK_SUCCESS;
    if (good && json) {
        json_value(out, &value.data, 0);
        json_lit(out, "\n");
    } else if (good && value.data.type == MSGPACK_OBJECT_MAP) {
        put_map(out, &value.data.via.map, 0);
    }
    msgpack_unpacked_destroy(&value);
    return !good ? ERR_MALFORMED : out->failed ? ERR_NOMEM : ERR_OK;
}

enum err show_json(struct span msgpack, struct json_out *out)
{
    return show(msgpack, out, true);
}
enum err show_text(struct span msgpack, struct json_out *out)
{
    return show(msgpack, out, false);
}
