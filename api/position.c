#include "api/position.h"

#include <inttypes.h>
#include <stdio.h>

/* Takes digits off the front of *text: one at least, and no more than `max` says. */
static bool take_number(struct span *text, uint64_t max, uint64_t *ret_number)
{
    uint64_t n = 0;
    size_t len = 0;
    for (; len < text->len && text->data[len] >= '0' && text->data[len] <= '9'; len++) {
        unsigned digit = text->data[len] - '0';
        if (n > (max - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    *text = span_of(text->data + len, text->len - len);
    *ret_number = n;
    return len > 0;
}

bool position_parse(struct span text, struct position *ret_position)
{
    uint64_t run, offset;
    if (!take_number(&text, UINT32_MAX, &run) || !text.len || text.data[0] != '-')
        return false;
    text = span_of(text.data + 1, text.len - 1);
    if (!take_number(&text, UINT64_MAX, &offset) || text.len)
        return false;
    *ret_position = (struct position){(uint32_t)run, offset};
    return true;
}

void position_print(const struct position *p, char out[POSITION_TEXT_LEN + 1])
{
    snprintf(out, POSITION_TEXT_LEN + 1, "%" PRIu32 "-%" PRIu64, p->run, p->offset);
}
