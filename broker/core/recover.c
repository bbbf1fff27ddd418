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
    lease->id = job->id;
    lease->fence = job->fence;
    lease->job = job;
    lease->deployment = roster_deployment(&s->roster, record->deployment);
    lease->worker_name = name_get(&s->names, record->worker);
    lease->deployment_name = name_get(&s->names, record->deployment);
    lease->cost = JOB_COST;
    lease->progress = 10;
    lease->sent = true;
    lease->expires_at = s->now + s->settings.lease_ms; /* in full: the clock starts when this broker does */
    lease->suspect = job->crashes == 1 && !job->solo_crashes;
    job->lease = lease;
    list_push_back(&s->orphans, &lease->node);
    return ERR_OK;
}

static enum err recover_history(struct sched *s, struct job *job, const struct rec_job *record)
{
    if (!record->attempts_count)
        return ERR_OK;
    if (job_history_reserve(job))
        return ERR_NOMEM;
    for (uint32_t i = 0; i < record->attempts_count; i++) {
        const struct rec_attempt *from = &record->attempts[i];
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

static void fill(struct sched *s, struct job *job, const struct rec_job *record)
{
    job->arrived_at = record->arrived_at;
    job->runnable_at = record->runnable_at;
    job->again_at = record->again_at;
    job->started_at = record->started_at;
    job->run = record->run;
    job->fence = record->fence;
    job->failed_attempts = record->failed_attempts;
    job->throttles = record->throttles;
    job->crashes = record->crashes;
    job->solo_crashes = record->solo_crashes;
    job->body_bytes = record->body_bytes;
    job->seq = record->seq;
    job->calls = record->calls;
    job->excluded = record->excluded;
    const struct spec *spec = job->spec;
    msec scheduled = MAX(spec->run_at, spec->delay_ms ? job->arrived_at + (msec)MIN(spec->delay_ms, (uint64_t)1 << 50) : 0);
    msec from = spec->max_wait_ms ? job->arrived_at : MAX(job->arrived_at, scheduled);
    job->expires_at = from + (spec->max_wait_ms ? (msec)MIN(spec->max_wait_ms, (uint64_t)1 << 50) : s->settings.max_wait_ms);
    if (spec->deadline)
        job->expires_at = MIN(job->expires_at, spec->deadline);
    s->seq = MAX(s->seq, job->seq);
}

static void count_in(struct sched *s, struct job *job)
{
    s->accepted++;
    s->bytes += job_bytes(job);
    job->tenant->jobs++;
    job->tenant->bytes += job_bytes(job);
    job->queue->jobs++;
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
    if (!job->tenant || !job->queue || job_table_reserve(&s->jobs) || heap_reserve(&s->deadlines, s->deadlines.count + 1) ||
        recover_history(s, job, record) || (leased && recover_lease(s, job, record))) {
        job_free(&s->names, &job);
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
    if (job->ending && job->ending->written) {
        end_write(s, job);
        return;
    }
    save_job(s, job);
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
