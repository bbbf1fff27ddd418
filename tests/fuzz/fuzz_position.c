/* A position as a reader sends it: what is one is printed and read again as the same.
 * Covers: api/position.c */
#include "api/position.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct position p, again;
    char text[POSITION_TEXT_LEN + 1];
    if (!position_parse(span_of(data, size), &p))
        return 0;
    position_print(&p, text);
    assert(position_parse(span_str(text), &again) && position_equal(&p, &again));
    return 0;
}
