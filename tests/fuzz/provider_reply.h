/* A reply of a provider, as stream or whole, whole or cut: its adapter always ends with a result that is valid JSON, or a
 * failure that has a name and valid text; and where it is cut does not matter. First byte: bit 0 stream, bit 1 an error reply,
 * bits 2-4 the cut. A driver defines ADAPTER and STREAM_TYPE. */
#pragma once

#include <stdlib.h>

#include "common/utf8.h"
#include "worker/provider.h"
#include "worker/providers.h"

#define TOOLS 128 /* of one answer, at most */

static bool sound(struct span text)
{
    return !text.len || utf8_valid(text);
}

static void heard_text(void *arg, struct span text)
{
    assert(text.len && utf8_valid(text));
    ++*(unsigned *)arg;
}
static void heard_tool(void *arg, unsigned index, struct span id, struct span name, struct span arguments)
{
    assert(index < TOOLS && sound(id) && sound(name) && sound(arguments));
    ++*(unsigned *)arg;
}

struct reading {
    bool fine;
    unsigned heard;
    struct provider_failure failure;
    struct json_out result;
};

static void read_reply(struct span reply, bool stream, size_t step, struct reading *reading)
{
    struct provider_call call = {.model = "m", .stream = stream, .result_max = 4096};
    struct provider_sink sink = {heard_text, heard_text, heard_tool, &reading->heard};
    struct provider_usage tokens;
    void *state = ADAPTER.create(&call);
    if (!state)
        abort();
    ADAPTER.head(state, span_str(stream ? STREAM_TYPE : "application/json"));
    reading->fine = true;
    for (size_t at = 0; reading->fine && at < reply.len; at += step)
        reading->fine = ADAPTER.feed(state, span_of(reply.data + at, MIN(step, reply.len - at)), &sink, &reading->failure);
    bool sure = reading->fine && ADAPTER.proven(state);
    reading->fine = reading->fine && ADAPTER.end(state, &sink, &reading->result, &reading->failure);
    assert(!sure || reading->fine || reading->failure.kind == KIND_ANSWER_TOO_LARGE);
    ADAPTER.usage(state, &tokens);
    ADAPTER.destroy(state);
    if (reading->fine)
        assert(json_check(span_of(reading->result.data, reading->result.len), NULL) == ERR_OK);
    else
        assert(reading->failure.kind != KIND_NONE && reading->failure.text[0] && utf8_valid(span_str(reading->failure.text)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct span reply = {data + 1, size - 1};
    static struct reading whole, cut;
    whole = cut = (struct reading){0};
    if (data[0] & 2) {
        ADAPTER.classify(400 + data[0], reply, data[0] & 1, &whole.failure);
        assert(whole.failure.kind != KIND_NONE && utf8_valid(span_str(whole.failure.text)));
        return 0;
    }
    read_reply(reply, data[0] & 1, size, &whole);
    read_reply(reply, data[0] & 1, (data[0] >> 2 & 7) + 1, &cut);
    assert(whole.fine == cut.fine && whole.heard == cut.heard && whole.failure.kind == cut.failure.kind);
    assert(span_equal(span_of(whole.result.data, whole.result.len), span_of(cut.result.data, cut.result.len)));
    json_out_done(&whole.result);
    json_out_done(&cut.result);
    return 0;
}
