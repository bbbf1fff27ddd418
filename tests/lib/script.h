/* The scheduler as a transcript: give it inputs in the order and at the times of a story, and compare what it does, one line of
 * text an effect, with what was to happen.
 *
 *   script_at(t, 10);
 *   submit(t, "a", .tenant = "acme");
 *   expect(t, "#1 save body a",
 *             "#2 save job a pending",
 *             "ack api a pending @2");
 *
 * Jobs and peers have short names; a worker's instance is made of its name, so a second HELLO under one name is the same
 * instance in another session. "#n" is a write's number, "@n" what an effect waits for. After every step sched_check must
 * agree. */
#pragma once

#include "broker/core/sched.h"

#define SCRIPT_PEERS 256
#define SCRIPT_EPOCH 7

struct script {
    struct sched *sched;
    struct sched_settings settings;
    struct effects effects;
    msec now;
    bool changes; /* CHANGE effects are written too */
    bool quiet;   /* nothing is written: for long stretches */
    struct script_peer {
        char name[16];
        peer_number number;
    } peers[SCRIPT_PEERS];
    unsigned peers_count;
    char *text; /* since the last expect */
    size_t len, size;
    uint64_t seen_job;       /* JOB effects since the start, quiet or not */
    struct msg_job last_job; /* its texts are not valid any more */
    peer_number last_worker;
    const char *from, *tenant; /* see script_as */
    /* Called around sched_step; `after` is told what it returned and says whether memory ran out in it: then the input is given
     * again. */
    void (*before)(const struct input *in);
    bool (*after)(enum err e);
    void (*each)(void *arg, const struct effect *effect); /* sees every effect, quiet or not */
    void *arg;
};

/* With sched_defaults and no randomness but the seed's; started under SCRIPT_EPOCH unless the story begins with script_recover.
 */
struct script *script_new(void);
struct script *script_with(const struct sched_settings *settings);
struct script *script_unstarted(const struct sched_settings *settings);
void script_start(struct script *t, uint64_t epoch);
void script_free(struct script **script);

void script_at(struct script *t, msec now); /* and the deadlines until then, one by one */
void script_step(struct script *t, struct input *in);

struct id script_id(const char *name);
peer_number script_peer(struct script *t, const char *name);

/* Compares with the lines since the last expect; NULL ends them. expect(t) alone: nothing has happened. */
void script_expect(struct script *t, const char *file, int line, const char *const *lines);
#define expect(t, ...) script_expect(t, __FILE__, __LINE__, (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
/* Forgets the lines so far: the scene is set. */
void script_scene(struct script *t);

/* ---- sessions ---- */
struct script_held {
    const char *job;
    uint64_t n; /* of its fence, under SCRIPT_EPOCH */
};
struct script_hello {
    uint32_t slots;
    bool solo;
    const char *serves[8]; /* hash 0; none: "echo" */
    struct script_held held[16];
    bool finished; /* all of them are */
};
void script_worker(struct script *t, const char *name, struct script_hello hello);
#define worker(t, name, ...) script_worker(t, name, (struct script_hello){__VA_ARGS__})
void api(struct script *t, const char *name);
void gone(struct script *t, const char *name);
void bye(struct script *t, const char *name);
void script_beat(struct script *t, const char *name, uint32_t slots, const struct script_held *held);
/* beat(t, "w", 2, {"a", 1}) */
#define beat(t, name, slots, ...) script_beat(t, name, slots, (const struct script_held[]){__VA_ARGS__ __VA_OPT__(, ){0}})

/* ---- from api ---- */
struct script_submit {
    const char *from; /* peer; NULL: "api" */
    const char *tenant, *queue, *route, *display, *request, *key, *body_hash;
    uint8_t class, priority;
    uint64_t delay_ms, max_wait_ms, timeout_ms, backoff_base_ms, backoff_cap_ms, result_ttl_ms;
    msec run_at, deadline;
    uint16_t max_attempts;
    uint8_t ack;
    bool backoff_exact, stream, cancel_on_leave, again, watch;
};
void script_submit(struct script *t, const char *job, struct script_submit submit);
#define submit(t, job, ...) script_submit(t, job, (struct script_submit){__VA_ARGS__})
void withdraw(struct script *t, const char *job);
void cancel(struct script *t, const char *job);
void forget(struct script *t, const char *job);
void retry(struct script *t, const char *job);
void ask(struct script *t, const char *job);
void watch(struct script *t, const char *job, bool tokens);
void unwatch(struct script *t, const char *job, bool left);
void patch(struct script *t, const char *job, uint8_t priority, msec deadline);
/* Whose words all but submit are: "api", tenant "acme", unless said otherwise. */
void script_as(struct script *t, const char *from, const char *tenant);

/* ---- from workers ---- */
struct script_outcome {
    uint8_t kind;
    uint16_t http_status;
    uint64_t retry_after_ms;
    const char *result, *log, *message;
    uint64_t epoch;
};
/* n: the fence's. */
void script_outcome(struct script *t, const char *from, const char *job, uint64_t n, struct script_outcome outcome);
#define outcome(t, from, job, n, ...) script_outcome(t, from, job, n, (struct script_outcome){__VA_ARGS__})
void progress(struct script *t, const char *from, const char *job, uint64_t n, unsigned percent);
void run_event(struct script *t, const char *from, const char *job, uint64_t n, uint64_t offset, const char *bytes);
void unsent(struct script *t, const char *from, const char *job, uint64_t n);

/* ---- from the store ---- */
void stored(struct script *t); /* everything asked for */
void stored_to(struct script *t, uint64_t number);
void stall(struct script *t);
void flow(struct script *t);
void full(struct script *t);
void room(struct script *t);
void found_body(struct script *t, const char *job, const char *body);
void found_idem(struct script *t, const char *key, const char *job, const char *body_hash);
void found_ended(struct script *t, enum lookup_kind kind, const char *job, const char *tenant, enum state state,
                 const char *key);
/* With all of its record; .spec.tenant "acme" when it says none. */
void found_record(struct script *t, enum lookup_kind kind, const char *job, struct rec_ended ended);
void found_live(struct script *t, const char *job); /* LOOKUP_ANY */
void absent(struct script *t, enum lookup_kind kind, const char *name);
void unknown(struct script *t, enum lookup_kind kind, const char *name);
void rewrite(struct script *t, uint64_t epoch);
void script_recover(struct script *t, const char *job, struct rec_job record);

/* ---- operators ---- */
void pause_tenant(struct script *t, const char *tenant, bool on);
void pause_queue(struct script *t, const char *queue, bool on);
void drain(struct script *t, const char *peer); /* NULL: the broker */
void settings(struct script *t, const struct sched_settings *settings);
void tick(struct script *t);
void stand_still(struct script *t, msec ms); /* and then find out */
