/* Live jobs come back from the store, and go back to a store that lost them. */
#include "broker/core/state.h"

#include <stdlib.h>

static enum err recover_lease(struct sched *s, struct job *job, const struct rec_job *record)
{
    struct lease *lease = calloc(1, sizeof *lease);
    if (!lease || !(lease->ending = calloc(1, sizeof *lease->ending))) {
        free(lease);
        return ERR_NOMEM;
    }
    list_init(&lease->node);
    list_init(&lease->held);
    lease->id = job->id;
    lease->fence = job->past->fence;
    lease->job = job;
    lease->deployment = roster_deployment(&s->roster, record->deployment);
    if (lease->deployment)
        lease->deployment->active++;
    lease->worker_name = name_get(&s->names, record->worker);
    lease->deployment_name = name_get(&s->names, record->deployment);
    lease->cost = JOB_COST;
    lease->progress = 10;
    lease->sent = true;
    lease->expires_at = s->now + s->settings.lease_ms; /* in full: the clock starts when this broker does */
    lease->suspect = job->past->crashes == 1 && !job->past->solo_crashes;
    job->lease = lease;
    list_push_back(&s->orphans, &lease->node);
    return ERR_OK;
}

enum err recover_history(struct sched *s, struct job *job, const struct rec_attempt *attempts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct rec_attempt *from = &attempts[i];
        if (job_past_reserve(job, &s->dead_histories))
            return ERR_NOMEM;
        struct name *worker = name_get(&s->names, from->worker), *deployment = name_get(&s->names, from->deployment);
        struct rec_attempt *row = job_history_add(&s->names, job, worker, deployment);
        struct span shown_worker = row->worker, shown_deployment = row->deployment;
        *row = *from;
        row->worker = shown_worker;
        row->deployment = shown_deployment;
        row->message = (struct span){0};
        job_history_say(job, from->message);
        name_put(&s->names, &worker);
        name_put(&s->names, &deployment);
    }
    return ERR_OK;
}

static bool has_past(const struct rec_job *record)
{
    return record->run || record->attempts_count || record->failed_attempts || record->throttles || record->excluded;
}

/* A route whose every deployment was excluded under other settings would never be served: then none is. */
static uint64_t still_excluded(const struct sched *s, const struct rec_job *record)
{
    uint32_t route = route_of(s, record->spec.route);
    return route != UINT32_MAX && (s->routes[route].bits & ~record->excluded) ? record->excluded : 0;
}

static enum err fill_past(struct sched *s, struct job *job, const struct rec_job *record)
{
    if (!has_past(record))
        return ERR_OK;
    if (job_past_reserve(job, &s->dead_histories))
        return ERR_NOMEM;
    struct past *past = job->past;
    past->fence = record->fence;
    past->started_at = record->started_at;
    past->excluded = still_excluded(s, record);
    past->run = record->run;
    past->throttles = record->throttles;
    past->failed_attempts = record->failed_attempts;
    past->calls = record->calls;
    past->crashes = record->crashes;
    past->solo_crashes = record->solo_crashes;
    return recover_history(s, job, record->attempts, record->attempts_count);
}

static void fill(struct sched *s, struct job *job, const struct rec_job *record)
{
    job->arrived_at = record->arrived_at;
    job->runnable_at = record->runnable_at;
    job->body_bytes = record->body_bytes;
    job->display_bytes = MIN(job->display_bytes, job->body_bytes);
    job->seq = record->seq;
    if (!job->max_attempts)
        job->max_attempts = (uint16_t)s->settings.max_attempts;
    job_times(s, job);
    job->again_at = record->again_at;
    s->seq = MAX(s->seq, job->seq);
}

static void count_in(struct sched *s, struct job *job)
{
    job_count_in(s, job);
    s->counts[0]++;
    job_move(s, job, STATE_PENDING);
}

enum err on_recover(struct sched *s, const struct input *in)
{
    const struct rec_job *record = in->recover;
    struct id id = in->id;
    if (job_table_find(&s->jobs, &id))
        return ERR_OK;
    struct job *job = job_new(&s->names, &id, &record->spec, record->idem, NULL);
    if (!job)
        return ERR_NOMEM;
    job->tenant = tenant_get(&s->tenants, record->spec.tenant);
    job->queue = queue_get(&s->queues, record->spec.queue);
    fill(s, job, record);
    bool leased = record->state == STATE_PROCESSING;
    if (!job->tenant || !job->queue || job_table_reserve(&s->jobs) || sched_reserve_due(s) || fill_past(s, job, record) ||
        (leased && recover_lease(s, job, record))) {
        job_discard(s, &job);
        return ERR_NOMEM;
    }
    job_table_add(&s->jobs, job);
    count_in(s, job);
    if (leased) {
        job_move(s, job, STATE_PROCESSING);
        deadline_set(&s->deadlines, &job->due, job_due(job));
        return ERR_OK;
    }
    if (record->state == STATE_RETRYING) {
        job_move(s, job, STATE_PROCESSING); /* the table of moves knows no shorter way */
        job_move(s, job, STATE_RETRYING);
    }
    job_wait(s, job);
    return ERR_OK;
}

/* ---- every live job saved anew, a slice of the buckets at a time ---- */

static void rewrite_job(struct sched *s, struct job *job)
{
    if (job_is_over(job)) {
        end_write(s, job);
        return;
    }
    save_anew(s, job);
    if (job->body)
        save_body(s, job);
    else if (job->body_bytes)
        ask_body(s, job); /* absent: it is lost, and ends so */
}

void rewrite_slice(struct sched *s)
{
    size_t until = MIN(s->jobs.size, s->rewrite_at + REWRITE_SLICE);
    for (; s->rewrite_at < until; s->rewrite_at++) {
        for (struct job *job = s->jobs.buckets[s->rewrite_at]; job; job = job->chain) {
            if (!job->state)
                continue;
            if (!sched_room(s, job)) {
                sched_again(s);
                return; /* this bucket again: saving twice does no harm */
            }
            rewrite_job(s, job);
        }
    }
    if (s->rewrite_at >= s->jobs.size) {
        s->rewriting = false;
        s->jobs.frozen = false;
    }
}
