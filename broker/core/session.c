/* Peers come, are heard of, and go; their leases with them. */
#include "broker/core/state.h"

#include <stdlib.h>

/* Every api child answers for the whole system's readiness, so it hears at once when workers come or go, or the store stalls.
 */
void tell_apis(struct sched *s)
{
    for (struct api *api = s->apis; api; api = api->hh.next) {
        if (effects_reserve(s->out, 1))
            return; /* the next heartbeat says it too */
        struct effect *effect = effects_add(s->out, EFFECT_HEARTBEAT_ACK);
        effect->peer = api->peer;
        effect->heartbeat_ack =
            (struct msg_heartbeat_ack){.now = s->now, .stalled = s->stalled, .workers = s->roster.workers_count};
    }
}

static struct effect *welcome(struct sched *s, peer_number peer)
{
    struct effect *effect = effects_add(s->out, EFFECT_WELCOME);
    effect->peer = peer;
    effect->welcome.ack = s->ack;
    effect->welcome.stalled = s->stalled;
    effect->welcome.workers = s->roster.workers_count;
    return effect;
}

/* ---- api children ---- */

static struct api *api_find(struct sched *s, peer_number peer)
{
    struct api *api;
    HASH_FIND(hh, s->apis, &peer, sizeof peer, api);
    return api;
}

static enum err api_hello(struct sched *s, const struct input *in)
{
    if (!api_find(s, in->peer)) {
        struct api *api = calloc(1, sizeof *api);
        if (!api)
            return ERR_NOMEM;
        api->peer = in->peer;
        list_init(&api->watches);
        HASH_ADD(hh, s->apis, peer, sizeof api->peer, api);
        if (!api->hh.tbl) {
            free(api);
            return ERR_NOMEM;
        }
    }
    welcome(s, in->peer);
    return ERR_OK;
}

/* Its callers are gone with it: jobs that asked for it and that nobody else watches are cancelled. */
static void api_gone(struct sched *s, struct api *api)
{
    for (struct list *node; (node = list_first(&api->watches));) {
        struct watch *watch = CONTAINER_OF(node, struct watch, of_api);
        struct job *job = watch->job;
        watch_free(s, watch);
        if (job->cancel_on_leave && !job->watches && !job->ending && sched_room(s, job))
            if (job_end(s, job, STATE_CANCELLED, KIND_CANCELLED, "its caller left"))
                continue; /* no memory: it runs on */
    }
    HASH_DELETE(hh, s->apis, api);
    free(api);
}

/* ---- a worker's HELLO ---- */

/* The current run of a live job, whoever has it in the broker's books. */
static struct lease *claimed(struct sched *s, const struct worker *worker, const struct rec_held *held)
{
    struct job *job = job_table_find(&s->jobs, &held->id);
    if (!job || !job->lease || fence_compare(job->past->fence, held->fence) != 0)
        return NULL;
    struct lease *lease = job->lease;
    return !lease->worker || lease->worker == worker ? lease : NULL;
}

static void adopt(struct sched *s, struct worker *worker, struct lease *lease)
{
    s->stats.adopted++;
    lease->sent = true;
    lease_begin(s, lease);
    if (lease->worker)
        return;
    list_remove(&lease->node);
    roster_take(&s->roster, worker, lease);
}

static bool is_held(const struct msg_hello *hello, const struct lease *lease)
{
    for (uint32_t i = 0; i < hello->held_count; i++)
        if (id_equal(&hello->held[i].id, &lease->id) && fence_compare(hello->held[i].fence, lease->fence) == 0)
            return true;
    return false;
}

/* Leases of this worker that its HELLO does not list: the JOB never arrived, or the run was dropped as told. Those of jobs that
 * have ended are over: listed, they were just told to abort, unless that must still wait. */
static void settle_missing(struct sched *s, struct worker *worker, const struct msg_hello *hello)
{
    struct list *node, *next;
    LIST_EACH_SAFE (node, next, &worker->leases) {
        struct lease *lease = CONTAINER_OF(node, struct lease, node);
        bool held = is_held(hello, lease), over = !lease->job;
        if (over && !(held && lease->after > s->stored))
            lease_free(s, lease);
        if (over || held)
            continue;
        if (lease->job->ending)
            lease_lapse(s, lease->job, false);
        else if (sched_room(s, lease->job))
            lease_undo(s, lease->job);
    }
}

/* Leases recovered from the store that this worker should have, by its name, and did not list: the JOB never arrived. */
static void settle_orphans(struct sched *s, const struct worker *worker)
{
    struct list *node, *next;
    LIST_EACH_SAFE (node, next, &s->orphans) {
        struct lease *lease = CONTAINER_OF(node, struct lease, node);
        if (lease->worker_name == worker->name && lease->job && !lease->job->ending && sched_room(s, lease->job))
            lease_undo(s, lease->job);
    }
}

static enum err reserve_verdicts(struct sched *s, const struct msg_hello *hello)
{
    struct rec_verdict *list = realloc(s->verdicts, MAX(hello->held_count, 1u) * sizeof *list);
    if (list)
        s->verdicts = list;
    return list ? effects_reserve(s->out, hello->held_count + 96) : ERR_NOMEM;
}

/* A run whose job has ended, and not yet for all to see: it goes on until that is stored. */
static bool stops_later(struct sched *s, const struct worker *worker, const struct rec_held *held)
{
    struct lease *lease = lease_find(s, worker, &held->id, held->fence);
    if (!lease || lease->job || lease->after <= s->stored)
        return false;
    struct effect *effect = effects_add(s->out, EFFECT_CANCEL_RUN);
    effect->peer = worker->peer;
    effect->after = lease->after;
    effect->cancel_run = (struct msg_cancel_run){.id = held->id, .fence = held->fence};
    return true;
}

/* Its outcome was taken, and the write it brought is on its way. Should this broker die first, the worker alone has it: it says
 * it again, and is told to forget it when that is stored. */
static bool outlives_us(struct sched *s, const struct rec_held *held)
{
    const struct job *job = job_table_find(&s->jobs, &held->id);
    return held->finished && job && job->past && fence_compare(job->past->fence, held->fence) == 0 && job->written > s->stored;
}

static void judge(struct sched *s, struct worker *worker, const struct msg_hello *hello)
{
    struct rec_verdict *list = s->verdicts;
    for (uint32_t i = 0; i < hello->held_count; i++) {
        const struct rec_held *held = &hello->held[i];
        struct lease *lease = claimed(s, worker, held);
        list[i] = (struct rec_verdict){.id = held->id, .fence = held->fence, .verdict = VERDICT_ABORT};
        if (!lease) {
            list[i].verdict = stops_later(s, worker, held) || outlives_us(s, held) ? VERDICT_KEEP : VERDICT_ABORT;
            continue;
        }
        adopt(s, worker, lease);
        lease->token_watch = watch_tokens(lease->job);
        list[i].verdict = lease->token_watch ? VERDICT_REPLAY : VERDICT_KEEP;
    }
}

/* The worker of this HELLO, heard at this session from now on; as before when there is no memory. */
static enum err seat_worker(struct sched *s, const struct input *in, struct worker **ret_worker, bool *ret_returned)
{
    struct worker *worker = roster_find(&s->roster, in->hello->instance);
    bool returned = *ret_returned = worker != NULL;
    if (sched_reserve_due(s) || reserve_verdicts(s, in->hello))
        return ERR_NOMEM;
    if (!returned && !(worker = roster_add(&s->roster, &s->names, in->hello)))
        return ERR_NOMEM;
    if ((returned && roster_serves(&s->names, worker, in->hello)) || roster_session(&s->roster, worker, in->peer)) {
        if (!returned)
            roster_remove(&s->roster, &s->names, worker);
        return ERR_NOMEM;
    }
    *ret_worker = worker;
    return ERR_OK;
}

static enum err worker_hello(struct sched *s, const struct input *in)
{
    const struct msg_hello *hello = in->hello;
    struct worker *worker;
    bool returned;
    if (seat_worker(s, in, &worker, &returned))
        return ERR_NOMEM;
    worker->doubtful = worker->draining = worker->bye = false;
    deadline_set(&s->deadlines, &worker->due, MSEC_NEVER);
    roster_slots(&s->roster, worker, hello->slots);
    judge(s, worker, hello);
    settle_missing(s, worker, hello);
    settle_orphans(s, worker);
    if (roster_place(&s->roster, worker) == ERR_NOMEM)
        sched_again(s);
    s->reopen = true; /* room for suspects, or a new group */
    struct effect *effect = welcome(s, in->peer);
    effect->welcome.verdicts = s->verdicts;
    effect->welcome.verdicts_count = hello->held_count;
    if (!returned)
        tell_apis(s);
    return ERR_OK;
}

enum err on_hello(struct sched *s, const struct input *in)
{
    if (in->hello->role == ROLE_WORKER)
        return worker_hello(s, in);
    if (in->hello->role == ROLE_API)
        return api_hello(s, in);
    welcome(s, in->peer);
    return ERR_OK;
}

/* ---- heartbeats ---- */

/* What it lists goes on or is to be dropped. What it does not list lapses in its time, or is over if only its slot was still
 * taken. */
static enum err renew(struct sched *s, struct worker *worker, const struct msg_heartbeat *heartbeat, uint32_t *ret_drops)
{
    struct rec_lease *drops = realloc(s->drops, MAX(heartbeat->leases_count, 1u) * sizeof *drops);
    if (!drops)
        return ERR_NOMEM;
    s->drops = drops;
    for (uint32_t i = 0; i < heartbeat->leases_count; i++) {
        const struct rec_lease *said = &heartbeat->leases[i];
        struct lease *lease = lease_find(s, worker, &said->id, said->fence);
        bool mine = lease && lease->worker == worker;
        if (mine)
            lease->heard = true;
        if (mine && lease->job)
            lease_begin(s, lease);
        else if (!mine || lease->after <= s->stored) /* else its CANCEL_RUN waits for the same commit */
            drops[(*ret_drops)++] = *said;
    }
    struct list *node, *next;
    LIST_EACH_SAFE (node, next, &worker->leases) {
        struct lease *lease = CONTAINER_OF(node, struct lease, node);
        if (!lease->job && !lease->heard && lease->expires_at <= s->now)
            lease_free(s, lease);
        else
            lease->heard = false;
    }
    return ERR_OK;
}

enum err on_heartbeat(struct sched *s, const struct input *in)
{
    struct worker *worker = roster_by_peer(&s->roster, in->peer);
    uint32_t drops = 0;
    if (worker) {
        if (renew(s, worker, in->heartbeat, &drops))
            return ERR_NOMEM;
        worker->doubtful = false;
        roster_slots(&s->roster, worker, in->heartbeat->slots);
    }
    struct effect *effect = effects_add(s->out, EFFECT_HEARTBEAT_ACK);
    effect->peer = in->peer;
    effect->heartbeat_ack = (struct msg_heartbeat_ack){
        .now = s->now, .stalled = s->stalled, .workers = s->roster.workers_count, .drop = s->drops, .drop_count = drops};
    return ERR_OK;
}

/* ---- going ---- */

void on_gone(struct sched *s, const struct input *in)
{
    struct api *api = api_find(s, in->peer);
    if (api)
        api_gone(s, api);
    struct worker *worker = roster_by_peer(&s->roster, in->peer);
    if (!worker || !in->peer)
        return;
    if (roster_session(&s->roster, worker, 0))
        return; /* leaving needs no memory */
    worker->bye = in->gone.bye;
    deadline_set(&s->deadlines, &worker->due, s->now + s->settings.return_ms);
    if (worker->bye)
        worker_due(s, worker);
}

/* It did not come back: what it held lapses, and it is forgotten. */
void worker_due(struct sched *s, struct worker *worker)
{
    bool charged = !worker->bye;
    for (struct list *node; (node = list_first(&worker->leases));) {
        struct lease *lease = CONTAINER_OF(node, struct lease, node);
        if (!lease->job)
            lease_free(s, lease);
        else if (sched_room(s, lease->job))
            lease_lapse(s, lease->job, charged);
        else {
            deadline_set(&s->deadlines, &worker->due, s->now + SOON_MS);
            return;
        }
    }
    deadline_set(&s->deadlines, &worker->due, MSEC_NEVER);
    roster_remove(&s->roster, &s->names, worker);
    s->reopen = true;
    tell_apis(s);
}

void on_drain(struct sched *s, const struct input *in)
{
    if (!in->peer) {
        s->draining = true;
        return;
    }
    struct worker *worker = roster_by_peer(&s->roster, in->peer);
    if (!worker)
        return;
    worker->draining = true;
    roster_changed(&s->roster, worker);
}
