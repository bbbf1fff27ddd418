/* Writes become operations on keys. An operation on a key that the commit already touches replaces the earlier one, found
 * through a small open-addressing table; at the close the operations are laid out by verb in the order store.lua reads them. */
#include "broker/commit.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/body.h"
#include "proto/record.h"

#define HOUR_MS    ((msec)3600000)
#define NUMBER_MAX 20 /* digits of a uint64_t */
#define OPS_MAX    (COMMIT_WRITES_MAX * 4)
#define SLOTS      (OPS_MAX * 2)

/* In the order of store.lua's counts. */
enum verb { VERB_SET, VERB_SET_PX, VERB_ZADD, VERB_PEXPIRE, VERB_DEL, VERB_ZREM, VERB_SADD, VERB_SREM, VERBS };

struct op {
    uint8_t verb;
    uint8_t key_len; /* 0: `live` */
    uint32_t key_at; /* in text */
    struct blob *value;
    struct id member;
    uint64_t ttl_ms;
    msec score;
};

struct ended {
    uint64_t number;
    struct blob *record;
};

struct commit_parts {
    unsigned shard;
    enum err error; /* the first refusal; nothing is undone */
    struct op *ops;
    uint32_t ops_count, ops_size;
    uint16_t *slots; /* op index + 1, 0: free */
    struct ended *ended;
    uint32_t ended_count, ended_size;
    char *text; /* keys, then what the arguments need */
    size_t text_len, text_size;
    struct span *argv;
    size_t argc;
    char sha[40];
    char epoch[NUMBER_MAX + 1], n[NUMBER_MAX + 1], before[2 * NUMBER_MAX + 2], now[NUMBER_MAX + 1];
    size_t epoch_arg;                    /* in argv: epoch, n, before */
    char fixed[3][RECORD_KEY_BYTES + 1]; /* epoch, last, live */
};

static bool number(struct span *text, uint64_t *ret)
{
    uint64_t value = 0;
    size_t i = 0;
    for (; i < text->len && text->data[i] >= '0' && text->data[i] <= '9'; i++)
        if (i >= NUMBER_MAX - 1 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text->data[i] - '0'), &value))
            return false;
    if (i == 0)
        return false;
    *text = span_of(text->data + i, text->len - i);
    *ret = value;
    return true;
}

static bool colon(struct span *text)
{
    if (!text->len || text->data[0] != ':')
        return false;
    *text = span_of(text->data + 1, text->len - 1);
    return true;
}

enum err commit_at_parse(struct span text, struct commit_at *ret_at, msec *ret_now)
{
    struct commit_at at;
    uint64_t now;
    if (!number(&text, &at.epoch) || !colon(&text) || !number(&text, &at.n) || !colon(&text) || !number(&text, &now) ||
        text.len || now > INT64_MAX)
        return ERR_MALFORMED;
    *ret_at = at;
    *ret_now = (msec)now;
    return ERR_OK;
}

struct commit *commit_new(unsigned shard)
{
    AUTO(commit_free) struct commit *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    list_init(&c->node);
    list_init(&c->held);
    c->parts = calloc(1, sizeof *c->parts);
    if (!c->parts)
        return NULL;
    c->parts->shard = shard;
    c->parts->slots = calloc(SLOTS, sizeof *c->parts->slots);
    if (!c->parts->slots)
        return NULL;
    return TAKE(c);
}

void commit_free(struct commit **commit)
{
    struct commit *c = TAKE(*commit);
    if (!c)
        return;
    assert(list_empty(&c->held));
    list_remove(&c->node);
    struct commit_parts *p = c->parts;
    if (p) {
        for (uint32_t i = 0; i < p->ops_count; i++)
            blob_free(&p->ops[i].value);
        for (uint32_t i = 0; i < p->ended_count; i++)
            blob_free(&p->ended[i].record);
        free(p->ops);
        free(p->slots);
        free(p->ended);
        free(p->text);
        free(p->argv);
        free(p);
    }
    free(c);
}

/* About what the write adds; a bound is kept with it, so it need not be exact. */
static size_t weight(const struct effect *write)
{
    size_t bytes = 512;
    switch (write->type) {
    case EFFECT_SAVE_BODY:
        bytes += write->body_len ? write->body_len : write->body->len - write->body_from;
        break;
    case EFFECT_SAVE_ENDED:
        bytes += write->parts[0].len + write->parts[1].len + write->parts[2].len + write->ended.message.len;
        break;
    default:
        break;
    }
    return bytes;
}

#define JOINED_BYTES 4096 /* of a write that shares its commit with the one before it, at most: it is no body and no end */

bool commit_is_full_for(const struct commit *commit, const struct effect *write)
{
    if (!commit->writes || commit->joined)
        return false;
    size_t bytes = weight(write) + write->joined * (size_t)JOINED_BYTES;
    return commit->writes + write->joined >= COMMIT_WRITES_MAX || commit->bytes + bytes > COMMIT_BYTES_MAX;
}

/* ---- operations ---- */

static struct span key_of(const struct commit_parts *p, const struct op *op)
{
    return span_of(p->text + op->key_at, op->key_len);
}

static bool has_member(uint8_t verb)
{
    return verb == VERB_SADD || verb == VERB_SREM || verb == VERB_ZADD || verb == VERB_ZREM;
}

static uint32_t hash(struct span bytes, uint32_t from)
{
    for (size_t i = 0; i < bytes.len; i++)
        from = (from ^ bytes.data[i]) * 16777619u;
    return from;
}

/* The slot of (key, member): taken by an operation on it, or free. There are twice as many slots as operations. */
static uint16_t *slot_of(struct commit_parts *p, const struct op *like, struct span key)
{
    bool member = has_member(like->verb);
    uint32_t at = hash(key, 2166136261u);
    if (member)
        at = hash(span_of(like->member.bytes, ID_BYTES), at);
    for (at %= SLOTS; p->slots[at]; at = (at + 1) % SLOTS) {
        const struct op *op = &p->ops[p->slots[at] - 1];
        if (has_member(op->verb) == member && span_equal(key_of(p, op), key) &&
            (!member || id_equal(&op->member, &like->member)))
            break;
    }
    return &p->slots[at];
}

static bool text_reserve(struct commit_parts *p, size_t more)
{
    if (p->text_size - p->text_len >= more)
        return true;
    size_t size = MAX(p->text_len + more, p->text_size * 2);
    char *text = realloc(p->text, size);
    if (!text)
        return false;
    p->text = text;
    p->text_size = size;
    return true;
}

static bool ops_reserve(struct commit_parts *p)
{
    if (p->ops_count < p->ops_size)
        return true;
    uint32_t size = p->ops_size ? p->ops_size * 2 : 8;
    struct op *ops = realloc(p->ops, size * sizeof *ops);
    if (!ops)
        return false;
    p->ops = ops;
    p->ops_size = size;
    return true;
}

/* What stays of `op` on a key that `before` has already touched in this commit. */
static void merge(struct op *before, struct op *op)
{
    if (op->verb == VERB_PEXPIRE && before->verb != VERB_PEXPIRE) {
        if (before->verb == VERB_SET || before->verb == VERB_SET_PX) {
            before->verb = VERB_SET_PX;
            before->ttl_ms = op->ttl_ms;
        }
        return;
    }
    blob_free(&before->value);
    before->verb = op->verb;
    before->value = TAKE(op->value);
    before->ttl_ms = op->ttl_ms;
    before->score = op->score;
}

/* Takes op.value. key: empty for `live`. A refusal stays with the commit. */
static void put(struct commit *c, struct op op, struct span key)
{
    struct commit_parts *p = c->parts;
    uint16_t *slot = slot_of(p, &op, key);
    c->bytes += (op.value ? op.value->len : 0) + key.len + sizeof op + 2 * sizeof(struct span);
    if (*slot) {
        merge(&p->ops[*slot - 1], &op);
        blob_free(&op.value);
        return;
    }
    assert(p->ops_count < OPS_MAX && key.len <= UINT8_MAX);
    if (!ops_reserve(p) || !text_reserve(p, key.len)) {
        p->error = ERR_NOMEM;
        blob_free(&op.value);
        return;
    }
    if (key.len)
        memcpy(p->text + p->text_len, key.data, key.len);
    op.key_at = (uint32_t)p->text_len;
    op.key_len = (uint8_t)key.len;
    p->text_len += key.len;
    p->ops[p->ops_count++] = op;
    *slot = (uint16_t)p->ops_count;
}

typedef size_t key_writer(char out[RECORD_KEY_BYTES + 1], unsigned shard, const struct id *id);

/* An operation on one of a job's own keys; takes `value`. */
static void put_key(struct commit *c, enum verb verb, key_writer *write, const struct id *id, struct blob *value,
                    uint64_t ttl_ms)
{
    char key[RECORD_KEY_BYTES + 1];
    size_t len = write(key, c->parts->shard, id);
    put(c, (struct op){.verb = verb, .value = value, .ttl_ms = ttl_ms}, span_of(key, len));
}

static void put_idem(struct commit *c, enum verb verb, const uint8_t digest[32], struct blob *value, uint64_t ttl_ms)
{
    char key[RECORD_KEY_BYTES + 1];
    size_t len = record_key_idem(key, c->parts->shard, digest);
    put(c, (struct op){.verb = verb, .value = value, .ttl_ms = ttl_ms}, span_of(key, len));
}

static void put_live(struct commit *c, enum verb verb, const struct id *id)
{
    put(c, (struct op){.verb = verb, .member = *id}, (struct span){0});
}

static void put_index(struct commit *c, enum verb verb, struct span tenant, const struct id *id, msec ended_at, uint64_t ttl_ms)
{
    char key[RECORD_KEY_BYTES + 1];
    size_t len = record_key_index(key, c->parts->shard, tenant, ended_at);
    put(c, (struct op){.verb = verb, .member = *id, .score = ended_at, .ttl_ms = ttl_ms}, span_of(key, len));
}

/* ---- writes ---- */

/* NULL and the error kept when it cannot be packed. */
static struct blob *pack(struct commit *c, enum record_kind kind, const void *fields, const struct span *parts,
                         size_t parts_count)
{
    struct blob *record = NULL;
    enum err e = record_pack(kind, fields, parts, parts_count, &record);
    if (e != ERR_OK)
        c->parts->error = e;
    return record;
}

static void save_job(struct commit *c, const struct effect *w)
{
    put_key(c, VERB_SET, record_key_job, &w->id, pack(c, RECORD_JOB, &w->job_record, NULL, 0), 0);
    put_live(c, VERB_SADD, &w->id);
}

static void save_body(struct commit *c, const struct effect *w)
{
    struct blob *packed = NULL;
    size_t len = w->body_len ? w->body_len : w->body->len - w->body_from;
    enum err e = body_pack(span_of(w->body->data + w->body_from, len), &packed);
    if (e != ERR_OK)
        c->parts->error = e;
    put_key(c, VERB_SET, record_key_body, &w->id, packed, 0);
}

/* Remembered beside its operation, which a later write may replace: whoever shows this end needs these bytes. */
static void keep_ended(struct commit_parts *p, uint64_t number_, struct blob *record)
{
    if (p->ended_count == p->ended_size) {
        uint32_t size = p->ended_size ? p->ended_size * 2 : 8;
        struct ended *ended = realloc(p->ended, size * sizeof *ended);
        if (!ended) {
            p->error = ERR_NOMEM;
            return;
        }
        p->ended = ended;
        p->ended_size = size;
    }
    p->ended[p->ended_count++] = (struct ended){number_, blob_ref(record)};
}

static void save_ended(struct commit *c, const struct effect *w)
{
    struct blob *record = pack(c, RECORD_ENDED, &w->ended, w->parts, ARRAY_COUNT(w->parts));
    keep_ended(c->parts, w->number, record);
    put_key(c, VERB_SET_PX, record_key_ended, &w->id, record, w->ttl_ms);
    put_index(c, VERB_ZADD, w->ended.spec.tenant, &w->id, w->ended.completed_at, w->ttl_ms);
    put_key(c, VERB_DEL, record_key_job, &w->id, NULL, 0);
    put_live(c, VERB_SREM, &w->id);
}

static void drop_job(struct commit *c, const struct id *id)
{
    put_key(c, VERB_DEL, record_key_job, id, NULL, 0);
    put_key(c, VERB_DEL, record_key_body, id, NULL, 0);
    put_live(c, VERB_SREM, id);
}

/* Out of the index too where the effect says when it ended; a listing passes over what is no more. */
static void drop_ended(struct commit *c, const struct effect *w)
{
    put_key(c, VERB_DEL, record_key_ended, &w->id, NULL, 0);
    if (!w->keeps_body)
        put_key(c, VERB_DEL, record_key_body, &w->id, NULL, 0);
    if (w->ended.completed_at)
        put_index(c, VERB_ZREM, w->tenant, &w->id, w->ended.completed_at, 0);
}

static void add(struct commit *c, const struct effect *w)
{
    switch (w->type) {
    case EFFECT_SAVE_JOB:
        save_job(c, w);
        break;
    case EFFECT_SAVE_BODY:
        save_body(c, w);
        break;
    case EFFECT_SAVE_ENDED:
        save_ended(c, w);
        break;
    case EFFECT_SAVE_IDEM:
        put_idem(c, VERB_SET_PX, w->hash, pack(c, RECORD_IDEM, &w->idem_record, NULL, 0), w->ttl_ms);
        break;
    case EFFECT_DROP_JOB:
        drop_job(c, &w->id);
        break;
    case EFFECT_DROP_BODY:
        put_key(c, w->ttl_ms ? VERB_PEXPIRE : VERB_DEL, record_key_body, &w->id, NULL, w->ttl_ms);
        break;
    case EFFECT_DROP_ENDED:
        drop_ended(c, w);
        break;
    case EFFECT_DROP_IDEM:
        put_idem(c, VERB_DEL, w->hash, NULL, 0);
        break;
    default:
        assert(!"not a write");
    }
}

enum err commit_add(struct commit *c, const struct effect *write)
{
    assert(!c->at.n);
    c->writes++;
    c->joined = write->joined;
    if (!c->first)
        c->first = write->number;
    c->last = write->number;
    add(c, write);
    return c->parts->error;
}

enum err commit_add_repair(struct commit *c, const struct id *id)
{
    assert(!c->at.n);
    c->writes++;
    drop_job(c, id);
    return c->parts->error;
}

/* ---- the close ---- */

/* Argument spans, filled in order; what has no bytes of its own is written into the reserved text. */
struct layout {
    struct commit_parts *p;
    size_t argc;
};

static void arg(struct layout *l, struct span bytes)
{
    l->p->argv[l->argc++] = bytes;
}

static void arg_number(struct layout *l, uint64_t value)
{
    struct commit_parts *p = l->p;
    int len = snprintf(p->text + p->text_len, p->text_size - p->text_len, "%" PRIu64, value);
    assert(len > 0 && (size_t)len < p->text_size - p->text_len);
    arg(l, span_of(p->text + p->text_len, (size_t)len));
    p->text_len += (size_t)len;
}

static int by_verb_and_key(const void *a, const void *b, void *parts)
{
    const struct op *x = &((struct commit_parts *)parts)->ops[*(const uint16_t *)a];
    const struct op *y = &((struct commit_parts *)parts)->ops[*(const uint16_t *)b];
    if (x->verb != y->verb)
        return x->verb - y->verb;
    if (x->verb == VERB_ZADD || x->verb == VERB_ZREM) {
        struct span k = key_of(parts, x), m = key_of(parts, y);
        int order = memcmp(k.data, m.data, MIN(k.len, m.len));
        if (order || k.len != m.len)
            return order ? order : k.len < m.len ? -1 : 1;
    }
    return x < y ? -1 : 1;
}

/* Operations in order of verb, those on one index side by side. */
struct sorted {
    uint16_t at[OPS_MAX];
    uint32_t count;
    uint32_t from[VERBS + 1];
};

static void sort_ops(struct commit_parts *p, struct sorted *s)
{
    uint32_t tally[VERBS] = {0};
    s->count = p->ops_count;
    for (uint32_t i = 0; i < s->count; i++) {
        s->at[i] = (uint16_t)i;
        tally[p->ops[i].verb]++;
    }
    s->from[0] = 0;
    for (unsigned v = 0; v < VERBS; v++)
        s->from[v + 1] = s->from[v] + tally[v];
    qsort_r(s->at, s->count, sizeof s->at[0], by_verb_and_key, p);
}

/* How many operations from `i` on share its index. */
static uint32_t same_index(const struct commit_parts *p, const struct sorted *s, uint32_t i, uint32_t end)
{
    uint32_t count = 1;
    while (i + count < end && span_equal(key_of(p, &p->ops[s->at[i]]), key_of(p, &p->ops[s->at[i + count]])))
        count++;
    return count;
}

static bool is_index(unsigned verb)
{
    return verb == VERB_ZADD || verb == VERB_ZREM;
}

static uint32_t key_count(const struct commit_parts *p, const struct sorted *s, unsigned verb)
{
    if (!is_index(verb))
        return s->from[verb + 1] - s->from[verb];
    uint32_t count = 0;
    for (uint32_t i = s->from[verb]; i < s->from[verb + 1]; i += same_index(p, s, i, s->from[verb + 1]))
        count++;
    return count;
}

static void lay_keys(struct layout *l, const struct sorted *s, unsigned verb)
{
    for (uint32_t i = s->from[verb]; i < s->from[verb + 1];) {
        arg(l, key_of(l->p, &l->p->ops[s->at[i]]));
        i += is_index(verb) ? same_index(l->p, s, i, s->from[verb + 1]) : 1;
    }
}

static void lay_index(struct layout *l, const struct sorted *s, unsigned verb)
{
    uint32_t end = s->from[verb + 1];
    for (uint32_t i = s->from[verb], next; i < end; i = next) {
        next = i + same_index(l->p, s, i, end);
        if (verb == VERB_ZADD) {
            uint64_t ttl_ms = 0;
            for (uint32_t j = i; j < next; j++)
                ttl_ms = MAX(ttl_ms, l->p->ops[s->at[j]].ttl_ms);
            arg_number(l, ttl_ms + HOUR_MS);
        }
        arg_number(l, next - i);
        for (uint32_t j = i; j < next; j++) {
            const struct op *op = &l->p->ops[s->at[j]];
            if (verb == VERB_ZADD)
                arg_number(l, (uint64_t)MAX(op->score, 0));
            arg(l, span_of(op->member.bytes, ID_BYTES));
        }
    }
}

static void lay_values(struct layout *l, const struct sorted *s, unsigned verb)
{
    if (is_index(verb)) {
        lay_index(l, s, verb);
        return;
    }
    for (uint32_t i = s->from[verb]; i < s->from[verb + 1]; i++) {
        const struct op *op = &l->p->ops[s->at[i]];
        if (verb == VERB_SET_PX || verb == VERB_PEXPIRE)
            arg_number(l, MAX(op->ttl_ms, 1));
        if (verb == VERB_SET || verb == VERB_SET_PX)
            arg(l, blob_span(op->value));
        if (verb == VERB_SADD || verb == VERB_SREM)
            arg(l, span_of(op->member.bytes, ID_BYTES));
    }
}

static void arg_text(struct layout *l, const char *text)
{
    arg(l, span_str(text));
}

void commit_renumber(struct commit *c, struct commit_at at, struct commit_at before)
{
    struct commit_parts *p = c->parts;
    c->at = at;
    snprintf(p->epoch, sizeof p->epoch, "%" PRIu64, at.epoch);
    snprintf(p->n, sizeof p->n, "%" PRIu64, at.n);
    snprintf(p->before, sizeof p->before, "%" PRIu64 ":%" PRIu64, before.epoch, before.n);
    struct layout l = {p, p->epoch_arg};
    arg_text(&l, p->epoch);
    arg_text(&l, p->n);
    arg_text(&l, p->before);
}

static const enum verb key_order[] = {VERB_SET, VERB_SET_PX, VERB_ZADD, VERB_PEXPIRE, VERB_DEL, VERB_ZREM};
static const enum verb value_order[] = {VERB_SET, VERB_SET_PX, VERB_ZADD, VERB_SADD, VERB_PEXPIRE, VERB_SREM, VERB_ZREM};

static void lay_out(struct layout *l, const struct sorted *s, struct commit_at at, struct commit_at before, struct commit *c)
{
    struct commit_parts *p = l->p;
    arg_text(l, "EVALSHA");
    arg(l, span_of(p->sha, sizeof p->sha));
    uint32_t keys = ARRAY_COUNT(p->fixed);
    for (unsigned i = 0; i < ARRAY_COUNT(key_order); i++)
        keys += key_count(p, s, key_order[i]);
    arg_number(l, keys);
    for (unsigned i = 0; i < ARRAY_COUNT(p->fixed); i++)
        arg_text(l, p->fixed[i]);
    for (unsigned i = 0; i < ARRAY_COUNT(key_order); i++)
        lay_keys(l, s, key_order[i]);
    p->epoch_arg = l->argc;
    commit_renumber(c, at, before);
    l->argc += 3;
    arg_text(l, p->now);
    for (unsigned verb = 0; verb < VERBS; verb++)
        arg_number(l, key_count(p, s, verb));
    for (unsigned i = 0; i < ARRAY_COUNT(value_order); i++)
        lay_values(l, s, value_order[i]);
}

enum err commit_close(struct commit *c, struct commit_at at, struct commit_at before, const char sha[40], msec now)
{
    struct commit_parts *p = c->parts;
    struct sorted s;
    sort_ops(p, &s);
    /* At most four numbers and two spans per operation, and the head. */
    if (!text_reserve(p, (NUMBER_MAX + 1) * (3 * (size_t)p->ops_count + VERBS + 2)))
        return ERR_NOMEM;
    p->argv = malloc((5 * (size_t)p->ops_count + 10 + VERBS) * sizeof *p->argv);
    if (!p->argv)
        return ERR_NOMEM;
    memcpy(p->sha, sha, sizeof p->sha);
    snprintf(p->now, sizeof p->now, "%" PRId64, MAX(now, 0));
    record_key_named(p->fixed[0], p->shard, "epoch");
    record_key_named(p->fixed[1], p->shard, "last");
    record_key_named(p->fixed[2], p->shard, "live");
    struct layout l = {p, 0};
    lay_out(&l, &s, at, before, c);
    p->argc = l.argc;
    free(p->slots);
    p->slots = NULL;
    return ERR_OK;
}

const struct span *commit_argv(const struct commit *commit, size_t *ret_argc)
{
    *ret_argc = commit->parts->argc;
    return commit->parts->argv;
}

struct blob *commit_ended_record(const struct commit *commit, uint64_t number_)
{
    const struct commit_parts *p = commit->parts;
    for (uint32_t i = p->ended_count; i-- > 0;)
        if (p->ended[i].number == number_)
            return p->ended[i].record;
    return NULL;
}
