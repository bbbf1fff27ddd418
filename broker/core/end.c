/* How a job ends: by its outcome, by cancel, by time. It is over in memory at once, over for everybody else when that is
 * stored, and only then gone from memory. */
#include "broker/core/state.h"

#include <stdlib.h>

void ending_free(struct sched *s, struct ending **ending)
{
    struct ending *mine = TAKE(*ending);
    if (!mine)
        return;
    for (struct canceller *next; mine->cancellers; mine->cancellers = next) {
        next = mine->cancellers->next;
        free(mine->cancellers);
    }
    blob_free(&mine->answer);
    name_put(&s->names, &mine->deployment);
    free(mine->message);
    free(mine);
}

static void say(struct ending *end, const char *message)
{
    if (!message || !*message || end->message)
        return;
    end->message_len = strlen(message);
    end->message = malloc(end->message_len + 1);
    if (end->message)
        memcpy(end->message, message, end->message_len + 1);
    else
        end->message_len = 0;
}

/* The run goes on until its worker has heard of the end: the slot stays taken. */
void stop_run(struct sched *s, struct job *job, uint64_t after)
{
    struct lease *lease = job->lease;
    if (!lease->worker || !lease->sent) { /* nobody runs it */
        lease_free(s, lease);
        return;
    }
    if (lease->worker->peer) { /* else it is told when it comes back */
        struct effect *effect = effects_add(s->out, EFFECT_CANCEL_RUN);
        effect->peer = lease->worker->peer;
        effect->after = after;
        effect->cancel_run = (struct msg_cancel_run){.id = job->id, .fence = job->past->fence};
    }
    lease_orphan(s, lease, after);
}

static void release_body(struct sched *s, struct job *job)
{
    if (!job->body_bytes)
        return;
    drop_body(s, &job->id, job->state == STATE_FAILED ? (uint64_t)s->settings.failed_ttl_ms : 0);
    job->written = s->written;
}

static void count_end(struct sched *s, const struct job *job)
{
    uint64_t *counts[] = {[STATE_COMPLETED] = &s->stats.completed,
                          [STATE_FAILED] = &s->stats.failed,
                          [STATE_CANCELLED] = &s->stats.cancelled,
                          [STATE_EXPIRED] = &s->stats.expired};
    ++*counts[job->state];
    tenant_count_end(job->tenant, s->now, job->state, s->now - job->arrived_at);
    comeback_freed(&s->comeback, s->now);
    comeback_freed(&job->tenant->comeback, s->now);
}

/* Everything that waits for the end, in the order it may be seen. */
static void tell_end(struct sched *s, struct job *job, struct lease *lease)
{
    struct ending *end = job->ending;
    show(s, job, EVENT_ENDED);
    for (const struct canceller *who = end->cancellers; who; who = who->next) {
        struct effect *effect = answer(s, who->peer, who->ref, &job->id, who->late ? ERR_ENDED : ERR_OK, job->written);
        view_job(s, job, &effect->answer.view);
    }
    if (!lease)
        return;
    if (end->acks && lease->worker && lease->worker->peer) {
        struct effect *effect = effects_add(s->out, EFFECT_OUTCOME_ACK);
        effect->peer = lease->worker->peer;
        effect->after = job->written;
        effect->outcome_ack = (struct rec_lease){.id = job->id, .fence = job->past->fence};
        lease_free(s, lease);
    } else
        stop_run(s, job, job->written);
}

/* The display part belongs to the record: when the body is only in the store, it is read back first. */
void end_write(struct sched *s, struct job *job)
{
    if (job->display_bytes && !job->body && !job->ending->written) {
        ask_body(s, job);
        return;
    }
    bool first = !job->ending->written;
    if (first) {
        job_unwait(s, job);
        job_move(s, job, job->ending->state);
        deadline_set(&s->deadlines, &job->due, MSEC_NEVER);
    }
    save_ended(s, job);
    release_body(s, job);
    job->ending->written = true;
    list_remove(&job->place);
    list_push_back(&s->ending, &job->place);
    if (first) {
        count_end(s, job);
        tell_end(s, job, job->lease);
    }
}

/* Decided: whatever happens next, it is not dispatched any more. Shown and stored by end_write. */
static struct ending *end_begin(struct sched *s, struct job *job, enum state state, unsigned kind, const char *message)
{
    struct lease *lease = job->lease;
    struct ending *end = lease ? TAKE(lease->ending) : calloc(1, sizeof *end);
    if (!end)
        return NULL;
    end->state = (uint8_t)state;
    end->kind = (uint8_t)kind;
    end->at = s->now;
    end->deployment = lease ? name_ref(lease->deployment_name) : NULL;
    say(end, message);
    job->ending = end;
    job_unwait(s, job);
    list_remove(&job->place);
    deadline_set(&s->deadlines, &job->due, MSEC_NEVER);
    return end;
}

enum err job_end(struct sched *s, struct job *job, enum state state, unsigned kind, const char *message)
{
    if (!end_begin(s, job, state, kind, message))
        return ERR_NOMEM;
    end_write(s, job);
    return ERR_OK;
}

void on_stored(struct sched *s, uint64_t number)
{
    s->stored = MAX(s->stored, number);
    leases_stored(s);
    for (struct list *node; (node = list_first(&s->ending));) {
        struct job *job = CONTAINER_OF(node, struct job, place);
        if (job->written > s->stored)
            break;
        job_forget(s, job);
    }
    for (struct list *node; (node = list_first(&s->pins_by_number));) {
        struct pin *pin = CONTAINER_OF(node, struct pin, node);
        if (pin->number > s->stored)
            break;
        HASH_DELETE(hh, s->pins, pin);
        list_remove(node);
        free(pin);
    }
    for (; s->leaving_count && s->leaving[s->leaving_from].number <= s->stored; s->leaving_count--) {
        struct job *job = job_table_find(&s->jobs, &s->leaving[s->leaving_from].id);
        if (job && job->state && !job->lease && !job->ending)
            body_release(s, job);
        s->leaving_from = (s->leaving_from + 1) % s->leaving_size;
    }
}

/* ---- by a caller ---- */

/* What a caller is told of a job that is not here: only a current store can say so. */
static void answer_absent(struct sched *s, peer_number peer, uint64_t ref, const struct id *id)
{
    answer(s, peer, ref, id, s->stalled ? ERR_STORE : ERR_NOT_LIVE, 0);
}

enum err on_cancel(struct sched *s, const struct input *in)
{
    const struct msg_cancel *cancel = in->cancel;
    struct job *job = sched_find(s, &cancel->id, cancel->tenant);
    if (!job) {
        answer_absent(s, in->peer, cancel->ref, &cancel->id);
        return ERR_OK;
    }
    if (job_is_over(job)) {
        answer_job(s, in->peer, cancel->ref, job);
        return ERR_OK;
    }
    unsigned waiting = 0;
    for (const struct canceller *one = job->ending ? job->ending->cancellers : NULL; one; one = one->next)
        waiting++;
    if (waiting == CANCELLERS_MAX) {
        answer(s, in->peer, cancel->ref, &cancel->id, ERR_STORE, 0);
        return ERR_OK;
    }
    struct canceller *who = calloc(1, sizeof *who);
    if (!who)
        return ERR_NOMEM;
    *who = (struct canceller){.peer = in->peer, .ref = cancel->ref, .late = job->ending != NULL};
    if (!job->ending && !end_begin(s, job, STATE_CANCELLED, KIND_CANCELLED, NULL)) {
        free(who);
        return ERR_NOMEM;
    }
    struct canceller **last = &job->ending->cancellers;
    while (*last)
        last = &(*last)->next;
    *last = who;
    if (!who->late)
        end_write(s, job);
    return ERR_OK;
}

/* ---- ended jobs ---- */

static struct span request_tenant(const struct request *request)
{
    return span_of(request->tenant, request->tenant_len);
}

/* The request is the table's then. ERR_NOMEM. */
static enum err ask_ended(struct sched *s, struct request **request)
{
    struct lookup_key key = lookup_key_id(LOOKUP_ENDED, &(*request)->id);
    bool ask;
    enum err e = lookup_add(&s->lookups, &key, *request, &ask);
    if (e)
        return e;
    *request = NULL;
    if (ask)
        ask_store(s, &key);
    return ERR_OK;
}

enum err ended_ask(struct sched *s, const struct input *in, enum request_type type, uint64_t ref, const struct id *id,
                   struct span tenant)
{
    if (s->stalled || s->lookups.waiting >= s->settings.lookups_max) {
        answer(s, in->peer, ref, id, ERR_STORE, 0);
        return ERR_OK;
    }
    struct request *request = calloc(1, sizeof *request);
    if (!request)
        return ERR_NOMEM;
    list_init(&request->node);
    request->type = type;
    request->peer = in->peer;
    request->ref = ref;
    request->id = *id;
    request->tenant_len = (uint8_t)tenant.len;
    if (tenant.len)
        memcpy(request->tenant, tenant.data, tenant.len);
    enum err e = ask_ended(s, &request);
    request_free(s, &request);
    return e;
}

/* A key lives for idem_ttl_ms from the submit that made its job; after that it may be another job's, and a record may be kept
 * for longer. */
static bool owns_its_key(const struct sched *s, const struct rec_ended *ended)
{
    return ended->idem.len == 32 && s->now < ended->created_at + s->settings.idem_ttl_ms;
}

enum err on_forget(struct sched *s, const struct input *in)
{
    const struct msg_forget *forget = in->forget;
    struct job *job = sched_find(s, &forget->id, forget->tenant);
    if (!job)
        return ended_ask(s, in, REQUEST_FORGET, forget->ref, &forget->id, forget->tenant);
    answer(s, in->peer, forget->ref, &forget->id, ERR_CONFLICT, job->written);
    return ERR_OK;
}

/* ended: NULL: there is none, or it is another's. */
static void forget_found(struct sched *s, const struct request *request, const struct rec_ended *ended)
{
    uint64_t number = 0;
    if (ended && owns_its_key(s, ended)) /* so that the key may be used again */
        drop_idem(s, ended->idem.data);
    if (ended)
        number = drop_ended(s, &request->id, ended);
    answer(s, request->peer, request->ref, &request->id, ended ? ERR_OK : ERR_NOT_LIVE, number);
}

/* A write has changed the record since it was asked for: the job lives again, or what there is now must be read. */
static void answered_too_late(struct sched *s, struct request **request)
{
    const struct job *job = sched_find(s, &(*request)->id, request_tenant(*request));
    enum err e = job ? ERR_CONFLICT : ask_ended(s, request);
    if (e)
        answer(s, (*request)->peer, (*request)->ref, &(*request)->id, e, job ? job->written : 0);
}

enum err ended_answered(struct sched *s, const struct input *in, bool known)
{
    const struct rec_ended *ended = in->type == INPUT_FOUND ? in->found.ended : NULL;
    struct lookup_key key = lookup_key_id(LOOKUP_ENDED, in->type == INPUT_FOUND ? &in->found.key.id : &in->absent.key.id);
    struct list requests;
    bool touched = false, forgotten = false;
    enum err e = lookup_take(s, &key, &requests, &touched);
    for (struct list *node; !e && (node = list_first(&requests));) {
        struct request *request = CONTAINER_OF(node, struct request, node);
        list_remove(node);
        bool mine = ended && span_equal(ended->spec.tenant, request_tenant(request));
        if (!known) {
            answer(s, request->peer, request->ref, &request->id, ERR_STORE, 0);
        } else if (touched) {
            answered_too_late(s, &request);
        } else if (request->type == REQUEST_RETRY) {
            redrive_found(s, &request, mine && !forgotten ? ended : NULL);
        } else {
            forget_found(s, request, mine ? ended : NULL);
            forgotten |= mine;
        }
        request_free(s, &request);
    }
    return e;
}

/* ---- a waiting job changed ---- */

enum err on_patch(struct sched *s, const struct input *in)
{
    const struct msg_patch *patch = in->patch;
    struct job *job = sched_find(s, &patch->id, patch->tenant);
    if (!job) {
        answer_absent(s, in->peer, patch->ref, &patch->id);
        return ERR_OK;
    }
    if (job_is_over(job)) {
        answer_job(s, in->peer, patch->ref, job);
        return ERR_OK;
    }
    if (job->lease || job->ending || patch->priority > 10) {
        answer(s, in->peer, patch->ref, &patch->id, patch->priority > 10 ? ERR_INVALID : ERR_CONFLICT, job->written);
        return ERR_OK;
    }
    if (patch->deadline && job_spec_own(job))
        return ERR_NOMEM;
    job_unwait(s, job);
    if (patch->priority)
        job->priority = patch->priority;
    if (patch->deadline) {
        job->spec->deadline = MAX(1, MIN(patch->deadline, SPEC_MS_MAX));
        job->expires_at = MIN(job->expires_at, job->spec->deadline);
    }
    job_wait(s, job);
    save_job(s, job);
    show(s, job, EVENT_STATUS);
    answer_job(s, in->peer, patch->ref, job);
    return ERR_OK;
}
