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

/* The settings' deployments on their way into the roster: nothing of it changes until all of them have a place. */
struct deployments {
    struct deployment list[ROSTER_DEPLOYMENTS];
    uint32_t count;
    uint64_t taken; /* bits with references of their own */
};

/* A name keeps its place; a new one gets one that nobody lists or uses any more, else the next. */
static struct deployment *place_for(struct deployments *next, const struct name *name)
{
    for (uint32_t i = 0; i < next->count; i++)
        if (next->list[i].name == name)
            return &next->list[i];
    for (uint32_t i = 0; i < next->count; i++)
        if (!next->list[i].listed && !next->list[i].active)
            return &next->list[i];
    return next->count < ROSTER_DEPLOYMENTS ? &next->list[next->count++] : NULL;
}

static enum err take_row(struct deployments *next, struct names *names, const struct sched_deployment *row, uint8_t *ret_bit)
{
    struct name *name = name_get(names, span_str(row->name)), *model = name_get(names, span_str(row->model));
    struct deployment *d = name && model ? place_for(next, name) : NULL;
    uint64_t bit = d ? 1ull << (d - next->list) : 0;
    if (!d || next->taken & bit) { /* a second row of one name says nothing new */
        enum err e = !name || !model ? ERR_NOMEM : d ? ERR_OK : ERR_LIMIT;
        *ret_bit = d ? (uint8_t)(d - next->list) : 0;
        name_put(names, &name);
        name_put(names, &model);
        return e;
    }
    uint32_t active = d->name == name ? d->active : 0;
    *d = (struct deployment){name, model, row->hash, row->concurrency, active, true};
    next->taken |= bit;
    *ret_bit = (uint8_t)(d - next->list);
    return ERR_OK;
}

static void put_taken(struct names *names, struct deployment *list, uint32_t count, uint64_t taken)
{
    for (uint32_t i = 0; i < count; i++)
        if (taken & 1ull << i) {
            name_put(names, &list[i].name);
            name_put(names, &list[i].model);
        }
}

enum err roster_deployments(struct roster *roster, struct names *names, const struct sched_deployment *rows, uint32_t count,
                            uint8_t *ret_bits)
{
    if (count > ROSTER_DEPLOYMENTS)
        return ERR_LIMIT;
    struct deployments next = {.count = roster->deployments_count};
    memcpy(next.list, roster->deployments, sizeof next.list);
    for (uint32_t i = 0; i < next.count; i++) { /* who stays must not lose its place to a new name */
        bool stays = false;
        for (uint32_t r = 0; r < count; r++)
            stays |= span_is(name_span(next.list[i].name), rows[r].name);
        next.list[i].listed = stays;
    }
    for (uint32_t i = 0; i < count; i++) {
        enum err e = take_row(&next, names, &rows[i], &ret_bits[i]);
        if (e) {
            put_taken(names, next.list, next.count, next.taken);
            return e;
        }
    }
    put_taken(names, roster->deployments, roster->deployments_count, next.taken);
    memcpy(roster->deployments, next.list, sizeof next.list);
    roster->deployments_count = next.count;
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

static void leave_group(struct roster *roster, struct worker *worker)
{
    struct group *group = TAKE(worker->group);
    if (!group)
        return;
    heap_remove(&group->free, &worker->node);
    group->workers--;
    mark_group(roster, group);
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

enum err roster_place(struct roster *roster, struct worker *worker)
{
    uint64_t served = served_bits(roster, worker);
    if (worker->group && worker->group->served == served) {
        roster_changed(roster, worker);
        return ERR_OK;
    }
    leave_group(roster, worker);
    struct group *group = group_for(roster, served, worker->solo);
    if (!group || heap_reserve(&group->free, group->workers + 1)) {
        roster->unplaced = true;
        return group ? ERR_NOMEM : ERR_LIMIT;
    }
    group->workers++;
    worker->group = group;
    mark_group(roster, group);
    roster_changed(roster, worker);
    return ERR_OK;
}

enum err roster_place_all(struct roster *roster)
{
    enum err first = ERR_OK;
    roster->unplaced = false;
    for (struct worker *worker = roster->workers; worker; worker = worker->hh.next) {
        enum err e = roster_place(roster, worker);
        first = first ? first : e;
    }
    return first;
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

static void served_free(struct names *names, struct worker_served *served, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        name_put(names, &served[i].name);
    free(served);
}

enum err roster_serves(struct names *names, struct worker *worker, const struct msg_hello *hello)
{
    struct worker_served *served = calloc(MAX(hello->served_count, 1u), sizeof *served);
    if (!served)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < hello->served_count; i++) {
        served[i].name = name_get(names, hello->served[i].name);
        served[i].hash = hello->served[i].hash;
        if (!served[i].name) {
            served_free(names, served, i);
            return ERR_NOMEM;
        }
    }
    served_free(names, worker->served, worker->served_count);
    worker->served = served;
    worker->served_count = hello->served_count;
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
    struct worker_session *session;
    HASH_FIND(hh, roster->sessions, &peer, sizeof peer, session);
    return session ? session->worker : NULL;
}

static void end_session(struct roster *roster, struct worker *worker)
{
    struct worker_session *session = TAKE(worker->session);
    worker->peer = 0;
    if (!session)
        return;
    HASH_DELETE(hh, roster->sessions, session);
    free(session);
}

enum err roster_session(struct roster *roster, struct worker *worker, peer_number peer)
{
    if (worker->peer == peer)
        return ERR_OK;
    struct worker_session *session = NULL;
    if (peer) {
        session = calloc(1, sizeof *session);
        if (!session)
            return ERR_NOMEM;
        session->peer = peer;
        session->worker = worker;
        HASH_ADD(hh, roster->sessions, peer, sizeof session->peer, session);
        if (!session->hh.tbl) {
            free(session);
            return ERR_NOMEM;
        }
    }
    end_session(roster, worker);
    worker->peer = peer;
    worker->session = session;
    roster_changed(roster, worker);
    return ERR_OK;
}

static void worker_free(struct names *names, struct worker *worker)
{
    served_free(names, worker->served, worker->served_count);
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
    if (worker->name && !roster_serves(names, worker, hello))
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
    end_session(roster, worker);
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
    slots = MIN(slots, ROSTER_SLOTS_MAX);
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
        struct worker *worker =
            care == CARE_SUSPECT ? with_room_for_suspect(group) : CONTAINER_OF(heap_top(&group->free), struct worker, node);
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
    roster_changed(roster, worker);
}

void roster_give_back(struct roster *roster, struct lease *lease)
{
    struct worker *worker = TAKE(lease->worker);
    list_remove(&lease->node);
    if (!worker)
        return;
    worker->used--;
    worker->suspects -= lease->suspect;
    roster->used--;
    roster_changed(roster, worker);
}
