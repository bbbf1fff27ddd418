/* A submit's JSON: whatever it is, it is refused with a sentence or becomes a body of two JSON objects that read back.
 * Covers: api/spec.c api/spec_messages.c api/spec_write.c */
#include "api/spec.h"
#include "common/json.h"
#include "common/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct spec_caller caller = {
        .tenant = span_str("t"), .request_id = span_str("r"), .idempotency_key = span_str("k"), .wall_ms = 1767322800000};
    struct spec_fault fault;
    struct submission *s = NULL;
    enum err e = spec_read(span_of(data, size), &caller, &s, &fault);
    if (e) {
        assert(!s && (fault.message[0] || e == ERR_NOMEM || e == ERR_TOO_LARGE));
        assert(utf8_valid(span_str(fault.message)) || fault.message[0]);
        return 0;
    }
    struct span body = blob_span(s->body);
    size_t display = s->spec.display_bytes;
    assert(display <= body.len && s->keyed);
    assert(!json_check(span_of(body.data, display), NULL));
    assert(!json_check(span_of(body.data + display, body.len - display), NULL));
    assert(s->spec.queue.len && s->spec.queue.len <= PROTO_QUEUE_BYTES && s->spec.route.len <= PROTO_ROUTE_BYTES);
    assert(s->spec.priority <= 10 && s->spec.input_estimate > 0);
    submission_free(&s);
    return 0;
}
