#include "broker/core/sched.h"

#include <stdlib.h>

#include "broker/core/state.h"

const struct sched_settings sched_defaults = {
    .jobs_max = 2000000,
    .bytes_max = 4ull << 30,
    .tenant_jobs_max = 1000000,
    .tenant_bytes_max = 2ull << 30,
    .body_cache_bytes = 512ull << 20,
    .lookups_max = 65536,
    .lease_ms = 15000,
    .return_ms = 650,
    .head_start_ms = 30000,
    .heartbeat_ms = 5000,
    .max_wait_ms = 86400000,
    .timeout_ms = 300000,
    .backoff_base_ms = 2000,
    .backoff_cap_ms = 60000,
    .retry_after_cap_ms = 86400000,
    .result_ttl_ms = 3600000,
    .failed_ttl_ms = 86400000,
    .idem_ttl_ms = 86400000,
    .max_attempts = 3,
    .crash_max = 3,
    .class_weight = {16, 4, 1},
    .deployments = &(const struct sched_deployment){.name = "echo", .model = ""},
    .deployments_count = 1,
    .routes = &(const struct sched_route){.name = "*", .deployments = &(const uint32_t){0}, .deployments_count = 1},
    .routes_count = 1,
};

/* ---- small things the other files use ---- */

/* xorshift128+ (Vigna 2014). */
uint64_t sched_random(struct sched *s)
{
    uint64_t a = s->random[0], b = s->random[1];
    s->random[0] = b;
    a ^= a << 23;
    s->random[1] = a ^ b ^ a >> 18 ^ b >> 5;
    return s->random[1] + b;
}

bool sched_room(struct sched *s, const struct job *job)
{
    size_t waiting = 0;
    for (const struct watch *watch = job->watches; watch; watch = watch->next)
        waiting++;
    return !effects_reserve(s->out, 24 + CANCELLERS_MAX + 4 * waiting);
}

enum err sched_reserve_due(struct sched *s)
{
    return heap_reserve(&s->deadlines, (uint32_t)s->jobs_held.held + s->roster.workers_count + 1);
}

void sched_again(struct sched *s)
{
    s->again_at = MIN(s->again_at, s->now + SOON_MS);
}

struct job *sched_find(struct sched *s, const struct id *id, struct span tenant)
{
    struct job *job = job_table_find(&s->jobs, id);
    return job && job->state && span_equal(tenant_span(job->tenant), tenant) ? job : NULL;
}

/* ---- settings ---- */

static void routes_free(struct names *names, struct route **routes, uint32_t count)
{
    struct route *list = TAKE(*routes);
    for (uint32_t i = 0; list && i < count; i++) {
        name_put(names, &list[i].name);
        free(list[i].deployments);
    }
    free(list);
}

static enum err routes_new(struct sched *s, const struct sched_settings *settings, struct route **ret_routes)
{
    struct route *routes = calloc(MAX(settings->routes_count, 1u), sizeof *routes);
    if (!routes)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < settings->routes_count; i++) {
        const struct sched_route *row = &settings->routes[i];
        routes[i].name = name_get(&s->names, span_str(row->name));
        routes[i].deployments = malloc(MAX(row->deployments_count, 1u));
        if (!routes[i].name || !routes[i].deployments) {
            routes_free(&s->names, &routes, settings->routes_count);
            return ERR_NOMEM;
        }
        routes[i].count = row->deployments_count;
    }
    *ret_routes = routes;
    return ERR_OK;
}

static void routes_number(struct route *routes, const struct sched_settings *settings, const uint8_t *bits)
{
    for (uint32_t i = 0; i < settings->routes_count; i++)
        for (uint32_t d = 0; d < routes[i].count; d++) {
            routes[i].deployments[d] = bits[settings->routes[i].deployments[d]];
            routes[i].bits |= 1ull << routes[i].deployments[d];
        }
}

/* Flows know routes by their row. */
static bool same_names(const struct sched *s, const struct route *routes, uint32_t count)
{
    bool same = count == s->routes_count;
    for (uint32_t i = 0; same && i < count; i++)
        same = routes[i].name == s->routes[i].name;
    return same;
}

/* Everything or nothing: routes are made before deployments are changed, and get their bits afterwards. */
static enum err settings_take(struct sched *s, const struct sched_settings *settings, bool *ret_moved)
{
    uint8_t bits[ROSTER_DEPLOYMENTS] = {0};
    struct route *routes;
    enum err e = routes_new(s, settings, &routes);
    if (e)
        return e;
    e = roster_deployments(&s->roster, &s->names, settings->deployments, settings->deployments_count, bits);
    if (e) {
        routes_free(&s->names, &routes, settings->routes_count);
        return e;
    }
    routes_number(routes, settings, bits);
    *ret_moved = s->ready.head_start_ms != settings->head_start_ms || !same_names(s, routes, settings->routes_count);
    routes_free(&s->names, &s->routes, s->routes_count);
    s->routes = routes;
    s->routes_count = settings->routes_count;
    s->settings = *settings;
    s->settings.deployments = NULL;
    s->settings.routes = NULL;
    s->ready.head_start_ms = settings->head_start_ms; /* of flows made from now on */
    for (int i = 0; i < 3; i++)
        s->ready.class_tags[i].weight = settings->class_weight[i];
    return ERR_OK;
}

/* Takes jobs out of their flows, in order, so that they fill the lanes of the next in order. */
static void lift_jobs(struct sched *s, bool all, struct list *jobs)
{
    struct flow *flow, *next;
    HASH_ITER(hh, s->ready.flows, flow, next)
    {
        if (!all && !flow->key.outlet->key.need.excluded)
            continue;
        for (uint64_t left = flow->count; left; left--) { /* the flow goes with its last */
            struct job *job = flow->head;
            ready_remove(&s->ready, job);
            list_push_back(jobs, &job->place);
        }
    }
}

/* Who waited for a row that is another now finds a flow again, in the order there was. What was excluded may serve again: a
 * credential that was refused is what settings are changed for. Everybody else stays where he is: an outlet reads its route's
 * deployments anew. */
static enum err on_settings(struct sched *s, const struct sched_settings *settings)
{
    bool moved;
    struct list jobs;
    enum err e = settings_take(s, settings, &moved);
    if (e)
        return e;
    list_init(&jobs);
    lift_jobs(s, moved, &jobs);
    for (size_t b = 0; b < s->jobs.size; b++)
        for (struct job *job = s->jobs.buckets[b]; job; job = job->chain)
            if (job->past->excluded)
                job->past->excluded = 0;
    if (roster_place_all(&s->roster) == ERR_NOMEM)
        sched_again(s);
    for (struct list *node; (node = list_first(&jobs));) {
        list_remove(node);
        job_wait(s, CONTAINER_OF(node, struct job, place));
    }
    s->reopen = true;
    return ERR_OK;
}

/* ---- life ---- */

struct sched *sched_new(const struct sched_settings *settings, uint64_t seed)
{
    struct sched *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->random[0] = seed ^ 0x9e3779b97f4a7c15u;
    s->random[1] = seed * 0xbf58476d1ce4e5b9u + 1;
    s->again_at = MSEC_NEVER;
    list_init(&s->pins_by_number);
    list_init(&s->ending);
    list_init(&s->orphans);
    list_init(&s->held);
    list_init(&s->unasked);
    deadline_init(&s->deadlines);
    ready_init(&s->ready, settings->head_start_ms, settings->class_weight);
    roster_init(&s->roster);
    bool ignored;
    if (settings_take(s, settings, &ignored))
        sched_free(&s);
    return s;
}

static void free_requests(struct sched *s)
{
    struct lookup *lookup, *next;
    HASH_ITER(hh, s->lookups.all, lookup, next)
    {
        struct list requests;
        list_init(&requests);
        lookup_answered(&s->lookups, lookup, &requests);
        for (struct list *node; (node = list_first(&requests));) {
            struct request *request = CONTAINER_OF(node, struct request, node);
            list_remove(node);
            request_free(s, &request);
        }
    }
}

static void free_jobs(struct sched *s)
{
    for (size_t b = 0; b < s->jobs.size; b++)
        while (s->jobs.buckets[b]) {
            struct job *job = s->jobs.buckets[b];
            if (job->lease)
                lease_free(s, job->lease);
            job_forget(s, job);
        }
    jobs_sweep(s);
    job_table_done(&s->jobs);
}

static void free_peers(struct sched *s)
{
    struct worker *worker, *next_worker;
    HASH_ITER(hh, s->roster.workers, worker, next_worker)
    {
        for (struct list *node; (node = list_first(&worker->leases));)
            lease_free(s, CONTAINER_OF(node, struct lease, node));
        deadline_set(&s->deadlines, &worker->due, MSEC_NEVER);
        roster_remove(&s->roster, &s->names, worker);
    }
    struct api *api, *next_api;
    HASH_ITER(hh, s->apis, api, next_api)
    {
        HASH_DELETE(hh, s->apis, api);
        free(api);
    }
}

void sched_free(struct sched **sched)
{
    struct sched *s = TAKE(*sched);
    if (!s)
        return;
    free_requests(s);
    free_jobs(s);
    free_peers(s);
    struct pin *pin, *next;
    HASH_ITER(hh, s->pins, pin, next)
    {
        HASH_DELETE(hh, s->pins, pin);
        free(pin);
    }
    ready_done(&s->ready);
    routes_free(&s->names, &s->routes, s->routes_count);
    roster_done(&s->roster, &s->names);
    history_sweep(&s->dead_histories);
    names_sweep(&s->names);
    heap_done(&s->deadlines);
    tenants_free(&s->tenants);
    queues_free(&s->queues);
    free(s->leaving);
    free(s->verdicts);
    free(s->drops);
    free(s);
}

/* ---- time ---- */

static void job_is_due(struct sched *s, struct job *job)
{
    deadline_set(&s->deadlines, &job->due, MSEC_NEVER);
    if (job->expires_at <= s->now) {
        if (job_end(s, job, STATE_EXPIRED, KIND_EXPIRED, "it waited as long as it may")) {
            deadline_set(&s->deadlines, &job->due, s->now + SOON_MS);
            sched_again(s);
        }
        return;
    }
    if (job->state == STATE_PROCESSING && job->lease->expires_at <= s->now) {
        struct lease *lease = job->lease;
        struct worker *worker = lease->worker;
        if (worker && worker->peer && lease->sent) { /* it is there and silent: nothing more for it until it is heard of */
            worker->doubtful = true;
            roster_changed(&s->roster, worker);
        }
        lease_lapse(s, job, worker && !worker->peer);
        return;
    }
    if (job->state != STATE_PROCESSING && job->again_at <= s->now && !job->flow) {
        bool was_retrying = job->state == STATE_RETRYING;
        job_wait(s, job);
        if (was_retrying)
            show(s, job, EVENT_STATUS);
        return;
    }
    deadline_set(&s->deadlines, &job->due, job_due(job));
}

static void fire_due(struct sched *s)
{
    for (struct due *due; (due = deadline_top(&s->deadlines)) && due->at <= s->now;) {
        if (due->of == DUE_WORKER) {
            worker_due(s, CONTAINER_OF(due, struct worker, due));
            continue;
        }
        struct job *job = CONTAINER_OF(due, struct job, due);
        if (!sched_room(s, job)) {
            sched_again(s);
            return;
        }
        job_is_due(s, job);
    }
}

/* Whoever needs its body and got no answer asks again. */
static void ask_again(struct sched *s)
{
    for (struct list *node; !s->stalled && (node = list_first(&s->unasked));) {
        struct job *job = CONTAINER_OF(node, struct job, place);
        if (!sched_room(s, job)) {
            sched_again(s);
            return;
        }
        list_remove(node);
        ask_body(s, job);
    }
}

msec sched_next(const struct sched *s)
{
    if (s->rewriting)
        return s->now;
    struct due *due = deadline_top(&s->deadlines);
    return MIN(due ? due->at : MSEC_NEVER, s->again_at);
}

/* ---- the store's answers ---- */

static enum err body_lost(struct sched *s, struct job *job)
{
    if (job->lease && job->lease->sent)
        return ERR_OK; /* its worker has it: only another run would need it again */
    uint32_t display_bytes = job->display_bytes;
    job->display_bytes = 0; /* shown without, and not asked for again */
    if (job_end(s, job, STATE_FAILED, KIND_LOST, "its body is nowhere any more")) {
        job->display_bytes = display_bytes;
        job->body_asked = true;
        return ERR_NOMEM;
    }
    s->stats.lost++;
    return ERR_OK;
}

static enum err body_answered(struct sched *s, const struct input *in, bool known)
{
    struct job *job = job_table_find(&s->jobs, &(in->type == INPUT_FOUND ? &in->found.key : &in->absent.key)->id);
    if (!job || !job->body_asked)
        return ERR_OK;
    job->body_asked = false;
    bool wanted = job->ending ? !job->ending->written : job->lease && !job->lease->sent;
    if (!known) {
        if (wanted && list_empty(&job->place))
            list_push_back(&s->unasked, &job->place);
        sched_again(s);
        return ERR_OK;
    }
    /* of another length it is another's, or damaged: nothing that may be cut in parts */
    if (in->type == INPUT_FOUND && in->body && in->body->len == job->body_bytes && !job->body)
        body_keep(s, job, in->body);
    if (job->ending) {
        if (!job->body)
            job->display_bytes = 0; /* shown without */
        if (wanted)
            end_write(s, job);
    } else if (!job->body) {
        return body_lost(s, job);
    } else if (wanted) {          /* while its worker is away the lease goes back unsent, when it returns or is given up */
        list_remove(&job->place); /* asked for by a rewrite too, it may still be among the unasked */
        if (job->lease->worker && job->lease->worker->peer)
            lease_send(s, job->lease);
    } else if (s->body_cache > s->settings.body_cache_bytes)
        body_release(s, job); /* it was only asked whether it is there */
    return ERR_OK;
}

static enum err on_answer(struct sched *s, const struct input *in)
{
    bool known = in->type != INPUT_UNKNOWN, found = in->type == INPUT_FOUND;
    const struct lookup_key *given = found ? &in->found.key : &in->absent.key;
    struct lookup_key key = given->kind == LOOKUP_IDEM ? lookup_key_hash(given->hash) : lookup_key_id(given->kind, &given->id);
    if (key.kind == LOOKUP_BODY && lookup_find(&s->lookups, &key))
        return redrive_answered(s, &key, in);
    if (key.kind == LOOKUP_BODY)
        return body_answered(s, in, known);
    if (key.kind == LOOKUP_ENDED)
        return ended_answered(s, in, known);
    return submit_answered(s, &key, known, found ? in->found.idem : NULL, found ? in->found.ended : NULL, found);
}

/* ---- operators ---- */

static enum err on_pause(struct sched *s, const struct input *in)
{
    struct tenant *tenant = NULL;
    struct queue *queue = NULL;
    if (in->pause.tenant.len && !(tenant = tenant_get(&s->tenants, in->pause.tenant)))
        return ERR_NOMEM;
    if (in->pause.queue.len && !(queue = queue_get(&s->queues, in->pause.queue)))
        return ERR_NOMEM;
    if (tenant)
        tenant->paused = in->pause.on;
    if (queue)
        queue->paused = in->pause.on;
    struct flow *flow;
    for (flow = s->ready.flows; flow; flow = flow->hh.next)
        if (flow->key.tenant == tenant || flow->key.queue == queue)
            ready_pause_changed(&s->ready, flow);
    queue_put(&s->queues, &queue);
    s->reopen = true; /* an outlet at which all were paused may have lost its pool to another */
    return ERR_OK;
}

/* ---- one step ---- */

static enum err take(struct sched *s, const struct input *in)
{
    switch (in->type) {
    case INPUT_RECOVER:
        return on_recover(s, in);
    case INPUT_START:
        s->started = true;
        s->epoch = in->start.epoch;
        s->ack = in->start.ack;
        s->shard = in->start.shard;
        return ERR_OK;
    case INPUT_HELLO:
        return on_hello(s, in);
    case INPUT_GONE:
        on_gone(s, in);
        return ERR_OK;
    case INPUT_HEARTBEAT:
        return on_heartbeat(s, in);
    case INPUT_DRAIN:
        on_drain(s, in);
        return ERR_OK;
    case INPUT_SUBMIT:
        return on_submit(s, in);
    case INPUT_WITHDRAW:
        on_withdraw(s, in);
        return ERR_OK;
    case INPUT_CANCEL:
        return on_cancel(s, in);
    case INPUT_FORGET:
        return on_forget(s, in);
    case INPUT_ASK:
        on_ask(s, in);
        return ERR_OK;
    case INPUT_WATCH:
        return on_watch(s, in);
    case INPUT_UNWATCH:
        on_unwatch(s, in);
        return ERR_OK;
    case INPUT_PATCH:
        return on_patch(s, in);
    case INPUT_RETRY:
        return on_retry(s, in);
    case INPUT_OUTCOME:
        return on_outcome(s, in);
    case INPUT_PROGRESS:
        on_progress(s, in);
        return ERR_OK;
    case INPUT_RUN_EVENT:
        on_run_event(s, in);
        return ERR_OK;
    case INPUT_UNSENT:
        on_unsent(s, in);
        return ERR_OK;
    case INPUT_STORED:
        on_stored(s, in->stored.number);
        return ERR_OK;
    case INPUT_STALL:
        if (!s->stalled)
            s->stalled_at = s->now;
        s->stalled = true;
        tell_apis(s);
        return ERR_OK;
    case INPUT_FLOW:
        s->stalled = false;
        sched_again(s);
        tell_apis(s);
        return ERR_OK;
    case INPUT_FULL:
        if (!s->full)
            s->full_at = s->now;
        s->full = true;
        return ERR_OK;
    case INPUT_ROOM:
        s->full = false;
        return ERR_OK;
    case INPUT_FOUND:
    case INPUT_ABSENT:
    case INPUT_UNKNOWN:
        return on_answer(s, in);
    case INPUT_REWRITE:
        s->epoch = in->rewrite.epoch;
        s->rewriting = s->jobs.frozen = true;
        s->rewrite_at = 0;
        return ERR_OK;
    case INPUT_PAUSE:
        return on_pause(s, in);
    case INPUT_SETTINGS:
        return on_settings(s, in->settings);
    case INPUT_TICK:
    case INPUT_MISSED: /* what it brings came before the deadlines */
        return ERR_OK;
    }
    return ERR_OK;
}

/* The job that an input is about: who watches it bounds what the input can cause. */
static const struct job *subject(const struct sched *s, const struct input *in)
{
    const struct id *id = NULL;
    switch (in->type) {
    case INPUT_WITHDRAW:
        id = &in->withdraw->id;
        break;
    case INPUT_CANCEL:
        id = &in->cancel->id;
        break;
    case INPUT_UNWATCH:
        id = &in->unwatch->id;
        break;
    case INPUT_PATCH:
        id = &in->patch->id;
        break;
    case INPUT_OUTCOME:
        id = &in->outcome->id;
        break;
    case INPUT_PROGRESS:
        id = &in->progress->id;
        break;
    case INPUT_RUN_EVENT:
        id = &in->run_event->id;
        break;
    case INPUT_UNSENT:
        id = &in->unsent->id;
        break;
    case INPUT_FOUND:
        id = in->found.key.kind == LOOKUP_BODY ? &in->found.key.id : NULL;
        break;
    case INPUT_ABSENT:
        id = in->absent.key.kind == LOOKUP_BODY ? &in->absent.key.id : NULL;
        break;
    default:
        break;
    }
    return id ? job_table_find(&s->jobs, id) : NULL;
}

static void sweep(struct sched *s)
{
    jobs_sweep(s);
    history_sweep(&s->dead_histories);
    queues_sweep(&s->queues);
    names_sweep(&s->names);
}

/* What went wrong for want of memory, or of an answer, is tried again. */
static void try_again_now(struct sched *s)
{
    s->again_at = MSEC_NEVER;
    s->reopen = true;
    ask_again(s);
}

enum err sched_step(struct sched *s, msec now, const struct input *in, struct effects *out)
{
    sweep(s);
    s->out = out;
    s->now = MAX(s->now, now);
    if (in->type == INPUT_MISSED)
        workers_excuse(s, in->missed.ms);
    if (s->started)
        fire_due(s);
    const struct job *job = subject(s, in);
    enum err e = effects_reserve(out, 96) || (job && !sched_room(s, job)) ? ERR_NOMEM : take(s, in);
    if (e) {
        sched_again(s); /* for what deadlines have set free */
        return e;
    }
    if (s->again_at <= s->now)
        try_again_now(s);
    if (s->rewriting)
        rewrite_slice(s);
    dispatch(s);
    return ERR_OK;
}

uint64_t sched_written(const struct sched *s)
{
    return s->written;
}

/* ---- numbers ---- */

void sched_stats(const struct sched *s, struct sched_stats *ret_stats)
{
    *ret_stats = s->stats;
    ret_stats->jobs = s->jobs_held.held;
    ret_stats->job_bytes = s->bytes_held.held;
    ret_stats->body_cache_bytes = s->body_cache;
    ret_stats->pending = s->counts[STATE_PENDING];
    ret_stats->processing = s->counts[STATE_PROCESSING];
    ret_stats->retrying = s->counts[STATE_RETRYING];
    for (int state = STATE_COMPLETED; state <= STATE_EXPIRED; state++)
        ret_stats->ending += s->counts[state];
    uint64_t in_flows = 0;
    for (const struct flow *flow = s->ready.flows; flow; flow = flow->hh.next) {
        in_flows += flow->count;
        if (flow->key.outlet->served && !flow->key.tenant->paused && !flow->key.queue->paused)
            ret_stats->ready += flow->count;
    }
    ret_stats->scheduled = ret_stats->pending - in_flows;
    ret_stats->flows = HASH_COUNT(s->ready.flows);
    for (const struct tenant *tenant = s->tenants; tenant; tenant = tenant->hh.next)
        ret_stats->tenants += tenant->jobs_held.held > 0;
    ret_stats->workers = s->roster.workers_count;
    ret_stats->apis = HASH_COUNT(s->apis);
    ret_stats->slots = s->roster.slots;
    ret_stats->slots_free = s->roster.slots > s->roster.used ? s->roster.slots - s->roster.used : 0;
    ret_stats->lookups_waiting = s->lookups.waiting;
    ret_stats->watchers = s->watches;
    ret_stats->stalled = s->stalled;
    ret_stats->draining = s->draining;
    ret_stats->dispatch_steps = s->ready.steps;
}

bool sched_tenant(const struct sched *s, struct span name, struct sched_tenant_stats *ret_stats)
{
    const struct tenant *tenant = tenant_find(s->tenants, name);
    if (tenant)
        tenant_stats(tenant, s->now, ret_stats);
    return tenant != NULL;
}
