/* Giving leases, and taking them back. */
#include "broker/core/state.h"

#include <stdlib.h>

/* ---- a lease's life ---- */

void lease_free(struct sched *s, struct lease *lease)
{
    if (lease->job)
        lease->job->lease = NULL;
    struct deployment *deployment = lease->deployment;
    bool was_full = deployment && deployment->concurrency && deployment->active >= deployment->concurrency;
    if (deployment)
        deployment->active--;
    roster_give_back(&s->roster, lease);
    if (was_full || lease->suspect)
        s->reopen = true;
    list_remove(&lease->held);
    name_put(&s->names, &lease->worker_name);
    name_put(&s->names, &lease->deployment_name);
    free(lease->ending);
    free(lease);
}

void lease_orphan(struct sched *s, struct lease *lease, uint64_t after)
{
    lease->job->lease = NULL;
    lease->job = NULL;
    lease->after = after;
    lease_begin(s, lease);
}

void lease_begin(struct sched *s, struct lease *lease)
{
    list_remove(&lease->held);
    lease->expires_at = s->now + s->settings.lease_ms;
}

static void leases_prolong(struct list *leases, msec ms)
{
    struct list *node;
    LIST_EACH (node, leases) {
        struct lease *lease = CONTAINER_OF(node, struct lease, node);
        if (lease->expires_at != MSEC_NEVER)
            lease->expires_at += ms;
    }
}

void workers_excuse(struct sched *s, msec ms)
{
    leases_prolong(&s->orphans, ms);
    for (struct worker *worker = s->roster.workers; worker; worker = worker->hh.next) {
        leases_prolong(&worker->leases, ms);
        if (heap_has(&worker->due.node))
            deadline_set(&s->deadlines, &worker->due, worker->due.at + ms);
    }
}

struct lease *lease_find(struct sched *s, const struct worker *worker, const struct id *id, struct fence fence)
{
    struct job *job = job_table_find(&s->jobs, id);
    if (job && job->lease && fence_compare(job->lease->fence, fence) == 0)
        return job->lease;
    struct list *node; /* of a job that has ended */
    LIST_EACH (node, &worker->leases) {
        struct lease *lease = CONTAINER_OF(node, struct lease, node);
        if (id_equal(&lease->id, id) && fence_compare(lease->fence, fence) == 0)
            return lease;
    }
    return NULL;
}

/* ---- giving ---- */

static msec time_left(const struct sched *s, const struct job *job)
{
    msec timeout = job->spec->timeout_ms ? (msec)job->spec->timeout_ms : s->settings.timeout_ms;
    return MAX(1, MIN(timeout, job->expires_at - s->now));
}

void lease_send(struct sched *s, struct lease *lease)
{
    struct job *job = lease->job;
    struct span model = name_span(lease->deployment->model);
    struct effect *effect = effects_add(s->out, EFFECT_JOB);
    effect->peer = lease->worker->peer;
    effect->after = job->written;
    effect->body = job->body;
    effect->body_from = job->display_bytes;
    effect->body_len = job->body_bytes - job->display_bytes;
    effect->job = (struct msg_job){
        .id = job->id,
        .fence = job->past->fence,
        .run = job->past->run,
        .attempt = job->past->calls,
        .deployment = name_span(lease->deployment_name),
        .model = model.len ? model : name_span(job->route),
        .timeout_ms = (uint64_t)time_left(s, job),
        .stream = job->stream,
        .watched = watch_tokens(job),
        .request_id = job_request_id(job),
        .trace = job_trace(job),
    };
    lease->token_watch = effect->job.watched;
    lease->sent = true;
    lease->after = job->written;
    lease_begin(s, lease);
    if (lease->after <= s->stored)
        return;
    lease->expires_at = MSEC_NEVER;
    list_push_back(&s->held, &lease->held);
}

/* Their JOBs leave now, and now their time begins: however long the store was behind, a worker has all of it to be heard of.
 * Only a job that was looked at meanwhile has a deadline to be brought forward. */
void leases_stored(struct sched *s)
{
    for (struct list *node; (node = list_first(&s->held));) {
        struct lease *lease = CONTAINER_OF(node, struct lease, held);
        if (lease->after > s->stored)
            return;
        lease_begin(s, lease);
        if (!lease->job->ending)
            deadline_sooner(&s->deadlines, &lease->job->due, job_due(lease->job));
    }
}

/* The first candidate, in the route's order, that has room; and the worker with most room for it. */
static struct worker *choose(struct sched *s, const struct outlet *outlet, struct deployment **ret_deployment)
{
    const struct route *route = &s->routes[outlet->key.route];
    uint64_t groups = outlet->pool->groups;
    for (uint32_t i = 0; i < route->count; i++) {
        struct deployment *d = &s->roster.deployments[route->deployments[i]];
        uint64_t bit = 1ull << route->deployments[i];
        if (outlet->key.need.excluded & bit || (d->concurrency && d->active >= d->concurrency))
            continue;
        struct worker *worker = roster_choose(&s->roster, groups, bit, outlet->key.need.care);
        if (worker) {
            *ret_deployment = d;
            return worker;
        }
    }
    return NULL;
}

static struct lease *lease_new(struct sched *s, struct job *job, struct worker *worker, struct deployment *deployment)
{
    struct lease *lease = calloc(1, sizeof *lease);
    if (!lease || job_past_reserve(job, &s->dead_histories)) {
        free(lease);
        return NULL;
    }
    lease->ending = calloc(1, sizeof *lease->ending);
    if (!lease->ending) {
        free(lease);
        return NULL;
    }
    list_init(&lease->node);
    list_init(&lease->held);
    lease->id = job->id;
    lease->deployment = deployment;
    lease->worker_name = name_ref(worker->name);
    lease->deployment_name = name_ref(deployment->name);
    return lease;
}

static bool lease_give(struct sched *s, struct job *job, struct worker *worker, struct deployment *deployment)
{
    struct outlet *outlet = job->flow->key.outlet;
    struct lease *lease = lease_new(s, job, worker, deployment);
    if (!lease)
        return false;
    ready_charge(&s->ready, job, JOB_COST);
    lease->suspect = outlet->key.need.care == CARE_SUSPECT;
    job_unwait(s, job);
    job_move(s, job, STATE_PROCESSING);
    job->past->fence = lease->fence = (struct fence){s->epoch, ++s->fence_n};
    job->past->run++;
    job->past->calls++;
    if (!job->past->started_at)
        job->past->started_at = s->now;
    lease->job = job;
    job->lease = lease;
    lease->cost = JOB_COST;
    lease->progress = 10;
    lease->expires_at = s->now + s->settings.lease_ms;
    roster_take(&s->roster, worker, lease);
    deployment->active++;
    struct rec_attempt *row = job_history_add(&s->names, job, worker->name, deployment->name);
    row->run = job->past->run;
    row->started_at = s->now;
    save_job(s, job);
    show(s, job, EVENT_STATUS);
    if (job->past->run > 1 && job->tokens_shown)
        show(s, job, EVENT_RESTARTED);
    if (job->body || !job->body_bytes)
        lease_send(s, lease);
    else
        ask_body(s, job);
    deadline_set(&s->deadlines, &job->due, MIN(job_due(job), s->now + s->settings.lease_ms));
    s->stats.dispatched++;
    if (deployment->concurrency && deployment->active >= deployment->concurrency)
        outlets_refresh(s);
    return true;
}

void dispatch(struct sched *s)
{
    if (!s->started || s->stalled || s->draining)
        return;
    if (s->reopen) {
        s->reopen = false;
        if (s->roster.unplaced && roster_place_all(&s->roster) == ERR_NOMEM)
            sched_again(s);
        struct outlet *outlet, *next;
        HASH_ITER(hh, s->ready.outlets, outlet, next)
        outlet->full = false;
        outlets_refresh(s);
    }
    struct job *job;
    while ((job = ready_next(&s->ready, s->roster.groups_free))) {
        struct outlet *outlet = job->flow->key.outlet;
        struct deployment *deployment;
        struct worker *worker = choose(s, outlet, &deployment);
        if (!worker) { /* only CARE_SUSPECT comes here: there is room, but not for one more of these */
            assert(outlet->key.need.care == CARE_SUSPECT);
            outlet->full = true;
            outlet_refresh(s, outlet);
            continue;
        }
        if (!sched_room(s, job) || !lease_give(s, job, worker, deployment)) {
            sched_again(s);
            return;
        }
    }
}

/* ---- taking back ---- */

static void back_to_place(struct sched *s, struct job *job)
{
    lease_free(s, job->lease);
    list_remove(&job->place); /* of those whose body is to be asked for again */
    job_move(s, job, STATE_PENDING);
    job->again_at = 0;
    job_wait(s, job);
    save_job(s, job);
    show(s, job, EVENT_STATUS);
}

void lease_undo(struct sched *s, struct job *job)
{
    ready_correct(&s->ready, job, job->lease->cost, 0);
    job_history_drop(&s->names, job);
    job->past->calls--;
    s->stats.unsent++;
    back_to_place(s, job);
}

void lease_lapse(struct sched *s, struct job *job, bool charged)
{
    struct lease *lease = job->lease;
    s->stats.lapsed++;
    if (job->ending) { /* it is over already; only its display part is still on its way */
        lease_free(s, lease);
        return;
    }
    if (!lease->sent || lease->after > s->stored) { /* nobody has seen the JOB */
        lease_undo(s, job);
        return;
    }
    struct rec_attempt *row = job_history_last(job);
    if (row) {
        row->ended_at = s->now;
        row->kind = KIND_CRASH;
    }
    if (charged) {
        s->stats.crashes++;
        bool solo = lease->worker && lease->worker->solo;
        *(solo ? &job->past->solo_crashes : &job->past->crashes) += 1;
        if (job->past->solo_crashes >= s->settings.crash_max) {
            s->stats.poisoned++;
            if (!job_end(s, job, STATE_FAILED, KIND_POISON, "the call crashed its worker each time"))
                return;
        }
    }
    back_to_place(s, job);
}
