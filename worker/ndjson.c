/* As in sse.c: a line that lies whole in a chunk is used where it lies. */
#include "worker/ndjson.h"

void ndjson_init(struct ndjson *ndjson, size_t max)
{
    *ndjson = (struct ndjson){.max = max ? max : NDJSON_LINE_MAX};
    ndjson->line.max = ndjson->max + 1; /* room for the CR of a CRLF */
}

void ndjson_done(struct ndjson *ndjson)
{
    json_out_done(&ndjson->line);
    *ndjson = (struct ndjson){0};
}

static enum err append(struct json_out *out, struct span bytes)
{
    if (bytes.len > out->max || out->len > out->max - bytes.len)
        return ERR_LIMIT;
    json_raw(out, bytes);
    return out->failed ? ERR_NOMEM : ERR_OK;
}

static bool blank(struct span line)
{
    for (size_t i = 0; i < line.len; i++)
        if (line.data[i] != ' ' && line.data[i] != '\t')
            return false;
    return true;
}

static enum err take_line(const struct ndjson *ndjson, struct span line, ndjson_on_line *on_line, void *arg)
{
    if (line.len && line.data[line.len - 1] == '\r')
        line.len--;
    if (line.len > ndjson->max)
        return ERR_LIMIT;
    return blank(line) ? ERR_OK : on_line(arg, line);
}

enum err ndjson_feed(struct ndjson *ndjson, struct span bytes, ndjson_on_line *on_line, void *arg)
{
    while (bytes.len) {
        const uint8_t *end = memchr(bytes.data, '\n', bytes.len);
        struct span line = {bytes.data, end ? (size_t)(end - bytes.data) : bytes.len};
        if (!end)
            return append(&ndjson->line, line);
        bytes = span_of(end + 1, bytes.len - line.len - 1);
        enum err e = ERR_OK;
        if (ndjson->line.len) {
            e = append(&ndjson->line, line);
            if (!e)
                e = take_line(ndjson, span_of(ndjson->line.data, ndjson->line.len), on_line, arg);
            ndjson->line.len = 0;
        } else {
            e = take_line(ndjson, line, on_line, arg);
        }
        if (e)
            return e;
    }
    return ERR_OK;
}

enum err ndjson_end(struct ndjson *ndjson, ndjson_on_line *on_line, void *arg)
{
    enum err e = take_line(ndjson, span_of(ndjson->line.data, ndjson->line.len), on_line, arg);
    ndjson->line.len = 0;
    return e;
}
