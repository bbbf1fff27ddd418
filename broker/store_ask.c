/* Questions, beside commits on the same connection and therefore answered after them. One is asked when every write made before
 * it has been sent, and its answer counts when every one of those is stored; until then it waits and is asked again. */
#include "broker/store_private.h"

#include <stdlib.h>

#include "broker/body.h"
#include "common/log.h"

struct ask {
    struct list node; /* in asks, oldest first; on none once its owner has been answered and a reply is still owed */
    struct store *store;
    struct lookup_key key;
    uint64_t number; /* the last write before it */
    msec asked_at;
    bool on_its_way;
    store_on_answer *on_answer; /* NULL: answered */
    void *arg;
};

enum err store_ask(struct store *s, const struct lookup_key *key, store_on_answer *on_answer, void *arg)
{
    struct ask *a = malloc(sizeof *a);
    if (!a)
        return ERR_NOMEM;
    *a = (struct ask){.store = s,
                      .key = *key,
                      .number = s->written_number,
                      .asked_at = loop_now(s->loop),
                      .on_answer = on_answer,
                      .arg = arg};
    list_init(&a->node);
    list_push_back(&s->asks, &a->node);
    return ERR_OK;
}

/* Takes the ask off the list and tells its owner; frees it unless a reply is still owed. */
static void finish(struct ask *a, const struct store_answer *answer)
{
    store_on_answer *on_answer = a->on_answer;
    struct lookup_key key = a->key;
    void *arg = a->arg;
    a->on_answer = NULL;
    list_remove(&a->node);
    if (!a->on_its_way)
        free(a);
    if (on_answer)
        on_answer(arg, &key, answer);
}

void asks_free(struct store *s)
{
    for (struct list *node; (node = list_first(&s->asks));) {
        list_remove(node);
        free(CONTAINER_OF(node, struct ask, node));
    }
}

/* ---- answers ---- */

static enum err read_ended(struct store *s, const redisReply *reply, struct store_answer *ret)
{
    enum err e = record_unpack(&s->record, RECORD_ENDED, span_of(reply->str, reply->len));
    if (e != ERR_OK)
        return e;
    ret->ended = &s->record.ended;
    ret->body = blob_copy(s->record.body);
    return ret->body ? ERR_OK : ERR_NOMEM;
}

static enum err read_value(struct store *s, uint8_t kind, const redisReply *reply, struct store_answer *ret)
{
    enum err e;
    switch (kind) {
    case LOOKUP_IDEM:
        e = record_unpack(&s->record, RECORD_IDEM, span_of(reply->str, reply->len));
        ret->idem = e == ERR_OK ? &s->record.idem : NULL;
        return e;
    case LOOKUP_BODY:
        return body_unpack(span_of(reply->str, reply->len), &ret->body);
    default:
        return read_ended(s, reply, ret);
    }
}

/* Of ANY: the ended record, else the live one. */
static enum err read_any(struct store *s, const redisReply *reply, struct store_answer *ret)
{
    if (reply->elements != 2)
        return ERR_CORRUPT;
    if (reply->element[0]->type == REDIS_REPLY_STRING)
        return read_ended(s, reply->element[0], ret);
    if (reply->element[1]->type != REDIS_REPLY_STRING) {
        ret->status = STORE_ABSENT;
        return ERR_OK;
    }
    enum err e = record_unpack(&s->record, RECORD_JOB, span_of(reply->element[1]->str, reply->element[1]->len));
    ret->job = e == ERR_OK ? &s->record.job : NULL;
    return e;
}

static void tell(struct ask *a, const redisReply *reply)
{
    struct store *s = a->store;
    struct store_answer answer = {.status = STORE_FOUND};
    enum err e = ERR_OK;
    if (reply->type == REDIS_REPLY_NIL)
        answer.status = STORE_ABSENT;
    else
        e = reply->type == REDIS_REPLY_ARRAY ? read_any(s, reply, &answer) : read_value(s, a->key.kind, reply, &answer);
    if (e != ERR_OK) {
        s->stats.records_corrupt += e == ERR_CORRUPT;
        log_event(LOG_STORE_CORRUPT, "lookup=%u error=%s", a->key.kind, err_name(e));
        /* A body that cannot be read is nowhere; of anything else nothing is known. */
        answer.status = a->key.kind == LOOKUP_BODY && e == ERR_CORRUPT ? STORE_ABSENT : STORE_UNKNOWN;
    }
    AUTO(blob_free) struct blob *body = answer.body;
    finish(a, &answer);
}

static void on_value(void *arg, const redisReply *reply)
{
    struct ask *a = arg;
    a->on_its_way = false;
    if (!a->on_answer) {
        free(a);
        return;
    }
    struct store *s = a->store;
    if (!reply)
        return; /* it stays in its place and is asked again, as below */
    if (reply->type == REDIS_REPLY_ERROR) {
        link_refused(s, reply->str);
        link_settled(s);
    } else if (a->number <= s->stored_number && !store_is_behind(s)) {
        tell(a, reply);
    }
}

/* ---- questions ---- */

static enum err put_question(struct store *s, struct ask *a)
{
    char key[RECORD_KEY_BYTES + 1], other[RECORD_KEY_BYTES + 1];
    struct span argv[3] = {span_str("GET")};
    size_t argc = 2, len;
    unsigned shard = s->options.shard;
    switch (a->key.kind) {
    case LOOKUP_IDEM:
        len = record_key_idem(key, shard, a->key.hash);
        break;
    case LOOKUP_BODY:
        len = record_key_body(key, shard, &a->key.id);
        break;
    case LOOKUP_ENDED:
        len = record_key_ended(key, shard, &a->key.id);
        break;
    default:
        len = record_key_ended(key, shard, &a->key.id);
        argv[0] = span_str("MGET");
        argv[argc++] = span_of(other, record_key_job(other, shard, &a->key.id));
    }
    argv[1] = span_of(key, len);
    return redis_command(s->redis, on_value, a, argv, argc);
}

/* The last write that has been sent on this connection. */
static uint64_t sent_number(const struct store *s)
{
    for (const struct list *node = s->ring.unsent ? &s->ring.unsent->node : &s->ring.commits; node != &s->ring.commits;
         node = node->next) {
        const struct commit *c = CONTAINER_OF(node, struct commit, node);
        if (c->first)
            return c->first - 1;
    }
    return s->open && s->open->first ? s->open->first - 1 : s->written_number;
}

void asks_send(struct store *s)
{
    struct list *node;
    uint64_t sent;
    if (list_empty(&s->asks) || s->link != LINK_READY || store_is_behind(s))
        return;
    sent = sent_number(s);
    LIST_EACH (node, &s->asks) {
        struct ask *a = CONTAINER_OF(node, struct ask, node);
        if (a->number > sent)
            return;
        if (!a->on_its_way && put_question(s, a) != ERR_OK)
            return;
        a->on_its_way = true;
    }
}

/* ---- in time ---- */

msec asks_expire_at(const struct store *s)
{
    struct list *node = list_first(&s->asks);
    return node ? CONTAINER_OF(node, struct ask, node)->asked_at + s->options.stall_ms : MSEC_NEVER;
}

void asks_expire(struct store *s)
{
    msec now = loop_now(s->loop);
    while (asks_expire_at(s) <= now) {
        s->stats.lookups_unknown++;
        finish(CONTAINER_OF(list_first(&s->asks), struct ask, node), &(struct store_answer){.status = STORE_UNKNOWN});
    }
}
