/* One pass over the bytes: a line that lies whole in a chunk is used where it lies, only cut ones are copied together. */
#include "worker/sse.h"

#define BOM_PAST 4

void sse_init(struct sse *sse, size_t max)
{
    *sse = (struct sse){.max = max ? max : SSE_LINE_MAX};
    sse->line.max = sse->max;
    sse->data.max = sse->max + 1; /* the LF behind the last line is dropped */
}

void sse_done(struct sse *sse)
{
    json_out_done(&sse->line);
    json_out_done(&sse->data);
    *sse = (struct sse){0};
}

/* Appends within the buffer's own limit; tells a limit from a lack of memory. */
static enum err append(struct json_out *out, struct span bytes)
{
    if (bytes.len > out->max || out->len > out->max - bytes.len)
        return ERR_LIMIT;
    json_raw(out, bytes);
    return out->failed ? ERR_NOMEM : ERR_OK;
}

static enum err dispatch(struct sse *sse, sse_on_event *on_event, void *arg)
{
    enum err e = ERR_OK;
    if (sse->data.len > 1)
        e = on_event(arg, span_of(sse->name, sse->name_len), span_of(sse->data.data, sse->data.len - 1));
    sse->data.len = 0;
    sse->name_len = 0;
    return e;
}

static enum err take_line(struct sse *sse, struct span line, sse_on_event *on_event, void *arg)
{
    if (line.len == 0)
        return dispatch(sse, on_event, arg);
    const uint8_t *colon = memchr(line.data, ':', line.len);
    struct span field = {line.data, colon ? (size_t)(colon - line.data) : line.len};
    struct span value = {0};
    if (colon)
        value = span_of(colon + 1, line.len - field.len - 1);
    if (value.len && value.data[0] == ' ')
        value = span_of(value.data + 1, value.len - 1);

    if (span_is(field, "data")) {
        enum err e = append(&sse->data, value);
        return e ? e : append(&sse->data, span_str("\n"));
    }
    if (span_is(field, "event")) {
        sse->name_len = MIN(value.len, (size_t)SSE_NAME_MAX);
        if (sse->name_len)
            memcpy(sse->name, value.data, sse->name_len);
    }
    return ERR_OK; /* a comment (no field name), id, retry, or a field of the future */
}

/* A byte order mark is allowed once, at the very start; what only looked like one goes back into the first line. */
static enum err skip_bom(struct sse *sse, struct span *bytes)
{
    static const uint8_t mark[3] = {0xef, 0xbb, 0xbf};
    while (sse->bom < sizeof mark && bytes->len) {
        if (bytes->data[0] != mark[sse->bom]) {
            size_t seen = sse->bom;
            sse->bom = BOM_PAST;
            return append(&sse->line, span_of(mark, seen));
        }
        *bytes = span_of(bytes->data + 1, bytes->len - 1);
        sse->bom++;
    }
    if (sse->bom == sizeof mark)
        sse->bom = BOM_PAST;
    return ERR_OK;
}

static size_t line_length(struct span bytes)
{
    size_t i = 0;
    while (i < bytes.len && bytes.data[i] != '\n' && bytes.data[i] != '\r')
        i++;
    return i;
}

enum err sse_feed(struct sse *sse, struct span bytes, sse_on_event *on_event, void *arg)
{
    enum err e = sse->bom < BOM_PAST ? skip_bom(sse, &bytes) : ERR_OK;
    while (!e && bytes.len) {
        if (sse->after_cr && bytes.data[0] == '\n') {
            sse->after_cr = false;
            bytes = span_of(bytes.data + 1, bytes.len - 1);
            continue;
        }
        sse->after_cr = false;
        size_t len = line_length(bytes);
        struct span line = {bytes.data, len};
        if (len > sse->max)
            return ERR_LIMIT;
        if (len == bytes.len)
            return append(&sse->line, line);
        sse->after_cr = bytes.data[len] == '\r';
        bytes = span_of(bytes.data + len + 1, bytes.len - len - 1);
        if (sse->line.len) {
            e = append(&sse->line, line);
            if (!e)
                e = take_line(sse, span_of(sse->line.data, sse->line.len), on_event, arg);
            sse->line.len = 0;
        } else {
            e = take_line(sse, line, on_event, arg);
        }
    }
    return e;
}

enum err sse_end(struct sse *sse, sse_on_event *on_event, void *arg)
{
    return dispatch(sse, on_event, arg);
}
