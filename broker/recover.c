#include "broker/recover.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"
#include "proto/record.h"

#define SCAN_COUNT    "2000"
#define BATCH         256
#define BATCHES_AHEAD 4

struct recover {
    struct loop *loop;
    struct redis *redis;
    unsigned shard;
    struct recover_hooks hooks;
    msec began_at;
    bool scanned; /* ids is complete, sorted and without doubles */
    struct id *ids;
    size_t count, size;
    size_t asked, got; /* ids[0 … got) are given, ids[got … asked) on their way */
    size_t in_flight;  /* commands without a reply */
    struct id *missing;
    size_t missing_count, missing_size;
    struct record record; /* reused */
    struct store_recovered counts;
};

struct recover *recover_new(struct loop *loop, struct redis *redis, unsigned shard, struct recover_hooks hooks)
{
    struct recover *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    *r = (struct recover){.loop = loop, .redis = redis, .shard = shard, .hooks = hooks, .began_at = loop_now(loop)};
    return r;
}

void recover_free(struct recover **recover)
{
    struct recover *r = TAKE(*recover);
    if (!r)
        return;
    record_done(&r->record);
    free(r->ids);
    free(r->missing);
    free(r);
}

size_t recover_missing(const struct recover *r, const struct id **ret_missing)
{
    *ret_missing = r->missing;
    return r->missing_count;
}

static bool append(struct id **list, size_t *count, size_t *size, const struct id *id)
{
    if (*count == *size) {
        size_t more = *size ? *size * 2 : 1024;
        struct id *grown = realloc(*list, more * sizeof **list);
        if (!grown)
            return false;
        *list = grown;
        *size = more;
    }
    (*list)[(*count)++] = *id;
    return true;
}

static void failed(struct recover *r, const char *why)
{
    r->hooks.failed(r->hooks.arg, why);
}

/* ---- states ---- */

static void ask_batches(struct recover *r);

/* false: no memory, the only thing that stops a recovery for good. */
static bool take(struct recover *r, const struct id *id, const redisReply *value)
{
    if (value->type != REDIS_REPLY_STRING) {
        r->counts.missing++;
        return append(&r->missing, &r->missing_count, &r->missing_size, id);
    }
    enum err e = record_unpack(&r->record, RECORD_JOB, span_of(value->str, value->len));
    if (e == ERR_OK) {
        r->counts.jobs++;
        r->hooks.job(r->hooks.arg, id, &r->record.job);
        return true;
    }
    char text[ID_TEXT_LEN + 1];
    id_print(id, text);
    log_event(LOG_STORE_CORRUPT, "job=%s key=j: error=%s", text, err_name(e));
    r->counts.corrupt++;
    return e != ERR_NOMEM;
}

static void done(struct recover *r)
{
    r->counts.took_ms = loop_now(r->loop) - r->began_at;
    r->hooks.done(r->hooks.arg, &r->counts);
}

static void on_states(void *arg, const redisReply *reply)
{
    struct recover *r = arg;
    size_t count = MIN(BATCH, r->count - r->got);
    r->in_flight--;
    if (!reply)
        return;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != count) {
        failed(r, reply->type == REDIS_REPLY_ERROR ? reply->str : "MGET answered strangely");
        return;
    }
    for (size_t i = 0; i < count; i++)
        if (!take(r, &r->ids[r->got + i], reply->element[i])) {
            failed(r, "no memory");
            return;
        }
    r->got += count;
    if (r->got == r->count)
        done(r);
    else
        ask_batches(r);
}

static bool ask_batch(struct recover *r)
{
    char keys[BATCH][RECORD_KEY_BYTES + 1];
    struct span argv[1 + BATCH] = {span_str("MGET")};
    size_t count = MIN(BATCH, r->count - r->asked);
    for (size_t i = 0; i < count; i++)
        argv[1 + i] = span_of(keys[i], record_key_job(keys[i], r->shard, &r->ids[r->asked + i]));
    if (redis_command(r->redis, on_states, r, argv, 1 + count) != ERR_OK)
        return false;
    r->asked += count;
    r->in_flight++;
    return true;
}

static void ask_batches(struct recover *r)
{
    while (r->asked < r->count && r->asked - r->got < BATCH * BATCHES_AHEAD)
        if (!ask_batch(r))
            return;
}

/* ---- the scan ---- */

static int order(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct id));
}

/* SSCAN may give a member twice while the set is rehashed. */
static void finish_scan(struct recover *r)
{
    size_t kept = 0;
    if (r->count)
        qsort(r->ids, r->count, sizeof *r->ids, order);
    for (size_t i = 0; i < r->count; i++)
        if (!kept || !id_equal(&r->ids[kept - 1], &r->ids[i]))
            r->ids[kept++] = r->ids[i];
    r->count = kept;
    r->scanned = true;
    if (r->count)
        ask_batches(r);
    else
        done(r);
}

static void scan(struct recover *r, struct span cursor);

static void on_scan(void *arg, const redisReply *reply)
{
    struct recover *r = arg;
    r->in_flight--;
    if (!reply)
        return;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 || reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_ARRAY) {
        failed(r, reply->type == REDIS_REPLY_ERROR ? reply->str : "SSCAN answered strangely");
        return;
    }
    const redisReply *members = reply->element[1];
    for (size_t i = 0; i < members->elements; i++) {
        struct id id;
        if (members->element[i]->type != REDIS_REPLY_STRING || members->element[i]->len != sizeof id)
            continue;
        memcpy(&id, members->element[i]->str, sizeof id);
        if (!append(&r->ids, &r->count, &r->size, &id)) {
            failed(r, "no memory");
            return;
        }
    }
    struct span cursor = span_of(reply->element[0]->str, reply->element[0]->len);
    if (span_is(cursor, "0"))
        finish_scan(r);
    else
        scan(r, cursor);
}

static void scan(struct recover *r, struct span cursor)
{
    char key[RECORD_KEY_BYTES + 1];
    size_t len = record_key_named(key, r->shard, "live");
    struct span argv[] = {span_str("SSCAN"), span_of(key, len), cursor, span_str("COUNT"), span_str(SCAN_COUNT)};
    /* While the connection is down this does nothing: the next one goes on. */
    enum err e = redis_command(r->redis, on_scan, r, argv, ARRAY_COUNT(argv));
    if (e == ERR_NOMEM)
        failed(r, "no memory");
    r->in_flight += e == ERR_OK;
}

void recover_go(struct recover *r)
{
    if (r->in_flight)
        return; /* the connection never broke: it goes on by itself */
    if (!r->scanned) {
        r->count = 0;
        scan(r, span_str("0"));
        return;
    }
    r->asked = r->got;
    ask_batches(r);
}
