#include "broker/core/flow.h"

msec flow_key_of(const struct job *job, msec head_start_ms)
{
    return job->runnable_at - job->priority * head_start_ms;
}

bool flow_before(const struct job *a, const struct job *b, msec head_start_ms)
{
    msec x = flow_key_of(a, head_start_ms), y = flow_key_of(b, head_start_ms);
    return x != y ? x < y : a->seq < b->seq;
}

static struct job *job_in_lane(const struct list *node)
{
    return CONTAINER_OF(node, struct job, place);
}
static struct job *job_late(const struct heap_node *node)
{
    return CONTAINER_OF(node, struct job, late);
}

/* Within one flow the head start is one number, so it may be read from either side. */
static bool late_before(const struct heap_node *a, const struct heap_node *b)
{
    const struct job *x = job_late(a), *y = job_late(b);
    return flow_before(x, y, x->flow->head_start_ms);
}

void flow_init(struct flow *flow, const struct flow_key *key, msec head_start_ms)
{
    memset(flow, 0, sizeof *flow);
    flow->key = *key;
    flow->head_start_ms = head_start_ms;
    for (int i = 0; i < FLOW_LANES; i++)
        list_init(&flow->lanes[i]);
    heap_init(&flow->late, late_before);
}

void flow_done(struct flow *flow)
{
    assert(!flow->count);
    heap_done(&flow->late);
}

enum err flow_reserve(struct flow *flow)
{
    return heap_reserve(&flow->late, flow->late.count + 1);
}

static struct job *find_head(const struct flow *flow)
{
    struct heap_node *late = heap_top(&flow->late);
    struct job *head = late ? job_late(late) : NULL;
    for (int i = 0; i < FLOW_LANES; i++) {
        struct list *first = list_first(&flow->lanes[i]);
        if (first && (!head || flow_before(job_in_lane(first), head, flow->head_start_ms)))
            head = job_in_lane(first);
    }
    return head;
}

void flow_add(struct flow *flow, struct job *job)
{
    assert(!job->flow && list_empty(&job->place));
    struct list *lane = &flow->lanes[job->priority - 1];
    job->flow = flow;
    job->in_lane = list_empty(lane) || flow_before(job_in_lane(list_last(lane)), job, flow->head_start_ms);
    if (job->in_lane)
        list_push_back(lane, &job->place);
    else
        heap_push(&flow->late, &job->late);
    flow->count++;
    if (!flow->head || flow_before(job, flow->head, flow->head_start_ms))
        flow->head = job;
}

void flow_remove(struct flow *flow, struct job *job)
{
    assert(job->flow == flow);
    if (job->in_lane)
        list_remove(&job->place);
    else
        heap_remove(&flow->late, &job->late);
    job->in_lane = false;
    job->flow = NULL;
    flow->count--;
    if (flow->head == job)
        flow->head = find_head(flow);
}
