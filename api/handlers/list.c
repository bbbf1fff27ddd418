/* GET /v1/jobs and /v1/history: the tenant's ended jobs, newest end first, from the index that the broker keeps by the hour of
 * the end. A page is read in rounds; it is full, or the jobs are over, or as many were looked at as one request may.
 *
 *   counts of all hours ─► ┌─ ids of an hour, from the cursor on ─► their records ─┐ ─► page
 *                          └───────────────── next round ◄────────────────────────┘ */
#include <stdio.h>
#include <stdlib.h>

#include "api/handlers/handlers.h"
#include "api/job.h"
#include "common/clock.h"

#define LIMIT_DEFAULT  20
#define LIMIT_MAX      100
#define HISTORY        50
#define LOOKED_MAX     1000      /* records per request */
#define PAGE_BYTES_MAX (8 << 20) /* a page ends where it has become as long */
#define ROUND          16        /* records read at once: each may be as long as a result may be */
#define HOUR_MS        3600000
#define KEPT_MAX_MS    604800000 /* result_ttl_s may say as much (spec.c) */
#define CURSOR_BYTES   64

struct filter {
    enum state state; /* 0: any end */
    char queue[QUERY_VALUE_BYTES], tag[QUERY_VALUE_BYTES];
    msec after; /* when it ended, or later */
};

/* Where a page begins: behind this job, which ended then. */
struct place {
    msec at;
    struct id last;
};

struct listing {
    struct api *api;
    struct exchange *x; /* NULL: gone; freed when no reply of Redis is awaited */
    struct filter filter;
    unsigned limit, found, looked;
    bool cursors; /* says where the next page begins */
    msec hour, oldest_hour;
    msec at; /* end of the last job looked at, and which it was */
    struct id last;
    unsigned
        offset; /* so many of the hour's, from `at` back, were had: only of an instant at which more ended than a round has */
    struct id ids[ROUND];
    msec ends[ROUND];
    unsigned ids_count, ids_next;
    unsigned pending; /* replies awaited */
    bool broken;      /* Redis has answered one of them with an error, or not at all */
    struct json_out out;
    size_t tenant_len;
    char tenant[PROTO_TENANT_BYTES];
    unsigned hours;   /* counted */
    uint8_t filled[]; /* by hours back from the newest: there are jobs */
};

static void next_round(struct listing *l);

static struct span tenant_of(const struct listing *l)
{
    return span_of(l->tenant, l->tenant_len);
}

static void release(struct listing *l)
{
    json_out_done(&l->out);
    free(l);
}

/* ---- the end ---- */

static void fail(struct listing *l, enum err error)
{
    struct exchange *x = l->x;
    x->left = NULL;
    release(l);
    exchange_fail_with(x, error);
}

static void finish(struct listing *l, bool more)
{
    struct exchange *x = l->x;
    char id[ID_TEXT_LEN + 1];
    json_lit(&l->out, "]");
    if (l->cursors && more) {
        id_print(&l->last, id);
        json_printf(&l->out, ",\"next\":\"%lld-%s\"", (long long)l->at, id);
    } else if (l->cursors) {
        json_lit(&l->out, ",\"next\":null");
    }
    json_lit(&l->out, "}");
    x->left = NULL;
    struct json_out out = l->out;
    l->out = (struct json_out){0};
    release(l);
    exchange_reply_json(x, 200, &out);
}

/* A reply has come: with the last of them it goes on. */
static void settle(struct listing *l)
{
    if (l->pending)
        return;
    if (!l->x)
        release(l);
    else if (l->broken)
        fail(l, ERR_STORE);
    else
        next_round(l);
}

/* ---- records ---- */

static bool has_tag(struct span display, const char *wanted)
{
    AUTO(json_free) cJSON *tree = NULL;
    if (json_parse(display, &tree, NULL))
        return false;
    const cJSON *tags = json_get(tree, "tags");
    for (const cJSON *tag = tags ? tags->child : NULL; tag; tag = tag->next)
        if (cJSON_IsString(tag) && strcmp(tag->valuestring, wanted) == 0)
            return true;
    return false;
}

/* A record of another end than the index has led to is not: a redriven job's old end is in the index of a store that came back
 * older. */
static bool is_wanted(const struct listing *l, const struct record *record)
{
    const struct rec_ended *r = &record->ended;
    const struct filter *f = &l->filter;
    return r->completed_at == l->at && span_equal(r->spec.tenant, tenant_of(l)) &&
           (!f->state || f->state == (enum state)r->state) && (!f->queue[0] || span_is(r->spec.queue, f->queue)) &&
           r->display_bytes <= record->body.len &&
           (!f->tag[0] || has_tag(span_of(record->body.data, r->display_bytes), f->tag));
}

/* A record that has expired meanwhile, or cannot be read, is passed over. */
static void take_record(struct listing *l, struct span bytes)
{
    struct record *record = &l->api->record;
    if (record_unpack(record, RECORD_ENDED, bytes) || !is_wanted(l, record))
        return;
    json_lit(&l->out, l->found++ ? "," : "");
    job_summary(&l->out, &l->last, &record->ended, record->body);
}

/* Replies come in the order of the ids. Those behind a full page were read in vain: they are looked at with the next one. */
static void on_record(void *arg, const redisReply *reply)
{
    struct listing *l = arg;
    l->pending--;
    unsigned i = l->ids_next++;
    bool full = l->found >= l->limit || l->out.len > PAGE_BYTES_MAX;
    l->broken |= !reply || reply->type == REDIS_REPLY_ERROR;
    if (l->x && !l->broken && !full) {
        l->offset = l->ends[i] == l->at ? l->offset : 0;
        l->at = l->ends[i];
        l->last = l->ids[i];
        l->looked++;
        if (reply->type == REDIS_REPLY_STRING)
            take_record(l, span_of(reply->str, reply->len));
    }
    settle(l);
}

static bool ask(struct listing *l, redis_on_reply *on_reply, const struct span *argv, size_t argc)
{
    if (redis_command(l->api->redis, on_reply, l, argv, argc))
        return false;
    l->pending++;
    return true;
}

static void read_records(struct listing *l)
{
    char key[RECORD_KEY_BYTES + 1];
    l->ids_next = 0;
    for (unsigned i = 0; i < l->ids_count; i++) {
        size_t len = record_key_ended(key, id_shard(&l->ids[i]), &l->ids[i]);
        if (!ask(l, on_record, (struct span[]){span_str("GET"), span_of(key, len)}, 2)) {
            l->ids_count = i;
            l->broken = true;
        }
    }
    if (!l->pending)
        fail(l, ERR_STORE);
}

/* ---- the index ---- */

/* Of those that ended at one instant the greater ids come first: what the page before has had is passed over. */
static bool was_had(const struct listing *l, msec end, const uint8_t *id)
{
    return end == l->at && memcmp(id, l->last.bytes, ID_BYTES) >= 0;
}

static void on_ids(void *arg, const redisReply *reply)
{
    struct listing *l = arg;
    l->pending--;
    if (!l->x) {
        release(l);
        return;
    }
    if (!reply || reply->type != REDIS_REPLY_ARRAY) {
        fail(l, ERR_STORE);
        return;
    }
    l->ids_count = 0;
    for (size_t i = 0; i + 1 < reply->elements; i += 2) {
        const redisReply *id = reply->element[i], *score = reply->element[i + 1];
        msec end = score->str ? (msec)strtoll(score->str, NULL, 10) : 0;
        if (id->len != ID_BYTES || was_had(l, end, (const uint8_t *)id->str))
            continue;
        memcpy(l->ids[l->ids_count].bytes, id->str, ID_BYTES);
        l->ends[l->ids_count++] = end;
    }
    if (l->ids_count) {
        read_records(l);
        return;
    }
    if (reply->elements) {
        l->offset += (unsigned)reply->elements / 2; /* all of them were had: those behind */
    } else {
        l->hour--;
        l->offset = 0;
    }
    next_round(l);
}

static unsigned hours_back(const struct listing *l, msec hour)
{
    return (unsigned)(l->oldest_hour + l->hours - 1 - hour);
}

/* Of an hour, those that ended at `at` or before, but not before the time asked for, from the offset on. */
static void ask_ids(struct listing *l)
{
    char key[RECORD_KEY_BYTES + 1], max[32], min[32], offset[16], count[8];
    size_t len = record_key_index(key, ask_broker(l->api->ask)->shard, tenant_of(l), l->hour * HOUR_MS);
    snprintf(max, sizeof max, "%lld", (long long)l->at);
    snprintf(min, sizeof min, "%lld", (long long)l->filter.after);
    snprintf(offset, sizeof offset, "%u", l->offset);
    snprintf(count, sizeof count, "%d", ROUND);
    const struct span argv[] = {span_str("ZREVRANGEBYSCORE"), span_of(key, len), span_str(max),    span_str(min),
                                span_str("WITHSCORES"),       span_str("LIMIT"), span_str(offset), span_str(count)};
    if (!ask(l, on_ids, argv, ARRAY_COUNT(argv)))
        fail(l, ERR_STORE);
}

static void next_round(struct listing *l)
{
    if (l->found >= l->limit || l->looked >= LOOKED_MAX || l->out.len > PAGE_BYTES_MAX) {
        finish(l, true);
        return;
    }
    while (l->hour >= l->oldest_hour && !l->filled[hours_back(l, l->hour)])
        l->hour--;
    if (l->hour < l->oldest_hour)
        finish(l, false);
    else
        ask_ids(l);
}

/* ---- which hours have any ---- */

static void on_count(void *arg, const redisReply *reply)
{
    struct listing *l = arg;
    l->pending--;
    l->broken |= !reply || reply->type != REDIS_REPLY_INTEGER;
    l->filled[l->ids_next++] = !l->broken && reply->integer > 0;
    settle(l);
}

static void count_hours(struct listing *l)
{
    char key[RECORD_KEY_BYTES + 1];
    unsigned shard = ask_broker(l->api->ask)->shard;
    msec newest = l->oldest_hour + l->hours - 1;
    for (msec hour = newest; hour >= l->oldest_hour; hour--) {
        size_t len = record_key_index(key, shard, tenant_of(l), hour * HOUR_MS);
        if (!ask(l, on_count, (struct span[]){span_str("ZCARD"), span_of(key, len)}, 2)) {
            l->broken = true;
            break;
        }
    }
    if (!l->pending)
        fail(l, ERR_STORE);
}

/* ---- the request ---- */

static void on_left(struct exchange *x, bool gone)
{
    struct listing *l = x->owner;
    if (!gone)
        return;
    l->x = NULL; /* it always awaits a reply */
}

static void begin(struct api *api, struct exchange *x, const struct visit *v, const struct filter *filter, unsigned limit,
                  const struct place *from, bool cursors)
{
    msec now = clock_wall(), kept = MAX(KEPT_MAX_MS, (msec)api->conf->broker.failed_ttl_ms);
    msec newest = MIN(from->at, now + HOUR_MS) / HOUR_MS; /* a broker's clock may be ahead of ours */
    msec oldest = MAX((now - kept) / HOUR_MS, filter->after / HOUR_MS);
    unsigned hours = newest >= oldest ? (unsigned)(newest - oldest + 1) : 0;
    struct listing *l = ask_broker(api->ask)->known ? calloc(1, sizeof *l + hours) : NULL;
    if (!l) {
        exchange_fail_with(x, ask_broker(api->ask)->known ? ERR_NOMEM : ERR_BROKER);
        return;
    }
    l->api = api;
    l->x = x;
    l->filter = *filter;
    l->limit = limit;
    l->cursors = cursors;
    l->hours = hours;
    l->oldest_hour = oldest;
    l->hour = newest;
    l->at = from->at;
    l->last = from->last;
    l->tenant_len = v->caller.tenant.len;
    memcpy(l->tenant, v->caller.tenant.data, l->tenant_len);
    json_lit(&l->out, "{\"jobs\":[");
    x->left = on_left;
    x->owner = l;
    if (hours)
        count_hours(l);
    else
        finish(l, false);
}

/* Before all that ended before that instant. */
static struct place newest_before(msec instant)
{
    struct place place = {.at = instant - 1};
    memset(place.last.bytes, 0xff, ID_BYTES);
    return place;
}

static bool refuse(struct exchange *x, const char *param, const char *message)
{
    exchange_fail(x, &(struct fault){.error = ERR_INVALID, .param = param, .message = message});
    return false;
}

static bool read_limit(struct exchange *x, const struct query_param *p, unsigned *ret_limit)
{
    char *end = NULL;
    long n = p->given ? strtol(p->value, &end, 10) : LIMIT_DEFAULT;
    if (p->given && (!p->value[0] || *end || n < 1 || n > LIMIT_MAX))
        return refuse(x, p->name, "must be 1 to 100");
    *ret_limit = (unsigned)n;
    return true;
}

static bool read_status(struct exchange *x, const struct query_param *p, enum state *ret_state)
{
    static const enum state ends[] = {STATE_COMPLETED, STATE_FAILED, STATE_CANCELLED, STATE_EXPIRED};
    *ret_state = 0;
    for (size_t i = 0; i < ARRAY_COUNT(ends); i++)
        if (strcmp(p->value, state_name(ends[i])) == 0)
            *ret_state = ends[i];
    return !p->given || *ret_state ? true : refuse(x, p->name, "must be completed, failed, cancelled or expired");
}

/* *at is left as it is if none was given. */
static bool read_time(struct exchange *x, const struct query_param *p, msec *at)
{
    return !p->given || !clock_parse(span_str(p->value), at) ? true : refuse(x, p->name, "must be an RFC 3339 time");
}

/* "<end>-<id>", as `next` says it; likewise. */
static bool read_cursor(struct exchange *x, const struct query_param *p, struct place *from)
{
    struct place given;
    char *end = NULL;
    if (!p->given)
        return true;
    given.at = strtoll(p->value, &end, 10);
    if (given.at <= 0 || *end != '-' || id_parse(span_str(end + 1), &given.last))
        return refuse(x, p->name, "must be what `next` of the page before says");
    *from = given;
    return true;
}

void handle_list(struct api *api, struct exchange *x, const struct visit *v)
{
    enum { STATUS, QUEUE, TAG, AFTER, BEFORE, LIMIT, CURSOR };
    struct query_param p[] = {
        [STATUS] = {.name = "status"}, [QUEUE] = {.name = "queue"}, [TAG] = {.name = "tag"},      [AFTER] = {.name = "after"},
        [BEFORE] = {.name = "before"}, [LIMIT] = {.name = "limit"}, [CURSOR] = {.name = "cursor"}};
    struct filter f = {0};
    msec before = MSEC_NEVER;
    struct place from = newest_before(MSEC_NEVER);
    unsigned limit;
    if (!query_read(x, v->request->query, p, ARRAY_COUNT(p)) || !read_status(x, &p[STATUS], &f.state) ||
        !read_time(x, &p[AFTER], &f.after) || !read_time(x, &p[BEFORE], &before) || !read_limit(x, &p[LIMIT], &limit) ||
        !read_cursor(x, &p[CURSOR], &from))
        return;
    if (from.at >= before)
        from = newest_before(before);
    memcpy(f.queue, p[QUEUE].value, sizeof f.queue);
    memcpy(f.tag, p[TAG].value, sizeof f.tag);
    begin(api, x, v, &f, limit, &from, true);
}

void handle_history(struct api *api, struct exchange *x, const struct visit *v)
{
    struct place from = newest_before(MSEC_NEVER);
    if (query_read(x, v->request->query, NULL, 0))
        begin(api, x, v, &(struct filter){0}, HISTORY, &from, false);
}
