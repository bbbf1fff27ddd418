/* The one function that moves a job between states, and where a job waits. */
#include "broker/core/state.h"

#include <stdlib.h>

static bool is_waiting(unsigned state)
{
    return state == STATE_PENDING || state == STATE_RETRYING;
}

void job_move(struct sched *s, struct job *job, enum state to)
{
    assert(job_may_move(job->state, to));
    struct tenant *tenant = job->tenant;
    tenant->waiting += is_waiting(to);
    tenant->waiting -= is_waiting(job->state);
    tenant->active += to == STATE_PROCESSING;
    tenant->active -= job->state == STATE_PROCESSING;
    s->counts[job->state]--;
    s->counts[to]++;
    job->state = (uint8_t)to;
}

unsigned job_reason(const struct job *job)
{
    if (job->state != STATE_PENDING)
        return REASON_NONE;
    if (job->scheduled || !job->flow)
        return REASON_SCHEDULED;
    if (job->tenant->paused || job->queue->paused)
        return REASON_PAUSED;
    return job->flow->key.outlet->served ? REASON_READY : REASON_UNSERVED;
}

msec job_due(const struct job *job)
{
    switch (job->state) {
    case STATE_PENDING:
        return job->scheduled ? MIN(job->again_at, job->expires_at) : job->expires_at;
    case STATE_RETRYING:
        return MIN(job->again_at, job->expires_at);
    case STATE_PROCESSING:
        return MIN(job->lease->expires_at, job->expires_at);
    default:
        return MSEC_NEVER;
    }
}

/* ---- routes and outlets ---- */

uint32_t route_of(const struct sched *s, struct span name)
{
    uint32_t any = UINT32_MAX;
    for (uint32_t i = 0; i < s->routes_count; i++) {
        struct span row = name_span(s->routes[i].name);
        if (span_equal(row, name))
            return i;
        if (span_is(row, "*"))
            any = i;
    }
    return any;
}

/* The deployments an outlet's jobs may use, as bits: all of the route, and those that could take one more call now. */
static void outlet_deployments(const struct sched *s, const struct outlet *outlet, uint64_t *ret_all, uint64_t *ret_open)
{
    *ret_all = *ret_open = 0;
    if (outlet->key.route == UINT32_MAX)
        return;
    *ret_all = s->routes[outlet->key.route].bits & ~outlet->key.need.excluded;
    for (uint64_t left = *ret_all; left; left &= left - 1) {
        const struct deployment *d = &s->roster.deployments[__builtin_ctzll(left)];
        if (!d->concurrency || d->active < d->concurrency)
            *ret_open |= 1ull << __builtin_ctzll(left);
    }
}

void outlet_refresh(struct sched *s, struct outlet *outlet)
{
    uint64_t all, open;
    bool solo = outlet->key.need.care == CARE_SOLO;
    outlet_deployments(s, outlet, &all, &open);
    outlet->served = roster_groups(&s->roster, all, solo) != 0;
    uint64_t groups = outlet->full ? 0 : roster_groups(&s->roster, open, solo);
    if (ready_open(&s->ready, outlet, groups))
        sched_again(s);
}

void outlets_refresh(struct sched *s)
{
    struct outlet *outlet, *next;
    HASH_ITER(hh, s->ready.outlets, outlet, next)
    outlet_refresh(s, outlet);
}

static enum care care_of(const struct job *job)
{
    const struct past *past = job->past;
    if (past->crashes >= 2 || past->solo_crashes)
        return CARE_SOLO;
    return past->crashes ? CARE_SUSPECT : CARE_NONE;
}

/* ---- waiting ---- */

void job_times(const struct sched *s, struct job *job)
{
    const struct spec *spec = job->spec;
    msec scheduled = MAX(spec->run_at, spec->delay_ms ? job->arrived_at + (msec)spec->delay_ms : 0);
    /* an explicit max_wait counts from arrival; the default would otherwise end jobs that are scheduled for later than it */
    msec from = spec->max_wait_ms ? job->arrived_at : MAX(job->arrived_at, scheduled);
    job->again_at = scheduled;
    job->expires_at = from + (spec->max_wait_ms ? (msec)spec->max_wait_ms : s->settings.max_wait_ms);
    if (spec->deadline)
        job->expires_at = MIN(job->expires_at, spec->deadline);
}

static bool enter_flow(struct sched *s, struct job *job)
{
    struct outlet_key key;
    memset(&key, 0, sizeof key);
    key.route = route_of(s, name_span(job->route));
    key.need = (struct need){job->spec->capabilities, job->past->excluded, care_of(job)};
    bool made;
    struct flow *flow;
    struct outlet *outlet = ready_outlet(&s->ready, &key, &made);
    if (!outlet)
        return false;
    if (ready_reserve(&s->ready, job, outlet, &flow)) {
        ready_outlet_tidy(&s->ready, outlet);
        return false;
    }
    ready_add(&s->ready, flow, job);
    if (made || !outlet->pool)
        outlet_refresh(s, outlet);
    return true;
}

void job_wait(struct sched *s, struct job *job)
{
    assert(!job->flow && is_waiting(job->state));
    if (job->again_at > s->now) {
        job->scheduled = job->state == STATE_PENDING;
    } else {
        job->scheduled = false;
        if (job->state == STATE_RETRYING)
            job_move(s, job, STATE_PENDING);
        if (!job->runnable_at)
            job->runnable_at = MAX(job->arrived_at, job->again_at);
        if (!enter_flow(s, job)) { /* no memory: as if scheduled a moment later */
            job->again_at = s->now + SOON_MS;
            job->scheduled = true;
        }
    }
    deadline_set(&s->deadlines, &job->due, job_due(job));
}

void job_unwait(struct sched *s, struct job *job)
{
    if (job->flow)
        ready_remove(&s->ready, job);
    job->scheduled = false;
}

/* ---- bodies in memory ---- */

void body_keep(struct sched *s, struct job *job, struct blob *body)
{
    assert(!job->body);
    job->body = blob_ref(body);
    s->body_cache += body->len;
}

void body_release(struct sched *s, struct job *job)
{
    if (job->body)
        s->body_cache -= job->body->len;
    blob_free(&job->body);
}

/* ---- the end of everything about a job ---- */

void job_discard(struct sched *s, struct job **job)
{
    queue_put(&s->queues, &(*job)->queue);
    job_free(&s->names, job);
}

void job_count_in(struct sched *s, struct job *job)
{
    room_take(&s->jobs_held, job->class, 1);
    room_take(&s->bytes_held, job->class, job_bytes(job));
    room_take(&job->tenant->jobs_held, job->class, 1);
    room_take(&job->tenant->bytes_held, job->class, job_bytes(job));
    job->queue->jobs++;
}

void job_forget(struct sched *s, struct job *job)
{
    assert(job->state && !job->lease);
    job_unwait(s, job);
    deadline_set(&s->deadlines, &job->due, MSEC_NEVER);
    watches_drop(s, job);
    list_remove(&job->place);
    job_table_remove(&s->jobs, job);
    s->counts[job->state]--;
    room_give_back(&s->jobs_held, job->class, 1);
    room_give_back(&s->bytes_held, job->class, job_bytes(job));
    s->body_cache -= job->body ? job->body->len : 0;
    room_give_back(&job->tenant->jobs_held, job->class, 1);
    room_give_back(&job->tenant->bytes_held, job->class, job_bytes(job));
    job->queue->jobs--;
    job->tenant->waiting -= is_waiting(job->state);
    job->tenant->active -= job->state == STATE_PROCESSING;
    job->chain = s->dead;
    s->dead = job;
}

void jobs_sweep(struct sched *s)
{
    for (struct job *job; (job = s->dead);) {
        s->dead = job->chain;
        ending_free(s, &job->ending);
        job_discard(s, &job);
    }
}
