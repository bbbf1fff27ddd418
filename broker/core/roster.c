#define HASH_NONFATAL_OOM 1
#include "broker/core/roster.h"
#include "broker/core/ready.h"

#include <stdlib.h>

static bool more_room(const struct heap_node *a, const struct heap_node *b)
{
    const struct worker *x = CONTAINER_OF(a, struct worker, node), *y = CONTAINER_OF(b, struct worker, node);
    return x->slots - x->used > y->slots - y->used;
}

void roster_init(struct roster *roster)
{
    *roster = (struct roster){0};
    for (int i = 0; i < ROSTER_GROUPS; i++)
        heap_init(&roster->groups[i].free, more_room);
}

void roster_done(struct roster *roster, struct names *names)
{
    for (uint32_t i = 0; i < roster->deployments_count; i++) {
        name_put(names, &roster->deployments[i].name);
        name_put(names, &roster->deployments[i].model);
    }
    for (int i = 0; i < ROSTER_GROUPS; i++)
        heap_done(&roster->groups[i].free);
}

/* ---- deployments ---- */

struct deployment *roster_deployment(struct roster *roster, struct span name)
{
    for (uint32_t i = 0; i < roster->deployments_count; i++)
        if (span_equal(name_span(roster->deployments[i].name), name))
            return &roster->deployments[i];
    return NULL;
}

/* A place for a new name: one that nobody lists or uses any more, else the next. */
static struct deployment *free_place(struct roster *roster, struct names *names)
{
    for (uint32_t i = 0; i < roster->deployments_count; i++) {
        struct deployment *d = &roster->deployments[i];
        if (!d->listed && !d->active) {
            name_put(names, &d->name);
            name_put(names, &d->model);
            return d;
        }
    }
    return roster->deployments_count < ROSTER_DEPLOYMENTS ? &roster->deployments[roster->deployments_count++] : NULL;
}

enum err roster_deployments(struct roster *roster, struct names *names, const struct sched_deployment *rows, uint32_t count,
                            uint8_t *ret_bits)
{
    if (count > ROSTER_DEPLOYMENTS)
        return ERR_LIMIT;
    for (uint32_t i = 0; i < roster->deployments_count; i++)
        roster->deployments[i].listed = false;
    for (uint32_t i = 0; i < count; i++) {
        struct deployment *d = roster_deployment(roster, span_str(rows[i].name));
        if (d)
            d->listed = true;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct deployment *d = roster_deployment(roster, span_str(rows[i].name));
        if (!d) {
            d = free_place(roster, names);
            if (!d)
                return ERR_LIMIT;
            *d = (struct deployment){.name = name_get(names, span_str(rows[i].name))};
            if (!d->name)
                return ERR_NOMEM;
        }
        struct name *model = name_get(names, span_str(rows[i].model));
        if (!model)
            return ERR_NOMEM;
        name_put(names, &d->model);
        d->model = model;
        d->hash = rows[i].hash;
        d->concurrency = rows[i].concurrency;
        d->listed = true;
        ret_bits[i] = (uint8_t)(d - roster->deployments);
    }
    return ERR_OK;
}

/* ---- groups ---- */

static uint64_t served_bits(const struct roster *roster, const struct worker *worker)
{
    uint64_t bits = 0;
    for (uint32_t i = 0; i < worker->served_count; i++)
        for (uint32_t d = 0; d < roster->deployments_count; d++)
            if (roster->deployments[d].listed && roster->deployments[d].name == worker->served[i].name &&
                roster->deployments[d].hash == worker->served[i].hash)
                bits |= 1ull << d;
    return bits;
}

static bool has_room(const struct worker *worker)
{
    return worker->peer && !worker->draining && !worker->doubtful && worker->used < worker->slots;
}

static void mark_group(struct roster *roster, const struct group *group)
{
    uint64_t bit = 1ull << (group - roster->groups);
    roster->groups_free = group->free.count ? roster->groups_free | bit : roster->groups_free & ~bit;
    roster->groups_present = group->workers ? roster->groups_present | bit : roster->groups_present & ~bit;
    roster->groups_solo = group->workers && group->solo ? roster->groups_solo | bit : roster->groups_solo & ~bit;
}

void roster_changed(struct roster *roster, struct worker *worker)
{
    struct group *group = worker->group;
    if (!group)
        return;
    if (!has_room(worker))
        heap_remove(&group->free, &worker->node);
    else if (heap_has(&worker->node))
        heap_fix(&group->free, &worker->node);
    else
        heap_push(&group->free, &worker->node);
    mark_group(roster, group);
}

static bool leave_group(struct roster *roster, struct worker *worker)
{
    struct group *group = TAKE(worker->group);
    if (!group)
        return false;
    heap_remove(&group->free, &worker->node);
    group->workers--;
    mark_group(roster, group);
    return !group->workers;
}

static struct group *group_for(struct roster *roster, uint64_t served, bool solo)
{
    struct group *empty = NULL;
    for (int i = 0; i < ROSTER_GROUPS; i++) {
        struct group *group = &roster->groups[i];
        if (group->workers && group->served == served && group->solo == solo)
            return group;
        if (!group->workers && !empty)
            empty = group;
    }
    if (empty) {
        empty->served = served;
        empty->solo = solo;
    }
    return empty;
}

bool roster_place(struct roster *roster, struct worker *worker, enum err *ret_err)
{
    uint64_t served = served_bits(roster, worker);
    *ret_err = ERR_OK;
    if (worker->group && worker->group->served == served) {
        roster_changed(roster, worker);
        return false;
    }
    bool changed = leave_group(roster, worker);
    struct group *group = group_for(roster, served, worker->solo);
    if (!group || heap_reserve(&group->free, group->workers + 1)) {
        *ret_err = group ? ERR_NOMEM : ERR_LIMIT;
        return changed;
    }
    changed |= !group->workers;
    group->workers++;
    worker->group = group;
    mark_group(roster, group);
    roster_changed(roster, worker);
    return changed;
}

uint64_t roster_groups(const struct roster *roster, uint64_t deployments, bool solo)
{
    uint64_t groups = 0;
    for (int i = 0; i < ROSTER_GROUPS; i++)
        if (roster->groups[i].workers && roster->groups[i].solo == solo && roster->groups[i].served & deployments)
            groups |= 1ull << i;
    return groups;
}

/* ---- workers ---- */

static void served_free(struct names *names, struct worker *worker)
{
    for (uint32_t i = 0; i < worker->served_count; i++)
        name_put(names, &worker->served[i].name);
    free(TAKE(worker->served));
    worker->served_count = 0;
}

static enum err served_copy(struct names *names, struct worker *worker, const struct msg_hello *hello)
{
    worker->served = calloc(MAX(hello->served_count, 1u), sizeof *worker->served);
    if (!worker->served)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < hello->served_count; i++) {
        worker->served[i].name = name_get(names, hello->served[i].name);
        if (!worker->served[i].name)
            return ERR_NOMEM;
        worker->served[i].hash = hello->served[i].hash;
        worker->served_count++;
    }
    return ERR_OK;
}

struct worker *roster_find(struct roster *roster, const uint8_t instance[16])
{
    struct worker *worker;
    HASH_FIND(hh, roster->workers, instance, 16, worker);
    return worker;
}

struct worker *roster_by_peer(struct roster *roster, peer_number peer)
{
    struct worker *worker;
    for (worker = roster->workers; worker; worker = worker->hh.next)
        if (worker->peer == peer)
            return worker;
    return NULL;
}

static void worker_free(struct names *names, struct worker *worker)
{
    served_free(names, worker);
    name_put(names, &worker->name);
    free(worker);
}

struct worker *roster_add(struct roster *roster, struct names *names, const struct msg_hello *hello)
{
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return NULL;
    memcpy(worker->instance, hello->instance, sizeof worker->instance);
    worker->solo = hello->solo;
    worker->due.of = DUE_WORKER;
    list_init(&worker->leases);
    worker->name = name_get(names, hello->name);
    if (worker->name && !served_copy(names, worker, hello))
        HASH_ADD(hh, roster->workers, instance, sizeof worker->instance, worker);
    if (!worker->hh.tbl) {
        worker_free(names, worker);
        return NULL;
    }
    roster->workers_count++;
    roster_slots(roster, worker, hello->slots);
    return worker;
}

void roster_remove(struct roster *roster, struct names *names, struct worker *worker)
{
    assert(list_empty(&worker->leases) && !heap_has(&worker->due.node));
    leave_group(roster, worker);
    roster->slots -= worker->slots;
    roster->workers_count--;
    HASH_DELETE(hh, roster->workers, worker);
    worker_free(names, worker);
}

void roster_unserve(struct worker *worker, const struct deployment *deployment)
{
    for (uint32_t i = 0; i < worker->served_count; i++)
        if (worker->served[i].name == deployment->name)
            worker->served[i].hash = ~deployment->hash;
}

void roster_slots(struct roster *roster, struct worker *worker, uint32_t slots)
{
    roster->slots += slots - worker->slots;
    worker->slots = slots;
    roster_changed(roster, worker);
}

/* ---- slots ---- */

static struct worker *with_room_for_suspect(const struct group *group)
{
    for (uint32_t i = 0; i < group->free.count; i++) {
        struct worker *worker = CONTAINER_OF(group->free.nodes[i], struct worker, node);
        if (worker->suspects < ROSTER_SUSPECTS)
            return worker;
    }
    return NULL;
}

struct worker *roster_choose(struct roster *roster, uint64_t groups, uint64_t served_bit, uint64_t care)
{
    struct worker *best = NULL;
    for (uint64_t left = groups & roster->groups_free; left; left &= left - 1) {
        const struct group *group = &roster->groups[__builtin_ctzll(left)];
        if (!(group->served & served_bit))
            continue;
        struct worker *worker = care == CARE_SUSPECT ? with_room_for_suspect(group)
                                                     : CONTAINER_OF(heap_top(&group->free), struct worker, node);
        if (worker && (!best || more_room(&worker->node, &best->node)))
            best = worker;
    }
    return best;
}

void roster_take(struct roster *roster, struct worker *worker, struct lease *lease)
{
    lease->worker = worker;
    list_push_back(&worker->leases, &lease->node);
    worker->used++;
    worker->suspects += lease->suspect;
    roster->used++;
    if (lease->deployment)
        lease->deployment->active++;
    roster_changed(roster, worker);
}

void roster_give_back(struct roster *roster, struct lease *lease)
{
    struct worker *worker = TAKE(lease->worker);
    list_remove(&lease->node);
    if (lease->deployment)
        lease->deployment->active -= worker ? 1 : 0;
    if (!worker)
        return;
    worker->used--;
    worker->suspects -= lease->suspect;
    roster->used--;
    roster_changed(roster, worker);
}
