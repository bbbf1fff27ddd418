#include "tests/lib/core_look.h"

#include <inttypes.h>
#include <stdio.h>

#include "broker/core/state.h"

/* Whether this worker could take this waiting job now. */
static bool takes(const struct sched *s, const struct worker *worker, const struct job *job)
{
    const struct need *need = &job->flow->key.outlet->key.need;
    uint32_t route = route_of(s, name_span(job->route));
    if (route == UINT32_MAX || !worker->peer || worker->draining || worker->doubtful || worker->used >= worker->slots)
        return false;
    if (worker->solo != (need->care == CARE_SOLO) || (need->care == CARE_SUSPECT && worker->suspects >= ROSTER_SUSPECTS))
        return false;
    for (uint32_t i = 0; i < s->routes[route].count; i++) {
        const struct deployment *d = &s->roster.deployments[s->routes[route].deployments[i]];
        if (need->excluded & 1ull << s->routes[route].deployments[i] || (d->concurrency && d->active >= d->concurrency))
            continue;
        for (uint32_t v = 0; v < worker->served_count; v++)
            if (worker->served[v].name == d->name && worker->served[v].hash == d->hash)
                return true;
    }
    return false;
}

static void describe(const struct sched *s, const struct worker *worker, const struct flow *flow, char *words, size_t size)
{
    const struct outlet *outlet = flow->key.outlet;
    snprintf(words, size,
             "worker %.*s, %u of %u used, group %d; outlet of route %u, excluded %" PRIx64 ", care %u, pool of groups %" PRIx64
             ", full %d; free groups %" PRIx64,
             SPAN_ARG(name_span(worker->name)), worker->used, worker->slots,
             worker->group ? (int)(worker->group - s->roster.groups) : -1, outlet->key.route, outlet->key.need.excluded,
             (unsigned)outlet->key.need.care, outlet->pool ? outlet->pool->groups : 0, outlet->full, s->roster.groups_free);
}

bool core_idles(const struct sched *s, char *words, size_t size)
{
    if (!s->started || s->stalled || s->draining || s->again_at != MSEC_NEVER)
        return false;
    for (const struct worker *worker = s->roster.workers; worker; worker = worker->hh.next)
        for (const struct flow *flow = s->ready.flows; flow; flow = flow->hh.next)
            if (!flow->key.tenant->paused && !flow->key.queue->paused && flow->head && takes(s, worker, flow->head)) {
                describe(s, worker, flow, words, size);
                return true;
            }
    return false;
}

const char *core_left(const struct sched *s)
{
    if (s->jobs.count)
        return "a job never ended";
    if (s->roster.used)
        return "a slot never came back";
    if (s->lookups.all || s->lookups.waiting || s->pins)
        return "a question or a pinned key stayed";
    if (s->draft_bytes || s->body_cache)
        return "drafts or bodies stayed";
    if (s->watches)
        return "watches stayed";
    if (s->queues.all && !s->dead) /* whom the next step frees has its queue */
        return "queues stayed";
    if (s->ready.flows || s->ready.outlets || !list_empty(&s->orphans) || !list_empty(&s->unasked))
        return "flows or orphans stayed";
    for (uint32_t i = 0; i < s->roster.deployments_count; i++)
        if (s->roster.deployments[i].active)
            return "a deployment's calls do not add up";
    return NULL;
}
