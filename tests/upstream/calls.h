/* The memory of every call: what was asked, what was done, how it ended.
 *
 * A call is open from the moment its request is complete until its answer is, or its connection
 * ends.  Ended calls go into a ring of the last 100 000, into the counters and, one JSON line each,
 * into the log file. */
#pragma once

#include "common/list.h"
#include "tests/upstream/bytes.h"
#include "tests/upstream/fault.h"

#define CALLS_KEPT 100000

enum ended {
    ENDED_ANSWERED,      /* everything scripted was handed to the kernel */
    ENDED_CLIENT_CLOSED, /* the caller left first */
    ENDED_CUT,           /* closed by the script before the end */
    ENDED_RESET,         /* likewise, with a RST */
    ENDED_SHUTDOWN,      /* this process was told to stop */
    ENDED_COUNT
};

enum call_text {
    CALL_METHOD,
    CALL_PATH,
    CALL_MODEL,
    CALL_KEY,
    CALL_PROMPT_HEAD,
    CALL_IDEMPOTENCY_KEY,
    CALL_REQUEST_ID,
    CALL_TRACEPARENT,
    CALL_TEXTS
};

struct call {
    uint64_t n;                              /* in order of arrival, from 1 */
    uint64_t era;                            /* how many resets came before it */
    int64_t at_us, first_byte_us, closed_us; /* monotonic; -1: not yet */
    int64_t wall_ms;
    const struct fault *fault;
    int peer_port;
    int status; /* 0: none was sent */
    bool stream;
    int64_t authorization_bytes; /* length of the header; -1: absent */
    enum ended ended;
    uint64_t bytes_sent;
    int64_t tokens_sent;
    const char *text[CALL_TEXTS]; /* NULL: absent; all in this allocation */
    struct list node;             /* on the list of open calls */
};

struct calls_stats {
    uint64_t arrived, ended, in_flight, peak_in_flight;
    uint64_t bytes_sent;
    int64_t tokens_sent;
    uint64_t by_status[600], by_fault[FAULT_COUNT], by_ended[ENDED_COUNT];
};

struct calls;

/* log_path NULL: no log file.  NULL with errno when the file cannot be opened. */
struct calls *calls_new(const char *log_path);
void calls_free(struct calls **p);

/* The texts are copied, each up to 1 KiB; one without data is absent.  The call is lent until calls_end. */
struct call *calls_begin(struct calls *c, const struct span text[CALL_TEXTS], const struct fault *fault);
void calls_end(struct calls *c, struct call *call, enum ended how);

const struct calls_stats *calls_stats(const struct calls *c);

/* Write out what the log still holds; once per turn of the loop. */
void calls_flush(struct calls *c);

/* Forget ended calls and counters and number from 1 again.  Calls still open are counted as in
 * flight until they end, and leave no other trace. */
void calls_reset(struct calls *c);

/* {"next":…,"lost":…,"calls":[…]}: at most `limit` ended calls from position `since` on, in the
 * order in which they ended; `lost` counts those the ring no longer has.  With `open`, also
 * "open":[…], the calls not ended, oldest first. */
void calls_print(const struct calls *c, struct bytes *out, uint64_t since, uint64_t limit, bool open);
const char *ended_name(enum ended how);
