/* Recounts everything derived from the jobs themselves. For tests and the simulation. */
#include "broker/core/state.h"

static const char *check_job(const struct sched *s, const struct job *job)
{
    if (!job->state)
        return job->flow || job->lease || job->ending ? "a draft is in a flow, leased or ended" : NULL;
    if (job->lease && job->lease->job != job)
        return "a job's lease is another's";
    if (!job->ending && (job->state == STATE_PROCESSING) != (job->lease != NULL))
        return "processing and leased are not the same";
    if (job->flow && (job->state != STATE_PENDING || job->scheduled))
        return "a job that is not ready is in a flow";
    if (job->ending)
        return job->ending->written != state_is_terminal(job->state) ? "an end is written and not terminal, or the reverse"
                                                                     : NULL;
    if (state_is_terminal(job->state))
        return "a terminal job has no end";
    if (job->state == STATE_PENDING && !job->flow && !job->scheduled)
        return "a pending job is forgotten: neither in a flow nor scheduled";
    if (!heap_has(&job->due.node))
        return "a live job has no deadline";
    if (job->due.at > MAX(job_due(job), s->now + SOON_MS)) /* what had no memory is due again soon */
        return "a job's deadline would fire too late";
    return NULL;
}

struct sums {
    uint64_t counts[8], cache, flows;
    struct room jobs, bytes;
};

static bool room_equal(const struct room *a, const struct room *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static void room_add(struct room *sum, const struct room *room)
{
    sum->held += room->held;
    for (int i = 0; i < 3; i++)
        sum->held_by[i] += room->held_by[i];
}

static const char *check_jobs(const struct sched *s, struct sums *sums)
{
    if (!job_shared_is_clean())
        return "somebody wrote into what all jobs share";
    for (size_t b = 0; b < s->jobs.size; b++)
        for (const struct job *job = s->jobs.buckets[b]; job; job = job->chain) {
            const char *wrong = check_job(s, job);
            if (wrong)
                return wrong;
            sums->counts[job->state]++;
            if (!job->state)
                continue;
            room_take(&sums->jobs, job->class, 1);
            room_take(&sums->bytes, job->class, job_bytes(job));
            sums->cache += job->body ? job->body->len : 0;
            sums->flows += job->flow != NULL;
        }
    return NULL;
}

static const char *check_tenants(const struct sched *s)
{
    struct room jobs = {0}, bytes = {0};
    uint64_t waiting = 0, active = 0;
    for (const struct tenant *tenant = s->tenants; tenant; tenant = tenant->hh.next) {
        room_add(&jobs, &tenant->jobs_held);
        room_add(&bytes, &tenant->bytes_held);
        waiting += tenant->waiting;
        active += tenant->active;
    }
    if (!room_equal(&jobs, &s->jobs_held) || !room_equal(&bytes, &s->bytes_held))
        return "the tenants' jobs or bytes do not add up";
    if (waiting != s->counts[STATE_PENDING] + s->counts[STATE_RETRYING] || active != s->counts[STATE_PROCESSING])
        return "the tenants' waiting or active jobs do not add up";
    return NULL;
}

static bool heap_in_order(const struct heap *heap)
{
    for (uint32_t i = 0; i < heap->count; i++) {
        if (heap->nodes[i]->place != i + 1)
            return false;
        if (i && heap->less(heap->nodes[i], heap->nodes[(i - 1) / 2]))
            return false;
    }
    return true;
}

static const char *check_ready(const struct sched *s, uint64_t in_flows)
{
    uint64_t count = 0;
    for (const struct flow *flow = s->ready.flows; flow; flow = flow->hh.next) {
        count += flow->count;
        bool runs = flow->count && !flow->key.tenant->paused && !flow->key.queue->paused;
        if (runs != heap_has(&flow->node))
            return "a flow that can run is not in its seat, or the reverse";
        if (runs && !heap_has(&flow->seat->node))
            return "a seat with a runnable flow is not at its outlet";
        if (runs && flow->key.outlet->pool && !heap_has(&flow->key.outlet->node[flow->key.class - 1]))
            return "an open outlet where somebody waits is in no pool";
        if (!heap_in_order(&flow->late) || !heap_in_order(&flow->seat->flows))
            return "a flow or a seat is out of order";
    }
    if (count != in_flows)
        return "the flows' counts do not add up";
    for (const struct outlet *outlet = s->ready.outlets; outlet; outlet = outlet->hh.next)
        for (int c = 0; c < 3; c++)
            if (!heap_in_order(&outlet->seats[c]))
                return "an outlet's seats are out of order";
    for (uint32_t i = 0; i < s->ready.pools_count; i++)
        for (int c = 0; c < 3; c++)
            if (!heap_in_order(&s->ready.pools[i].outlets[c]))
                return "a pool's outlets are out of order";
    return NULL;
}

static const char *check_workers(const struct sched *s)
{
    uint64_t used = 0, slots = 0, count = 0;
    for (const struct worker *worker = s->roster.workers; worker; worker = worker->hh.next) {
        uint32_t leases = 0, suspects = 0;
        for (struct list *node = list_first(&worker->leases); node; node = list_next(&worker->leases, node)) {
            const struct lease *lease = CONTAINER_OF(node, struct lease, node);
            leases++;
            suspects += lease->suspect;
            if (lease->worker != worker)
                return "a lease is in another worker's list";
            bool held = !list_empty(&lease->held);
            if (held != (lease->expires_at == MSEC_NEVER))
                return "a lease's time has begun before its JOB has left, or has not although it has";
        }
        if (leases != worker->used || suspects != worker->suspects)
            return "a worker's slots do not add up";
        if (suspects > ROSTER_SUSPECTS)
            return "too many once-crashed jobs in one child";
        used += worker->used;
        slots += worker->slots;
        count++;
    }
    if (used != s->roster.used || slots != s->roster.slots || count != s->roster.workers_count)
        return "the workers' sums do not add up";
    return NULL;
}

const char *sched_check(const struct sched *s)
{
    struct sums sums = {0};
    const char *wrong = check_jobs(s, &sums);
    if (wrong)
        return wrong;
    if (memcmp(sums.counts, s->counts, sizeof sums.counts) != 0)
        return "the counts by state do not add up";
    if (!room_equal(&sums.jobs, &s->jobs_held) || !room_equal(&sums.bytes, &s->bytes_held) || sums.cache != s->body_cache)
        return "jobs, bytes or the body cache do not add up";
    if (!heap_in_order(&s->deadlines))
        return "the deadlines are out of order";
    wrong = check_tenants(s);
    if (!wrong)
        wrong = check_ready(s, sums.flows);
    if (!wrong)
        wrong = check_workers(s);
    return wrong;
}
