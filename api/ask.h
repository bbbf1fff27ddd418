/* Questions to the broker, each matched with its answer and each with a deadline. One per api child: it holds the link.
 *
 * A submit whose answer is late is the delicate case. It stays here, with its body, until it is answered: when a session
 * breaks, it is sent again in the next one under the same id, marked `again`; after api.submit_ms it is withdrawn and its
 * caller told outcome_unknown. Other questions change nothing when asked twice, so they are simply sent again.
 *
 * While the broker has been away for ASK_PATIENCE_MS, questions are refused at once; until then they wait here for it. */
#pragma once

#include "api/spec.h"
#include "common/conf.h"
#include "common/loop.h"
#include "proto/link.h"

#define ASK_PATIENCE_MS 2000
#define ASK_MAX         65536        /* questions outstanding; beyond: overloaded */
#define ASK_BODY_BYTES  (256u << 20) /* of their bodies */

struct ask;
struct asked;

/* error 0: `frame` is the answer, which may itself carry an error. Else there was none: ERR_BROKER (nothing was done),
 * ERR_OUTCOME_UNKNOWN, ERR_NOMEM, ERR_LIMIT; frame is NULL. The question is gone when this is called. */
typedef void ask_on_answer(void *owner, enum err error, const struct frame *frame);

struct ask_hooks {
    /* Something happened to a watched job. body: this event's bytes. */
    void (*event)(void *arg, const struct rec_event *event, struct span body);
    /* A session is open, and the broker knows of no watch but those in questions that are outstanding. */
    void (*up)(void *arg);
    /* The broker has new settings and asks for ours to be read again; an error means that they were refused. */
    enum err (*reload)(void *arg);
    /* The child's numbers for /metrics, lent until the next call; returns how many. */
    uint32_t (*counters)(void *arg, const struct rec_counter **ret_counters);
    void *arg;
};

/* What the broker said last. */
struct ask_broker {
    bool up;
    bool known;    /* has been up once: shard and keys are valid */
    msec heard_at; /* on the loop's clock */
    msec heartbeat_ms;
    bool stalled;
    unsigned workers;
    unsigned shard;
    struct id_key key, key_before;
    bool has_key_before;
};

MUST_USE enum err ask_new(struct loop *loop, const struct conf *conf, const struct link_options *link, struct ask_hooks hooks,
                          struct ask **ret_ask);
/* Questions are dropped without a call. */
void ask_free(struct ask **ask);

/* Receives: once per turn, first. */
void ask_turn(struct ask *ask);
/* Sends what was asked since, in order: once per turn, after the handlers. */
void ask_flush(struct ask *ask);

const struct ask_broker *ask_broker(const struct ask *ask);

/* All of them: ret_asked may be given to ask_leave until it is answered. ERR_BROKER: away for too long; ERR_OVERLOADED;
 * ERR_NOMEM; then on_answer is not called. */
/* submission is taken, also on failure. */
MUST_USE enum err ask_submit(struct ask *ask, struct submission **submission, const struct id *id, bool watch,
                             ask_on_answer *on_answer, void *owner, struct asked **ret_asked);
/* message: ASK (watch as there), CANCEL, FORGET or RETRY. tenant: at most PROTO_TENANT_BYTES. */
MUST_USE enum err ask_job(struct ask *ask, enum message message, const struct id *id, struct span tenant, bool watch,
                          ask_on_answer *on_answer, void *owner, struct asked **ret_asked);
/* PATCH: 0 leaves as it is. */
MUST_USE enum err ask_patch(struct ask *ask, const struct id *id, struct span tenant, unsigned priority, msec deadline,
                            ask_on_answer *on_answer, void *owner, struct asked **ret_asked);
/* WATCH: all of the job's events from here on, tokens from (run, offset) on, until ask_unwatch or the session ends. */
MUST_USE enum err ask_watch(struct ask *ask, const struct id *id, struct span tenant, uint32_t run, uint64_t offset,
                            ask_on_answer *on_answer, void *owner, struct asked **ret_asked);
MUST_USE enum err ask_stats(struct ask *ask, struct span tenant, ask_on_answer *on_answer, void *owner,
                            struct asked **ret_asked);

/* Nobody wants to hear the answer any more; a submit is still seen through. Clears the pointer; accepts NULL. */
void ask_leave(struct asked **asked);
/* The same, and a submit is not seen through either: the end of its job was heard, so all is known. Said again, it could make a
 * job anew that has been forgotten meanwhile. */
void ask_settle(struct asked **asked);

/* Outstanding now. */
unsigned ask_count(const struct ask *ask);

/* left: see UNWATCH in proto/messages.def. */
void ask_unwatch(struct ask *ask, const struct id *id, bool left);
