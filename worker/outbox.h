/* What a child has to tell the broker: events of watched runs, progress, outcomes. Gathers what happens in one turn and sends
 * it at the end of it, at most one frame of events per OUTBOX_EVENTS_MS, except that the first piece of a run leaves at once.
 * What the link does not take stays and is tried again. */
#pragma once

#include "proto/link.h"
#include "worker/run.h"

#define OUTBOX_EVENTS_MS    EVENTLOG_HOLD_MS
#define OUTBOX_EVENTS_BYTES (1024 * 1024) /* of one frame; the rest goes with the next */
#define OUTBOX_RUNS         4096          /* in one frame */
#define OUTBOX_PROGRESS_MS  500           /* between two reports of one run */
#define OUTBOX_PROGRESS     5             /* points between them */

struct outbox {
    struct loop *loop;
    struct link *link; /* set by its owner before the first turn */
    struct timer *timer;
    msec sent_at; /* the last frame of events */
    bool at_once;
    /* Through run->node; none of them owns a run. A run is on at most one. */
    struct list spoken; /* running: something to log, send or report */
    struct list unsent; /* finished: the outcome has not been sent in this session */
    struct list waits;  /* finished: sent, not yet acknowledged */
    struct rec_run_event events[OUTBOX_RUNS];
    struct run *runs[OUTBOX_RUNS]; /* whose events these are */
    struct rec_progress progress[OUTBOX_RUNS];
    uint64_t events_count, outcomes_count; /* sent so far */
};

/* NULL: no memory. */
MUST_USE struct outbox *outbox_new(struct loop *loop);
void outbox_free(struct outbox **outbox);

void outbox_spoke(struct outbox *outbox, struct run *run, bool at_once);
void outbox_ended(struct outbox *outbox, struct run *run);

/* Send events of this run from `from` on, which snaps forward to a line's beginning; or none any longer. For a run that is
 * watched already, from there or from where it stands, whichever is earlier. */
void outbox_watch(struct outbox *outbox, struct run *run, bool on, uint64_t from);

/* A new session, or the broker asked again: the outcome is sent (once more). */
void outbox_resend(struct outbox *outbox, struct run *run);

/* Call at the end of every turn. */
void outbox_turn(struct outbox *outbox);
