/* Callers, and the api children that they speak to: the real api/ask.c on the real link, without HTTP in front of it. A caller
 * submits a job, may ask how it is, cancel it, leave, and have it forgotten when it has ended. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/ask.h"
#include "tests/sim/people.h"
#include "tests/sim/wire.h"

enum want { WANT_SUBMIT, WANT_ASK, WANT_CANCEL, WANT_FORGET, WANT_RETRY, WANT_PATCH, WANT_WATCH, WANT_LEAVE };

struct child;
struct wish {
    struct wish *next;
    struct child *child;
    uint32_t life;
    struct fact *fact;
    enum want want;
    bool watch;
    struct asked *asked; /* while it is outstanding */
};

static struct child {
    struct proc proc;
    struct ask *ask;
    struct loop *loop;
    unsigned index;
    struct wish *wishes, **wishes_end; /* for its next wake-up */
} children[APIS];

static struct wish *submits[FACTS_MAX + 1]; /* by job; those of an api child that died are void with it */

static const char *const tenants[] = {"acme", "bolt", "corp"};
static const char *const queues[] = {"q", "mail"};
static const char *const routes[] = {"echo", "pair"};

struct proc *api_at(unsigned index)
{
    return &children[index].proc;
}

/* ---- what a job asks for follows from its number ---- */

static uint64_t trait(const struct fact *fact, unsigned which, uint64_t below)
{
    uint64_t z = (fact->number * 64 + which) * 0x9e3779b97f4a7c15u ^ sim.seed * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 31) * 0x94d049bb133111ebu;
    return (z ^ z >> 29) % below;
}

static struct rec_spec spec_of(const struct fact *fact)
{
    msec now = broker_time(); /* as a caller whose clock agrees with the broker's */
    struct rec_spec spec = {
        .tenant = span_str(fact->tenant),
        .queue = span_str(fact->queue),
        .route = span_str(fact->route),
        .class = (uint8_t)trait(fact, 1, 4),
        .priority = (uint8_t)trait(fact, 2, 11),
        .max_attempts = fact->max_attempts == 3 ? 0 : fact->max_attempts,
        .stream = trait(fact, 3, 3) == 0,
        .display_bytes = (uint32_t)fact_display(fact).len,
        .request_id = span_str(trait(fact, 4, 2) ? "a-request" : ""),
        .backoff_base_ms = trait(fact, 5, 2) ? 100 : 0,
        .cancel_on_leave = trait(fact, 6, 10) == 0,
    };
    if (trait(fact, 7, 10) == 0)
        spec.delay_ms = trait(fact, 8, 5000);
    if (trait(fact, 9, 20) == 0 && sim.wall == sim.true_wall) /* else it may be hours away for the next broker */
        spec.run_at = now + (msec)trait(fact, 10, 10000);
    if (!sim.gentle && trait(fact, 11, 15) == 0)
        spec.max_wait_ms = 1 + trait(fact, 12, 20000);
    if (!sim.gentle && trait(fact, 13, 20) == 0)
        spec.deadline = now + (msec)trait(fact, 14, 40000);
    return spec;
}

static struct submission *submission_of(const struct fact *fact)
{
    struct submission *s = calloc(1, sizeof *s);
    struct span display = fact_display(fact);
    uint8_t *data;
    MUST(s, "the simulation has no memory");
    s->spec = spec_of(fact);
    s->keyed = fact->key != 0;
    memset(s->idem, (int)(0x10 * fact->tenant_number + fact->key), sizeof s->idem);
    struct span request = fact_request(fact);
    s->body = blob_new(display.len + request.len, &data);
    MUST(s->body, "the simulation has no memory");
    memcpy(data, display.data, display.len);
    memcpy(data + display.len, request.data, request.len);
    return s;
}

static struct fact *make_fact(const struct child *child)
{
    struct fact *fact = fact_new();
    if (!fact)
        return NULL;
    const struct ask_broker *broker = ask_broker(child->ask);
    fact->tenant_number = (unsigned)draw(ARRAY_COUNT(tenants));
    fact->tenant = tenants[fact->tenant_number];
    fact->queue = queues[draw(ARRAY_COUNT(queues))];
    fact->route = routes[draw(ARRAY_COUNT(routes))];
    fact->key = chance(200) ? 1 + (unsigned)draw(KEYS) : 0;
    fact->poison = !sim.gentle && !sim.cuts && chance(setup.poison);
    fact->max_attempts = chance(700) ? 3 : 1 + (uint8_t)draw(2);
    fact->id = id_make(sim.now + sim.wall, broker->shard, ID_STORED, fact->number, &broker->key, span_str(fact->tenant));
    return fact;
}

/* ---- answers ---- */

static void submitted(struct wish *wish, enum err error, const struct frame *frame)
{
    struct fact *fact = wish->fact;
    if (error == ERR_OUTCOME_UNKNOWN)
        TRACE("the caller of job %u is told that nothing is known", fact->number);
    if (error || frame->ack.error)
        return;
    struct fact *told = fact_of(&frame->ack.id);
    MUST(told, "an unknown job is acknowledged");
    told->told = true;
    MUST(told == fact || (fact->key && told->key == fact->key && told->tenant_number == fact->tenant_number),
         "job %u is answered with job %u, which has another key or tenant", fact->number, told->number);
}

static void on_answer(void *owner, enum err error, const struct frame *frame)
{
    struct wish *wish = owner;
    wish->asked = NULL;
    if (wish->want == WANT_SUBMIT)
        submitted(wish, error, frame);
    else if (!error && frame->answer.error == ERR_OK) {
        sim.troubles[TROUBLE_FORGOTTEN] += wish->want == WANT_FORGET;
        sim.troubles[TROUBLE_PATCHED] += wish->want == WANT_PATCH;
        sim.troubles[TROUBLE_WATCHED] += wish->want == WANT_WATCH;
    }
}

static void on_event(void *arg, const struct rec_event *event, struct span body)
{
    struct fact *fact = fact_of(&event->id);
    MUST(fact, "an event of an unknown job");
    if (event->event != EVENT_ENDED)
        return;
    fact->told = true; /* whoever waits for it is answered with that (api/errand.c) */
    struct wish *wish = submits[fact->number];
    if (wish && wish->child == arg && wish->watch)
        ask_settle(&wish->asked);
}
static void on_up(void *arg) {}

/* ---- wishes ---- */

static void go_for(struct child *child, struct wish *wish)
{
    struct fact *fact = wish->fact;
    struct span tenant = span_str(fact->tenant);
    enum err e = ERR_OK;
    static const enum message questions[] = {
        [WANT_ASK] = MESSAGE_ASK, [WANT_CANCEL] = MESSAGE_CANCEL, [WANT_FORGET] = MESSAGE_FORGET, [WANT_RETRY] = MESSAGE_RETRY};
    if (wish->want == WANT_LEAVE) {
        ask_unwatch(child->ask, &fact->id, true);
    } else if (wish->want == WANT_SUBMIT) {
        struct submission *submission = submission_of(fact);
        submits[fact->number] = wish;
        e = ask_submit(child->ask, &submission, &fact->id, wish->watch, on_answer, wish, &wish->asked);
    } else if (wish->want == WANT_PATCH) {
        msec deadline = chance(300) ? broker_time() + (msec)draw(50000) : 0;
        e = ask_patch(child->ask, &fact->id, tenant, (unsigned)draw(11), deadline, on_answer, wish, &wish->asked);
    } else if (wish->want == WANT_WATCH) {
        e = ask_watch(child->ask, &fact->id, tenant, (uint32_t)draw(3), draw(20), on_answer, wish, &wish->asked);
    } else {
        e = ask_job(child->ask, questions[wish->want], &fact->id, tenant, wish->watch, on_answer, wish, &wish->asked);
    }
    (void)e; /* a caller that is refused goes away */
}

static void take_wishes(void *arg)
{
    struct child *child = arg;
    while (child->wishes) {
        struct wish *wish = child->wishes;
        child->wishes = wish->next;
        if (!child->wishes)
            child->wishes_end = &child->wishes;
        go_for(child, wish);
    }
}

static void arrive(void *a, uint64_t b)
{
    struct wish *wish = a;
    struct child *child = wish->child;
    if (!child->proc.alive) { /* another child takes it; who asked the dead one has gone with it */
        for (unsigned i = 0; i < setup.apis; i++)
            if (children[i].proc.alive)
                child = wish->child = &children[i];
        if (!child->proc.alive)
            return;
    }
    if (!wish->fact) {
        if (!ask_broker(child->ask)->known)
            return;
        wish->fact = make_fact(child);
        if (!wish->fact)
            return;
        TRACE("somebody submits job %u%s%s", wish->fact->number, wish->fact->key ? ", with a key" : "",
              wish->fact->poison ? ", poison" : "");
    }
    wish->next = NULL;
    *child->wishes_end = wish;
    child->wishes_end = &wish->next;
    loop_wake(child->loop);
}

static void wish_for(struct fact *fact, enum want want, msec in_ms)
{
    struct wish *wish = keep(sizeof *wish);
    *wish = (struct wish){.fact = fact, .want = want, .watch = chance(400), .child = &children[draw(setup.apis)]};
    later(in_ms, arrive, wish, 0);
}

/* Callers come back to jobs that are there. */
static void come_back(void *a, uint64_t b)
{
    if (facts_count()) {
        struct fact *fact = fact_at(facts_count() - (unsigned)draw(MIN(facts_count(), 30u)));
        static const enum want wants[] = {WANT_ASK,    WANT_ASK,   WANT_ASK,   WANT_WATCH, WANT_WATCH,  WANT_CANCEL,
                                          WANT_FORGET, WANT_RETRY, WANT_PATCH, WANT_LEAVE, WANT_CANCEL, WANT_FORGET};
        enum want want = wants[draw(ARRAY_COUNT(wants))];
        if (fact->told && (!sim.gentle || want == WANT_ASK || want == WANT_WATCH))
            wish_for(fact, want, 0);
    }
    if (!sim.calm)
        later(1 + (msec)draw(1000), come_back, NULL, 0);
}

/* ---- children ---- */

static void turn(void *arg)
{
    ask_turn(((struct child *)arg)->ask);
}

static void start(void *a, uint64_t b)
{
    struct child *child = a;
    char name[24];
    snprintf(name, sizeof name, "api%u", child->index);
    proc_start(&child->proc, name, 20);
    struct link_options link = {.endpoints = setup.conf.api.broker, .role = ROLE_API, .name = child->proc.name};
    struct ask_hooks hooks = {.event = on_event, .up = on_up, .arg = child};
    sim.running = &child->proc;
    child->wishes = NULL;
    child->wishes_end = &child->wishes;
    child->loop = loop_new(turn, child);
    loop_handler(child->loop, take_wishes, child);
    MUST(ask_new(child->loop, &setup.conf, &link, hooks, &child->ask) == ERR_OK, "an api child does not start");
    sim.running = NULL;
}

static void end(struct child *child)
{
    for (unsigned n = 1; n <= facts_count(); n++)
        if (submits[n] && submits[n]->child == child)
            submits[n] = NULL;
    sim.running = &child->proc;
    ask_free(&child->ask);
    loop_free(&child->loop);
    sim.running = NULL;
}

void api_dies(struct proc *proc)
{
    struct child *child = proc->of;
    proc_kill(proc);
    network_dead(proc);
    end(child);
    later((msec)draw(300), start, child, 0);
}

void callers_begin(void)
{
    memset(submits, 0, sizeof submits);
    for (unsigned i = 0; i < APIS; i++) {
        children[i] = (struct child){.index = i, .proc.life = children[i].proc.life};
        children[i].proc.of = &children[i];
        if (i < setup.apis)
            later((msec)draw(20), start, &children[i], 0);
    }
    for (unsigned i = 0; i < setup.jobs; i++)
        wish_for(NULL, WANT_SUBMIT, 100 + (msec)draw((uint64_t)setup.trouble_ms));
    later(500, come_back, NULL, 0);
}

void callers_end(void)
{
    for (unsigned i = 0; i < APIS; i++)
        if (children[i].proc.alive) {
            proc_kill(&children[i].proc);
            network_dead(&children[i].proc);
            end(&children[i]);
        }
}
