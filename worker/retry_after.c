/* Dates by curl_getdate, which reads the three forms of RFC 9110 and needs no locale. */
#include "worker/retry_after.h"

#include <curl/curl.h>

#define TEXT_MAX 64

static bool digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* digits ["." digits] times `unit`, rounded up and held at the maximum; −1: not of this form. */
static msec number(struct span text, msec unit)
{
    size_t i = 0;
    msec whole = 0, part = 0, scale = unit;
    if (!text.len || !digit(text.data[0]))
        return -1;
    for (; i < text.len && digit(text.data[i]); i++)
        whole = MIN(whole * 10 + (text.data[i] - '0'), RETRY_AFTER_MAX_MS);
    if (i < text.len && text.data[i] == '.') {
        bool rest = false;
        for (i++; i < text.len && digit(text.data[i]); i++) {
            scale /= 10;
            part += scale * (text.data[i] - '0');
            rest = rest || (scale == 0 && text.data[i] != '0');
        }
        part += rest;
    }
    if (i != text.len)
        return -1;
    return MIN(whole * unit + part, RETRY_AFTER_MAX_MS);
}

/* Seconds since 1970, −1 when it is no HTTP date: those begin with the name of a day. */
static time_t date_of(struct span text)
{
    char copy[TEXT_MAX + 1];
    if (!text.len || text.len > TEXT_MAX || digit(text.data[0]) || memchr(text.data, '\0', text.len))
        return -1;
    memcpy(copy, text.data, text.len);
    copy[text.len] = '\0';
    return curl_getdate(copy, NULL);
}

msec retry_after_read(struct span retry_after_ms, struct span retry_after, struct span date, msec wall_ms)
{
    msec asked = number(span_trim(retry_after_ms), 1);
    if (asked >= 0)
        return asked;
    retry_after = span_trim(retry_after);
    asked = number(retry_after, 1000);
    if (asked >= 0)
        return asked;
    time_t until = date_of(retry_after), said_at = date_of(span_trim(date));
    if (until < 0)
        return 0;
    time_t from = said_at >= 0 ? said_at : (time_t)(wall_ms / 1000);
    if (until <= from)
        return 0;
    return MIN((msec)MIN(until - from, (time_t)(RETRY_AFTER_MAX_MS / 1000)) * 1000, RETRY_AFTER_MAX_MS);
}
