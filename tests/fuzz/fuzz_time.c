/* Instants and durations in requests: what is taken as RFC 3339 prints and parses as the same instant; a duration is within its
 * bounds; digits and units only.
 * Covers: common/clock.c */
#include <time.h>

#include "api/spec.h"
#include "common/clock.h"

static void check_instant(struct span text)
{
    msec at, again;
    char printed[CLOCK_TEXT_LEN + 1];
    if (clock_parse(text, &at))
        return;
    assert(text.len >= sizeof "2026-01-02T03:04:05Z" - 1);
    clock_print(at, printed);
    assert(strlen(printed) == CLOCK_TEXT_LEN);
    assert(!clock_parse(span_str(printed), &again));
    /* an offset may carry an instant out of the years that can be written */
    if (at >= -62167219200000 && at <= 253402300799999)
        assert(again == at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span text = span_of(data, size);
    msec ms = -1;
    check_instant(text);
    if (spec_duration(text, &ms))
        assert(ms >= 0 && size >= 1 && data[0] >= '0' && data[0] <= '9');
    return 0;
}
