/* The same bytes, whole and cut at places the input chooses, give the same lines. */
#include "worker/ndjson.c"

static enum err note(void *arg, struct span line)
{
    assert(line.len > 0);
    json_raw(arg, line);
    json_lit(arg, "\n");
    return ERR_OK;
}

static enum err parse(const uint8_t *data, size_t size, size_t step, struct json_out *text)
{
    struct ndjson ndjson;
    enum err e = ERR_OK;
    ndjson_init(&ndjson, 256);
    for (size_t at = 0; !e && at < size; at += step)
        e = ndjson_feed(&ndjson, span_of(data + at, MIN(step, size - at)), note, text);
    if (!e)
        e = ndjson_end(&ndjson, note, text);
    ndjson_done(&ndjson);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct json_out whole = {0}, cut = {0};
    enum err e = parse(data + 1, size - 1, size, &whole);
    enum err f = parse(data + 1, size - 1, data[0] % 7 + 1, &cut);
    assert(!e == !f);
    if (!e)
        assert(span_equal(span_of(whole.data, whole.len), span_of(cut.data, cut.len)));
    json_out_done(&whole);
    json_out_done(&cut);
    return 0;
}
