/* One input given to the core, and its effects carried out in their order: written, asked, shown at once, or held until stored.
 */
#include "broker/broker_private.h"

#include <stdlib.h>

#include "broker/core/effects.h"
#include "common/log.h"

/* ---- what is shown ---- */

static void deliver(struct broker *b, struct parcel **parcel_ptr)
{
    struct parcel *parcel = *parcel_ptr;
    struct peer *peer = broker_peer(b, parcel->peer);
    if (parcel->type == EFFECT_CHANGE) {
        stats_shell(b->stats)->changes++;
        port_monitor_change(b->monitor, &parcel->change);
        parcel_free(parcel_ptr);
    } else if (parcel->type == EFFECT_JOB || (peer && peer->port == ports(b, 1))) {
        port_worker_deliver(b->worker, peer, parcel_ptr);
    } else if (peer && peer->port == ports(b, 2)) {
        port_monitor_deliver(b->monitor, peer, parcel_ptr);
    } else {
        port_api_deliver(b->api, peer, parcel_ptr);
    }
}

void broker_deliver_released(struct broker *b)
{
    struct list released;
    list_init(&released);
    store_released(b->store, &released);
    for (struct list *node; (node = list_first(&released));) {
        struct parcel *parcel = CONTAINER_OF(node, struct parcel, node);
        list_remove(node);
        deliver(b, &parcel);
    }
}

/* What an EVENT carries: a run's log lines; of an end, the record as the store has it. */
static struct blob *event_body(struct broker *b, const struct effect *e)
{
    if (e->type != EFFECT_EVENT)
        return NULL;
    if (e->event.event == EVENT_ENDED && e->save)
        return blob_ref(store_ended_record(b->store, e->save));
    if (!e->body)
        return NULL;
    size_t len = e->body_len ? e->body_len : e->body->len - e->body_from;
    return len == e->body->len ? blob_ref(e->body) : blob_copy(span_of(e->body->data + e->body_from, len));
}

/* Whether an answer that leaves at once may not be true. That a job is nowhere can only be said of a store that is current: a
 * Redis that has just come back may not have its end again yet. How a live job is can only be said by who leads: a broker that
 * was stopped for seconds may have a successor, which has shown more since. An end that is stored stays one, and what waits for
 * its commit is refused with it. */
static bool may_be_untrue(struct broker *b, const struct effect *e)
{
    if (e->type != EFFECT_ANSWER || e->after > store_stored(b->store))
        return false;
    return e->answer.error == ERR_NOT_LIVE ? !store_is_current(b->store)
                                           : e->answer.error == ERR_OK && !store_is_leading(b->store);
}

static void doubt(struct broker *b, struct effect *e)
{
    if (!may_be_untrue(b, e))
        return;
    e->answer.error = ERR_STORE;
    e->answer.retry_after_ms = 1000;
}

static void fill_in(struct broker *b, struct effect *e)
{
    if (e->type == EFFECT_WELCOME)
        port_fill_welcome(ports(b, 0), &e->welcome);
    else if (e->type == EFFECT_HEARTBEAT_ACK)
        e->heartbeat_ack.now = broker_now(b);
}

/* Something to be shown that found no memory: its peer begins another session, in which it asks for what it is owed. */
static void not_shown(struct broker *b, const struct effect *e, struct peer *peer, enum err error)
{
    stats_shell(b->stats)->memory_refused++;
    log_event(LOG_NOMEM, "effect=%d error=%s", e->type, err_name(error));
    if (e->type == EFFECT_JOB) {
        struct rec_lease lease = {e->job.id, e->job.fence};
        broker_later(b, &(struct input){.type = INPUT_UNSENT, .peer = e->peer, .unsent = &lease});
    } else if (e->type == EFFECT_CHANGE) {
        port_monitor_change(b->monitor, NULL);
    } else if (peer) {
        port_restart(peer, "no memory for what it is owed");
    }
}

static void show(struct broker *b, struct effect *e)
{
    struct peer *peer = e->type == EFFECT_CHANGE ? NULL : broker_peer(b, e->peer);
    struct parcel *parcel = NULL;
    enum err error;
    if (!peer && e->type != EFFECT_CHANGE && e->type != EFFECT_JOB)
        return; /* gone meanwhile */
    fill_in(b, e);
    doubt(b, e);
    if (peer && e->type == EFFECT_ANSWER && peer->port == ports(b, 2)) {
        error = port_monitor_parcel(b->monitor, peer, e, &parcel);
    } else {
        AUTO(blob_free) struct blob *body = event_body(b, e);
        error = parcel_make(e, peer, body, &parcel);
    }
    if (error != ERR_OK) {
        not_shown(b, e, peer, error);
        return;
    }
    struct list *held = e->after ? store_held(b->store, e->after, parcel->bytes) : NULL;
    if (held) {
        stats_shell(b->stats)->held++;
        list_push_back(held, &parcel->node);
    } else {
        deliver(b, &parcel);
    }
}

/* ---- one step ---- */

static void on_lookup(void *arg, const struct lookup_key *key, const struct store_answer *answer);

static void carry_out(struct broker *b, struct effect *e)
{
    switch (e->type) {
    case EFFECT_SAVE_JOB:
    case EFFECT_SAVE_BODY:
    case EFFECT_SAVE_ENDED:
    case EFFECT_SAVE_IDEM:
    case EFFECT_DROP_JOB:
    case EFFECT_DROP_BODY:
    case EFFECT_DROP_ENDED:
    case EFFECT_DROP_IDEM:
        if (store_write(b->store, e, broker_now(b)) != ERR_OK)
            broker_fail(b, "a write found no memory");
        return;
    case EFFECT_LOOKUP:
        if (store_ask(b->store, &e->lookup, on_lookup, b) != ERR_OK)
            broker_later(b, &(struct input){.type = INPUT_UNKNOWN, .absent = {e->lookup}});
        return;
    case EFFECT_ANSWER:
        if (e->peer == NOBODY)
            b->sweep_answer = e->answer.error;
        else
            show(b, e);
        return;
    default:
        show(b, e);
    }
}

enum err broker_step(struct broker *b, const struct input *in)
{
    assert(!b->stepping);
    if (b->stage >= STAGE_LEAVING)
        return ERR_OK; /* whatever it was, it is for the next broker */
    if (b->store)
        broker_deliver_released(b);
    b->stepping = true;
    stats_shell(b->stats)->inputs++;
    b->stirred = b->stirred || (in->type != INPUT_HEARTBEAT && in->type != INPUT_TICK);
    enum err e = sched_step(b->sched, broker_now(b), in, &b->effects);
    /* Also after a refusal: what was due before the input is decided. */
    for (size_t i = 0; i < b->effects.count && b->stage != STAGE_ENDED; i++)
        carry_out(b, &b->effects.list[i]);
    stats_shell(b->stats)->effects += b->effects.count;
    effects_clear(&b->effects);
    b->stepping = false;
    return e;
}

bool broker_tell(struct broker *b, const struct input *in)
{
    enum err e = broker_step(b, in);
    if (e == ERR_OK)
        return true;
    stats_shell(b->stats)->memory_refused++;
    log_event(LOG_NOMEM, "input=%d error=%s", in->type, err_name(e));
    return false;
}

static void on_lookup(void *arg, const struct lookup_key *key, const struct store_answer *answer)
{
    struct broker *b = arg;
    struct input in = {.type = answer->status == STORE_ABSENT ? INPUT_ABSENT : INPUT_UNKNOWN, .absent = {*key}};
    if (answer->status == STORE_FOUND)
        in = (struct input){
            .type = INPUT_FOUND, .body = answer->body, .found = {.key = *key, .idem = answer->idem, .ended = answer->ended}};
    if (b->stage == STAGE_STARTING || broker_tell(b, &in) || in.type == INPUT_UNKNOWN)
        return;
    broker_later(b, &(struct input){.type = INPUT_UNKNOWN, .absent = {*key}});
}

/* ---- inputs that sends bring about ---- */

/* An input that a send brought about, to be given after the step in progress. */
struct later {
    struct list node;
    struct input input;
    struct rec_lease lease;
};

void broker_later(struct broker *b, const struct input *in)
{
    struct later *later = calloc(1, sizeof *later);
    if (!later) {
        broker_fail(b, "no memory to keep an input");
        return;
    }
    list_init(&later->node);
    later->input = *in;
    if (in->type == INPUT_UNSENT) {
        stats_shell(b->stats)->job_unsent++;
        later->lease = *in->unsent;
        later->input.unsent = &later->lease;
    }
    list_push_back(&b->later, &later->node);
    loop_again(b->loop);
}

void broker_run_later(struct broker *b)
{
    struct list now;
    list_init(&now);
    list_append(&now, &b->later);
    for (struct list *node; (node = list_first(&now));) {
        struct later *later = CONTAINER_OF(node, struct later, node);
        list_remove(node);
        if (b->stage != STAGE_ENDED && !broker_tell(b, &later->input)) {
            list_push_back(&b->later, node);
            continue;
        }
        free(later);
    }
}

void broker_drop_later(struct broker *b)
{
    for (struct list *node; (node = list_first(&b->later));) {
        list_remove(node);
        free(CONTAINER_OF(node, struct later, node));
    }
}
