/* The same bytes, whole and cut at places the input chooses, give the same events. */
#include "worker/sse.c"

#include <stdlib.h>

static enum err note(void *arg, struct span name, struct span data)
{
    struct json_out *text = arg;
    assert(data.len > 0);
    json_raw(text, name);
    json_lit(text, "=");
    json_raw(text, data);
    json_lit(text, ";");
    return ERR_OK;
}

static enum err parse(const uint8_t *data, size_t size, size_t step, struct json_out *text)
{
    struct sse sse;
    enum err e = ERR_OK;
    sse_init(&sse, 256);
    for (size_t at = 0; !e && at < size; at += step)
        e = sse_feed(&sse, span_of(data + at, MIN(step, size - at)), note, text);
    if (!e)
        e = sse_end(&sse, note, text);
    sse_done(&sse);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct json_out whole = {0}, cut = {0};
    enum err e = parse(data + 1, size - 1, size, &whole);
    enum err f = parse(data + 1, size - 1, data[0] % 7 + 1, &cut);
    assert(e == f);
    assert(span_equal(span_of(whole.data, whole.len), span_of(cut.data, cut.len)));
    json_out_done(&whole);
    json_out_done(&cut);
    return 0;
}
