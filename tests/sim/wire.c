#include "tests/sim/wire.h"

#include <stdlib.h>
#include <string.h>

#include "tests/sim/truth.h"

#define PER_TURN   256
#define SILENCE_MS 3000 /* ZeroMQ's heartbeats */

struct item {
    struct item *next;
    uint32_t conn;
    enum { MESSAGE, TOLD_CONNECTED, TOLD_BROKEN, TOLD_REFUSED } what;
    struct span header, body;
};

struct wire {
    struct list node; /* in wires */
    struct proc *proc;
    struct loop *loop;
    enum wire_kind kind;
    struct wire_hooks hooks;
    const char *name; /* the last part of the endpoint */
    bool bound, dead;
    uint32_t conn; /* of a DEALER; 0: none */
    unsigned tries;
    struct item *inbox, **inbox_end;
};

/* Ends: 0 the dealer, 1 the router. */
struct conn {
    struct wire *end[2];
    bool open[2];
    bool hole;        /* what is sent is lost */
    msec last_at[2];  /* arrival of the last message to that end */
    msec until_at[2]; /* what would arrive later is lost */
};

static struct list wires;
static struct conn **conns;
static uint32_t conns_count, conns_size;
static msec parted_until;

void network_begin(void)
{
    list_init(&wires);
    conns_count = 1;
    parted_until = 0;
}

static struct conn *conn_of(uint32_t number)
{
    return number ? conns[number] : NULL;
}

static uint32_t new_conn(struct wire *dealer, struct wire *router)
{
    if (conns_count >= conns_size) {
        conns_size = conns_size ? conns_size * 2 : 256;
        conns = realloc(conns, conns_size * sizeof *conns);
        MUST(conns, "the simulation has no memory");
    }
    struct conn *conn = keep(sizeof *conn);
    *conn = (struct conn){.end = {dealer, router}, .open = {true, true}, .until_at = {MSEC_NEVER, MSEC_NEVER}};
    conns[conns_count] = conn;
    return conns_count++;
}

/* ---- arriving ---- */

static void put(struct wire *wire, struct item *item)
{
    if (wire->dead || !wire->proc->alive)
        return;
    item->next = NULL;
    *wire->inbox_end = item;
    wire->inbox_end = &item->next;
    loop_wake(wire->loop);
}

struct flying {
    struct conn *conn;
    unsigned to;
    struct item item;
};

static void arrive(void *a, uint64_t b)
{
    struct flying *f = a;
    if (sim.now > f->conn->until_at[f->to])
        return;
    struct item *item = keep(sizeof *item);
    *item = f->item;
    put(f->conn->end[f->to], item);
}

/* Of most messages a millisecond or less; now and then the network drags, and everything behind waits too. */
static msec latency(void)
{
    if (strikes(TROUBLE_LATE, 3))
        return 50 + (msec)draw(2000);
    return (msec)draw(2);
}

static void fly(struct conn *conn, uint32_t number, unsigned to, struct span header, struct span body)
{
    struct flying *f = keep(sizeof *f);
    *f = (struct flying){.conn = conn, .to = to, .item = {.conn = number}};
    f->item.header = keep_span(header);
    f->item.body = keep_span(body);
    msec at = sim.now + latency();
    if (sim.rough && strikes(TROUBLE_LOST, 10))
        return;
    if (sim.rough && !truth_is_submit(header) && strikes(TROUBLE_REORDERED, 10)) {
        later(at - sim.now + (msec)draw(chance(200) ? 25000 : 100), arrive, f, 0);
        return;
    }
    at = MAX(at, conn->last_at[to]);
    conn->last_at[to] = at;
    later(at - sim.now, arrive, f, 0);
    bool may_come_twice =
        !truth_is_submit(header); /* no transport of ours does that, and nothing could tell it from a new one */
    if (sim.rough && may_come_twice && strikes(TROUBLE_DOUBLED, 10))
        later(at - sim.now + (msec)draw(50), arrive, f, 0);
}

/* ---- connecting and breaking ---- */

static void tell(struct wire *dealer, int what)
{
    struct item *item = keep(sizeof *item);
    item->what = what;
    put(dealer, item);
}

static void notice(void *a, uint64_t end)
{
    struct conn *conn = a;
    if (!conn->open[end])
        return;
    conn->open[end] = false;
    if (end == 0 && !conn->end[0]->dead && conn_of(conn->end[0]->conn) == conn) {
        conn->end[0]->conn = 0;
        tell(conn->end[0], TOLD_BROKEN);
    }
}

/* Each end reads what had reached it, and learns of the break. */
static void cut(struct conn *conn)
{
    for (unsigned end = 0; end < 2; end++) {
        if (!conn->open[end] || conn->until_at[end] != MSEC_NEVER)
            continue;
        msec ms = (msec)draw(4);
        conn->until_at[end] = sim.now + ms;
        later(ms + (msec)draw(5), notice, conn, end);
    }
}

static struct wire *binder(const char *name)
{
    struct wire *found = NULL;
    struct list *node;
    LIST_EACH (node, &wires) {
        struct wire *wire = CONTAINER_OF(node, struct wire, node);
        if (wire->bound && !wire->dead && wire->proc->alive && strcmp(wire->name, name) == 0)
            found = wire;
    }
    return found;
}

/* ZeroMQ's: 20 ms doubling to 60, each with up to 20 more (proto/wire.c). */
static msec reconnect_ms(struct wire *dealer)
{
    unsigned doublings = MIN(dealer->tries, 4u);
    dealer->tries++;
    return MIN(20 << doublings, 60) + (msec)draw(20);
}

static void try_connect(void *a, uint64_t b)
{
    struct wire *dealer = a;
    if (dealer->dead || !dealer->proc->alive || dealer->conn)
        return;
    struct wire *router = binder(dealer->name);
    bool cut_off = sim.now < parted_until || sim.now < dealer->proc->cut_until;
    if (!router || router->proc->frozen || cut_off) {
        if (dealer->hooks.refused && !router)
            tell(dealer, TOLD_REFUSED);
        later(reconnect_ms(dealer), try_connect, dealer, 0);
        return;
    }
    dealer->conn = new_conn(dealer, router);
    tell(dealer, TOLD_CONNECTED);
}

static struct conn *conn_of_proc(struct proc *proc, struct wire **ret_wire)
{
    struct list *node;
    LIST_EACH (node, &wires) {
        struct wire *wire = CONTAINER_OF(node, struct wire, node);
        if (wire->proc == proc && !wire->dead && wire->kind == WIRE_DEALER && wire->conn) {
            *ret_wire = wire;
            return conn_of(wire->conn);
        }
    }
    return NULL;
}

void network_cut(struct proc *proc, msec for_ms)
{
    struct wire *wire;
    struct conn *conn = conn_of_proc(proc, &wire);
    TRACE("%s is cut off for %lld ms", proc->name, (long long)for_ms);
    proc->cut_until = sim.now + for_ms;
    if (conn && !conn->hole)
        cut(conn);
}

static void make_hole(struct conn *conn)
{
    conn->hole = true;
    conn->until_at[0] = conn->until_at[1] = sim.now;
    later(SILENCE_MS, notice, conn, 0);
    later(SILENCE_MS + (msec)draw(50), notice, conn, 1);
}

void network_cut_silently(struct proc *proc)
{
    struct wire *wire;
    struct conn *conn = conn_of_proc(proc, &wire);
    if (!conn || conn->hole)
        return;
    TRACE("the connection of %s is cut in silence", proc->name);
    make_hole(conn);
}

void network_part(msec for_ms)
{
    TRACE("the network is parted for %lld ms", (long long)for_ms);
    parted_until = MAX(parted_until, sim.now + for_ms);
    for (uint32_t i = 1; i < conns_count; i++)
        if (conns[i]->open[0] && conns[i]->open[1] && !conns[i]->hole)
            make_hole(conns[i]);
}

void network_heal(void)
{
    parted_until = 0;
}

void network_dead(struct proc *proc)
{
    struct list *node, *next;
    LIST_EACH_SAFE (node, next, &wires) {
        struct wire *wire = CONTAINER_OF(node, struct wire, node);
        if (wire->proc == proc && !wire->dead)
            wire_free(&(struct wire *){wire});
    }
}

/* ---- proto/wire.h ---- */

enum err wire_new(struct loop *loop, const struct wire_options *options, struct wire_hooks hooks, struct wire **ret_wire)
{
    struct wire *wire = keep(sizeof *wire);
    list_init(&wire->node);
    wire->proc = loop_proc(loop);
    wire->loop = loop;
    wire->kind = options->kind;
    wire->hooks = hooks;
    wire->name = (const char *)keep_span(span_str(options->endpoint)).data;
    wire->bound = options->bind;
    wire->inbox_end = &wire->inbox;
    list_push_back(&wires, &wire->node);
    if (wire->kind == WIRE_DEALER)
        later((msec)draw(3), try_connect, wire, 0);
    *ret_wire = wire;
    return ERR_OK;
}

void wire_free(struct wire **wire_ptr)
{
    struct wire *wire = TAKE(*wire_ptr);
    if (!wire || wire->dead)
        return;
    wire->dead = true;
    list_remove(&wire->node);
    for (uint32_t i = 1; i < conns_count; i++)
        for (unsigned end = 0; end < 2; end++)
            if (conns[i]->end[end] == wire && conns[i]->open[end]) {
                cut(conns[i]);
                conns[i]->open[end] = false;
            }
}

void wire_linger(struct wire *wire, msec linger_ms) {}
const char *wire_endpoint(const struct wire *wire)
{
    return wire->name;
}
enum err wire_allow(struct wire *wire, const struct wire_key *allowed, size_t count)
{
    return ERR_OK;
}
enum err wire_key_read(const char *path, struct wire_key *ret_public, struct wire_key *ret_secret)
{
    return ERR_SETTINGS;
}
enum err wire_key_make(const char *path, struct wire_key *ret_public)
{
    return ERR_SETTINGS;
}

static struct wire_route route_of_conn(uint32_t number)
{
    struct wire_route route = {.len = 5};
    memcpy(route.bytes + 1, &number, sizeof number);
    return route;
}

void wire_turn(struct wire *wire)
{
    for (unsigned i = 0; wire->inbox; i++) {
        if (i == PER_TURN) {
            loop_again(wire->loop);
            return;
        }
        struct item *item = wire->inbox;
        wire->inbox = item->next;
        if (!wire->inbox)
            wire->inbox_end = &wire->inbox;
        if (item->what == TOLD_REFUSED)
            wire->hooks.refused(wire->hooks.arg);
        else if (item->what != MESSAGE && wire->hooks.connected)
            wire->hooks.connected(wire->hooks.arg, item->what == TOLD_CONNECTED);
        if (item->what != MESSAGE)
            continue;
        struct wire_route route = route_of_conn(item->conn);
        bool up = wire->kind == WIRE_ROUTER;
        truth_heard(wire->proc, wire->name, up, item->header, item->body);
        wire->hooks.message(wire->hooks.arg, up ? &route : NULL, "", item->header, item->body);
    }
}

enum err wire_send(struct wire *wire, const struct wire_route *route, struct span header, struct blob *body)
{
    if (wire->kind == WIRE_PUB) {
        truth_said(wire->proc, wire->name, NULL, header, blob_span(body));
        return ERR_OK;
    }
    uint32_t number = wire->conn;
    unsigned to = 1;
    if (wire->kind == WIRE_ROUTER) {
        memcpy(&number, route->bytes + 1, sizeof number);
        to = 0;
    }
    struct conn *conn = conn_of(number);
    if (!wire->proc->alive || !conn || conn->end[1 - to] != wire || !conn->open[1 - to])
        return to ? ERR_WOULD_BLOCK : ERR_UNREACHABLE;
    if (!to && strikes(TROUBLE_QUEUE_FULL, 1))
        return ERR_WOULD_BLOCK;
    if (!to)
        truth_said(wire->proc, wire->name, conn->end[0]->proc, header, blob_span(body));
    fly(conn, number, to, header, blob_span(body));
    return ERR_OK;
}
