/* Newline-delimited JSON, incremental: bytes in, whole lines out. Pure; does not look into the lines.
 * Lines end with LF or CRLF; blank ones are swallowed; a cut may fall at any byte. A line is at most `max` bytes. */
#pragma once

#include "common/base.h"
#include "common/json.h"

#define NDJSON_LINE_MAX (1024 * 1024)

/* line: not empty, without its end, lent for the call. An error stops the feeding and is what ndjson_feed returns. */
typedef enum err ndjson_on_line(void *arg, struct span line);

struct ndjson {
    struct json_out line; /* a line whose end has not come */
    size_t max;
};

/* max: 0 means NDJSON_LINE_MAX. */
void ndjson_init(struct ndjson *ndjson, size_t max);
void ndjson_done(struct ndjson *ndjson);

/* ERR_LIMIT: a line is too long. ERR_NOMEM. Anything else is on_line's own. After an error only ndjson_done may follow. */
MUST_USE enum err ndjson_feed(struct ndjson *ndjson, struct span bytes, ndjson_on_line *on_line, void *arg);

/* The stream has ended: a last line without its end is given, since JSON itself tells whether it is whole. */
MUST_USE enum err ndjson_end(struct ndjson *ndjson, ndjson_on_line *on_line, void *arg);
