/* Any bytes as a frame: what is taken can be said again, and what is said comes back the same. The first four bytes choose
 * sender, receiver, their minor and where the header ends; shorter lengths are tried in a block of their own size, for the
 * sanitizer.
 * Covers: proto/codec.c proto/frame.c proto/scan.c */
#include <stdlib.h>

#include "proto/frame.h"

static struct span copy(const uint8_t *data, size_t len)
{
    uint8_t *bytes = malloc(len ? len : 1);
    memcpy(bytes, data, len);
    return span_of(bytes, len);
}

static void check_again(const struct frame *frame, struct span body, enum role sender, enum role receiver)
{
    static struct frame again;
    static struct frame_buffer first, second;
    const char *why = NULL;
    enum err e = frame_encode(frame->message, &frame->hello, frame->epoch, frame->received, &first);
    if (e == ERR_LIMIT) /* a missing tail is written out: the header may outgrow its limit */
        return;
    assert(!e);
    e = frame_decode(&again, span_of(first.data, first.len), body, sender, receiver, PROTO_MINOR, &why);
    assert(!e);
    assert(!frame_encode(again.message, &again.hello, again.epoch, again.received, &second));
    assert(span_equal(span_of(first.data, first.len), span_of(second.data, second.len)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct frame frame;
    if (size < 4)
        return 0;
    enum role sender = (enum role)(ROLE_BROKER + data[0] % 4), receiver = (enum role)(ROLE_BROKER + data[1] % 4);
    size_t body_len = MIN((size_t)data[3], size - 4);
    struct span header = copy(data + 4, size - 4 - body_len), body = copy(data + size - body_len, body_len);
    const char *why = NULL;
    enum err e = frame_decode(&frame, header, body, sender, receiver, data[2] % 3, &why);
    assert(!e == !why);
    if (!e)
        check_again(&frame, body, sender, receiver);
    free((void *)header.data);
    free((void *)body.data);
    return 0;
}
