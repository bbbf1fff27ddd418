/* JSON lines of a provider: where the stream is cut does not matter, and no line is blank, over its limit or holds a line end.
 * Covers: worker/ndjson.c */
#include "worker/ndjson.h"

#include "tests/fuzz/pieces.h"

#define LINE_MAX_BYTES 64

static void start(void *parser)
{
    ndjson_init(parser, LINE_MAX_BYTES);
}
static void done(void *parser)
{
    ndjson_done(parser);
}

static enum err note(void *arg, struct span line)
{
    struct json_out *heard = arg;
    assert(line.len > 0 && line.len <= LINE_MAX_BYTES && span_trim(line).len && !memchr(line.data, '\n', line.len));
    json_raw(heard, line);
    json_lit(heard, "\n");
    return ERR_OK;
}

static enum err feed(void *parser, struct span piece, struct json_out *heard)
{
    return ndjson_feed(parser, piece, note, heard);
}
static enum err end(void *parser, struct json_out *heard)
{
    return ndjson_end(parser, note, heard);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ndjson ndjson;
    pieces_check(&(struct pieces_parser){start, feed, end, done, &ndjson}, span_of(data, size));
    return 0;
}
