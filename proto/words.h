/* The enums of words.def: enum state { STATE_PENDING … }, enum kind { KIND_NONE … } and so on, with their names. The set
 * `event` is enum job_event, because libevent has a struct event. */
#pragma once

#include "common/base.h"

#define WORDS_EACH(X) X(state) X(reason) X(class) X(ack) X(role) X(kind) X(verdict) X(event) X(usage) X(question)

enum state {
    STATE_PENDING = 1,
    STATE_PROCESSING,
    STATE_RETRYING,
    STATE_COMPLETED,
    STATE_FAILED,
    STATE_CANCELLED,
    STATE_EXPIRED,
};
enum reason {
    REASON_NONE,
    REASON_READY,
    REASON_SCHEDULED,
    REASON_BLOCKED,
    REASON_APPROVAL,
    REASON_GATED,
    REASON_UNSERVED,
    REASON_PAUSED,
};
enum class { CLASS_INTERACTIVE = 1, CLASS_STANDARD, CLASS_BACKGROUND };
enum ack { ACK_STORED = 1, ACK_SYNCED };
enum role { ROLE_BROKER = 1, ROLE_API, ROLE_WORKER, ROLE_MONITOR };
enum kind {
    KIND_NONE,
    KIND_CONNECT,
    KIND_SENT,
    KIND_OVERLOAD,
    KIND_THROTTLED,
    KIND_QUOTA,
    KIND_AUTH,
    KIND_CLIENT,
    KIND_STREAM_CUT,
    KIND_STALL,
    KIND_BAD_FRAME,
    KIND_ANSWER_TOO_LARGE,
    KIND_TIMEOUT,
    KIND_CANCELLED,
    KIND_STOPPING,
    KIND_UNSERVED,
    KIND_WORKER,
    KIND_CRASH,
    KIND_POISON,
    KIND_LOST,
    KIND_EXPIRED,
    KIND_STARVED,
    KINDS,
};
enum verdict { VERDICT_KEEP = 1, VERDICT_ABORT, VERDICT_REPLAY };
enum job_event { EVENT_STATUS = 1, EVENT_PROGRESS, EVENT_TOKEN, EVENT_RESTARTED, EVENT_ENDED };
enum usage { USAGE_NONE, USAGE_PROVIDER, USAGE_PARTIAL, USAGE_ESTIMATED };
enum question {
    QUESTION_STATS = 1,
    QUESTION_JOB,
    QUESTION_QUEUES,
    QUESTION_TENANTS,
    QUESTION_WORKERS,
    QUESTION_LEASES,
    QUESTION_TOP,
    QUESTION_EXPLAIN,
    QUESTION_GATES,
    QUESTION_ROUTES,
    QUESTION_CANCEL = 32,
    QUESTION_PAUSE,
    QUESTION_RESUME,
    QUESTION_DRAIN,
    QUESTION_RELOAD,
};

/* The wire name; "" for a number outside the set. */
#define WORDS_DECLARE(set) const char *set##_name(unsigned number);
WORDS_EACH(WORDS_DECLARE)
#undef WORDS_DECLARE

/* The number of a name, or −1. set: "state", "kind" … */
int word_number(const char *set, struct span name);

/* Whether a number read from outside belongs to the set. */
bool word_known(const char *set, unsigned number);

/* The sets by number, for tables: WORDS_state … */
enum words {
#define WORDS_NUMBER(set) WORDS_##set,
    WORDS_EACH(WORDS_NUMBER)
#undef WORDS_NUMBER
        WORDS_SETS
};
bool words_have(enum words set, unsigned number);
/* "state" … */
const char *words_name(enum words set);

static inline bool state_is_terminal(unsigned state)
{
    return state >= STATE_COMPLETED;
}
