/* A job comes in: checked, looked up where it may be there already, made, stored, acknowledged. */
#include "broker/core/state.h"

#include <stdlib.h>

static struct effect *ack(struct sched *s, peer_number peer, uint64_t ref, const struct id *id, enum err error, uint64_t after)
{
    struct effect *effect = effects_add(s->out, EFFECT_ACK);
    effect->peer = peer;
    effect->after = after;
    effect->ack.ref = ref;
    effect->ack.id = *id;
    effect->ack.error = (uint16_t)error;
    effect->ack.ack = s->ack;
    return effect;
}

static void ack_existing(struct sched *s, const struct request *request, const struct id *id, unsigned state, uint64_t after)
{
    struct effect *effect = ack(s, request->peer, request->ref, id, ERR_OK, after);
    effect->ack.existing = true;
    effect->ack.state = (uint8_t)state;
    s->stats.existing++;
}

/* tenant: NULL before it is known; then its own bounds are not what the error is about. */
static void turn_away(struct sched *s, peer_number peer, uint64_t ref, const struct id *id, struct tenant *tenant,
                      enum err error)
{
    ack(s, peer, ref, id, error, 0)->ack.retry_after_ms = retry_after(s, tenant, error);
    if (error == ERR_STORE)
        s->stats.refused_stalled++;
    else if (error == ERR_QUEUE_FULL || error == ERR_BYTES_FULL || error == ERR_OVERLOADED)
        s->stats.refused_full++;
}

static void refuse(struct sched *s, const struct request *request, enum err error)
{
    turn_away(s, request->peer, request->ref, &request->draft->id, request->draft->tenant, error);
}

/* ---- what the api could have got wrong ---- */

static const char *spec_fault(const struct rec_spec *spec, size_t body_len)
{
    if (!spec->tenant.len)
        return "tenant is empty";
    if (!spec->queue.len)
        return "queue is empty";
    if (spec->priority > 10)
        return "priority is above 10";
    if (spec->class > CLASS_BACKGROUND)
        return "class is not known";
    if (spec->display_bytes > body_len)
        return "the display part is longer than the body";
    return NULL;
}

/* ---- requests and drafts ---- */

static void draft_drop(struct sched *s, struct job *draft)
{
    job_table_remove(&s->jobs, draft);
    s->counts[0]--;
    s->draft_bytes -= job_bytes(draft);
    job_discard(s, &draft);
}

void request_free(struct sched *s, struct request **request)
{
    struct request *mine = TAKE(*request);
    if (mine && mine->draft)
        draft_drop(s, mine->draft);
    free(mine);
}

enum err draft_new(struct sched *s, const struct id *id, const struct rec_spec *spec, struct span idem, struct blob *body,
                   struct job **ret_draft)
{
    struct job *draft = job_new(&s->names, id, spec, idem, body);
    if (draft) {
        draft->tenant = tenant_get(&s->tenants, spec->tenant);
        draft->queue = queue_get(&s->queues, spec->queue);
    }
    if (!draft || !draft->tenant || !draft->queue || job_table_reserve(&s->jobs)) {
        if (draft)
            job_discard(s, &draft);
        return ERR_NOMEM;
    }
    job_table_add(&s->jobs, draft);
    s->counts[0]++;
    s->draft_bytes += job_bytes(draft);
    *ret_draft = draft;
    return ERR_OK;
}

static struct request *request_new(struct sched *s, const struct input *in)
{
    const struct msg_submit *submit = in->submit;
    struct request *request = calloc(1, sizeof *request);
    if (!request)
        return NULL;
    list_init(&request->node);
    request->type = REQUEST_SUBMIT;
    request->peer = in->peer;
    request->ref = submit->ref;
    request->watch = submit->watch;
    if (submit->body_hash.len == sizeof request->body_hash)
        memcpy(request->body_hash, submit->body_hash.data, sizeof request->body_hash);
    if (draft_new(s, &submit->id, &submit->spec, submit->idem, in->body, &request->draft)) {
        free(request);
        return NULL;
    }
    request->draft->request = request;
    return request;
}

/* ---- bounds ---- */

static enum err bounds(const struct sched *s, const struct job *job)
{
    uint64_t bytes = job_bytes(job);
    if (s->stalled)
        return ERR_STORE;
    if (s->draining)
        return ERR_DRAINING;
    if (!room_for(&job->tenant->jobs_held, job->class, 1, s->settings.tenant_jobs_max))
        return ERR_QUEUE_FULL;
    if (!room_for(&job->tenant->bytes_held, job->class, bytes, s->settings.tenant_bytes_max))
        return ERR_BYTES_FULL;
    if (s->full || !room_for(&s->jobs_held, job->class, 1, s->settings.jobs_max) ||
        !room_for(&s->bytes_held, job->class, bytes, s->settings.bytes_max))
        return ERR_OVERLOADED;
    return ERR_OK;
}

/* ---- making it ---- */

void job_cache(struct sched *s, struct job *job)
{
    if (s->body_cache + job->body_bytes <= s->settings.body_cache_bytes || s->leaving_count == s->leaving_size)
        return;
    s->leaving[(s->leaving_from + s->leaving_count++) % s->leaving_size] = (struct leaving){job->id, job->written};
}

static enum err leaving_reserve(struct sched *s)
{
    if (s->leaving_count < s->leaving_size)
        return ERR_OK;
    size_t size = s->leaving_size ? s->leaving_size * 2 : 64;
    struct leaving *ring = malloc(size * sizeof *ring);
    if (!ring)
        return ERR_NOMEM;
    for (size_t i = 0; i < s->leaving_size; i++) /* it is full */
        ring[i] = s->leaving[(s->leaving_from + i) % s->leaving_size];
    free(s->leaving);
    s->leaving = ring;
    s->leaving_size = size;
    s->leaving_from = 0;
    return ERR_OK;
}

enum err job_admit(struct sched *s, const struct job *job)
{
    enum err e = bounds(s, job);
    return e ? e : leaving_reserve(s) || sched_reserve_due(s) ? ERR_NOMEM : ERR_OK;
}

void job_enter(struct sched *s, struct job *job)
{
    s->draft_bytes -= job_bytes(job);
    job->arrived_at = s->now;
    job->seq = ++s->seq;
    job_times(s, job);
    if (!job->max_attempts) /* fixed now: what a caller was told does not change with the settings */
        job->max_attempts = (uint16_t)s->settings.max_attempts;
    job_count_in(s, job);
    s->body_cache += job->body ? job->body->len : 0;
    job_move(s, job, STATE_PENDING);
    job_wait(s, job);
}

static struct pin *pin_new(struct sched *s, const struct request *request)
{
    struct pin *pin = calloc(1, sizeof *pin);
    if (!pin)
        return NULL;
    memcpy(pin->hash, request->draft->spec->idem, sizeof pin->hash);
    memcpy(pin->body_hash, request->body_hash, sizeof pin->body_hash);
    pin->id = request->draft->id;
    list_init(&pin->node);
    HASH_ADD(hh, s->pins, hash, sizeof pin->hash, pin);
    if (!pin->hh.tbl)
        free(TAKE(pin));
    return pin;
}

static void make(struct sched *s, struct request *request)
{
    struct job *job = request->draft;
    enum err e = job_admit(s, job);
    struct pin *pin = NULL;
    if (!e && job->spec->has_idem && !(pin = pin_new(s, request)))
        e = ERR_NOMEM;
    if (!e && request->watch && watch_add(s, request->peer, job, false, false))
        e = ERR_NOMEM;
    if (e) {
        if (pin) {
            HASH_DELETE(hh, s->pins, pin);
            free(pin);
        }
        refuse(s, request, e);
        return;
    }
    request->draft = NULL;
    job_enter(s, job);
    job->tenant->submitted++;
    if (job->body)
        save_body(s, job);
    if (pin) {
        save_idem(s, job, pin->hash, pin->body_hash);
        pin->number = s->written;
        list_push_back(&s->pins_by_number, &pin->node);
    }
    save_job(s, job);
    job_cache(s, job);
    s->stats.submitted++;
    if (s->jobs_held.held < s->settings.jobs_max / 2)
        comeback_clear(&s->comeback);
    if (job->tenant->jobs_held.held < s->settings.tenant_jobs_max / 2)
        comeback_clear(&job->tenant->comeback);
    ack(s, request->peer, request->ref, &job->id, ERR_OK, job->written)->ack.state = job->state;
    show(s, job, EVENT_STATUS);
}

/* ---- is it there already? ---- */

/* Joins the caller to a job that is there. */
static void join(struct sched *s, struct request *request, struct job *job)
{
    if (request->watch && !job_is_over(job) && watch_add(s, request->peer, job, false, false)) {
        refuse(s, request, ERR_NOMEM);
        return;
    }
    ack_existing(s, request, &job->id, job->state, job->written);
}

/* The key led to `first`, sent with first_hash. */
static void same_key(struct sched *s, struct request *request, const struct id *first, const uint8_t first_hash[32])
{
    if (memcmp(first_hash, request->body_hash, 32) != 0) {
        ack(s, request->peer, request->ref, &request->draft->id, ERR_IDEMPOTENCY, 0);
        return;
    }
    struct job *job = job_table_find(&s->jobs, first);
    if (job && job->state) {
        job->joined = true;
        join(s, request, job);
    } else
        ack_existing(s, request, first, 0, 0);
}

static bool waits(struct sched *s, struct request **request, const struct lookup_key *key)
{
    bool ask;
    if (s->lookups.waiting >= s->settings.lookups_max) {
        refuse(s, *request, ERR_OVERLOADED);
        return false;
    }
    if (lookup_add(&s->lookups, key, *request, &ask)) {
        refuse(s, *request, ERR_NOMEM);
        return false;
    }
    if (ask)
        ask_store(s, key);
    *request = NULL; /* the table has it now */
    return true;
}

/* Memory wins over the store: a pinned key decides at once. False: the store must be asked. */
static bool decided_by_pin(struct sched *s, struct request *request)
{
    struct pin *pin;
    HASH_FIND(hh, s->pins, request->draft->spec->idem, 32, pin);
    if (pin)
        same_key(s, request, &pin->id, pin->body_hash);
    return pin != NULL;
}

static void by_key(struct sched *s, struct request **request)
{
    if (!(*request)->draft->spec->has_idem) {
        make(s, *request);
        return;
    }
    if (decided_by_pin(s, *request))
        return;
    struct lookup_key key = lookup_key_hash((*request)->draft->spec->idem);
    waits(s, request, &key);
}

/* A second SUBMIT of an id. */
static void sent_again(struct sched *s, const struct input *in, struct job *job)
{
    struct request *waiting = job->state ? NULL : job->request;
    if (!span_equal(tenant_span(job->tenant), in->submit->spec.tenant)) {
        ack(s, in->peer, in->submit->ref, &in->submit->id, ERR_CONFLICT, 0);
        return;
    }
    if (waiting && waiting->type == REQUEST_RETRY) { /* it had failed, and is about to live again */
        struct request request = {.peer = in->peer, .ref = in->submit->ref};
        ack_existing(s, &request, &job->id, STATE_FAILED, 0);
        return;
    }
    if (waiting) { /* its answer goes to the new session */
        waiting->peer = in->peer;
        waiting->ref = in->submit->ref;
        waiting->watch = in->submit->watch;
        return;
    }
    struct request request = {.peer = in->peer, .ref = in->submit->ref, .watch = in->submit->watch, .draft = job};
    join(s, &request, job);
}

enum err on_submit(struct sched *s, const struct input *in)
{
    const struct msg_submit *submit = in->submit;
    const char *fault = spec_fault(&submit->spec, in->body ? in->body->len : 0);
    if (!fault && id_version(&submit->id) != ID_STORED)
        fault = "only stored jobs are served";
    if (fault) {
        ack(s, in->peer, submit->ref, &submit->id, ERR_INVALID, 0)->ack.detail = span_str(fault);
        return ERR_OK;
    }
    struct job *job = job_table_find(&s->jobs, &submit->id);
    if (job) {
        sent_again(s, in, job);
        return ERR_OK;
    }
    enum err e = s->stalled || !s->started   ? ERR_STORE
                 : s->draining               ? ERR_DRAINING
                 : submit->spec.ack > s->ack ? ERR_ACK
                                             : ERR_OK;
    if (e) {
        turn_away(s, in->peer, submit->ref, &submit->id, NULL, e);
        return ERR_OK;
    }
    if (s->draft_bytes + (in->body ? in->body->len : 0) > s->settings.bytes_max) {
        turn_away(s, in->peer, submit->ref, &submit->id, NULL, ERR_OVERLOADED);
        return ERR_OK;
    }
    struct request *request = request_new(s, in);
    if (!request)
        return ERR_NOMEM;
    if (submit->again) {
        struct lookup_key key = lookup_key_id(LOOKUP_ANY, &submit->id);
        waits(s, &request, &key);
    } else
        by_key(s, &request);
    request_free(s, &request);
    return ERR_OK;
}

enum err lookup_take(struct sched *s, const struct lookup_key *key, struct list *ret_requests, bool *ret_touched)
{
    struct lookup *lookup = lookup_find(&s->lookups, key);
    list_init(ret_requests);
    if (!lookup)
        return ERR_OK;
    if (effects_reserve(s->out, 16 * (size_t)lookup->count))
        return ERR_NOMEM;
    *ret_touched = lookup->touched;
    lookup_answered(&s->lookups, lookup, ret_requests);
    return ERR_OK;
}

/* The store has spoken about this request's idempotency key. old: a write has changed the key since it was asked. */
static void key_answered(struct sched *s, struct request **request, const struct rec_idem *idem, bool old)
{
    if (decided_by_pin(s, *request))
        return; /* an earlier request of this answer, or a write meanwhile, made it */
    if (old)
        by_key(s, request);
    else if (idem)
        same_key(s, *request, &idem->id, idem->body_hash);
    else
        make(s, *request);
}

/* The store has spoken about this request's id: there is such a job, ended, or live and lost with its broker; or there is none.
 */
static void id_answered(struct sched *s, struct request **request, const struct rec_ended *ended, bool found, bool old)
{
    const struct id *id = &(*request)->draft->id;
    if (old) {
        struct lookup_key key = lookup_key_id(LOOKUP_ANY, id);
        waits(s, request, &key);
    } else if (!found)
        by_key(s, request);
    else if (ended && !span_equal(ended->spec.tenant, tenant_span((*request)->draft->tenant)))
        ack(s, (*request)->peer, (*request)->ref, id, ERR_CONFLICT, 0);
    else
        ack_existing(s, *request, id, ended ? ended->state : 0, 0);
}

enum err submit_answered(struct sched *s, const struct lookup_key *key, bool known, const struct rec_idem *idem,
                         const struct rec_ended *ended, bool found)
{
    struct list requests;
    bool old = false;
    enum err e = lookup_take(s, key, &requests, &old);
    for (struct list *node; !e && (node = list_first(&requests));) {
        struct request *request = CONTAINER_OF(node, struct request, node);
        list_remove(node);
        if (!known)
            refuse(s, request, ERR_STORE);
        else if (key->kind == LOOKUP_IDEM)
            key_answered(s, &request, idem, old);
        else
            id_answered(s, &request, ended, found, old);
        request_free(s, &request);
    }
    return e;
}

/* ---- undoing ---- */

static void unpin(struct sched *s, const struct job *job)
{
    struct pin *pin;
    HASH_FIND(hh, s->pins, job->spec->idem, 32, pin);
    if (!pin || !id_equal(&pin->id, &job->id))
        return;
    HASH_DELETE(hh, s->pins, pin);
    list_remove(&pin->node);
    free(pin);
}

void on_withdraw(struct sched *s, const struct input *in)
{
    struct job *job = job_table_find(&s->jobs, &in->withdraw->id);
    struct request *request = job && !job->state ? job->request : NULL;
    if (!job || job->ending || job->joined || (request && request->type == REQUEST_RETRY))
        return;
    s->stats.withdrawn++;
    if (request) {
        lookup_leave(&s->lookups, request);
        request_free(s, &request);
        return;
    }
    if (job->spec->has_idem) { /* first: a key must never lead to a job that is not there */
        unpin(s, job);
        drop_idem(s, job->spec->idem);
    }
    uint64_t number = drop_job(s, &job->id);
    if (job->lease)
        stop_run(s, job, number);
    job_forget(s, job);
}
