/* Server-sent events of a provider: where the stream is cut does not matter, and no event is empty or over its limit.
 * Covers: worker/sse.c */
#include "worker/sse.h"

#include "tests/fuzz/pieces.h"

#define LINE_MAX_BYTES 64

static void start(void *parser)
{
    sse_init(parser, LINE_MAX_BYTES);
}
static void done(void *parser)
{
    sse_done(parser);
}

static enum err note(void *arg, struct span name, struct span data)
{
    struct json_out *heard = arg;
    assert(data.len > 0 && data.len <= LINE_MAX_BYTES && name.len <= SSE_NAME_MAX);
    assert(!memchr(data.data, '\r', data.len));
    json_raw(heard, name);
    json_lit(heard, "=");
    json_raw(heard, data);
    json_lit(heard, ";");
    return ERR_OK;
}

static enum err feed(void *parser, struct span piece, struct json_out *heard)
{
    return sse_feed(parser, piece, note, heard);
}
static enum err end(void *parser, struct json_out *heard)
{
    return sse_end(parser, note, heard);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sse sse;
    pieces_check(&(struct pieces_parser){start, feed, end, done, &sse}, span_of(data, size));
    return 0;
}
