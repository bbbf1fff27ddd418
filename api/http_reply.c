/* Reply heads: plain copies, no printf, since every reply passes here. */
#include "api/http.h"

#include <stdio.h>
#include <time.h>

const char *http_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } known[] = {
        {200, "OK"},
        {202, "Accepted"},
        {404, "Not Found"},
        {100, "Continue"},
        {101, "Switching Protocols"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(known); i++)
        if (known[i].status == status)
            return known[i].reason;
    return "";
}

static char *put(char *at, const char *text)
{
    size_t len = strlen(text);
    memcpy(at, text, len);
    return at + len;
}

static char *put_number(char *at, uint64_t n)
{
    char digits[20];
    size_t len = 0;
    do {
        digits[len++] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    while (len)
        *at++ = digits[--len];
    return at;
}

/* name: with its ": " */
static char *put_field(char *at, const char *name, const char *value)
{
    return value ? put(put(put(at, name), value), "\r\n") : at;
}

size_t http_reply_head(const struct http_reply *r, char *out)
{
    char *at = put_number(put(out, "HTTP/1.1 "), (uint64_t)r->status);
    at = put(put(put(at, " "), http_reason(r->status)), "\r\n");
    at = put_field(at, "Date: ", r->date);
    at = put_field(at, "Content-Type: ", r->type);
    at = put(at, "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n");
    at = put_field(at, "X-Request-Id: ", r->request_id);
    at = put_field(at, "traceparent: ", r->traceparent);
    at = put_field(at, "Allow: ", r->allow);
    if (r->retry_after_s)
        at = put(put_number(put(at, "Retry-After: "), r->retry_after_s), "\r\n");
    if (r->final)
        at = put(at, "x-should-retry: false\r\n");
    if (r->close)
        at = put(at, "Connection: close\r\n");
    if (r->streams)
        at = put(at, "X-Accel-Buffering: no\r\n");
    if (r->chunked)
        at = put(at, "Transfer-Encoding: chunked\r\n");
    if (r->status != 204 && !r->streams)
        at = put(put_number(put(at, "Content-Length: "), r->body_bytes), "\r\n");
    at = put(at, "\r\n");
    return (size_t)(at - out);
}

void http_date(int64_t unix_s, char out[HTTP_DATE_LEN + 1])
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t t = (time_t)unix_s;
    struct tm tm;
    char text[160]; /* a year beyond 9999 prints longer; cut below */
    if (!gmtime_r(&t, &tm))
        memset(&tm, 0, sizeof tm);
    snprintf(text, sizeof text, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[tm.tm_wday % 7], tm.tm_mday, months[tm.tm_mon % 12],
             tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
    memcpy(out, text, HTTP_DATE_LEN);
    out[HTTP_DATE_LEN] = '\0';
}
