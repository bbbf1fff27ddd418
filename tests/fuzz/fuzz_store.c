/* Answers of a Redis as the broker reads them: a greeting and INFO, leadership, a recovery, commits and lookups, from a server
 * that may say anything, break, or belong to another. Whatever it says: hooks come in their order, a write counts as stored
 * once and never before it was sent, every question is answered once, and only a record that holds is taken for one.
 *
 * The input is a stream of replies (RESP), each given to the oldest command. Statuses that begin with '!' are what happens
 * besides: !up !down !beat !again !write !ended !drop !ask !turn !sweep !leave.
 * Covers: broker/store_link.c broker/store_ask.c broker/store.c broker/recover.c */
#include <hiredis/hiredis.h>
#include <stdlib.h>

#include "broker/store_private.h"
#include "common/log.h"

#define PENDING_MAX 512

/* ---- a Redis made of the input ---- */

struct redis {
    struct redis_hooks hooks;
    struct {
        redis_on_reply *on_reply;
        void *arg;
    } pending[PENDING_MAX];
    size_t count;
    bool up, must_break;
} server;

struct redis *redis_new(struct loop *loop, const struct redis_options *options, struct redis_hooks hooks)
{
    server = (struct redis){.hooks = hooks};
    return &server;
}
void redis_free(struct redis **redis)
{
    *redis = NULL;
}
bool redis_is_up(const struct redis *redis)
{
    return redis->up && !redis->must_break;
}
size_t redis_pending(const struct redis *redis)
{
    return redis->count;
}
msec redis_waiting_ms(const struct redis *redis)
{
    return 0;
}
const char *redis_reason(const struct redis *redis)
{
    return "";
}
void redis_flush(struct redis *redis) {}
void redis_reset(struct redis *redis, const char *reason)
{
    assert(reason);
    redis->must_break = redis->up;
}
enum err redis_command(struct redis *redis, redis_on_reply *on_reply, void *arg, const struct span *argv, size_t argc)
{
    assert(argc > 0 && argv[0].len);
    for (size_t i = 0; i < argc; i++)
        assert(argv[i].data || !argv[i].len);
    if (!redis_is_up(redis))
        return ERR_CLOSED;
    if (redis->count == PENDING_MAX)
        return ERR_NOMEM;
    redis->pending[redis->count].on_reply = on_reply;
    redis->pending[redis->count++].arg = arg;
    return ERR_OK;
}

static void give(const redisReply *reply)
{
    redis_on_reply *on_reply = server.pending[0].on_reply;
    void *arg = server.pending[0].arg;
    server.count--;
    memmove(server.pending, server.pending + 1, server.count * sizeof server.pending[0]);
    if (on_reply)
        on_reply(arg, reply);
}

static void break_off(void)
{
    if (!server.up)
        return;
    server.up = server.must_break = false;
    while (server.count)
        give(NULL);
    server.hooks.down(server.hooks.arg, "the input says so");
}

static void come_up(void)
{
    if (server.up)
        return;
    server.up = true;
    server.hooks.up(server.hooks.arg);
}

/* ---- a broker ---- */

static struct broker_side {
    struct loop *loop;
    struct store *store;
    bool leads, recovered, fenced, unfit, sweeping;
    bool leaving, left; /* from store_leave on a broker neither writes, asks nor turns: broker.c, STAGE_LEAVING */
    uint64_t written, stored, asked, answered;
    msec now;
} side;

static void on_held(void *arg, struct span leader)
{
    assert(!side.leads);
}
static void on_leads(void *arg, const struct store_lead *lead)
{
    assert(!side.leads && !side.fenced && lead->epoch && lead->ack);
    side.leads = true;
}
static void on_job(void *arg, const struct id *id, const struct rec_job *job)
{
    assert(side.leads && !side.recovered);
}
static void on_recovered(void *arg, const struct store_recovered *counts)
{
    assert(side.leads && !side.recovered);
    side.recovered = true;
}
static void on_fenced(void *arg)
{
    assert(side.leads && !side.fenced);
    side.fenced = true;
}
static void on_unfit(void *arg, const char *why)
{
    assert(!side.leads && why[0]);
    side.unfit = true;
}
static void on_left(void *arg)
{
    assert(!side.left);
    side.left = true;
}
static void on_answer(void *arg, const struct lookup_key *key, const struct store_answer *answer)
{
    side.answered++;
    if (answer->status != STORE_FOUND)
        assert(!answer->idem && !answer->ended && !answer->job && !answer->body);
    else
        assert(key->kind == LOOKUP_BODY ? answer->body != NULL : answer->idem || answer->ended || answer->job);
}
static bool is_live(void *arg, const struct id *id, const struct rec_job *job)
{
    return id->bytes[15] & 1;
}

static void write_effect(enum effect_type type)
{
    static const struct rec_spec spec = {.tenant = {(const uint8_t *)"t", 1}, .queue = {(const uint8_t *)"q", 1}};
    if (!side.recovered || side.fenced || side.leaving)
        return;
    struct effect e = {.type = type, .number = side.written + 1, .ttl_ms = 60000, .id.bytes = {[15] = (uint8_t)side.written}};
    if (type == EFFECT_SAVE_JOB)
        e.job_record = (struct rec_job){.spec = spec, .state = STATE_PENDING};
    if (store_write(side.store, &e, side.now) == ERR_OK)
        side.written++;
}

static void ask(uint8_t kind)
{
    struct lookup_key key = {.kind = kind};
    if (side.recovered && !side.leaving && side.asked < 64 && store_ask(side.store, &key, on_answer, NULL) == ERR_OK)
        side.asked++;
}

static void turn_store(void)
{
    uint64_t epoch;
    if (side.fenced || side.leaving)
        return;
    if (store_must_rewrite(side.store, &epoch)) {
        assert(epoch);
        store_rewritten(side.store);
    }
    store_turn(side.store, ++side.now);
}

static void happen(struct span what)
{
    static uint8_t kinds[] = {LOOKUP_IDEM, LOOKUP_BODY, LOOKUP_ENDED, LOOKUP_ANY};
    if (span_is(what, "!up"))
        come_up();
    else if (span_is(what, "!down"))
        break_off();
    else if (span_is(what, "!beat") && timer_at(side.store->beat) != MSEC_NEVER)
        link_on_beat(side.store);
    else if (span_is(what, "!again") && timer_at(side.store->again) != MSEC_NEVER)
        link_on_again(side.store);
    else if (span_is(what, "!write"))
        write_effect(EFFECT_SAVE_JOB);
    else if (span_is(what, "!drop"))
        write_effect(EFFECT_DROP_JOB);
    else if (span_is(what, "!ask"))
        ask(kinds[side.asked % ARRAY_COUNT(kinds)]);
    else if (span_is(what, "!turn"))
        turn_store();
    else if (span_is(what, "!sweep") && side.recovered && !side.leaving && !side.sweeping)
        side.sweeping = store_sweep(side.store, is_live, NULL) == ERR_OK;
    else if (span_is(what, "!leave") && !side.leaving) {
        side.leaving = true;
        store_leave(side.store, on_left, NULL);
    }
}

static void check(void)
{
    uint64_t stored = store_stored(side.store);
    assert(stored >= side.stored && stored <= side.written);
    assert(side.answered <= side.asked);
    assert(!store_is_current(side.store) || (side.recovered && server.up));
    side.stored = stored;
}

static void take(const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_STATUS && reply->str[0] == '!')
        happen(span_of(reply->str, reply->len));
    else if (server.up && server.count)
        give(reply);
    if (server.must_break)
        break_off();
    check();
}

static void drop(struct list *held)
{
    assert(list_empty(held));
}
static void turn(void *arg) {}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct redis_options redis = {.socket = "/nowhere"};
    const struct store_options options = {.redis = &redis,
                                          .shard = 7,
                                          .name = "me",
                                          .replicas = size % 2,
                                          .ring_bytes = 1 << 20,
                                          .stall_bytes = 1 << 20,
                                          .stall_ms = 2000};
    struct loop *loop = side.loop ? side.loop : loop_new(turn, NULL);
    log_level(-1);
    side = (struct broker_side){.loop = loop, .now = 1000000};
    side.store =
        store_new(loop, &options, (struct store_hooks){on_held, on_leads, on_job, on_recovered, on_fenced, on_unfit, NULL});
    redisReader *reader = redisReaderCreate();
    redisReaderFeed(reader, (const char *)data, size);
    come_up();
    for (redisReply *reply; redisReaderGetReply(reader, (void **)&reply) == REDIS_OK && reply; freeReplyObject(reply))
        take(reply);
    redisReaderFree(reader);
    break_off();
    check();
    store_free(&side.store, drop);
    return 0;
}
