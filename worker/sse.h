/* Server-sent events, incremental: bytes in, whole events out (WHATWG HTML, section 9.2.6, read 2026-11-20). Pure.
 *
 * Lines end with LF, CRLF or CR; comments and empty events are swallowed; several data lines are joined with LF; a cut may fall
 * at any byte. One line, and the joined data of one event, are at most `max` bytes: beyond, the stream is refused. */
#pragma once

#include "common/base.h"
#include "common/json.h"

#define SSE_LINE_MAX (1024 * 1024)
#define SSE_NAME_MAX 63

/* name: the `event:` field, "" when there was none. data: never empty. Both lent for the call. An error stops the feeding and
 * is what sse_feed returns. */
typedef enum err sse_on_event(void *arg, struct span name, struct span data);

struct sse {
    struct json_out line; /* a line whose end has not come */
    struct json_out data; /* data lines of the event so far, each with a LF behind it */
    char name[SSE_NAME_MAX + 1];
    size_t name_len;
    size_t max;
    uint8_t bom;   /* bytes of a leading byte order mark seen; 4: past it */
    bool after_cr; /* a LF now belongs to the CR before it */
};

/* max: 0 means SSE_LINE_MAX. */
void sse_init(struct sse *sse, size_t max);
void sse_done(struct sse *sse);

/* ERR_LIMIT: a line or event is too long. ERR_NOMEM. Anything else is on_event's own. After an error only sse_done may follow.
 */
MUST_USE enum err sse_feed(struct sse *sse, struct span bytes, sse_on_event *on_event, void *arg);

/* The stream has ended. An event whose lines are complete but whose blank line never came is given: some servers leave it out
 * behind their last event. A line without its end is dropped: it may be half of something. */
MUST_USE enum err sse_end(struct sse *sse, sse_on_event *on_event, void *arg);
