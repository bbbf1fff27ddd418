/* The store against a real Redis: what is stored when, and what happens when Redis is slow, loses answers, refuses, comes back
 * older, or belongs to someone else. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/body.h"
#include "broker/store_private.h"
#include "common/clock.h"

#define SHARD       7
#define PATIENCE_MS 20000

/* ---- a Redis of our own ---- */

struct server {
    char dir[64], socket[96];
    pid_t pid;
    redisContext *admin;
};

static void server_start(struct server *srv, const char *const *more)
{
    const char *argv[32] = {
        "redis-server", "--port", "0", "--unixsocket", srv->socket, "--dir", srv->dir, "--save", "", "--appendonly", "yes",
        "--logfile", "redis.log",
        /* every reply is after its write to the file; with everysec a slow disk puts the write off, and a copy lacks it */
        "--appendfsync", "no"};
    size_t argc = 15;
    for (size_t i = 0; more && more[i]; i++)
        argv[argc++] = more[i];
    srv->pid = fork();
    if (srv->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    for (int tries = 0; tries < 2000; tries++) {
        srv->admin = redisConnectUnix(srv->socket);
        if (srv->admin && !srv->admin->err) {
            redisReply *pong = redisCommand(srv->admin, "PING");
            bool up = pong && pong->type == REDIS_REPLY_STATUS;
            freeReplyObject(pong);
            if (up)
                return;
        }
        redisFree(srv->admin);
        srv->admin = NULL;
        usleep(5000); /* between two tries, not for luck */
    }
    fail_msg("redis-server does not start");
}

static void server_stop(struct server *srv)
{
    if (srv->admin)
        redisFree(srv->admin);
    srv->admin = NULL;
    if (srv->pid > 0) {
        kill(srv->pid, SIGKILL);
        waitpid(srv->pid, NULL, 0);
    }
    srv->pid = 0;
}

static void server_make(struct server *srv)
{
    *srv = (struct server){.dir = "/tmp/quern-test-store.XXXXXX"};
    assert_non_null(mkdtemp(srv->dir));
    snprintf(srv->socket, sizeof srv->socket, "%s/s", srv->dir);
}

static void server_remove(struct server *srv)
{
    char line[256];
    server_stop(srv);
    snprintf(line, sizeof line, "rm -rf '%s'", srv->dir);
    assert_int_equal(system(line), 0);
}

static void shell(struct server *srv, const char *format)
{
    char line[512];
    snprintf(line, sizeof line, format, srv->dir, srv->dir);
    assert_int_equal(system(line), 0);
}

/* The reply as text: a string's bytes, an integer's digits, "" for nil, an error's text. */
static const char *admin(struct server *srv, const char *format, ...)
{
    static char text[4096];
    va_list args;
    va_start(args, format);
    redisReply *reply = redisvCommand(srv->admin, format, args);
    va_end(args);
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_INTEGER)
        snprintf(text, sizeof text, "%lld", reply->integer);
    else
        snprintf(text, sizeof text, "%.*s", (int)reply->len, reply->str ? reply->str : "");
    freeReplyObject(reply);
    return text;
}

/* ---- a store and what it told ---- */

struct world {
    struct server redis;
    struct loop *loop;
    struct store *store;
    unsigned turns_left; /* until the loop stops; 0: it goes on */
    bool late;           /* nothing came in time */
    bool turning;
    bool was_behind; /* at the beginning of some turn */
    msec now;
    uint64_t number;
    /* told */
    bool leads, recovered, fenced, left;
    struct store_lead lead;
    struct store_recovered counts;
    uint64_t jobs;
    char held[64], unfit[160];
    /* asked */
    int answered;
    enum store_status status;
    char body[64];
    bool had_idem, had_ended, had_job;
    uint64_t wanted; /* for conditions */
};

static void on_held(void *arg, struct span leader)
{
    snprintf(((struct world *)arg)->held, 64, "%.*s", SPAN_ARG(leader));
}
static void on_leads(void *arg, const struct store_lead *lead)
{
    struct world *w = arg;
    w->leads = true;
    w->lead = *lead;
}
static void on_job(void *arg, const struct id *id, const struct rec_job *job)
{
    ((struct world *)arg)->jobs++;
}
static void on_recovered(void *arg, const struct store_recovered *counts)
{
    struct world *w = arg;
    w->recovered = true;
    w->counts = *counts;
}
static void on_fenced(void *arg)
{
    ((struct world *)arg)->fenced = true;
}
static void on_unfit(void *arg, const char *why)
{
    snprintf(((struct world *)arg)->unfit, 160, "%s", why);
}
static void on_left(void *arg)
{
    ((struct world *)arg)->left = true;
}

static void turn(void *arg)
{
    struct world *w = arg;
    w->was_behind = w->was_behind || (w->store && store_is_behind(w->store));
    if (w->store && w->turning)
        store_turn(w->store, w->now);
    if (w->turns_left && !--w->turns_left)
        loop_stop(w->loop);
}

static void give_up(void *arg)
{
    struct world *w = arg;
    w->late = true;
}

static struct timer *be_patient(struct world *w)
{
    struct timer *patience = timer_new(w->loop, give_up, w);
    timer_set(patience, clock_mono() + PATIENCE_MS);
    w->late = false;
    return patience;
}

/* One wait for events and what follows from them: the loop turns once before it waits and once after. */
static void wait_once(struct world *w)
{
    w->turns_left = 2;
    loop_run(w->loop);
}

/* `x` in the expression is the world. */
#define UNTIL(w, expression)                                                                                                   \
    do {                                                                                                                       \
        struct world *x = (w);                                                                                                 \
        struct timer *patience = be_patient(x);                                                                                \
        while (!(expression)) {                                                                                                \
            if (x->late)                                                                                                       \
                fail_msg("not in time: %s", #expression);                                                                      \
            wait_once(x);                                                                                                      \
        }                                                                                                                      \
        timer_free(&patience);                                                                                                 \
    } while (0)

static void store_begin(struct world *w, struct store_options o)
{
    struct redis_options redis = {.socket = w->redis.socket};
    o.redis = &redis;
    o.shard = SHARD;
    o.name = o.name ? o.name : "me";
    o.ring_bytes = o.ring_bytes ? o.ring_bytes : 64u << 20;
    o.stall_bytes = o.stall_bytes ? o.stall_bytes : 64u << 20;
    o.stall_ms = o.stall_ms ? o.stall_ms : 300;
    w->leads = w->recovered = w->fenced = w->left = false;
    w->jobs = 0;
    w->held[0] = w->unfit[0] = '\0';
    w->number = 0;
    w->turning = true;
    w->now = 1000000;
    struct store_hooks hooks = {on_held, on_leads, on_job, on_recovered, on_fenced, on_unfit, w};
    w->store = store_new(w->loop, &o, hooks);
    assert_non_null(w->store);
}

static void drop(struct list *held)
{
    for (struct list *node; (node = list_first(held));) {
        list_remove(node);
        free(node);
    }
}

static void store_end(struct world *w)
{
    store_free(&w->store, drop);
}

static void world_make(struct world *w, const char *const *more)
{
    *w = (struct world){0};
    server_make(&w->redis);
    server_start(&w->redis, more);
    w->loop = loop_new(turn, w);
    assert_non_null(w->loop);
}

static void world_remove(struct world *w)
{
    store_end(w);
    loop_free(&w->loop);
    server_remove(&w->redis);
}

/* A second broker on the same Redis. */
static void rival_make(struct world *rival, struct world *w)
{
    *rival = (struct world){0};
    rival->redis = w->redis;
    rival->loop = loop_new(turn, rival);
    assert_non_null(rival->loop);
}

static void rival_remove(struct world *rival)
{
    store_end(rival);
    loop_free(&rival->loop);
}

/* ---- writes ---- */

static struct id id_of(uint64_t i)
{
    struct id id = {{0}};
    id.bytes[6] = SHARD >> 4;
    for (int b = 0; b < 8; b++)
        id.bytes[15 - b] = (uint8_t)(i >> (8 * b));
    return id;
}

static const char *key(const char *kind, uint64_t i)
{
    static char out[4][RECORD_KEY_BYTES + 1];
    static unsigned at;
    struct id id = id_of(i);
    at = (at + 1) % 4;
    if (kind[0] == 'j')
        record_key_job(out[at], SHARD, &id);
    else if (kind[0] == 'b')
        record_key_body(out[at], SHARD, &id);
    else if (kind[0] == 'r')
        record_key_ended(out[at], SHARD, &id);
    else
        record_key_named(out[at], SHARD, kind);
    return out[at];
}

static void put(struct world *w, struct effect *e)
{
    e->number = ++w->number;
    assert_int_equal(store_write(w->store, e, w->now), ERR_OK);
}

static const struct rec_spec a_spec = {.tenant = {(const uint8_t *)"acme", 4}, .queue = {(const uint8_t *)"q", 1}};

static void put_job(struct world *w, uint64_t i, unsigned state)
{
    put(w, &(struct effect){.type = EFFECT_SAVE_JOB, .id = id_of(i), .job_record = {.spec = a_spec, .state = (uint8_t)state}});
}

static void put_body(struct world *w, uint64_t i, const char *text)
{
    AUTO(blob_free) struct blob *body = blob_copy(span_str(text));
    put(w, &(struct effect){.type = EFFECT_SAVE_BODY, .id = id_of(i), .body = body});
}

static void put_ended(struct world *w, uint64_t i, msec ttl_ms)
{
    put(w, &(struct effect){.type = EFFECT_SAVE_ENDED,
                            .id = id_of(i),
                            .ttl_ms = (uint64_t)ttl_ms,
                            .parts = {{0}, {(const uint8_t *)"{\"ok\":1}", 8}},
                            .ended = {.spec = a_spec, .state = STATE_COMPLETED, .completed_at = 7200123, .result_bytes = 8}});
}

static bool all_stored(struct world *w)
{
    return store_stored(w->store) == w->number;
}

/* The state in j:<i>, 0 when it is not there. */
static unsigned state_in_redis(struct world *w, uint64_t i)
{
    struct record record = {0};
    redisReply *reply = redisCommand(w->redis.admin, "GET %s", key("j", i));
    unsigned state = 0;
    if (reply && reply->type == REDIS_REPLY_STRING) {
        assert_int_equal(record_unpack(&record, RECORD_JOB, span_of(reply->str, reply->len)), ERR_OK);
        state = record.job.state;
    }
    freeReplyObject(reply);
    record_done(&record);
    return state;
}

static void serve(struct world *w, struct store_options o)
{
    store_begin(w, o);
    UNTIL(w, x->recovered);
}

/* A marker that may leave when `number` is stored. */
static void hold_marker(struct world *w, uint64_t number)
{
    struct list *held = store_held(w->store, number, 100), *node = malloc(sizeof *node);
    assert_non_null(held);
    list_init(node);
    list_push_back(held, node);
}

static unsigned released(struct world *w)
{
    struct list out;
    unsigned count = 0;
    list_init(&out);
    store_released(w->store, &out);
    for (struct list *node; (node = list_first(&out)); count++) {
        list_remove(node);
        free(node);
    }
    return count;
}

/* ---- the ordinary ---- */

static void a_commit_is_stored_and_what_it_held_may_leave(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    assert_int_equal(w.lead.ack, ACK_STORED);
    assert_int_equal(w.lead.last_now, 0);
    put_body(&w, 1, "a body");
    put_job(&w, 1, STATE_PENDING);
    put_job(&w, 1, STATE_PROCESSING);
    hold_marker(&w, 2);
    hold_marker(&w, 3);
    assert_int_equal(released(&w), 0);
    UNTIL(&w, all_stored(x));
    assert_int_equal(released(&w), 2);
    assert_int_equal(state_in_redis(&w, 1), STATE_PROCESSING);
    assert_string_equal(admin(&w.redis, "SISMEMBER %s %b", key("live", 0), id_of(1).bytes, (size_t)16), "1");
    char last[64];
    snprintf(last, sizeof last, "%" PRIu64 ":1:1000000", w.lead.epoch);
    assert_string_equal(admin(&w.redis, "GET %s", key("last", 0)), last);
    assert_null(store_held(w.store, 3, 1));
    world_remove(&w);
}

static void an_ended_job_moves(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    put_body(&w, 1, "x");
    put_job(&w, 1, STATE_PROCESSING);
    UNTIL(&w, all_stored(x));
    put_ended(&w, 1, 60000);
    struct blob *record = store_ended_record(w.store, w.number);
    assert_non_null(record);
    put(&w, &(struct effect){.type = EFFECT_DROP_BODY, .id = id_of(1), .ttl_ms = 60000});
    UNTIL(&w, all_stored(x));
    assert_int_equal(state_in_redis(&w, 1), 0);
    assert_string_equal(admin(&w.redis, "SCARD %s", key("live", 0)), "0");
    assert_true(atol(admin(&w.redis, "PTTL %s", key("r", 1))) > 50000);
    assert_true(atol(admin(&w.redis, "PTTL %s", key("b", 1))) > 50000);
    redisReply *stored = redisCommand(w.redis.admin, "GET %s", key("r", 1));
    assert_true(span_equal(blob_span(store_ended_record(w.store, 3)), span_of(stored->str, stored->len)));
    freeReplyObject(stored);
    char index[RECORD_KEY_BYTES + 1];
    record_key_index(index, SHARD, a_spec.tenant, 7200123);
    assert_string_equal(admin(&w.redis, "ZCARD %s", index), "1");
    assert_true(atol(admin(&w.redis, "PTTL %s", index)) > 3600000);
    /* A later end with a shorter life does not shorten the index's. */
    put_ended(&w, 2, 1);
    UNTIL(&w, all_stored(x));
    assert_true(atol(admin(&w.redis, "PTTL %s", index)) > 3650000);
    put(&w, &(struct effect){
                .type = EFFECT_DROP_ENDED, .id = id_of(1), .tenant = a_spec.tenant, .ended = {.completed_at = 7200123}});
    UNTIL(&w, all_stored(x));
    assert_string_equal(admin(&w.redis, "EXISTS %s %s", key("r", 1), key("b", 1)), "0");
    assert_string_equal(admin(&w.redis, "ZCARD %s", index), "1");
    world_remove(&w);
}

static void on_answer(void *arg, const struct lookup_key *k, const struct store_answer *answer)
{
    struct world *w = arg;
    w->answered++;
    w->status = answer->status;
    w->had_idem = answer->idem;
    w->had_ended = answer->ended;
    w->had_job = answer->job;
    snprintf(w->body, sizeof w->body, "%.*s", SPAN_ARG(blob_span(answer->body)));
}

static void ask(struct world *w, enum lookup_kind kind, uint64_t i)
{
    struct lookup_key k = {.kind = (uint8_t)kind};
    if (kind == LOOKUP_IDEM)
        memset(k.hash, (int)i, sizeof k.hash);
    else
        k.id = id_of(i);
    w->answered = 0;
    assert_int_equal(store_ask(w->store, &k, on_answer, w), ERR_OK);
}

static void questions_are_answered_after_the_writes_before_them(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    put_body(&w, 1, "a body");
    ask(&w, LOOKUP_BODY, 1);
    UNTIL(&w, x->answered);
    assert_int_equal(w.status, STORE_FOUND);
    assert_string_equal(w.body, "a body");
    assert_true(all_stored(&w));

    ask(&w, LOOKUP_BODY, 2);
    UNTIL(&w, x->answered);
    assert_int_equal(w.status, STORE_ABSENT);

    put_job(&w, 1, STATE_PENDING);
    ask(&w, LOOKUP_ANY, 1);
    UNTIL(&w, x->answered);
    assert_true(w.had_job && !w.had_ended);
    put_ended(&w, 1, 60000);
    ask(&w, LOOKUP_ANY, 1);
    UNTIL(&w, x->answered);
    assert_true(w.had_ended && !w.had_job);
    assert_string_equal(w.body, "{\"ok\":1}");

    struct effect idem = {.type = EFFECT_SAVE_IDEM, .ttl_ms = 60000, .idem_record = {.id = id_of(1)}};
    memset(idem.hash, 5, sizeof idem.hash);
    put(&w, &idem);
    ask(&w, LOOKUP_IDEM, 5);
    UNTIL(&w, x->answered);
    assert_true(w.had_idem);

    /* Two bytes changed in Redis are noticed. */
    admin(&w.redis, "SETRANGE %s 20 ??", key("r", 1));
    ask(&w, LOOKUP_ENDED, 1);
    UNTIL(&w, x->answered);
    assert_int_equal(w.status, STORE_UNKNOWN);
    admin(&w.redis, "SETRANGE %s 10 ??", key("b", 1));
    ask(&w, LOOKUP_BODY, 1);
    UNTIL(&w, x->answered);
    assert_int_equal(w.status, STORE_ABSENT);
    world_remove(&w);
}

static void a_question_waits_for_every_write_before_it(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){.stall_ms = 2 * PATIENCE_MS});
    for (uint64_t i = 1; i <= 5000; i++) /* more than may be on their way at once */
        put_job(&w, i, STATE_PENDING);
    ask(&w, LOOKUP_ANY, 5000);
    UNTIL(&w, x->answered);
    assert_true(all_stored(&w) && w.had_job);

    char index[RECORD_KEY_BYTES + 1];
    record_key_index(index, SHARD, a_spec.tenant, 7200123);
    admin(&w.redis, "SET %s thorn", index); /* ZADD on it is an error */
    put_ended(&w, 1, 60000);
    commits_close(w.store);
    put_job(&w, 5001, STATE_PENDING);
    ask(&w, LOOKUP_ANY, 5001);
    UNTIL(&w, x->store->stats.commits_refused > 2);
    assert_false(w.answered);
    admin(&w.redis, "DEL %s", index);
    UNTIL(&w, x->answered);
    assert_true(all_stored(&w) && w.had_job);
    world_remove(&w);
}

static void many_writes_are_few_commits(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    for (uint64_t i = 1; i <= 5000; i++)
        put_job(&w, i, STATE_PENDING);
    hold_marker(&w, 5000);
    hold_marker(&w, 1);
    UNTIL(&w, all_stored(x));
    assert_int_equal(released(&w), 2);
    struct store_stats stats;
    store_stats(w.store, &stats);
    assert_int_equal(stats.commit_writes, 5000);
    assert_int_equal(stats.commits, (5000 + COMMIT_WRITES_MAX - 1) / COMMIT_WRITES_MAX);
    assert_string_equal(admin(&w.redis, "SCARD %s", key("live", 0)), "5000");

    /* A body above the bound travels alone. */
    uint8_t *bytes;
    struct blob *large = blob_new(2u << 20, &bytes);
    memset(bytes, 'x', 2u << 20);
    put_job(&w, 1, STATE_PENDING);
    put(&w, &(struct effect){.type = EFFECT_SAVE_BODY, .id = id_of(1), .body = large});
    put_job(&w, 2, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    struct store_stats after;
    store_stats(w.store, &after);
    assert_int_equal(after.commits, stats.commits + 3);
    blob_free(&large);
    world_remove(&w);
}

/* ---- Redis in trouble ---- */

static void while_redis_is_stopped_nothing_is_shown(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    kill(w.redis.pid, SIGSTOP);
    put_job(&w, 1, STATE_PENDING);
    hold_marker(&w, 1);
    ask(&w, LOOKUP_BODY, 1);
    assert_false(store_is_stalled(w.store));
    UNTIL(&w, store_is_stalled(x->store));
    UNTIL(&w, x->answered);
    assert_int_equal(w.status, STORE_UNKNOWN);
    assert_int_equal(released(&w), 0);
    kill(w.redis.pid, SIGCONT);
    UNTIL(&w, all_stored(x) && !store_is_stalled(x->store));
    assert_int_equal(released(&w), 1);
    assert_int_equal(state_in_redis(&w, 1), STATE_PENDING);
    world_remove(&w);
}

static void a_stopped_redis_that_loses_the_connection_gets_the_same_bytes_again(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    kill(w.redis.pid, SIGSTOP);
    for (uint64_t i = 1; i <= 600; i++)
        put_job(&w, i, STATE_PENDING);
    store_turn(w.store, w.now); /* on the line, and never to be answered there */
    redis_reset(w.store->redis, "test");
    kill(w.redis.pid, SIGCONT);
    UNTIL(&w, all_stored(x));
    assert_string_equal(admin(&w.redis, "SCARD %s", key("live", 0)), "600");
    world_remove(&w);
}

static void a_lost_reply_is_asked_for_again_and_found_applied(void **state)
{
    struct world w;
    struct store_stats stats;
    world_make(&w, NULL);
    serve(&w, (struct store_options){.replicas = 0});
    put_job(&w, 1, STATE_PENDING);
    hold_marker(&w, 1);
    store_turn(w.store, w.now);
    while (strstr(admin(&w.redis, "GET %s", key("last", 0)), ":1:") == NULL)
        ;
    redis_reset(w.store->redis, "the reply is lost");
    assert_int_equal(released(&w), 0);
    UNTIL(&w, all_stored(x));
    assert_int_equal(released(&w), 1);
    /* Sent again blindly, the same bytes change nothing: what came after them stands. */
    put_job(&w, 1, STATE_PROCESSING);
    UNTIL(&w, all_stored(x));
    size_t argc;
    const struct span *argv = commit_argv(CONTAINER_OF(list_first(&w.store->ring.commits), struct commit, node), &argc);
    const char *args[64];
    size_t lens[64];
    for (size_t i = 0; i < argc; i++) {
        args[i] = (const char *)argv[i].data;
        lens[i] = argv[i].len;
    }
    redisReply *again = redisCommandArgv(w.redis.admin, (int)argc, args, lens);
    assert_string_equal(again->str, "applied");
    freeReplyObject(again);
    assert_int_equal(state_in_redis(&w, 1), STATE_PROCESSING);
    store_stats(w.store, &stats);
    assert_int_equal(stats.store_breaks, 1);
    world_remove(&w);
}

static void when_one_is_refused_those_behind_it_wait(void **state)
{
    struct world w;
    struct store_stats stats;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    char index[RECORD_KEY_BYTES + 1];
    record_key_index(index, SHARD, a_spec.tenant, 7200123);
    admin(&w.redis, "SET %s thorn", index); /* ZADD on it is an error */
    put_ended(&w, 1, 60000);
    hold_marker(&w, w.number);
    commits_close(w.store);
    put_job(&w, 2, STATE_PENDING);
    hold_marker(&w, w.number);
    commits_close(w.store);
    put_job(&w, 3, STATE_PENDING);
    hold_marker(&w, w.number);
    assert_int_equal(w.store->ring.closed_n, 2);
    UNTIL(&w, store_is_stalled(x->store) && x->store->stats.commits_refused > 2);
    store_stats(w.store, &stats);
    assert_true(stats.commits_gap >= 2); /* those in flight behind the refused one */
    assert_int_equal(state_in_redis(&w, 2), 0);
    assert_int_equal(state_in_redis(&w, 3), 0);
    assert_int_equal(released(&w), 0);
    admin(&w.redis, "DEL %s", index);
    UNTIL(&w, all_stored(x) && !store_is_stalled(x->store));
    assert_int_equal(released(&w), 3);
    assert_int_equal(state_in_redis(&w, 3), STATE_PENDING);
    world_remove(&w);
}

static void scripts_that_were_flushed_are_loaded_again(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    admin(&w.redis, "SCRIPT FLUSH");
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    assert_int_equal(state_in_redis(&w, 1), STATE_PENDING);
    world_remove(&w);
}

static void a_full_redis_takes_commits_and_says_so(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    assert_false(store_is_full(w.store));
    admin(&w.redis, "CONFIG SET maxmemory 100kb");
    UNTIL(&w, store_is_full(x->store));
    assert_non_null(strstr(admin(&w.redis, "SET other x"), "OOM"));
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    /* A little room is none yet. */
    uint64_t bytes = w.store->fit.bytes, before = w.store->fit.bytes_max;
    char more[64];
    snprintf(more, sizeof more, "CONFIG SET maxmemory %" PRIu64, bytes * 100 / 77);
    admin(&w.redis, more);
    UNTIL(&w, x->store->fit.bytes_max > before);
    assert_true(store_is_full(w.store));
    snprintf(more, sizeof more, "CONFIG SET maxmemory %" PRIu64, bytes * 2);
    admin(&w.redis, more);
    UNTIL(&w, !store_is_full(x->store));
    world_remove(&w);
}

static void a_full_ring_stalls_and_drops_nothing(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){.ring_bytes = 1u << 20, .stall_ms = 60000});
    for (uint64_t i = 1; i <= 4000; i++)
        put_job(&w, i, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    assert_true(store_is_stalled(w.store));
    assert_true(w.store->ring.bytes > 1u << 20);
    UNTIL(&w, !store_is_stalled(x->store)); /* old enough to be forgotten */
    assert_string_equal(admin(&w.redis, "SCARD %s", key("live", 0)), "4000");
    world_remove(&w);
}

/* ---- older data sets ---- */

static void restart_older(struct world *w, const char *copy)
{
    char line[256];
    server_stop(&w->redis);
    snprintf(line, sizeof line, "cd '%s' && rm -rf appendonlydir && cp -r %s appendonlydir", w->redis.dir, copy);
    assert_int_equal(system(line), 0);
    server_start(&w->redis, NULL);
}

static void an_older_data_set_is_healed_from_the_ring(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    put_job(&w, 1, STATE_PENDING);
    put_job(&w, 2, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    shell(&w.redis, "cp -r '%s/appendonlydir' '%s/copy'");
    put_ended(&w, 1, 60000);
    UNTIL(&w, all_stored(x));
    put_job(&w, 3, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    uint64_t epoch = w.store->epoch;
    restart_older(&w, "copy");
    assert_int_equal(state_in_redis(&w, 1), STATE_PENDING);
    assert_false(w.was_behind);
    ask(&w, LOOKUP_ANY, 3); /* not answered "absent" while the store lacks it */
    UNTIL(&w, x->answered && x->store->stats.store_older == 1 && store_is_settled(x->store));
    assert_int_not_equal(w.status, STORE_ABSENT);
    assert_true(w.was_behind); /* and meanwhile it does not pass for current */
    assert_int_equal(state_in_redis(&w, 1), 0);
    assert_int_equal(state_in_redis(&w, 3), STATE_PENDING);
    assert_true(strtoull(admin(&w.redis, "GET %s", key("epoch", 0)), NULL, 10) == epoch);
    UNTIL(&w, !store_is_stalled(x->store));
    world_remove(&w);
}

static void a_data_set_from_before_this_epoch_gets_the_epoch_again(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    shell(&w.redis, "cp -r '%s/appendonlydir' '%s/copy'");
    store_end(&w);
    serve(&w, (struct store_options){0});
    put_job(&w, 2, STATE_PENDING);
    put_job(&w, 1, STATE_PROCESSING);
    UNTIL(&w, all_stored(x));
    uint64_t epoch = w.store->epoch;
    restart_older(&w, "copy");
    UNTIL(&w, x->store->stats.store_older == 1 && store_is_settled(x->store));
    assert_int_equal(state_in_redis(&w, 1), STATE_PROCESSING);
    assert_int_equal(state_in_redis(&w, 2), STATE_PENDING);
    assert_true(strtoull(admin(&w.redis, "GET %s", key("epoch", 0)), NULL, 10) == epoch);
    world_remove(&w);
}

/* That one died, was followed, and is the leader again in the older data set. */
static void a_data_set_from_another_leaders_time_fences_nobody(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){.name = "first"});
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    shell(&w.redis, "cp -r '%s/appendonlydir' '%s/copy'");
    store_leave(w.store, on_left, &w);
    UNTIL(&w, x->left);
    store_end(&w);
    serve(&w, (struct store_options){.name = "second"});
    put_job(&w, 2, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    restart_older(&w, "copy");
    admin(&w.redis, "SET %s first PX 60000", key("leader", 0));
    UNTIL(&w, x->fenced || (x->store->stats.store_older == 1 && store_is_settled(x->store)));
    assert_false(w.fenced);
    assert_int_equal(state_in_redis(&w, 2), STATE_PENDING);
    assert_string_equal(admin(&w.redis, "GET %s", key("leader", 0)), "second");
    world_remove(&w);
}

static void beyond_the_ring_a_new_epoch_writes_everything_anew(void **state)
{
    struct world w;
    uint64_t epoch = 0;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    shell(&w.redis, "cp -r '%s/appendonlydir' '%s/copy'");
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    ring_trim(&w.store->ring, clock_mono() + 2 * RING_KEEP_MAX_MS, 0);
    put_job(&w, 2, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    uint64_t before = w.store->epoch;
    restart_older(&w, "copy");
    UNTIL(&w, x->store->rewrite_due);
    assert_true(store_is_stalled(w.store));
    assert_true(store_must_rewrite(w.store, &epoch));
    assert_false(store_must_rewrite(w.store, &epoch));
    assert_true(epoch > before);
    put_job(&w, 1, STATE_PROCESSING); /* as the core does for every live job, in slices */
    UNTIL(&w, all_stored(x));
    assert_true(store_is_stalled(w.store));
    assert_false(store_is_current(w.store));
    put_job(&w, 2, STATE_PENDING);
    store_rewritten(w.store);
    hold_marker(&w, w.number);
    UNTIL(&w, all_stored(x) && !store_is_stalled(x->store));
    assert_int_equal(released(&w), 1);
    assert_int_equal(state_in_redis(&w, 1), STATE_PROCESSING);
    assert_int_equal(state_in_redis(&w, 2), STATE_PENDING);
    assert_true(strtoull(admin(&w.redis, "GET %s", key("epoch", 0)), NULL, 10) == epoch);
    world_remove(&w);
}

/* ---- who leads ---- */

static void an_ex_leader_changes_nothing(void **state)
{
    struct world w, rival;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    /* Written but not sent when it fell asleep. */
    for (uint64_t i = 1; i <= 700; i++)
        put_job(&w, i, STATE_FAILED);
    hold_marker(&w, w.number);

    rival_make(&rival, &w);
    serve(&rival, (struct store_options){0}); /* the same name takes over at once */
    assert_true(rival.lead.epoch > w.lead.epoch);
    assert_int_equal(rival.jobs, 1);
    /* The new leader has not written anything yet: `last` is still the old one's, and only the epoch stops it. */
    UNTIL(&w, x->fenced);
    assert_int_equal(released(&w), 0);
    assert_int_equal(state_in_redis(&w, 1), STATE_PENDING);
    assert_int_equal(state_in_redis(&w, 2), 0);
    put_job(&rival, 1, STATE_PROCESSING);
    UNTIL(&rival, all_stored(x));
    assert_int_equal(state_in_redis(&w, 1), STATE_PROCESSING);
    rival_remove(&rival);
    world_remove(&w);
}

static void no_epoch_is_issued_twice(void **state)
{
    struct world w;
    world_make(&w, NULL);
    admin(&w.redis, "SET %s 9000000000000", key("epoch", 0)); /* ms: by a clock that was centuries ahead */
    serve(&w, (struct store_options){0});
    assert_true(w.lead.epoch == 9000000000001);
    store_end(&w);
    serve(&w, (struct store_options){0});
    assert_true(w.lead.epoch == 9000000000002);
    world_remove(&w);
}

static void another_name_waits_until_the_leader_lapses(void **state)
{
    struct world w, rival;
    world_make(&w, NULL);
    serve(&w, (struct store_options){.name = "first"});
    rival_make(&rival, &w);
    store_begin(&rival, (struct store_options){.name = "second"});
    UNTIL(&rival, x->held[0]);
    assert_string_equal(rival.held, "first");
    assert_false(rival.leads);
    store_leave(w.store, on_left, &w);
    UNTIL(&w, x->left);
    UNTIL(&rival, x->recovered);
    store_end(&rival);
    /* Without a goodbye it takes the key's three seconds; a standby of the same name waits too. */
    store_begin(&rival, (struct store_options){.name = "second", .standby = true});
    UNTIL(&rival, x->held[0]);
    UNTIL(&rival, x->recovered);
    rival_remove(&rival);
    world_remove(&w);
}

/* A Redis killed while an fsync was slow comes back without its last two seconds: the leader's beats, and jobs that it has
 * acknowledged. It has those in its ring; a standby that is quicker must not fence it. */
static void a_standby_gives_the_leader_time_to_heal_a_redis_that_came_back_older(void **state)
{
    struct world w, rival;
    world_make(&w, NULL);
    serve(&w, (struct store_options){.name = "first"});
    rival_make(&rival, &w);
    store_begin(&rival, (struct store_options){.name = "second"});
    UNTIL(&rival, x->held[0]);
    shell(&w.redis, "cp -r '%s/appendonlydir' '%s/copy'");
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    restart_older(&w, "copy");
    admin(&w.redis, "DEL %s", key("leader", 0));
    assert_int_equal(state_in_redis(&w, 1), 0);
    rival.store->answers_at = MSEC_NEVER;
    UNTIL(&rival, x->leads || (redis_is_up(x->store->redis) && x->store->answers_at != MSEC_NEVER));
    assert_false(rival.leads);
    UNTIL(&w, x->fenced || (x->store->stats.store_older == 1 && store_is_settled(x->store)));
    assert_false(w.fenced);
    assert_int_equal(state_in_redis(&w, 1), STATE_PENDING);
    store_end(&w);
    UNTIL(&rival, x->recovered); /* nobody says goodbye: three seconds later it leads, with everything */
    assert_int_equal(rival.jobs, 1);
    rival_remove(&rival);
    world_remove(&w);
}

/* A process that was stopped for seconds may have a successor, and does not know it yet. */
static void who_has_not_renewed_its_leadership_vouches_for_nothing(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    UNTIL(&w, store_is_current(x->store));
    assert_true(store_is_leading(w.store));
    w.store->held_at -= STORE_LEADER_MS;
    assert_false(store_is_leading(w.store));
    assert_false(store_is_current(w.store));
    UNTIL(&w, store_is_leading(x->store)); /* it is renewed every second */
    assert_true(store_is_current(w.store));
    world_remove(&w);
}

static void the_tag_key_is_made_once_and_time_goes_on(void **state)
{
    struct world w;
    uint8_t key_[ID_KEY_BYTES];
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    memcpy(key_, w.lead.tag_key, sizeof key_);
    w.now = 5555555;
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    store_end(&w);
    serve(&w, (struct store_options){0});
    assert_memory_equal(key_, w.lead.tag_key, sizeof key_);
    assert_int_equal(w.lead.last_now, 5555555);
    world_remove(&w);
}

static void a_redis_that_may_lose_jobs_is_refused(void **state)
{
    struct world w;
    world_make(&w, (const char *const[]){"--appendonly", "no", NULL});
    store_begin(&w, (struct store_options){0});
    UNTIL(&w, x->unfit[0]);
    assert_non_null(strstr(w.unfit, "AOF is off"));
    store_end(&w);
    admin(&w.redis, "CONFIG SET appendonly yes");
    admin(&w.redis, "CONFIG SET maxmemory-policy allkeys-lru");
    store_begin(&w, (struct store_options){0});
    UNTIL(&w, x->unfit[0]);
    assert_non_null(strstr(w.unfit, "noeviction"));
    assert_false(w.leads);
    store_end(&w);
    serve(&w, (struct store_options){.allow_unsafe = true});
    world_remove(&w);
}

static void synced_is_promised_with_always_and_not_without(void **state)
{
    struct world w;
    world_make(&w, (const char *const[]){"--appendfsync", "always", NULL});
    serve(&w, (struct store_options){0});
    assert_int_equal(w.lead.ack, ACK_SYNCED);
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    /* Taken back while it serves: nothing is called synced any more. */
    admin(&w.redis, "CONFIG SET appendfsync everysec");
    redis_reset(w.store->redis, "look again");
    put_job(&w, 2, STATE_PENDING);
    UNTIL(&w, store_is_stalled(x->store) && x->store->unfit);
    assert_int_equal(state_in_redis(&w, 2), 0);
    admin(&w.redis, "CONFIG SET appendfsync always");
    UNTIL(&w, all_stored(x) && !store_is_stalled(x->store));
    world_remove(&w);
}

static void with_replicas_a_commit_counts_when_they_have_it(void **state)
{
    struct world w, replica;
    char port[16];
    world_make(&w, NULL);
    admin(&w.redis, "CONFIG SET repl-diskless-sync-delay 0");
    admin(&w.redis, "CONFIG SET bind 127.0.0.1");
    admin(&w.redis, "CONFIG SET port 0");
    /* A free port: Redis cannot be asked for one, so one is tried after another. */
    unsigned number;
    for (number = 20000 + (unsigned)getpid() % 20000;; number++) {
        snprintf(port, sizeof port, "%u", number);
        if (strcmp(admin(&w.redis, "CONFIG SET port %s", port), "OK") == 0)
            break;
    }
    world_make(&replica, (const char *const[]){"--replicaof", "127.0.0.1", port, NULL});
    while (!strstr(admin(&replica.redis, "INFO replication"), "master_link_status:up"))
        usleep(5000);
    serve(&w, (struct store_options){.replicas = 1});
    assert_int_equal(w.lead.ack, ACK_SYNCED);
    put_job(&w, 1, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    assert_int_equal(state_in_redis(&replica, 1), STATE_PENDING);

    kill(replica.redis.pid, SIGSTOP);
    put_job(&w, 2, STATE_PENDING);
    hold_marker(&w, w.number);
    UNTIL(&w, x->store->stats.wait_short >= 2);
    assert_int_equal(state_in_redis(&w, 2), STATE_PENDING); /* here, but not there */
    assert_int_equal(released(&w), 0);
    redis_reset(w.store->redis, "and a new connection does not make it count");
    uint64_t shorts = w.store->stats.wait_short;
    w.wanted = shorts + 1;
    UNTIL(&w, x->store->stats.wait_short >= x->wanted);
    assert_int_equal(released(&w), 0);
    kill(replica.redis.pid, SIGCONT);
    UNTIL(&w, all_stored(x));
    assert_int_equal(state_in_redis(&replica, 2), STATE_PENDING);
    assert_int_equal(released(&w), 1);
    world_remove(&replica);
    world_remove(&w);
}

/* ---- recovery ---- */

static void who_may_not_wait_for_replicas_is_told_at_once(void **state)
{
    struct world w;
    world_make(&w, NULL);
    admin(&w.redis, "ACL SETUSER default -wait");
    store_begin(&w, (struct store_options){.replicas = 1});
    UNTIL(&w, x->store->refused[0]);
    assert_non_null(strstr(w.store->refused, "'wait'"));
    assert_false(w.leads);
    admin(&w.redis, "ACL SETUSER default +wait");
    UNTIL(&w, x->leads);
    world_remove(&w);
}

static void a_hundred_thousand_jobs_are_read_back(void **state)
{
    struct world w;
    const uint64_t count = 100000;
    world_make(&w, NULL);
    serve(&w, (struct store_options){.stall_ms = 60000});
    for (uint64_t i = 1; i <= count; i++)
        put_job(&w, i, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    store_end(&w);
    /* One without a state, one damaged: neither stops the others. */
    admin(&w.redis, "DEL %s", key("j", 5));
    admin(&w.redis, "SETRANGE %s 30 ????", key("j", 6));
    serve(&w, (struct store_options){0});
    assert_int_equal(w.jobs, count - 2);
    assert_int_equal(w.counts.missing, 1);
    assert_int_equal(w.counts.corrupt, 1);
    print_message("recovered %" PRIu64 " jobs in %lld ms\n", w.jobs, (long long)w.counts.took_ms);
    assert_true(w.counts.took_ms < 5000);
    UNTIL(&w, store_is_settled(x->store));
    assert_string_equal(admin(&w.redis, "SCARD %s", key("live", 0)), "99999");
    world_remove(&w);
}

static void a_recovery_survives_a_broken_connection(void **state)
{
    struct world w;
    world_make(&w, NULL);
    serve(&w, (struct store_options){0});
    for (uint64_t i = 1; i <= 5000; i++)
        put_job(&w, i, STATE_PENDING);
    UNTIL(&w, all_stored(x));
    store_end(&w);
    store_begin(&w, (struct store_options){0});
    UNTIL(&w, x->jobs > 300);
    assert_false(w.recovered);
    redis_reset(w.store->redis, "test");
    UNTIL(&w, x->recovered);
    assert_int_equal(w.jobs, 5000);
    world_remove(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_commit_is_stored_and_what_it_held_may_leave),
        cmocka_unit_test(an_ended_job_moves),
        cmocka_unit_test(questions_are_answered_after_the_writes_before_them),
        cmocka_unit_test(a_question_waits_for_every_write_before_it),
        cmocka_unit_test(many_writes_are_few_commits),
        cmocka_unit_test(while_redis_is_stopped_nothing_is_shown),
        cmocka_unit_test(a_stopped_redis_that_loses_the_connection_gets_the_same_bytes_again),
        cmocka_unit_test(a_lost_reply_is_asked_for_again_and_found_applied),
        cmocka_unit_test(when_one_is_refused_those_behind_it_wait),
        cmocka_unit_test(scripts_that_were_flushed_are_loaded_again),
        cmocka_unit_test(a_full_redis_takes_commits_and_says_so),
        cmocka_unit_test(a_full_ring_stalls_and_drops_nothing),
        cmocka_unit_test(an_older_data_set_is_healed_from_the_ring),
        cmocka_unit_test(a_data_set_from_before_this_epoch_gets_the_epoch_again),
        cmocka_unit_test(a_data_set_from_another_leaders_time_fences_nobody),
        cmocka_unit_test(beyond_the_ring_a_new_epoch_writes_everything_anew),
        cmocka_unit_test(an_ex_leader_changes_nothing),
        cmocka_unit_test(no_epoch_is_issued_twice),
        cmocka_unit_test(another_name_waits_until_the_leader_lapses),
        cmocka_unit_test(a_standby_gives_the_leader_time_to_heal_a_redis_that_came_back_older),
        cmocka_unit_test(who_has_not_renewed_its_leadership_vouches_for_nothing),
        cmocka_unit_test(the_tag_key_is_made_once_and_time_goes_on),
        cmocka_unit_test(a_redis_that_may_lose_jobs_is_refused),
        cmocka_unit_test(synced_is_promised_with_always_and_not_without),
        cmocka_unit_test(with_replicas_a_commit_counts_when_they_have_it),
        cmocka_unit_test(who_may_not_wait_for_replicas_is_told_at_once),
        cmocka_unit_test(a_hundred_thousand_jobs_are_read_back),
        cmocka_unit_test(a_recovery_survives_a_broken_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
