/* What store.c (commits and questions), store_link.c (the connection, leadership, where to go on) and store_ask.c share. */
#pragma once

#include "broker/recover.h"
#include "broker/ring.h"
#include "broker/script.h"
#include "broker/store.h"
#include "proto/record.h"

#define STORE_IN_FLIGHT      4    /* commits on their way at once */
#define STORE_BEAT_MS        1000 /* leadership renewed, memory asked for */
#define STORE_LEADER_MS      3000 /* life of `leader` */
#define STORE_WAIT_MS        1000 /* what WAIT is given */
#define STORE_REPLY_MS       5000 /* a connection silent for longer is broken */
#define STORE_CONFIRM_MS     20   /* between two looks at Redis's AOF buffer at start … */
#define STORE_CONFIRM_MAX_MS 3000 /* … for at most so long: Redis itself waits at most 2 s */
#define STORE_FULL_PERCENT   80   /* of maxmemory: no new jobs … */
#define STORE_ROOM_PERCENT   75   /* … until it is below this again */
#define STORE_AGAIN_MAX_MS   1000 /* between two tries on a store that refuses */

enum phase { PHASE_SEEK, PHASE_RECOVER, PHASE_CONFIRM, PHASE_SERVE, PHASE_LEFT, PHASE_FENCED };

enum link_state {
    LINK_DOWN,   /* no connection */
    LINK_GREET,  /* scripts, settings and `last` are being read */
    LINK_READY,  /* commits and questions may be sent */
    LINK_SETTLE, /* a commit was refused: nothing is sent until everything on its way is answered */
    LINK_AGAIN,  /* the timer holds the next greeting */
};

struct fitness {
    bool known_aof, aof, evicts, always;
    uint64_t bytes, bytes_max;
    uint64_t sent_bytes; /* of commits until then */
};

struct store {
    struct loop *loop;
    struct redis *redis;
    struct store_options options;
    char name[256];
    struct store_hooks hooks;
    struct script commit_script, leader_script;
    enum phase phase;
    enum link_state link;
    msec not_ready_at; /* since when the link is other than READY */

    /* greeting */
    char greet_error[160];
    struct fitness fit, fit_next; /* as last known; being read */
    enum ack ack;                 /* what was promised at start */
    bool full;                    /* no new jobs */
    uint64_t beat_bytes;          /* sent in commits when its memory was last asked for */
    bool warned;                  /* that it may lose jobs */
    bool unfit;                   /* the Redis at the other end gives less than it did */
    char waits_for[256];          /* the leader that a standby was last told of */
    msec answers_at;              /* since when this connection answers who leads; MSEC_NEVER: not yet */
    msec held_at;                 /* when the last renewal of leadership that succeeded was asked for */
    msec hold_asked_at;           /* the oldest one without a reply; MSEC_NEVER: none */
    struct timer *again;          /* LINK_AGAIN, and a standby's next try */
    unsigned tries;               /* greetings without progress since */
    char refused[160];            /* the error last logged, "" while commits are taken */

    /* the epoch */
    uint64_t epoch;
    uint8_t tag_key[ID_KEY_BYTES], tag_key_before[ID_KEY_BYTES]; /* as taken: an older data set gets them again */
    size_t tag_key_before_len;
    bool rising;       /* `epoch` is new and its first `last` not yet known */
    bool rewrite_due;  /* store_must_rewrite has something to say */
    bool rewritten;    /* the caller has written everything anew */
    uint64_t behind_n; /* the store is behind what was shown until it has this commit */
    struct recover *recover;
    struct store_recovered recovered;
    msec confirm_by; /* PHASE_CONFIRM ends then at the latest */
    struct timer *beat;

    /* a sweep after a rewrite */
    struct recover *sweep;
    bool (*is_live)(void *arg, const struct id *id, const struct rec_job *job);
    void *live_arg;
    uint64_t swept;
    bool sweep_done; /* free it when its callback has returned */

    /* commits */
    struct ring ring;
    struct commit *open;
    uint64_t stored_number, written_number;
    struct list released;
    msec core_now;                       /* the core's time of the last write or turn: commits carry it */
    bool close_failed;                   /* no memory to close the open commit */
    uint64_t in_flight[STORE_IN_FLIGHT]; /* n of commits without a reply, oldest first */
    unsigned in_flight_count;
    bool waiting;        /* a WAIT is on its way … */
    uint64_t wait_n;     /* … for this commit and all before it */
    uint64_t wrote_n;    /* the last one Redis has taken, replicas aside */
    struct timer *alarm; /* wakes the loop when silence becomes a stall */

    /* questions, oldest first */
    struct list asks;
    struct record record; /* reused */

    void (*on_left)(void *arg);
    void *left_arg;
    struct store_stats stats;
};

/* store_link.c */
void link_start(struct store *s);
void link_up(void *arg);
void link_down(void *arg, const char *reason);
/* A commit was not taken. `why` NULL: a gap, which the next greeting explains. */
void link_refused(struct store *s, const char *why);
/* The last reply of those on their way has come: greet again if a commit was refused. */
void link_settled(struct store *s);
void link_on_beat(void *arg);
void link_on_again(void *arg);
void link_fenced(struct store *s);
void link_look_at_memory(struct store *s);

/* store.c */
void store_free_bare(struct store **store);
/* Commits up to n are in the store, replicas included. */
void commits_stored(struct store *s, uint64_t n);
/* WAIT for the replicas that a commit needs. False: it could not be asked. */
bool commits_wait(struct store *s, redis_on_reply *on_reply);
/* Whether enough replicas have it; else why not. */
bool commits_replicated(const struct store *s, const redisReply *reply, const char **ret_why);
/* Closes the open commit if it holds something. */
void commits_close(struct store *s);
/* Members of `live` that stand for nothing are removed. */
void commits_repair(struct store *s, const struct id *ids, size_t count);
bool store_is_behind(const struct store *s);

/* store_sweep.c */
/* On a fresh connection; at the end of a turn. */
void sweep_go_on(struct store *s);
void sweep_end(struct store *s);

/* store_ask.c */
void asks_send(struct store *s);
void asks_expire(struct store *s);
msec asks_expire_at(const struct store *s);
void asks_free(struct store *s);

static inline bool reply_is(const redisReply *r, const char *text)
{
    return r && (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS) && span_is(span_of(r->str, r->len), text);
}
static inline struct span reply_span(const redisReply *r)
{
    return r && (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS || r->type == REDIS_REPLY_ERROR)
               ? span_of(r->str, r->len)
               : (struct span){0};
}
