/* What stream.c (readers), audience.c (readers of one job in one style) and follow.c (jobs) share. */
#pragma once

#include "api/stream.h"
#include "api/watch.h"

struct streams {
    struct list dirty;  /* follows whose readers are to be given something */
    struct list again;  /* follows to be asked for again */
    struct list silent; /* begun readers, longest silent first */
    struct timer *again_timer, *beat_timer;
    struct stream_counts counts;
};

/* One who reads. */
struct reader {
    struct follow *follow;
    struct audience *audience;
    struct exchange *x;
    struct list node; /* on a list of its audience */
    struct list in_silent;
    msec wrote_at;
    struct position at; /* but while it is live: then it is where the follow is */
    uint64_t given;     /* live: how far it has had what its audience was written */
    bool begun;         /* the head of its answer is out */
    bool live;
    bool brief; /* it is told how things are, and that is all … */
    bool left;  /* … since its caller sends no more, and may have left */
    bool cut;   /* by us */
};

/* The readers of one job that are written to in one style. */
struct audience {
    struct audience *next;
    struct follow *follow;
    const struct stream_style *style;
    struct list waiting;   /* nothing is known of the job yet */
    struct list live;      /* has had all that had come before this turn; who is owed most is first */
    struct list behind;    /* is given the log from where it is */
    struct json_out fresh; /* what those who are live are owed, written once … */
    uint64_t fresh_at;     /* … from here on, counted since the beginning */
    bool over;             /* it ends with `done`, and they with it … */
    enum err error;        /* … unless that could not be made */
};

/* One job that is read here. */
struct follow {
    struct api *api;
    struct watch *watch; /* NULL: the job has ended, or nobody is left; what is owed, or a reply of Redis, is awaited */
    struct id id;
    struct audience *audiences;
    struct list in_dirty, in_again;
    struct asked *asked; /* WATCH, outstanding */
    bool reading;        /* a reply of Redis is awaited */
    bool not_live;       /* the broker has said so: Redis's next word is the last … */
    bool missed;         /* … if it was in neither before: a job may have been redriven between the two words */
    bool known;          /* `at` and `shown` are the broker's word */
    bool lost;           /* it is not sure that the broker still watches */
    bool renewed;        /* the next view is a new session's: it is right, whatever was shown */
    struct position at;  /* where those are who are live */
    uint64_t seen_to;    /* … and how long the run's log was seen to be: in between, something was left out */
    struct stream_status shown;
    msec asked_at;
    unsigned readers;
    size_t tenant_len;
    char tenant[PROTO_TENANT_BYTES];
};

/* The follow of a job that there is, or a new one, which looks for it. A new one is without readers; give it one. NULL: no
 * memory. */
struct follow *follow_of(struct api *api, const struct id *id, struct span tenant, const struct position *from);
/* The audience of that style. NULL: no memory. */
struct audience *follow_audience(struct follow *f, const struct stream_style *style);
/* Begins to look for the job. f may be gone by the time this returns. */
void follow_start(struct follow *f);
/* A reader was taken out: with the last one f is gone, and the watch with it. */
void follow_settle(struct follow *f, enum watch_end why);
/* To catch up soon, and not often. */
void follow_again(struct follow *f);
/* Asks the broker to send again what was lost, or the log to those who are behind and can take it. f may be gone afterwards. */
void follow_catch_up(struct follow *f);
void follow_ask(struct follow *f);
void follow_look(struct follow *f);
void follow_event(struct follow *f, const struct rec_event *event, struct span body);
/* Gives what is owed, to at most *budget readers. false: to some it still is. Else f may be gone. */
bool follow_flush(struct follow *f, unsigned *budget);

void follow_touch(struct follow *f); /* its readers are owed something */

/* Up to where a live reader of `a` is to be given. */
static inline uint64_t audience_end(const struct audience *a)
{
    return a->fresh_at + a->fresh.len;
}

/* f->shown, to all. */
void audience_status(struct audience *a);
void audience_progress(struct audience *a);
/* A piece of the log of that run, which begins at `from`: what each has not had of it. */
void audience_tokens(struct audience *a, uint32_t run, uint64_t from, struct span lines);
/* Another run began, at f->at; before: where those were who are live. */
void audience_restart(struct audience *a, const struct position *before);
/* Who has caught up is given what comes together with the others. */
void audience_settle(struct audience *a);
/* Gives what is owed. false: to some it still is, since the budget is used up. */
bool audience_give(struct audience *a, unsigned *budget);

/* An ended job as it is stored; log: the part of the body that is its last run's. */
struct ended {
    const struct rec_ended *record;
    struct span body, log;
};
/* What each has not had, and the end. Those who are live get it with what they are owed. */
void audience_finish(struct audience *a, const struct ended *ended);
/* There is no end to be told: whoever waits for a first word is answered with the error, others are cut. */
void audience_refuse(struct audience *a, enum err error);
/* Only those who wait for a first word. */
void audience_fail(struct audience *a, const struct fault *fault);
/* All others: their answers end as they are. */
void audience_end_now(struct audience *a);

/* Whether it may be given more of the log: what it does not take would only wait here. */
bool reader_can_take(const struct reader *r);
/* Something is known of the job: the answer begins. */
void reader_begin(struct reader *r);
/* Bytes of events. The reader may be cut by this, and stays until its connection is freed. */
void reader_give(struct reader *r, struct span bytes);
/* Out of its lists and freed; its exchange is given back, unanswered. Then settle the follow. */
struct exchange *reader_take_out(struct reader *r);
