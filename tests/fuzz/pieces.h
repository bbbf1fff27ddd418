/* An incremental parser must not care where its input is cut: the bytes at once, cut once at every place, and byte by byte give
 * the same error and the same text. */
#pragma once

#include <stdlib.h>

#include "common/json.h"

#ifndef PIECES_CUTS
#define PIECES_CUTS 96 /* places tried; an input's length is what makes a run slow */
#endif

struct pieces_parser {
    void (*start)(void *parser);
    enum err (*feed)(void *parser, struct span piece, struct json_out *heard);
    enum err (*end)(void *parser, struct json_out *heard);
    void (*done)(void *parser);
    void *parser;
};

/* Each piece lies in a block of its own size, for the sanitizer. */
static enum err pieces_feed(const struct pieces_parser *p, struct span piece, struct json_out *heard)
{
    uint8_t *copy = malloc(piece.len ? piece.len : 1);
    assert(copy);
    if (piece.len)
        memcpy(copy, piece.data, piece.len);
    enum err e = p->feed(p->parser, span_of(copy, piece.len), heard);
    free(copy);
    return e;
}

/* One piece of `first` bytes, then pieces of `step`. */
static enum err pieces_run(const struct pieces_parser *p, struct span in, size_t first, size_t step, struct json_out *heard)
{
    enum err e = ERR_OK;
    p->start(p->parser);
    for (size_t at = 0, len = MIN(first, in.len); !e && at < in.len; at += len, len = MIN(step, in.len - at))
        e = pieces_feed(p, span_of(in.data + at, len), heard);
    if (!e)
        e = p->end(p->parser, heard);
    p->done(p->parser);
    return e;
}

static void pieces_check(const struct pieces_parser *p, struct span in)
{
    struct json_out whole = {0}, cut = {0};
    enum err expected = pieces_run(p, in, in.len, 1, &whole);
    for (size_t first = 0; first <= MIN(in.len, PIECES_CUTS); first++) {
        cut.len = 0;
        enum err e = pieces_run(p, in, MAX(first, 1), first ? in.len : 1, &cut); /* 0: byte by byte */
        assert(e == expected);
        assert(span_equal(span_of(whole.data, whole.len), span_of(cut.data, cut.len)));
    }
    json_out_done(&whole);
    json_out_done(&cut);
}
