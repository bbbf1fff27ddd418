/* A seeded random walk of the scheduler in a small world: a network that loses, doubles, delays and reorders frames, workers
 * that die, return, fall silent, a store that applies writes late and answers questions later, brokers that are killed. After
 * every step what must always hold is checked; when the faults end, every job must. A failing seed prints its number:
 * QUERN_SEED=n replays it, QUERN_STEPS=n makes the walk longer. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/core/state.h"
#include "tests/lib/core_look.h"
#include "tests/lib/fault_malloc.h"

#define SEEDS    32
#define STEPS    15000
#define JOBS     8192 /* submitted in one walk, at most */
#define LIVE_MAX 120
#define TENANTS  3
#define KEYS     6
#define WORKERS  3
#define APIS     2
#define HELD     32

static const char *const tenants[TENANTS] = {"acme", "bolt", "corp"};
static const char *const queues[2] = {"q", "mail"};
static const char *const routes[2] = {"echo", "pair"};
static const char *const names[] = {"w0", "w1", "w2", "echo", "fast", ""};

/* ---- the world ---- */

/* What a client knows and what became of its job. */
struct client {
    uint8_t tenant, key, body; /* key KEYS: none */
    uint8_t api;
    bool sent, acked, refused, withdrawn, forgotten, no_memory;
    bool waits; /* for an ACK */
    msec sent_at;
    uint8_t state;      /* terminal state shown to somebody, 0 none */
    struct fence fence; /* of its last lease */
    uint32_t run;
    unsigned failures; /* outcomes that count, taken by the broker */
};

/* The store, by job. */
struct kept {
    bool live, body, ended;
    bool keyed;
    unsigned failures;
    uint8_t state; /* of r: */
    struct rec_job record;
    struct rec_attempt attempts[PROTO_ATTEMPTS];
};
struct kept_key {
    bool there;
    unsigned job;
    uint8_t body;
};

struct write {
    struct write *next;
    enum effect_type type;
    uint64_t number;
    unsigned job;
    struct kept kept;
    uint8_t hash[2], body;
    uint64_t ttl_ms;
    uint8_t joined;
};

struct asked {
    struct asked *next;
    struct lookup_key key;
    uint64_t number; /* of the last write before it */
    msec due_at, asked_at;
};

/* A frame to or from a peer, or held until its write is stored. */
struct frame_ {
    struct frame_ *next;
    enum effect_type type; /* to a peer; 0: to the broker */
    enum input_type input;
    peer_number peer;
    uint64_t after;
    msec due_at;
    unsigned job, asked; /* asked: the job that was submitted */
    struct fence fence;
    uint8_t error, state, kind;
    bool existing, body_ok;
    uint64_t retry_after_ms;
    struct rec_lease list[HELD];
    uint8_t verdicts[HELD];
    unsigned count;
};

struct run {
    unsigned job;
    struct fence fence;
    msec done_at, said_at;
    bool finished;
    uint8_t kind;
};

struct model_worker {
    bool alive;
    bool solo;
    uint32_t slots;
    uint32_t life;    /* part of its instance */
    peer_number peer; /* 0: away */
    bool gone_owed;
    peer_number gone_peer;
    msec back_at, silent_until, beat_at;
    struct run runs[HELD];
    unsigned count;
};

struct world {
    struct sched *s;
    uint64_t seed, random, step;
    msec now;
    uint64_t epoch, next_number;
    peer_number peers;
    peer_number apis[APIS];
    struct client clients[JOBS];
    struct kept kept[JOBS];
    struct kept_key keys[TENANTS][KEYS];
    unsigned submitted;
    struct write *writes, **writes_end;
    uint64_t applied;
    struct asked *questions;
    struct frame_ *held, **held_end, *net;
    struct model_worker workers[WORKERS];
    bool stalled, calm;
    bool faulty; /* memory runs out now and then */
    msec next_apply;
    bool other_settings;
    unsigned traced;
    int input;
    struct run told; /* by the OUTCOME that is being taken */
    uint64_t refused_steps, jobs_sent, ended, restarts, crashes;
};

static const struct sched_deployment deployments[] = {{.name = "echo", .model = ""},
                                                      {.name = "fast", .model = "", .concurrency = 2}};
static const struct sched_route route_rows[] = {
    {.name = "pair", .deployments = (const uint32_t[]){1, 0}, .deployments_count = 2},
    {.name = "*", .deployments = (const uint32_t[]){0}, .deployments_count = 1},
};

static struct sched_settings world_settings(bool other)
{
    struct sched_settings settings = sched_defaults;
    settings.jobs_max = LIVE_MAX;
    settings.tenant_jobs_max = LIVE_MAX - 20;
    settings.body_cache_bytes = 200;
    settings.lookups_max = 20;
    settings.deployments = deployments;
    settings.deployments_count = 2;
    settings.routes = route_rows;
    settings.routes_count = 2;
    if (other)
        settings.head_start_ms = 10000;
    return settings;
}

static _Noreturn void broken(const struct world *w, const char *what)
{
    fprintf(stderr, "seed %" PRIu64 ", step %" PRIu64 ", at %" PRId64 ", after input %d: %s\n", w->seed, w->step, w->now,
            w->input, what);
    abort();
}

static void must(const struct world *w, bool ok, const char *what)
{
    if (!ok)
        broken(w, what);
}

/* QUERN_JOB=n with QUERN_SEED: what happens to one job. */
static PRINTF(3, 4) void trace(const struct world *w, unsigned job, const char *format, ...)
{
    if (job != w->traced || !job)
        return;
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%" PRIu64 " %" PRId64 ": ", w->step, w->now);
    vfprintf(stderr, format, args);
    va_end(args);
}

static uint64_t draw(struct world *w, uint64_t below) /* splitmix64 */
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return below ? (z ^ z >> 31) % below : 0;
}
static bool chance(struct world *w, unsigned percent)
{
    return draw(w, 100) < percent;
}

static void *grab(size_t bytes)
{
    void *p = calloc(1, bytes);
    assert_non_null(p);
    return p;
}

static struct id id_of(unsigned job)
{
    struct id id = {.bytes = {0}};
    id.bytes[7] = ID_STORED;
    memcpy(id.bytes + 8, &job, sizeof job);
    return id;
}
static unsigned job_of(const struct id *id)
{
    unsigned job;
    memcpy(&job, id->bytes + 8, sizeof job);
    return job;
}

static void body_text(unsigned job, char out[64], unsigned *ret_display)
{
    *ret_display = job % 3 ? (unsigned)sprintf(out, "display of %u;", job) : 0;
    sprintf(out + *ret_display, "request of %u", job);
}
static struct blob *body_of(unsigned job)
{
    char text[64];
    unsigned display;
    body_text(job, text, &display);
    struct blob *blob = blob_copy(span_str(text));
    assert_non_null(blob);
    return blob;
}

/* Text that outlives a scheduler. */
static struct span lasting(struct span text)
{
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (span_is(text, names[i]))
            return span_str(names[i]);
    for (size_t i = 0; i < TENANTS; i++)
        if (span_is(text, tenants[i]))
            return span_str(tenants[i]);
    for (size_t i = 0; i < 2; i++) {
        if (span_is(text, queues[i]))
            return span_str(queues[i]);
        if (span_is(text, routes[i]))
            return span_str(routes[i]);
    }
    return span_str("?");
}

static void hash_of(uint8_t tenant, uint8_t key, uint8_t out[32])
{
    memset(out, 0x55, 32);
    out[0] = tenant;
    out[1] = key;
}

/* ---- the broker's effects ---- */

static void step(struct world *w, struct input *in);

static struct model_worker *worker_at(struct world *w, peer_number peer)
{
    for (int i = 0; i < WORKERS; i++)
        if (peer && w->workers[i].peer == peer)
            return &w->workers[i];
    return NULL;
}

static void send_frame(struct world *w, struct frame_ *f)
{
    f->due_at = w->now + (w->calm ? 1 : (msec)draw(w, chance(w, 5) ? 2000 : 20));
    f->next = w->net;
    w->net = f;
}

/* To the network: lost, doubled, or on its way. */
static void post(struct world *w, const struct frame_ *f)
{
    if (!w->calm && chance(w, 2))
        return;
    int copies = !w->calm && chance(w, 2) ? 2 : 1;
    while (copies--) {
        struct frame_ *copy = grab(sizeof *copy);
        *copy = *f;
        send_frame(w, copy);
    }
}

/* What a client sees is true for good. */
static void seen(struct world *w, unsigned job, uint8_t state)
{
    struct client *c = &w->clients[job];
    trace(w, job, "seen in state %u\n", state);
    if (c->state && c->state != state)
        fprintf(stderr, "job %u: %u, then %u\n", job, c->state, state);
    must(w, !c->state || c->state == state, "an ended job was shown in another state");
    if (!state_is_terminal(state))
        return;
    must(w, w->kept[job].ended || c->forgotten, "an end was shown that is not stored");
    must(w, !w->kept[job].ended || w->kept[job].state == state, "another end was shown than is stored");
    c->state = state;
}

/* A frame that waits for nothing more leaves. */
static void leave(struct world *w, const struct frame_ *f)
{
    struct client *c = &w->clients[f->job];
    switch (f->type) {
    case EFFECT_ACK:
        if (f->error) {
            c->waits = false;
            return;
        }
        if (f->asked == f->job && c->withdrawn)
            return; /* its client has given up */
        if (!w->kept[f->job].live && !w->kept[f->job].ended && !c->forgotten)
            fprintf(stderr, "job %u, asked for with %u\n", f->job, f->asked);
        must(w, w->kept[f->job].live || w->kept[f->job].ended || c->forgotten, "a job was acknowledged and is not stored");
        c->acked = true;
        c->waits = false;
        if (f->state)
            seen(w, f->job, f->state);
        return;
    case EFFECT_ANSWER:
    case EFFECT_EVENT:
        if (f->state && (!f->error || f->error == ERR_ENDED))
            seen(w, f->job, f->state);
        return;
    case EFFECT_JOB:
        must(w, f->body_ok, "a JOB carries another job's request");
        must(w, w->kept[f->job].live || w->kept[f->job].ended || c->withdrawn, "a JOB left before it was stored");
        if (!worker_at(w, f->peer)) {
            struct rec_lease lease = {id_of(f->job), f->fence};
            if (chance(w, 50))
                step(w, &(struct input){.type = INPUT_UNSENT, .peer = f->peer, .unsent = &lease});
            return;
        }
        if (!w->calm && chance(w, 1)) {
            struct rec_lease lease = {id_of(f->job), f->fence};
            step(w, &(struct input){.type = INPUT_UNSENT, .peer = f->peer, .unsent = &lease});
            return;
        }
        w->jobs_sent++;
        break;
    default:
        break;
    }
    post(w, f);
}

static void release_held(struct world *w)
{
    for (struct frame_ *f; (f = w->held) && f->after <= w->applied;) {
        w->held = f->next;
        if (!w->held)
            w->held_end = &w->held;
        leave(w, f);
        free(f);
    }
}

/* `held` is in order of `after`: numbers of one moment never lie before those of an earlier one by more than what is waiting,
 * so a search from the front does. */
static void hold(struct world *w, const struct frame_ *f)
{
    struct frame_ *copy = grab(sizeof *copy);
    *copy = *f;
    struct frame_ **at = &w->held;
    while (*at && (*at)->after <= f->after)
        at = &(*at)->next;
    copy->next = *at;
    *at = copy;
    if (!copy->next)
        w->held_end = &copy->next;
}

static void copy_record(struct kept *kept, const struct rec_job *from)
{
    kept->record = *from;
    struct rec_spec *spec = &kept->record.spec;
    spec->tenant = lasting(spec->tenant);
    spec->queue = lasting(spec->queue);
    spec->route = lasting(spec->route);
    spec->request_id = spec->trace = (struct span){0};
    kept->record.worker = lasting(from->worker);
    kept->record.deployment = lasting(from->deployment);
    kept->keyed = from->idem.len == 32;
    kept->record.idem = (struct span){0};
    for (uint32_t i = 0; i < from->attempts_count; i++) {
        kept->attempts[i] = from->attempts[i];
        kept->attempts[i].worker = lasting(from->attempts[i].worker);
        kept->attempts[i].deployment = lasting(from->attempts[i].deployment);
        kept->attempts[i].message = (struct span){0};
    }
    kept->record.attempts = NULL;
}

static void take_write(struct world *w, const struct effect *e)
{
    must(w, e->number == w->next_number++, "a write's number leaves a gap");
    struct write *write = grab(sizeof *write);
    write->type = e->type;
    write->number = e->number;
    write->ttl_ms = e->ttl_ms;
    write->joined = e->joined;
    if (e->type == EFFECT_SAVE_IDEM || e->type == EFFECT_DROP_IDEM) {
        memcpy(write->hash, e->hash, 2);
        write->job = e->type == EFFECT_SAVE_IDEM ? job_of(&e->idem_record.id) : 0;
        write->body = e->idem_record.body_hash[0];
    } else
        write->job = job_of(&e->id);
    struct client *c = &w->clients[write->job];
    if (e->type == EFFECT_SAVE_JOB) {
        const struct rec_job *r = &e->job_record;
        copy_record(&write->kept, r);
        const struct job *job = job_table_find(&w->s->jobs, &e->id);
        must(w, (r->failed_attempts < 3 && r->solo_crashes < 3) || (job && job->ending),
             "a job has had all its attempts and is live");
        if (!r->run) /* made, maybe a second time: a broker was killed before the first was stored */
            c->run = c->failures = 0;
        if (w->input == INPUT_OUTCOME && write->job == w->told.job && retry_rule(w->told.kind).counted &&
            r->state == STATE_RETRYING) {
            must(w, ++c->failures < 3, "a job is tried again that has had all its attempts");
            must(w, fence_compare(w->told.fence, c->fence) == 0, "the outcome of another run counts");
        }
        write->kept.failures = c->failures;
        if (r->state == STATE_PROCESSING && r->run != c->run) {
            if (fence_compare(c->fence, r->fence) >= 0)
                fprintf(stderr, "job %u: %" PRIu64 ":%" PRIu64 " then %" PRIu64 ":%" PRIu64 "\n", write->job, c->fence.epoch,
                        c->fence.n, r->fence.epoch, r->fence.n);
            must(w, fence_compare(c->fence, r->fence) < 0, "a fence does not grow");
            must(w, !w->stalled, "a lease was given while the store was behind");
            c->fence = r->fence;
            c->run = r->run;
        }
    }
    if (e->type == EFFECT_SAVE_ENDED) {
        char text[64];
        unsigned display;
        body_text(write->job, text, &display);
        must(w, !e->parts[0].len || span_equal(e->parts[0], span_of(text, display)),
             "a record shows another job's display part");
        write->kept.state = e->ended.state;
        write->kept.keyed = e->ended.idem.len == 32;
        bool told = w->input == INPUT_OUTCOME && write->job == w->told.job &&
                    (e->ended.state == STATE_COMPLETED || (w->told.kind && e->ended.kind == w->told.kind));
        must(w, !told || fence_compare(w->told.fence, c->fence) == 0, "the outcome of another run ends a job");
        must(w, e->ended.kind != KIND_POISON || e->ended.state == STATE_FAILED, "poison is a failure");
    }
    trace(w, write->job, "write %" PRIu64 " of type %d, state %u, given after input %d\n", e->number, e->type,
          write->kept.record.state, w->input);
    *w->writes_end = write;
    w->writes_end = &write->next;
}

static void take_effect(struct world *w, const struct effect *e)
{
    struct frame_ f = {.type = e->type, .peer = e->peer, .after = e->after};
    must(w, e->after < w->next_number, "an effect waits for a write that was never given");
    switch (e->type) {
    case EFFECT_WELCOME:
        f.count = e->welcome.verdicts_count;
        for (unsigned i = 0; i < f.count; i++) {
            f.list[i] = (struct rec_lease){e->welcome.verdicts[i].id, e->welcome.verdicts[i].fence};
            f.verdicts[i] = e->welcome.verdicts[i].verdict;
        }
        break;
    case EFFECT_HEARTBEAT_ACK:
        f.count = e->heartbeat_ack.drop_count;
        for (unsigned i = 0; i < f.count; i++)
            f.list[i] = e->heartbeat_ack.drop[i];
        break;
    case EFFECT_ACK:
        f.job = job_of(&e->ack.id);
        f.error = (uint8_t)e->ack.error;
        f.state = e->ack.state;
        f.existing = e->ack.existing;
        f.asked = (unsigned)e->ack.ref;
        if (f.existing) /* ref: the job that was submitted; it is not made */
            w->clients[e->ack.ref].refused = e->ack.ref != f.job, w->clients[e->ack.ref].waits = false;
        if (f.error)
            w->clients[f.job].refused = true;
        break;
    case EFFECT_ANSWER:
        f.job = job_of(&e->answer.id);
        f.error = (uint8_t)e->answer.error;
        f.state = e->answer.view.state;
        if (f.error == ERR_NOT_LIVE) {
            const struct job *job = job_table_find(&w->s->jobs, &e->answer.id);
            const struct client *c = &w->clients[f.job];
            must(w, !job || !job->state || e->answer.ref == 99, "not_live was said of a live job");
            must(w, e->answer.ref == 99 || !c->acked || w->kept[f.job].ended || c->forgotten,
                 "not_live was said of a job whose end is not stored");
        }
        break;
    case EFFECT_EVENT:
        f.job = job_of(&e->event.id);
        f.state = e->event.state;
        break;
    case EFFECT_JOB: {
        char text[64];
        unsigned display;
        f.job = job_of(&e->job.id);
        f.fence = e->job.fence;
        body_text(f.job, text, &display);
        size_t len = e->body_len ? e->body_len : e->body->len - e->body_from;
        f.body_ok = span_is(span_of(e->body->data + e->body_from, len), text + display);
        break;
    }
    case EFFECT_CANCEL_RUN:
        f.job = job_of(&e->cancel_run.id);
        f.fence = e->cancel_run.fence;
        break;
    case EFFECT_WATCH_RUN:
        return;
    case EFFECT_OUTCOME_ACK:
        f.job = job_of(&e->outcome_ack.id);
        f.fence = e->outcome_ack.fence;
        break;
    case EFFECT_LOOKUP: {
        struct asked *q = grab(sizeof *q);
        q->key = e->lookup;
        q->number = w->next_number - 1;
        q->asked_at = w->now;
        trace(w, e->lookup.kind == LOOKUP_IDEM ? 0 : job_of(&e->lookup.id), "question %d, given after input %d\n",
              e->lookup.kind, w->input);
        q->due_at = w->now + (w->calm ? 0 : (msec)draw(w, 200));
        q->next = w->questions;
        w->questions = q;
        return;
    }
    case EFFECT_CHANGE:
        return;
    default:
        take_write(w, e);
        return;
    }
    must(w, e->peer != 0, "a frame is for nobody");
    trace(w, f.job, "frame %d to %u, state %u, error %u, after %" PRIu64 ", given after input %d\n", f.type, f.peer, f.state,
          f.error, f.after, w->input);
    hold(w, &f);
}

/* ---- what must hold after every step ---- */

static void check(struct world *w)
{
    const struct sched *s = w->s;
    const char *wrong = sched_check(s);
    if (wrong)
        broken(w, wrong);
    for (const struct worker *worker = s->roster.workers; worker; worker = worker->hh.next)
        must(w, worker->used <= worker->slots, "a worker has more leases than slots");
    char words[256];
    if (core_idles(s, words, sizeof words)) {
        fprintf(stderr, "%s\n", words);
        broken(w, "a job waits that a free slot could take");
    }
    for (int i = 0; i < 2; i++)
        must(w, !deployments[i].concurrency || s->roster.deployments[i].active <= deployments[i].concurrency + WORKERS,
             "a deployment has more calls than it may");
}

static void take_effects(struct world *w, struct effects *effects)
{
    for (size_t i = 0; i < effects->count; i++)
        take_effect(w, &effects->list[i]);
    effects_clear(effects);
}

static void step(struct world *w, struct input *in)
{
    struct effects mine = {0};
    w->step++;
    w->input = in->type;
    if (in->type == INPUT_OUTCOME)
        w->told = (struct run){.job = job_of(&in->outcome->id), .fence = in->outcome->fence, .kind = in->outcome->kind};
    if (w->faulty && !w->calm && chance(w, 20))
        fault_arm(1 + (long)draw(w, 12), chance(w, 30));
    enum err e = sched_step(w->s, w->now, in, &mine);
    bool fired = fault_disarm();
    check(w);
    take_effects(w, &mine);
    if (e) { /* what the input did is undone: it may be given again */
        must(w, e == ERR_NOMEM && fired, "a step fails for no reason");
        w->refused_steps++;
        must(w, sched_step(w->s, w->now, in, &mine) == ERR_OK, "a step fails again");
        check(w);
        take_effects(w, &mine);
    }
    effects_done(&mine);
    release_held(w);
}

/* ---- the store ---- */

static void apply(struct world *w, const struct write *write)
{
    struct kept *kept = &w->kept[write->job];
    struct kept_key *key = write->hash[0] < TENANTS && write->hash[1] < KEYS ? &w->keys[write->hash[0]][write->hash[1]] : NULL;
    switch (write->type) {
    case EFFECT_SAVE_JOB:
        must(w, !kept->ended, "a job is saved that has ended");
        kept->record = write->kept.record;
        memcpy(kept->attempts, write->kept.attempts, sizeof kept->attempts);
        kept->keyed = write->kept.keyed;
        kept->failures = write->kept.failures;
        kept->live = true;
        break;
    case EFFECT_SAVE_BODY:
        kept->body = true;
        break;
    case EFFECT_SAVE_ENDED:
        must(w, !kept->ended || kept->state == write->kept.state, "a job has two ends");
        must(w, kept->live || kept->ended, "a job ends that was never stored");
        w->ended += !kept->ended;
        kept->ended = true;
        kept->live = false;
        kept->state = write->kept.state;
        kept->keyed = write->kept.keyed;
        break;
    case EFFECT_SAVE_IDEM:
        assert(key);
        *key = (struct kept_key){true, write->job, write->body};
        break;
    case EFFECT_DROP_JOB:
        kept->live = kept->body = false;
        break;
    case EFFECT_DROP_BODY:
        kept->body = write->ttl_ms > 0;
        break;
    case EFFECT_DROP_ENDED:
        kept->ended = kept->body = false;
        w->clients[write->job].forgotten = true;
        break;
    case EFFECT_DROP_IDEM:
        assert(key);
        key->there = false;
        break;
    default:
        break;
    }
    w->applied = write->number;
}

static void store_writes(struct world *w, unsigned most)
{
    bool together = false; /* a key and its job share a commit */
    for (struct write *write; (most || together) && (write = w->writes);) {
        most -= most > 0;
        together = write->joined || write->type == EFFECT_DROP_IDEM;
        w->writes = write->next;
        if (!w->writes)
            w->writes_end = &w->writes;
        apply(w, write);
        free(write);
    }
    step(w, &(struct input){.type = INPUT_STORED, .stored.number = w->applied});
}

static void answer_question(struct world *w, const struct asked *q)
{
    struct input in = {.type = INPUT_ABSENT};
    struct rec_idem idem = {0};
    struct rec_ended ended = {0};
    uint8_t hash[32];
    if (w->now - q->asked_at > 2000) {
        in.type = INPUT_UNKNOWN;
    } else if (q->key.kind == LOOKUP_IDEM) {
        const struct kept_key *key = &w->keys[q->key.hash[0]][q->key.hash[1]];
        if (key->there) {
            in.type = INPUT_FOUND;
            idem.id = id_of(key->job);
            memset(idem.body_hash, key->body, 32);
            in.found.idem = &idem;
        }
    } else {
        unsigned job = job_of(&q->key.id);
        const struct kept *kept = &w->kept[job];
        const struct client *c = &w->clients[job];
        if (q->key.kind == LOOKUP_BODY && kept->body) {
            in.type = INPUT_FOUND;
            in.body = body_of(job);
        } else if (q->key.kind != LOOKUP_BODY && kept->ended) {
            in.type = INPUT_FOUND;
            ended.state = kept->state;
            ended.spec.tenant = span_str(tenants[c->tenant]);
            hash_of(c->tenant, c->key, hash);
            ended.idem = kept->keyed ? span_of(hash, 32) : (struct span){0};
            in.found.ended = &ended;
        } else if (q->key.kind == LOOKUP_ANY && kept->live)
            in.type = INPUT_FOUND;
    }
    if (in.type == INPUT_FOUND)
        in.found.key = q->key;
    else
        in.absent.key = q->key;
    struct blob *body = in.body;
    trace(w, q->key.kind == LOOKUP_IDEM ? 0 : job_of(&q->key.id), "question %d is answered by input %d\n", q->key.kind,
          in.type);
    step(w, &in);
    blob_free(&body);
}

static void store_answers(struct world *w)
{
    for (struct asked **at = &w->questions, *q; (q = *at);) {
        bool late = w->now - q->asked_at > 2000;
        if (q->due_at > w->now || (q->number > w->applied && !late)) {
            at = &q->next;
            continue;
        }
        *at = q->next;
        answer_question(w, q);
        free(q);
        at = &w->questions;
    }
}

/* ---- api children ---- */

static void submit_job(struct world *w, unsigned job, bool again)
{
    struct client *c = &w->clients[job];
    uint8_t hash[32], body_hash[32];
    char text[64];
    unsigned display;
    uint64_t random = w->random; /* what a job asks for is a matter of its number */
    w->random = job * 7919 + w->seed;
    body_text(job, text, &display);
    hash_of(c->tenant, c->key, hash);
    memset(body_hash, c->body, 32);
    struct msg_submit msg = {.ref = job, .id = id_of(job), .again = again, .watch = chance(w, 40)};
    msg.spec = (struct rec_spec){
        .tenant = span_str(tenants[c->tenant]),
        .queue = span_str(queues[draw(w, 2)]),
        .route = span_str(routes[draw(w, 2)]),
        .class = (uint8_t)draw(w, 4),
        .priority = (uint8_t)draw(w, 11),
        .delay_ms = chance(w, 10) ? draw(w, 5000) : 0,
        .max_wait_ms = chance(w, 10) ? 1 + draw(w, 30000) : 0,
        .deadline = chance(w, 5) ? w->now + (msec)draw(w, 60000) : 0,
        .run_at = chance(w, 5) ? w->now + (msec)draw(w, 10000) : 0,
        .stream = chance(w, 30),
        .cancel_on_leave = chance(w, 10),
        .display_bytes = display,
        .request_id = span_str(chance(w, 50) ? "a request id" : ""),
    };
    w->random = random;
    if (c->key < KEYS) {
        msg.idem = span_of(hash, 32);
        msg.body_hash = span_of(body_hash, 32);
    }
    c->sent = c->waits = true;
    c->sent_at = w->now;
    AUTO(blob_free) struct blob *body = body_of(job);
    step(w, &(struct input){.type = INPUT_SUBMIT, .peer = w->apis[c->api], .submit = &msg, .body = body});
}

static void submit_new(struct world *w)
{
    if (w->submitted == JOBS - 1)
        return;
    unsigned job = ++w->submitted;
    struct client *c = &w->clients[job];
    *c = (struct client){.tenant = (uint8_t)draw(w, TENANTS), .api = (uint8_t)draw(w, APIS), .key = KEYS};
    if (chance(w, 30)) {
        c->key = (uint8_t)draw(w, KEYS);
        c->body = (uint8_t)chance(w, 20);
    }
    submit_job(w, job, false);
}

/* Mostly one of the last ones. */
static unsigned some_job(struct world *w)
{
    if (!w->submitted)
        return 0;
    unsigned span = chance(w, 80) ? MIN(w->submitted, 100u) : w->submitted;
    return w->submitted - (unsigned)draw(w, span);
}

static void api_acts(struct world *w)
{
    unsigned job = some_job(w), act = (unsigned)draw(w, 100);
    if (!job)
        return;
    struct client *c = &w->clients[job];
    struct id id = id_of(job);
    struct span tenant = span_str(tenants[chance(w, 95) ? c->tenant : draw(w, TENANTS)]);
    struct input in = {.peer = w->apis[draw(w, APIS)]};
    struct msg_cancel cancel = {.ref = 99, .id = id, .tenant = tenant};
    struct msg_forget forget = {.ref = 99, .id = id, .tenant = tenant};
    struct msg_ask ask = {
        .ref = span_is(tenant, tenants[c->tenant]) ? 98 : 99, .id = id, .tenant = tenant, .watch = chance(w, 50)};
    struct msg_watch watch = {.ref = 99, .id = id, .tenant = tenant, .tokens = chance(w, 50)};
    struct msg_unwatch unwatch = {.id = id, .left = chance(w, 50)};
    struct msg_patch patch = {.ref = 99, .id = id, .tenant = tenant, .priority = (uint8_t)draw(w, 12)};
    struct msg_withdraw withdraw = {.id = id};
    if (chance(w, 20))
        patch.deadline = w->now + (msec)draw(w, 50000);
    if (act < 25) {
        in.type = INPUT_CANCEL;
        in.cancel = &cancel;
    } else if (act < 35) {
        in.type = INPUT_FORGET;
        in.forget = &forget;
    } else if (act < 50) {
        in.type = INPUT_ASK;
        in.ask = &ask;
    } else if (act < 65) {
        in.type = INPUT_WATCH;
        in.watch = &watch;
    } else if (act < 75) {
        in.type = INPUT_UNWATCH;
        in.unwatch = &unwatch;
    } else if (act < 82) {
        in.type = INPUT_PATCH;
        in.patch = &patch;
    } else if (act < 92) { /* sent before, and no answer yet, or a frame that came twice */
        if (!c->withdrawn && !c->forgotten && !w->calm && c->waits && !c->acked && !c->refused)
            submit_job(w, job, true);
        return;
    } else {
        if (!c->waits || c->acked)
            return;
        c->withdrawn = true;
        c->waits = false;
        in.type = INPUT_WITHDRAW;
        in.withdraw = &withdraw;
    }
    step(w, &in);
}

static void api_joins(struct world *w, int i)
{
    if (w->apis[i])
        step(w, &(struct input){.type = INPUT_GONE, .peer = w->apis[i]});
    w->apis[i] = ++w->peers;
    struct msg_hello hello = {.role = ROLE_API};
    step(w, &(struct input){.type = INPUT_HELLO, .peer = w->apis[i], .hello = &hello});
}

/* ---- workers ---- */

static void worker_joins(struct world *w, int i)
{
    struct model_worker *m = &w->workers[i];
    struct rec_held held[HELD];
    struct rec_served served[2] = {{.name = span_str("echo")}, {.name = span_str("fast")}};
    struct msg_hello hello = {.role = ROLE_WORKER,
                              .slots = m->slots,
                              .solo = m->solo,
                              .name = span_str(names[i]),
                              .served = served,
                              .served_count = i == 1 ? 1 : 2,
                              .held = held};
    hello.instance[0] = (uint8_t)(i + 1);
    memcpy(hello.instance + 1, &m->life, sizeof m->life);
    for (unsigned r = 0; r < m->count; r++)
        held[hello.held_count++] =
            (struct rec_held){.id = id_of(m->runs[r].job), .fence = m->runs[r].fence, .finished = m->runs[r].finished};
    if (m->gone_peer && !m->gone_owed)
        m->gone_peer = 0; /* replaced: the core learns of it by this HELLO alone */
    m->peer = ++w->peers;
    m->beat_at = w->now + 5000;
    for (unsigned r = 0; r < m->count; r++)
        m->runs[r].said_at = 0;
    step(w, &(struct input){.type = INPUT_HELLO, .peer = m->peer, .hello = &hello});
}

static void tell_gone(struct world *w, struct model_worker *m)
{
    peer_number peer = m->gone_peer;
    m->gone_peer = 0;
    m->gone_owed = false;
    step(w, &(struct input){.type = INPUT_GONE, .peer = peer});
}

/* The broker's socket notices, at once or later. */
static void worker_leaves(struct world *w, struct model_worker *m, bool dies)
{
    if (m->peer && m->gone_peer)
        tell_gone(w, m);
    if (m->peer)
        m->gone_peer = m->peer;
    m->peer = 0;
    m->gone_owed |= dies && m->gone_peer;
    if (m->gone_peer && chance(w, 60))
        tell_gone(w, m);
    m->back_at = w->now + (msec)draw(w, 1200);
    if (!dies)
        return;
    w->crashes++;
    m->life++;
    m->count = 0;
}

static void drop_run(struct model_worker *m, unsigned at)
{
    m->runs[at] = m->runs[--m->count];
}

static int find_run(const struct model_worker *m, unsigned job, struct fence fence)
{
    for (unsigned i = 0; i < m->count; i++)
        if (m->runs[i].job == job && fence_compare(m->runs[i].fence, fence) == 0)
            return (int)i;
    return -1;
}

static void finish_run(struct world *w, struct run *run, uint8_t kind)
{
    (void)w;
    if (run->finished)
        return;
    run->finished = true;
    run->kind = kind;
    run->said_at = 0;
}

static void worker_hears(struct world *w, struct model_worker *m, const struct frame_ *f)
{
    int at = find_run(m, f->job, f->fence);
    switch (f->type) {
    case EFFECT_JOB:
        for (unsigned i = 0; i < m->count; i++)
            if (m->runs[i].job == f->job) {
                if (fence_compare(m->runs[i].fence, f->fence) >= 0)
                    return;
                drop_run(m, i);
                break;
            }
        if (m->count == HELD)
            return;
        m->runs[m->count++] = (struct run){.job = f->job, .fence = f->fence, .done_at = w->now + (msec)draw(w, 3000)};
        return;
    case EFFECT_CANCEL_RUN:
        if (at >= 0)
            finish_run(w, &m->runs[at], KIND_CANCELLED);
        return;
    case EFFECT_OUTCOME_ACK:
        if (at >= 0 && m->runs[at].finished)
            drop_run(m, (unsigned)at);
        return;
    case EFFECT_HEARTBEAT_ACK:
        for (unsigned i = 0; i < f->count; i++)
            if ((at = find_run(m, job_of(&f->list[i].id), f->list[i].fence)) >= 0)
                finish_run(w, &m->runs[at], KIND_CANCELLED);
        return;
    case EFFECT_WELCOME:
        for (unsigned i = 0; i < f->count; i++)
            if (f->verdicts[i] == VERDICT_ABORT && (at = find_run(m, job_of(&f->list[i].id), f->list[i].fence)) >= 0)
                drop_run(m, (unsigned)at);
        return;
    default:
        return;
    }
}

static void worker_lives(struct world *w, struct model_worker *m)
{
    static const uint8_t kinds[] = {KIND_OVERLOAD, KIND_SENT,    KIND_THROTTLED, KIND_CLIENT,  KIND_QUOTA,
                                    KIND_AUTH,     KIND_TIMEOUT, KIND_UNSERVED,  KIND_STOPPING};
    for (unsigned i = 0; i < m->count; i++) {
        struct run *run = &m->runs[i];
        if (!run->finished && run->done_at <= w->now)
            finish_run(w, run, chance(w, w->calm ? 0 : 35) ? kinds[draw(w, ARRAY_COUNT(kinds))] : KIND_NONE);
        if (!m->peer || m->silent_until > w->now)
            continue;
        if (run->finished && (!run->said_at || w->now - run->said_at > 5000)) {
            struct frame_ f = {
                .input = INPUT_OUTCOME, .peer = m->peer, .job = run->job, .fence = run->fence, .kind = run->kind};
            f.retry_after_ms = run->kind == KIND_THROTTLED ? draw(w, 4000) : 0;
            run->said_at = w->now;
            post(w, &f);
        }
    }
    if (!m->peer || m->silent_until > w->now || m->beat_at > w->now)
        return;
    struct frame_ f = {.input = INPUT_HEARTBEAT, .peer = m->peer};
    for (; f.count < m->count; f.count++)
        f.list[f.count] = (struct rec_lease){id_of(m->runs[f.count].job), m->runs[f.count].fence};
    m->beat_at = w->now + 5000;
    post(w, &f);
}

static void worker_trouble(struct world *w, int i)
{
    struct model_worker *m = &w->workers[i];
    unsigned what = (unsigned)draw(w, 100);
    if (!m->peer)
        return;
    if (what < 35)
        worker_leaves(w, m, true);
    else if (what < 80)
        worker_leaves(w, m, false);
    else if (what < 90)
        m->silent_until = w->now + (msec)draw(w, 25000);
    else if (what < 95) {
        struct rec_progress item = {.progress = (uint8_t)draw(w, 100)};
        if (!m->count)
            return;
        item.id = id_of(m->runs[0].job);
        item.fence = m->runs[0].fence;
        step(w, &(struct input){.type = INPUT_PROGRESS, .peer = m->peer, .progress = &item});
    } else {
        struct rec_run_event item = {.bytes = 2};
        if (!m->count)
            return;
        item.id = id_of(m->runs[0].job);
        item.fence = m->runs[0].fence;
        AUTO(blob_free) struct blob *body = blob_copy(span_str("x\n"));
        step(w, &(struct input){.type = INPUT_RUN_EVENT, .peer = m->peer, .run_event = &item, .body = body});
    }
}

/* ---- the network ---- */

static void arrive(struct world *w, const struct frame_ *f)
{
    if (f->type) {
        struct model_worker *m = worker_at(w, f->peer);
        if (m && m->silent_until <= w->now)
            worker_hears(w, m, f);
        return;
    }
    bool session = worker_at(w, f->peer) != NULL;
    if (!session)
        return;
    if (f->input == INPUT_HEARTBEAT) {
        struct msg_heartbeat beat = {.slots = worker_at(w, f->peer)->slots, .leases = f->list, .leases_count = f->count};
        step(w, &(struct input){.type = INPUT_HEARTBEAT, .peer = f->peer, .heartbeat = &beat});
        return;
    }
    struct msg_outcome outcome = {.id = id_of(f->job), .fence = f->fence, .kind = f->kind, .retry_after_ms = f->retry_after_ms};
    outcome.result_bytes = f->kind ? 0 : 2;
    if (f->kind)
        outcome.message = span_str("words");
    AUTO(blob_free) struct blob *body = blob_copy(span_str("ok"));
    step(w, &(struct input){.type = INPUT_OUTCOME, .peer = f->peer, .outcome = &outcome, .body = body});
}

static void deliver(struct world *w)
{
    for (struct frame_ **at = &w->net, *f; (f = *at);) {
        if (f->due_at > w->now) {
            at = &f->next;
            continue;
        }
        *at = f->next;
        arrive(w, f);
        free(f);
        at = &w->net;
    }
}

/* ---- brokers ---- */

static void forget_frames(struct frame_ **list)
{
    for (struct frame_ *f; (f = *list);) {
        *list = f->next;
        free(f);
    }
}

/* Over all walks. */
static struct sched_stats happened;

static void broker_dies(struct world *w)
{
    struct sched_stats stats;
    sched_stats(w->s, &stats);
#define STAT(name, kind, sentence) happened.name += stats.name;
#include "broker/core/stats.def"
#undef STAT
    sched_free(&w->s);
    for (struct write *write; (write = w->writes);) {
        w->writes = write->next;
        free(write);
    }
    w->writes_end = &w->writes;
    forget_frames(&w->held);
    w->held_end = &w->held;
    forget_frames(&w->net);
    for (struct asked *q; (q = w->questions);) {
        w->questions = q->next;
        free(q);
    }
}

static void recover_jobs(struct world *w)
{
    for (unsigned job = 1; job <= w->submitted; job++) {
        struct kept *kept = &w->kept[job];
        uint8_t hash[32];
        if (!kept->live)
            continue;
        kept->record.attempts = kept->attempts;
        w->clients[job].run = kept->record.run;
        w->clients[job].failures = kept->failures;
        w->clients[job].fence = kept->record.fence; /* a later one was not stored: nobody has seen it */
        hash_of(w->clients[job].tenant, w->clients[job].key, hash);
        kept->record.idem = kept->keyed ? span_of(hash, 32) : (struct span){0};
        step(w, &(struct input){.type = INPUT_RECOVER, .id = id_of(job), .recover = &kept->record});
    }
}

static void broker_starts(struct world *w)
{
    struct sched_settings settings = world_settings(w->other_settings);
    w->s = sched_new(&settings, w->seed);
    assert_non_null(w->s);
    w->applied = 0;
    w->next_number = 1;
    w->stalled = false;
    recover_jobs(w);
    step(w, &(struct input){.type = INPUT_START, .start = {.epoch = ++w->epoch, .ack = ACK_STORED, .shard = 1}});
    for (int i = 0; i < APIS; i++) {
        w->apis[i] = 0;
        api_joins(w, i);
    }
    for (int i = 0; i < WORKERS; i++) {
        struct model_worker *m = &w->workers[i];
        m->peer = m->gone_peer = 0;
        m->gone_owed = false;
        m->back_at = w->now + (msec)draw(w, 300);
    }
}

/* What was sent and not answered is sent again, or given up. */
static void after_restart(struct world *w)
{
    for (unsigned job = w->submitted > 50 ? w->submitted - 50 : 1; job && job <= w->submitted; job++) {
        struct client *c = &w->clients[job];
        if (!c->waits)
            continue;
        if (chance(w, 80))
            submit_job(w, job, true);
        else {
            c->withdrawn = true;
            c->waits = false;
            step(w, &(struct input){
                        .type = INPUT_WITHDRAW, .peer = w->apis[c->api], .withdraw = &(struct msg_withdraw){.id = id_of(job)}});
        }
    }
    for (unsigned job = 1; w->submitted > 50 && job < w->submitted - 50; job++)
        w->clients[job].waits = false;
}

/* ---- the walk ---- */

static void operators(struct world *w)
{
    unsigned act = (unsigned)draw(w, 100);
    if (act < 40) {
        struct span tenant = chance(w, 50) ? span_str(tenants[draw(w, TENANTS)]) : (struct span){0};
        struct span queue = tenant.len ? (struct span){0} : span_str(queues[draw(w, 2)]);
        step(w, &(struct input){.type = INPUT_PAUSE, .pause = {tenant, queue, chance(w, 40)}});
    } else if (act < 55) {
        w->other_settings = !w->other_settings;
        struct sched_settings settings = world_settings(w->other_settings);
        step(w, &(struct input){.type = INPUT_SETTINGS, .settings = &settings});
    } else if (act < 70)
        step(w, &(struct input){.type = INPUT_REWRITE, .rewrite.epoch = ++w->epoch});
    else if (act < 85)
        api_joins(w, (int)draw(w, APIS));
    else if (w->submitted) {
        unsigned job = some_job(w);
        if (chance(w, 20))
            w->kept[job].body = false; /* somebody deleted it */
    }
}

static void time_passes(struct world *w)
{
    w->now += (msec)draw(w, chance(w, 10) ? 3000 : 30);
    if (sched_next(w->s) <= w->now)
        step(w, &(struct input){.type = INPUT_TICK});
    for (int i = 0; i < WORKERS; i++) {
        struct model_worker *m = &w->workers[i];
        if (m->gone_peer && (m->gone_owed || !m->peer) && chance(w, w->calm ? 100 : 20))
            tell_gone(w, m);
        if (!m->peer && m->back_at <= w->now)
            worker_joins(w, i);
        worker_lives(w, m);
    }
    deliver(w);
    if (!w->stalled && w->next_apply <= w->now) {
        store_writes(w, w->calm ? 100000 : (unsigned)draw(w, 40));
        w->next_apply = w->now + (msec)draw(w, chance(w, 3) && !w->calm ? 3000 : 10);
    }
    store_answers(w);
}

static void one_turn(struct world *w)
{
    unsigned act = (unsigned)draw(w, 1000);
    if (act < 250)
        submit_new(w);
    else if (act < 400)
        api_acts(w);
    else if (act < 420)
        worker_trouble(w, (int)draw(w, WORKERS));
    else if (act < 424) {
        w->stalled = !w->stalled;
        step(w, &(struct input){.type = w->stalled ? INPUT_STALL : INPUT_FLOW});
    } else if (act < 432)
        operators(w);
    else if (act < 434) {
        broker_dies(w);
        broker_starts(w);
        after_restart(w);
        w->restarts++;
    } else
        time_passes(w);
    if (w->stalled && chance(w, 5)) {
        w->stalled = false;
        step(w, &(struct input){.type = INPUT_FLOW});
    }
}

static void calm_down(struct world *w)
{
    w->calm = true;
    if (TAKE(w->stalled))
        step(w, &(struct input){.type = INPUT_FLOW});
    for (int i = 0; i < TENANTS; i++)
        step(w, &(struct input){.type = INPUT_PAUSE, .pause = {.tenant = span_str(tenants[i])}});
    for (int i = 0; i < 2; i++)
        step(w, &(struct input){.type = INPUT_PAUSE, .pause = {.queue = span_str(queues[i])}});
    for (int i = 0; i < WORKERS; i++) { /* a HELLO says anew what they serve */
        w->workers[i].silent_until = 0;
        for (unsigned r = 0; r < w->workers[i].count; r++)
            w->workers[i].runs[r].kind = KIND_NONE;
        worker_leaves(w, &w->workers[i], false);
    }
    for (int turn = 0; turn < 20000 && (w->s->jobs.count || w->writes || w->questions || w->s->roster.used || w->net); turn++) {
        w->now += 20;
        time_passes(w);
    }
}

static void all_is_settled(struct world *w)
{
    const struct sched *s = w->s;
    for (size_t b = 0; b < s->jobs.size; b++)
        for (const struct job *job = s->jobs.buckets[b]; job; job = job->chain)
            fprintf(stderr, "job %u stays: state %u, lease %d, ending %d, flow %d, asked %d\n", job_of(&job->id), job->state,
                    job->lease != NULL, job->ending != NULL, job->flow != NULL, job->body_asked);
    const char *left = core_left(s);
    if (left)
        broken(w, left);
    for (unsigned job = 1; job <= w->submitted; job++) {
        const struct client *c = &w->clients[job];
        const struct kept *kept = &w->kept[job];
        must(w, !kept->live, "the store holds a live job that nobody has");
        if (c->acked && !kept->ended && !c->forgotten)
            fprintf(stderr, "job %u, withdrawn %d\n", job, c->withdrawn);
        must(w, !c->acked || kept->ended || c->forgotten, "an acknowledged job is nowhere");
        must(w, !kept->ended || !c->state || c->state == kept->state, "another end was shown than is stored");
    }
}

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static void walk(uint64_t seed, uint64_t steps, bool faulty)
{
    struct world *w = grab(sizeof *w);
    w->faulty = faulty;
    w->seed = seed;
    w->traced = (unsigned)number_of("QUERN_JOB", 0);
    w->random = seed * 0x2545f4914f6cdd1du;
    w->writes_end = &w->writes;
    w->held_end = &w->held;
    w->now = 1000;
    w->workers[0] = (struct model_worker){.slots = 3};
    w->workers[1] = (struct model_worker){.slots = 2};
    w->workers[2] = (struct model_worker){.slots = 1, .solo = true};
    broker_starts(w);
    while (w->step < steps)
        one_turn(w);
    calm_down(w);
    all_is_settled(w);
    must(w, !faulty || w->refused_steps > 100, "memory was never short");
    must(w, w->ended > 100 && w->jobs_sent > 100 && w->restarts > 0 && w->crashes > 0, "little has happened");
    broker_dies(w);
    free(w);
}

static void whatever_happens_every_job_ends_once(void **state)
{
    uint64_t one = number_of("QUERN_SEED", 0), steps = number_of("QUERN_STEPS", STEPS);
    for (uint64_t seed = one ? one : 1; seed <= (one ? one : SEEDS); seed++)
        walk(seed, steps, false);
    if (one)
        return;
    /* A walk that never meets a thing says nothing about it. */
    assert_true(happened.completed && happened.failed && happened.cancelled && happened.expired && happened.retried &&
                happened.throttled);
    assert_true(happened.lapsed && happened.crashes && happened.poisoned && happened.lost && happened.fenced &&
                happened.adopted);
    assert_true(happened.unsent && happened.lookups && happened.withdrawn && happened.existing && happened.refused_full);
    assert_true(happened.refused_stalled && happened.dispatched);
}

static void want_of_memory_only_delays(void **state)
{
    uint64_t one = number_of("QUERN_SEED", 0), steps = number_of("QUERN_STEPS", STEPS);
    for (uint64_t seed = one ? one : 1; seed <= (one ? one : SEEDS / 2); seed++)
        walk(seed, steps, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_happens_every_job_ends_once),
        cmocka_unit_test(want_of_memory_only_delays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
