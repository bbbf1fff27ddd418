/* Pure: the event log of one run of a streaming job: NDJSON, one event per line, kept byte for byte until the outcome is
 * acknowledged. A position in it is an offset in bytes, so it means the same to every broker and reader.
 *
 *   {"text":"Hel","index":0}                                            index counts the lines of the run
 *   {"reasoning":"…","index":1}
 *   {"tool_call":{"index":0,"id":"…","name":"…","arguments":"…"},"index":2}    id and name only where they are new
 *   {"truncated":true,"index":3}                                        the log is full; the result is still whole
 *
 * Text that comes in small pieces is gathered into one line: the first piece of a run is a line at once, after that a line
 * holds what came within EVENTLOG_HOLD_MS, or EVENTLOG_HOLD_BYTES. */
#pragma once

#include "common/json.h"

#define EVENTLOG_HOLD_MS    20
#define EVENTLOG_HOLD_BYTES 512

enum eventlog_kind { EVENTLOG_TEXT, EVENTLOG_REASONING };

struct eventlog {
    struct json_out lines;   /* whole lines only */
    struct json_out pending; /* text not yet in a line, all of one kind */
    enum eventlog_kind kind;
    uint32_t count; /* lines */
    size_t max;
    bool full;
};

void eventlog_init(struct eventlog *log, size_t max);
void eventlog_done(struct eventlog *log);

/* Valid UTF-8, lent. Want of memory loses events, never results: the log is then full. */
void eventlog_text(struct eventlog *log, enum eventlog_kind kind, struct span text);
void eventlog_tool(struct eventlog *log, unsigned tool, struct span id, struct span name, struct span arguments);

/* Makes a line of what is pending. */
void eventlog_flush(struct eventlog *log);

/* The first offset at or after `from` where a line begins; the length if there is none. */
size_t eventlog_snap(struct span lines, uint64_t from);
