/* Three header values separated by LF: the answer is always within its bounds.
 * Covers: worker/retry_after.c */
#include "worker/retry_after.h"

static struct span next(struct span *rest)
{
    const uint8_t *end = rest->len ? memchr(rest->data, '\n', rest->len) : NULL;
    struct span field = {rest->data, end ? (size_t)(end - rest->data) : rest->len};
    *rest = end ? span_of(end + 1, rest->len - field.len - 1) : (struct span){0};
    return field;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span rest = {data, size};
    struct span in_ms = next(&rest), header = next(&rest), date = next(&rest);
    msec asked = retry_after_read(in_ms, header, date, 1795341600000);
    assert(asked >= 0 && asked <= RETRY_AFTER_MAX_MS);
    return 0;
}
