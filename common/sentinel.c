#include "common/sentinel.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/commas.h"
#include "common/log.h"

#define ASK_MS    1000  /* between two questions */
#define ANSWER_MS 2000  /* for one Sentinel to answer */
#define AWAY_MS   3000  /* none has answered for so long: it is said */
#define STALE_MS  10000 /* the latest configuration was not confirmed for so long: an earlier one is heard */

/* One Sentinel, and what it said last. */
struct voice {
    struct sentinel *sentinel;
    struct redis *redis;
    char address[300];
    bool asked; /* and has not answered */
    char host[256];
    unsigned port; /* 0: it does not know the master */
};

struct sentinel {
    struct loop *loop;
    const struct redis_options *options;
    sentinel_on_master *on_master;
    void *arg;
    struct timer *timer;
    uint64_t epoch;   /* the latest configuration heard of … */
    msec epoch_at;    /* … and when last */
    msec answered_at; /* whoever did last */
    bool said_away;
    char reason[480]; /* why one did not */
    size_t count;
    struct voice voices[];
};

/* ---- answers ---- */

static const char *text_of(const redisReply *reply, size_t i)
{
    return reply->element[i]->type == REDIS_REPLY_STRING ? reply->element[i]->str : "";
}

static void no_answer(struct voice *voice, const char *why)
{
    struct sentinel *sentinel = voice->sentinel;
    voice->asked = false;
    voice->port = 0;
    snprintf(sentinel->reason, sizeof sentinel->reason, "%s: %s", voice->address, why);
}

static void on_address(void *arg, const redisReply *reply)
{
    struct voice *voice = arg;
    voice->port = 0;
    if (!reply || reply->type != REDIS_REPLY_ARRAY || reply->elements != 2)
        return; /* the facts, which come next, say why */
    snprintf(voice->host, sizeof voice->host, "%s", text_of(reply, 0));
    voice->port = (unsigned)atoi(text_of(reply, 1));
}

static void judge(struct voice *voice, uint64_t epoch)
{
    struct sentinel *sentinel = voice->sentinel;
    msec now = loop_now(sentinel->loop);
    if (epoch < sentinel->epoch && now - sentinel->epoch_at < STALE_MS)
        return;
    sentinel->epoch = epoch;
    sentinel->epoch_at = now;
    sentinel->on_master(sentinel->arg, voice->host, voice->port);
}

static void on_facts(void *arg, const redisReply *reply)
{
    struct voice *voice = arg;
    struct sentinel *sentinel = voice->sentinel;
    if (!reply || reply->type != REDIS_REPLY_ARRAY || !voice->port) {
        const char *word = reply && reply->type == REDIS_REPLY_ERROR ? reply->str : "its answer cannot be read";
        no_answer(voice, reply ? word : "the connection broke");
        return;
    }
    uint64_t epoch = 0;
    for (size_t i = 0; i + 1 < reply->elements; i += 2)
        if (strcmp(text_of(reply, i), "config-epoch") == 0)
            epoch = strtoull(text_of(reply, i + 1), NULL, 10);
    voice->asked = false;
    sentinel->answered_at = loop_now(sentinel->loop);
    if (sentinel->said_away)
        log_event(LOG_SENTINELS_BACK, "address=%s master=%s", voice->address, sentinel->options->master);
    sentinel->said_away = false;
    judge(voice, epoch);
}

/* ---- questions ---- */

static void ask_one(struct voice *voice)
{
    struct span name = span_str(voice->sentinel->options->master);
    const struct span address[] = {span_str("SENTINEL"), span_str("get-master-addr-by-name"), name};
    const struct span facts[] = {span_str("SENTINEL"), span_str("master"), name};
    if (voice->asked || !redis_is_up(voice->redis))
        return;
    voice->asked = redis_command(voice->redis, on_address, voice, address, ARRAY_COUNT(address)) == ERR_OK &&
                   redis_command(voice->redis, on_facts, voice, facts, ARRAY_COUNT(facts)) == ERR_OK;
}

static void on_up(void *arg)
{
    ask_one(arg);
}

void sentinel_ask(struct sentinel *sentinel)
{
    for (size_t i = 0; i < sentinel->count; i++)
        ask_one(&sentinel->voices[i]);
}

static void look_whether_any_answers(struct sentinel *sentinel)
{
    if (sentinel->said_away || loop_now(sentinel->loop) - sentinel->answered_at < AWAY_MS)
        return;
    for (size_t i = 0; i < sentinel->count && !sentinel->reason[0]; i++)
        if (redis_reason(sentinel->voices[i].redis)[0])
            no_answer(&sentinel->voices[i], redis_reason(sentinel->voices[i].redis));
    log_event(LOG_SENTINELS_AWAY, "master=%s reason=%s", sentinel->options->master, log_str(span_str(sentinel->reason)));
    sentinel->said_away = true;
    sentinel->reason[0] = '\0';
}

static void on_timer(void *arg)
{
    struct sentinel *sentinel = arg;
    sentinel_ask(sentinel);
    look_whether_any_answers(sentinel);
    timer_set(sentinel->timer, loop_now(sentinel->loop) + ASK_MS);
}

/* ---- life ---- */

/* HOST:PORT; the settings have checked its form. */
static bool split(char *address, struct redis_options *o, char host[256])
{
    char *colon = strrchr(address, ':');
    size_t len = colon ? (size_t)(colon - address) : 0;
    if (!len || len >= 256)
        return false;
    bool bracketed = address[0] == '[' && address[len - 1] == ']';
    snprintf(host, 256, "%.*s", (int)(bracketed ? len - 2 : len), address + bracketed);
    o->host = host;
    o->port = (unsigned)atoi(colon + 1);
    return true;
}

static bool open_voice(struct sentinel *sentinel, struct span address)
{
    const struct redis_options *from = sentinel->options;
    struct voice *voice = &sentinel->voices[sentinel->count++];
    char host[256];
    struct redis_options o = {.tls = from->tls,
                              .tls_ca_file = from->tls_ca_file,
                              .user = from->sentinel_user,
                              .password = from->sentinel_password,
                              .connect_timeout_ms = ANSWER_MS,
                              .reply_timeout_ms = ANSWER_MS,
                              .quiet = true};
    voice->sentinel = sentinel;
    snprintf(voice->address, sizeof voice->address, "%.*s", SPAN_ARG(address));
    if (split(voice->address, &o, host))
        voice->redis = redis_new(sentinel->loop, &o, (struct redis_hooks){.up = on_up, .arg = voice});
    return voice->redis;
}

struct sentinel *sentinel_new(struct loop *loop, const struct redis_options *options, sentinel_on_master *on_master, void *arg)
{
    size_t count = commas_count(options->sentinels);
    AUTO(sentinel_free) struct sentinel *sentinel = calloc(1, sizeof *sentinel + count * sizeof sentinel->voices[0]);
    if (!sentinel || !(sentinel->timer = timer_new(loop, on_timer, sentinel)))
        return NULL;
    sentinel->loop = loop;
    sentinel->options = options;
    sentinel->on_master = on_master;
    sentinel->arg = arg;
    sentinel->answered_at = loop_now(loop);
    struct span rest = span_str(options->sentinels), address;
    while (commas_next(&rest, &address))
        if (!open_voice(sentinel, address))
            return NULL;
    timer_set(sentinel->timer, loop_now(loop) + ASK_MS);
    return TAKE(sentinel);
}

void sentinel_free(struct sentinel **sentinel_ptr)
{
    struct sentinel *sentinel = TAKE(*sentinel_ptr);
    if (!sentinel)
        return;
    for (size_t i = 0; i < sentinel->count; i++)
        redis_free(&sentinel->voices[i].redis);
    timer_free(&sentinel->timer);
    free(sentinel);
}
