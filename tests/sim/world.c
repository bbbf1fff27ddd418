#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct world sim;

/* ---- chance (splitmix64) ---- */

static uint64_t next_random(void)
{
    uint64_t z = sim.random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
uint64_t draw(uint64_t below)
{
    return below ? next_random() % below : 0;
}
bool chance(unsigned per_thousand)
{
    return draw(1000) < per_thousand;
}
bool strikes(enum trouble trouble, unsigned per_thousand)
{
    if (sim.calm || sim.gentle || sim.cuts || !chance(per_thousand))
        return false;
    note(trouble);
    return true;
}

/* ---- memory ---- */

#define CHUNK_BYTES (1u << 20)

struct chunk {
    struct chunk *next;
    size_t size, used;
    _Alignas(16) uint8_t bytes[];
};
static struct chunk *chunks, *filling;

void *keep(size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    while (!filling || filling->size - filling->used < bytes) {
        if (filling && filling->next) {
            filling = filling->next;
            filling->used = 0;
            continue;
        }
        size_t size = MAX(bytes, CHUNK_BYTES);
        struct chunk *chunk = malloc(sizeof *chunk + size);
        if (!chunk)
            broken("the simulation has no memory");
        *chunk = (struct chunk){.size = size};
        if (filling)
            filling->next = chunk;
        else
            chunks = chunk;
        filling = chunk;
    }
    void *p = filling->bytes + filling->used;
    filling->used += bytes;
    memset(p, 0, bytes);
    return p;
}

struct span keep_span(struct span bytes)
{
    uint8_t *copy = keep(bytes.len + 1);
    if (bytes.len)
        memcpy(copy, bytes.data, bytes.len);
    return span_of(copy, bytes.len);
}

/* ---- what happens next: a heap by (instant, order of asking) ---- */

struct event {
    msec at;
    uint64_t seq;
    event_run *run;
    void *a;
    uint64_t b;
};
static struct event *events;
static size_t events_count, events_size;
static uint64_t events_seq;

static bool sooner(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

void later(msec in_ms, event_run *run, void *a, uint64_t b)
{
    if (events_count == events_size) {
        events_size = events_size ? events_size * 2 : 1024;
        events = realloc(events, events_size * sizeof *events);
        if (!events)
            broken("the simulation has no memory");
    }
    struct event event = {sim.now + MAX(in_ms, 0), ++events_seq, run, a, b};
    size_t at = events_count++;
    for (; at && sooner(&event, &events[(at - 1) / 2]); at = (at - 1) / 2)
        events[at] = events[(at - 1) / 2];
    events[at] = event;
}

static struct event pop(void)
{
    struct event top = events[0], last = events[--events_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < events_count; at = child) {
        if (child + 1 < events_count && sooner(&events[child + 1], &events[child]))
            child++;
        if (!sooner(&events[child], &last))
            break;
        events[at] = events[child];
    }
    if (events_count)
        events[at] = last;
    return top;
}

void run_until(msec until)
{
    while (events_count && events[0].at <= until) {
        struct event event = pop();
        sim.now = event.at;
        event.run(event.a, event.b);
    }
    sim.now = MAX(sim.now, until);
}

/* ---- the start and end of a seed ---- */

void world_begin(uint64_t seed)
{
    uint64_t troubles[TROUBLES];
    memcpy(troubles, sim.troubles, sizeof troubles);
    sim = (struct world){.seed = seed, .random = seed * 0x2545f4914f6cdd1du, .now = 1000, .tracing = sim.tracing};
    memcpy(sim.troubles, troubles, sizeof troubles);
    sim.wall = sim.true_wall = 1700000000000 + (msec)draw(1000000000);
    events_count = 0;
    filling = chunks;
    if (filling)
        filling->used = 0;
}

void world_end(void)
{
    events_count = 0;
}

/* ---- what is said ---- */

void trace(const char *format, ...)
{
    va_list args;
    printf("%8.3f  %-10s ", (double)(sim.now - 1000) / 1000, sim.running ? sim.running->name : "");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

void broken(const char *format, ...)
{
    va_list args;
    fflush(stdout);
    printf("BROKEN  seed %llu, at %.3f s: ", (unsigned long long)sim.seed, (double)(sim.now - 1000) / 1000);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
    abort();
}
