/* Several values in one setting: "tcp://10.0.0.1:5571, tcp://10.0.0.2:5571". Commas part them; blanks around each mean nothing.
 * As between any separators, "" is one empty value and "a," has a second, empty one. */
#pragma once

#include "common/base.h"

/* Takes the next value off `rest`, which begins as the whole text; false when there is none left. */
static inline bool commas_next(struct span *rest, struct span *ret_value)
{
    if (!rest->data)
        return false;
    const uint8_t *comma = memchr(rest->data, ',', rest->len);
    size_t len = comma ? (size_t)(comma - rest->data) : rest->len;
    *ret_value = span_trim(span_of(rest->data, len));
    *rest = comma ? span_of(comma + 1, rest->len - len - 1) : (struct span){0};
    return true;
}

static inline size_t commas_count(const char *text)
{
    size_t count = 1;
    for (; *text; text++)
        count += *text == ',';
    return count;
}
