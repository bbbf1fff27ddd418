#include "broker/core/ready.h"

#include <stdlib.h>

/* ---- orders ---- */

static bool flow_first(const struct heap_node *a, const struct heap_node *b)
{
    const struct flow *x = CONTAINER_OF(a, struct flow, node), *y = CONTAINER_OF(b, struct flow, node);
    return flow_before(x->head, y->head, x->head_start_ms);
}

static bool seat_first(const struct heap_node *a, const struct heap_node *b)
{
    return share_before(&CONTAINER_OF(a, struct seat, node)->account->tag, &CONTAINER_OF(b, struct seat, node)->account->tag);
}

static struct seat *best_seat(const struct outlet *outlet, int class)
{
    struct heap_node *top = heap_top(&outlet->seats[class]);
    return top ? CONTAINER_OF(top, struct seat, node) : NULL;
}

/* A heap's order sees only nodes, so each class has its own. */
#define OUTLET_ORDER(class)                                                                                                    \
    static bool outlet_first_##class(const struct heap_node *a, const struct heap_node *b)                                     \
    {                                                                                                                          \
        const struct outlet *x = CONTAINER_OF(a, struct outlet, node[class]),                                                  \
                            *y = CONTAINER_OF(b, struct outlet, node[class]);                                                  \
        return seat_first(&best_seat(x, class)->node, &best_seat(y, class)->node);                                             \
    }
OUTLET_ORDER(0)
OUTLET_ORDER(1)
OUTLET_ORDER(2)
static heap_less *const outlet_first[3] = {outlet_first_0, outlet_first_1, outlet_first_2};

void ready_init(struct ready *ready, msec head_start_ms, const uint32_t class_weight[3])
{
    *ready = (struct ready){.head_start_ms = head_start_ms};
    for (int i = 0; i < 3; i++)
        ready->class_tags[i].weight = class_weight[i];
}

void ready_done(struct ready *ready)
{
    assert(!ready->flows && !ready->outlets);
    for (uint32_t i = 0; i < ready->pools_count; i++)
        for (int c = 0; c < 3; c++)
            heap_done(&ready->pools[i].outlets[c]);
}

/* ---- a node's place after what is below it has changed ---- */

static void place_outlet(struct outlet *outlet, int class)
{
    bool waits = outlet->pool && outlet->seats[class].count;
    struct heap *heap = outlet->pool ? &outlet->pool->outlets[class] : NULL;
    if (!heap)
        return;
    if (!waits)
        heap_remove(heap, &outlet->node[class]);
    else if (heap_has(&outlet->node[class]))
        heap_fix(heap, &outlet->node[class]);
    else
        heap_push(heap, &outlet->node[class]);
}

/* A seat whose node leaves its outlet's heap must leave before the outlet's own place is judged. */
static void place_seat(struct seat *seat)
{
    struct outlet *outlet = seat->outlet;
    struct heap *heap = &outlet->seats[seat->class];
    if (!seat->flows.count)
        heap_remove(heap, &seat->node);
    else if (heap_has(&seat->node))
        heap_fix(heap, &seat->node);
    else
        heap_push(heap, &seat->node);
    place_outlet(outlet, seat->class);
}

static bool can_run(const struct flow *flow)
{
    return flow->count && !flow->key.tenant->paused && !flow->key.queue->paused;
}

static void place_flow(struct flow *flow)
{
    struct heap *heap = &flow->seat->flows;
    if (!can_run(flow))
        heap_remove(heap, &flow->node);
    else if (heap_has(&flow->node))
        heap_fix(heap, &flow->node);
    else
        heap_push(heap, &flow->node);
    place_seat(flow->seat);
}

void ready_pause_changed(struct ready *ready, struct flow *flow)
{
    place_flow(flow);
}

/* ---- outlets ---- */

static uint32_t outlets_count(const struct ready *ready)
{
    return HASH_COUNT(ready->outlets);
}

static enum err reserve_pool(struct pool *pool, uint32_t outlets)
{
    for (int c = 0; c < 3; c++)
        if (heap_reserve(&pool->outlets[c], outlets))
            return ERR_NOMEM;
    return ERR_OK;
}

struct outlet *ready_outlet(struct ready *ready, const struct outlet_key *key, bool *ret_made)
{
    struct outlet *outlet;
    *ret_made = false;
    HASH_FIND(hh, ready->outlets, key, sizeof *key, outlet);
    if (outlet)
        return outlet;
    for (uint32_t i = 0; i < ready->pools_count; i++)
        if (reserve_pool(&ready->pools[i], outlets_count(ready) + 1))
            return NULL;
    outlet = calloc(1, sizeof *outlet);
    if (!outlet)
        return NULL;
    outlet->key = *key;
    for (int c = 0; c < 3; c++)
        heap_init(&outlet->seats[c], seat_first);
    HASH_ADD(hh, ready->outlets, key, sizeof outlet->key, outlet);
    if (!outlet->hh.tbl) {
        free(outlet);
        return NULL;
    }
    *ret_made = true;
    return outlet;
}

static struct pool *pool_for(struct ready *ready, uint64_t groups)
{
    for (uint32_t i = 0; i < ready->pools_count; i++)
        if (ready->pools[i].groups == groups)
            return &ready->pools[i];
    struct pool *pool = NULL;
    for (uint32_t i = 0; i < ready->pools_count && !pool; i++)
        if (!ready->pools[i].outlets[0].count && !ready->pools[i].outlets[1].count && !ready->pools[i].outlets[2].count)
            pool = &ready->pools[i]; /* nobody waits there: its outlets find a pool again when somebody does */
    if (!pool) {
        if (ready->pools_count == READY_POOLS)
            return NULL;
        pool = &ready->pools[ready->pools_count];
        for (int c = 0; c < 3; c++)
            heap_init(&pool->outlets[c], outlet_first[c]);
        if (reserve_pool(pool, outlets_count(ready))) {
            for (int c = 0; c < 3; c++)
                heap_done(&pool->outlets[c]);
            return NULL;
        }
        ready->pools_count++;
    } else {
        struct outlet *outlet, *next;
        HASH_ITER(hh, ready->outlets, outlet, next)
        if (outlet->pool == pool)
            outlet->pool = NULL;
    }
    pool->groups = groups;
    return pool;
}

enum err ready_open(struct ready *ready, struct outlet *outlet, uint64_t groups)
{
    if (outlet->pool && outlet->pool->groups == groups)
        return ERR_OK;
    if (outlet->pool)
        for (int c = 0; c < 3; c++)
            heap_remove(&outlet->pool->outlets[c], &outlet->node[c]);
    outlet->pool = NULL;
    if (!groups)
        return ERR_OK;
    outlet->pool = pool_for(ready, groups);
    if (!outlet->pool)
        return ERR_NOMEM;
    for (int c = 0; c < 3; c++)
        place_outlet(outlet, c);
    return ERR_OK;
}

/* ---- seats and flows ---- */

static struct seat *find_seat(const struct account *account, const struct outlet *outlet)
{
    struct list *node;
    LIST_EACH (node, &account->seats) {
        struct seat *seat = CONTAINER_OF(node, struct seat, of_account);
        if (seat->outlet == outlet)
            return seat;
    }
    return NULL;
}

static struct seat *seat_for(struct account *account, struct outlet *outlet, int class)
{
    struct seat *seat = find_seat(account, outlet);
    if (seat)
        return seat;
    /* every seat of this outlet and class may wait at once */
    if (heap_reserve(&outlet->seats[class], outlet->seats_made[class] + 1))
        return NULL;
    seat = calloc(1, sizeof *seat);
    if (!seat)
        return NULL;
    seat->account = account;
    seat->outlet = outlet;
    seat->class = (uint8_t) class;
    heap_init(&seat->flows, flow_first);
    list_init(&seat->of_account);
    list_push_back(&account->seats, &seat->of_account);
    outlet->seats_made[class]++;
    return seat;
}

static void drop_outlet(struct ready *ready, struct outlet *outlet)
{
    for (int c = 0; c < 3; c++) {
        assert(!outlet->seats[c].count && !heap_has(&outlet->node[c]));
        heap_done(&outlet->seats[c]);
    }
    HASH_DELETE(hh, ready->outlets, outlet);
    free(outlet);
}

static void drop_seat(struct seat *seat)
{
    seat->outlet->seats_made[seat->class]--;
    list_remove(&seat->of_account);
    heap_done(&seat->flows);
    free(seat);
}

static bool outlet_in_use(const struct outlet *outlet)
{
    return outlet->seats_made[0] || outlet->seats_made[1] || outlet->seats_made[2];
}

void ready_tidy(struct ready *ready, struct flow *flow)
{
    if (flow->count)
        return;
    struct seat *seat = flow->seat;
    HASH_DELETE(hh, ready->flows, flow);
    flow_done(flow);
    free(flow);
    if (--seat->flows_count)
        return;
    struct outlet *outlet = seat->outlet;
    drop_seat(seat);
    ready_outlet_tidy(ready, outlet);
}

void ready_outlet_tidy(struct ready *ready, struct outlet *outlet)
{
    if (!outlet_in_use(outlet))
        drop_outlet(ready, outlet);
}

enum err ready_reserve(struct ready *ready, const struct job *job, struct outlet *outlet, struct flow **ret_flow)
{
    struct flow_key key = {.tenant = job->tenant, .queue = job->queue, .outlet = outlet, .class = job->class};
    struct flow *flow;
    HASH_FIND(hh, ready->flows, &key, sizeof key, flow);
    if (flow) {
        *ret_flow = flow;
        return flow_reserve(flow);
    }
    int class = job->class - 1;
    struct seat *seat = seat_for(&job->tenant->accounts[class], outlet, class);
    if (!seat)
        return ERR_NOMEM;
    flow = malloc(sizeof *flow);
    if (flow) {
        flow_init(flow, &key, ready->head_start_ms);
        if (!flow_reserve(flow) && !heap_reserve(&seat->flows, seat->flows_count + 1))
            HASH_ADD(hh, ready->flows, key, sizeof flow->key, flow);
        if (!flow->hh.tbl) {
            flow_done(flow);
            free(TAKE(flow));
        }
    }
    if (!flow) {
        if (!seat->flows_count)
            drop_seat(seat);
        return ERR_NOMEM;
    }
    flow->seat = seat;
    seat->flows_count++;
    *ret_flow = flow;
    return ERR_OK;
}

void ready_add(struct ready *ready, struct flow *flow, struct job *job)
{
    flow_add(flow, job);
    place_flow(flow);
}

void ready_remove(struct ready *ready, struct job *job)
{
    struct flow *flow = job->flow;
    flow_remove(flow, job);
    /* its head may be gone while the node still stands in the heap: a node without a head has no order */
    if (!flow->count) {
        heap_remove(&flow->seat->flows, &flow->node);
        place_seat(flow->seat);
        ready_tidy(ready, flow);
    } else
        place_flow(flow);
}

/* ---- the decision ---- */

/* The best outlet of a class among the pools that have a free slot. */
static struct outlet *best_outlet(struct ready *ready, int class, uint64_t groups_free)
{
    struct outlet *best = NULL;
    for (uint32_t i = 0; i < ready->pools_count; i++) {
        struct pool *pool = &ready->pools[i];
        struct heap_node *top = pool->groups & groups_free ? heap_top(&pool->outlets[class]) : NULL;
        ready->steps++;
        if (top && (!best || outlet_first[class](top, &best->node[class])))
            best = (struct outlet *)((char *)top - offsetof(struct outlet, node) - (size_t) class * sizeof(struct heap_node));
    }
    return best;
}

struct job *ready_next(struct ready *ready, uint64_t groups_free)
{
    struct outlet *best = NULL;
    int best_class = 0;
    for (int class = 0; class < 3; class ++) {
        struct outlet *outlet = best_outlet(ready, class, groups_free);
        if (!outlet)
            continue;
        if (!best || share_before(&ready->class_tags[class], &ready->class_tags[best_class])) {
            best = outlet;
            best_class = class;
        }
    }
    if (!best)
        return NULL;
    struct seat *seat = best_seat(best, best_class);
    return CONTAINER_OF(heap_top(&seat->flows), struct flow, node)->head;
}

/* A tag moves under every seat of the account at once, and a heap can mend only one node at a time: so they all leave first. */
static void lift_account(struct account *account)
{
    struct list *node;
    LIST_EACH (node, &account->seats) {
        struct seat *seat = CONTAINER_OF(node, struct seat, of_account);
        heap_remove(&seat->outlet->seats[seat->class], &seat->node);
        place_outlet(seat->outlet, seat->class);
    }
}

static void place_account(struct account *account)
{
    struct list *node;
    LIST_EACH (node, &account->seats)
        place_seat(CONTAINER_OF(node, struct seat, of_account));
}

void ready_charge(struct ready *ready, const struct job *job, uint64_t cost)
{
    int class = job->class - 1;
    struct account *account = &job->tenant->accounts[class];
    share_charge(&ready->classes, &ready->class_tags[class], cost);
    lift_account(account);
    share_charge(&ready->tenants[class], &account->tag, cost);
    place_account(account);
}

void ready_correct(struct ready *ready, const struct job *job, uint64_t charged, uint64_t actual)
{
    if (charged == actual)
        return;
    int class = job->class - 1;
    struct account *account = &job->tenant->accounts[class];
    share_correct(&ready->classes, &ready->class_tags[class], charged, actual);
    lift_account(account);
    share_correct(&ready->tenants[class], &account->tag, charged, actual);
    place_account(account);
}
