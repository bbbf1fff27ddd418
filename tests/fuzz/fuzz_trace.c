/* X-Request-Id and traceparent, which go on into headers, logs and frames: what is kept is plain, and a trace that is continued
 * can be continued.
 * Covers: api/trace.c */
#include "api/trace.h"

static void check_plain(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        assert(text[i] > ' ' && text[i] < 0x7f && text[i] != '"' && text[i] != '\\');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span text = span_of(data, size);
    char own[TRACE_OWN_LEN + 1], parent[TRACE_PARENT_LEN + 1] = "untouched", again[TRACE_PARENT_LEN + 1];
    if (trace_id_ok(text)) {
        assert(size >= 1 && size <= TRACE_ID_MAX);
        check_plain((const char *)data, size);
    }
    trace_id_make(size, own);
    assert(trace_id_ok(span_str(own)));
    if (!trace_continue(text, size, parent)) {
        assert(strcmp(parent, "untouched") == 0);
        return 0;
    }
    assert(strlen(parent) == TRACE_PARENT_LEN && memcmp(parent + 3, data + 3, 32) == 0); /* the same trace */
    check_plain(parent, TRACE_PARENT_LEN);
    assert(trace_continue(span_str(parent), size, again) && strcmp(parent, again) == 0);
    return 0;
}
