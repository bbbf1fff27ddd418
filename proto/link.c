#include "proto/link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "common/log.h"
#include "proto/places.h"
#include "proto/scout.h"
#include "proto/session.h"

#define INSTANCE_BYTES sizeof(((struct msg_hello *)0)->instance)
#define BYE_MS         100
#define PATIENCE_MS    2000 /* without a session at the start, before it is logged */
#define BAD_LOG_MS     1000
#define SILENT_MS      100 /* a place does not answer for so long: the others are looked at meanwhile */
#define LOYAL_MS                                                                                                               \
    650 /* for so long a broker whose session broke is looked for where it was, and only there (broker.return_ms) */

struct link {
    struct loop *loop;
    struct link_hooks hooks;
    struct places *places;
    char endpoint[320];          /* of the place last tried, as given; for logs */
    struct scout *scout;         /* while the broker is stalled or does not answer, and there are other places; else NULL */
    bool led;                    /* what is left now is left for the place that the scout found */
    bool stalled;                /* as the broker said last */
    struct link_options options; /* its strings are ours */
    uint8_t instance[INSTANCE_BYTES];
    struct session session;
    struct timer *timer;
    struct wire *wire; /* NULL while away */
    msec loyal_until;
    bool drop; /* it is to be destroyed after wire_turn */
    bool in_turn;
    bool starting; /* link_new wants to know … */
    enum err made; /* … whether a wire could be made */
    bool said_down;
    msec started_at;
    uint64_t received; /* bytes, in this session */
    uint64_t told;     /* of them, as we said last */
    uint64_t sent;
    uint64_t acked; /* of sent, as the broker said last */
    struct frame frame;
    struct frame_buffer buffer;
    struct link_counts counts;
    msec bad_logged_at;
    uint64_t bad_unlogged;
};

/* --- saying --------------------------------------------------------------------------------------------------------------- */

static enum err say(struct link *link, enum message message, const void *fields, struct blob *body)
{
    uint64_t epoch = message == MESSAGE_HELLO ? 0 : link->session.epoch;
    enum err e = frame_encode(message, fields, epoch, link->received, &link->buffer);
    if (!e)
        e = wire_send(link->wire, NULL, span_of(link->buffer.data, link->buffer.len), body);
    if (e)
        return e;
    link->sent += link->buffer.len + blob_span(body).len;
    link->told = link->received;
    return ERR_OK;
}

static void say_hello(struct link *link)
{
    struct msg_hello hello = {
        .minor = PROTO_MINOR,
        .role = (uint8_t)link->options.role,
        .name = span_str(link->options.name),
        .version = span_str(QUERN_VERSION),
    };
    memcpy(hello.instance, link->instance, sizeof hello.instance);
    if (link->hooks.hello)
        link->hooks.hello(link->hooks.arg, &hello);
    enum err e = say(link, MESSAGE_HELLO, &hello, NULL);
    if (e && e != ERR_WOULD_BLOCK)
        log_event(LOG_LINK_DOWN, "endpoint=%s reason=hello_not_sent error=%s", log_str(span_str(link->endpoint)), err_name(e));
}

static void say_heartbeat(struct link *link)
{
    struct msg_heartbeat heartbeat = {0};
    if (link->hooks.heartbeat)
        link->hooks.heartbeat(link->hooks.arg, &heartbeat);
    enum err e = say(link, MESSAGE_HEARTBEAT, &heartbeat, NULL);
    (void)e; /* the next one will do; should none get through, silence ends the session */
}

enum err link_send(struct link *link, enum message message, const void *fields, struct blob *body)
{
    if (!link_is_up(link))
        return ERR_CLOSED;
    return say(link, message, fields, body);
}

/* --- coming and going ----------------------------------------------------------------------------------------------------- */

static void log_down(struct link *link)
{
    link->said_down = true;
    log_event(LOG_LINK_DOWN, "endpoint=%s reason=%s", log_str(span_str(link->endpoint)), log_str(span_str(link->session.why)));
}

static void log_refusal(struct link *link)
{
    const struct msg_refused *refused = &link->frame.refused;
    link->said_down = true;
    log_event(LOG_LINK_DOWN, "endpoint=%s reason=refused error=%s detail=%s", log_str(span_str(link->endpoint)),
              err_known(refused->error) ? err_name(refused->error) : "unknown_error", log_str(refused->detail));
}

static void come_up(struct link *link)
{
    link->received = link->told = link->sent = link->acked = 0;
    link->counts.sessions++;
    link->said_down = false;
    link->stalled = link->frame.welcome.stalled;
    log_event(LOG_LINK_UP, "endpoint=%s epoch=%" PRIu64 " shard=%u", log_str(span_str(link->endpoint)), link->session.epoch,
              link->frame.welcome.shard);
    link->hooks.up(link->hooks.arg, &link->frame.welcome, link->session.new_epoch);
}

static void act(struct link *link, unsigned acts);

static enum err make_wire(struct link *link, const struct place *place);

/* The place whose turn it is, its name looked up. */
static void on_found(void *arg, const struct place *place, const char *reason)
{
    struct link *link = arg;
    enum err e = link->made = place ? make_wire(link, place) : ERR_UNREACHABLE;
    if (!e || (place && link->starting))
        return;
    if (!link->said_down)
        log_event(LOG_LINK_DOWN, "endpoint=%s reason=%s error=%s errno=%d", log_str(span_str(link->endpoint)),
                  log_str(span_str(place ? "no_socket" : reason)), err_name(e), place ? errno : 0);
    link->said_down = true;
    act(link, session_connected(&link->session, loop_now(link->loop), false));
}

/* A broker that was there a moment ago is looked for where it was: another place may not answer at all, and the time in which
 * running calls are kept is short. One that was not, in the next place. */
static void leave_place(struct link *link, bool was_there)
{
    msec now = loop_now(link->loop);
    if (was_there)
        link->loyal_until = now + LOYAL_MS;
    if (now < link->loyal_until)
        places_forget(link->places);
    else
        places_move_on(link->places);
}

static void act(struct link *link, unsigned acts)
{
    if (acts & SESSION_REFUSAL)
        log_refusal(link);
    else if (acts & SESSION_DOWN)
        log_down(link);
    if (acts & SESSION_DOWN && link->hooks.down)
        link->hooks.down(link->hooks.arg);
    if (acts & SESSION_DROP) {
        link->drop = true; /* not now: its own hook may be running */
        if (!link->led)
            leave_place(link, acts & SESSION_DOWN);
    }
    if (acts & SESSION_CONNECT)
        places_find(link->places);
    if (acts & SESSION_HELLO)
        say_hello(link);
    if (acts & SESSION_HEARTBEAT)
        say_heartbeat(link);
    if (acts & SESSION_UP)
        come_up(link);
    if (acts & SESSION_DELIVER && link->frame.message == MESSAGE_HEARTBEAT_ACK)
        link->stalled = link->frame.heartbeat_ack.stalled;
    if (acts & SESSION_DELIVER)
        link->hooks.frame(link->hooks.arg, &link->frame);
}

/* --- hearing -------------------------------------------------------------------------------------------------------------- */

static void note_bad(struct link *link, const char *why)
{
    msec now = loop_now(link->loop);
    link->counts.frames_bad++;
    link->bad_unlogged++;
    if (link->bad_logged_at && now - link->bad_logged_at < BAD_LOG_MS)
        return;
    log_event(LOG_FRAME_BAD, "from=broker endpoint=%s count=%" PRIu64 " why=%s", log_str(span_str(link->endpoint)),
              link->bad_unlogged, log_str(span_str(why)));
    link->bad_logged_at = now;
    link->bad_unlogged = 0;
}

static void on_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body)
{
    struct link *link = arg;
    const char *why;
    bool tell_received = false;
    enum err e = frame_decode(&link->frame, header, body, ROLE_BROKER, link->options.role, link->session.peer_minor, &why);
    if (e) {
        note_bad(link, why);
        return;
    }
    unsigned acts = session_frame(&link->session, loop_now(link->loop), &link->frame);
    if (acts & SESSION_DELIVER) {
        link->received += header.len + body.len;
        link->acked = MAX(link->acked, link->frame.received);
        tell_received = link->received - link->told >= PROTO_UNACKED_BYTES / 4;
    } else if (!acts)
        link->counts.frames_stale++;
    act(link, acts);
    if (tell_received && link_is_up(link))
        say_heartbeat(
            link); /* whoever only listens must say so too, or is sent no more than PROTO_UNACKED_BYTES each heartbeat */
}

static void on_bad(void *arg, const struct wire_route *route, const char *why)
{
    note_bad(arg, why);
}

static void on_connected(void *arg, bool connected)
{
    struct link *link = arg;
    act(link, session_connected(&link->session, loop_now(link->loop), connected));
}

/* Nobody listens there: the next place is tried rather than this one again. */
static void on_refused(void *arg)
{
    on_connected(arg, false);
}

/* --- life ----------------------------------------------------------------------------------------------------------------- */

static enum err make_wire(struct link *link, const struct place *place)
{
    assert(!link->wire);
    struct wire_hooks hooks = {.message = on_message, .bad = on_bad, .connected = on_connected, .arg = link};
    link->session.several = places_several(link->places);
    if (link->session.several)
        hooks.refused = on_refused;
    snprintf(link->endpoint, sizeof link->endpoint, "%s", place->given);
    struct wire_options options = {.kind = WIRE_DEALER,
                                   .endpoint = place->endpoint,
                                   .brisk = link->session.several,
                                   .public_key = link->options.public_key,
                                   .secret_key = link->options.secret_key,
                                   .server_key = *place->key};
    enum err e = wire_new(link->loop, &options, hooks, &link->wire);
    explicit_bzero(&options, sizeof options);
    return e;
}

/* Wakes the loop; link_turn does the rest. */
static void on_timer(void *arg) {}

/* On failure too every string is a copy or NULL. */
static bool copy_options(struct link_options *to, const struct link_options *from)
{
    *to = *from;
    to->endpoints = strdup(from->endpoints);
    to->server_keys = strdup(from->server_keys ? from->server_keys : "");
    to->name = strdup(from->name ? from->name : "");
    return to->endpoints && to->server_keys && to->name;
}

enum err link_new(struct loop *loop, const struct link_options *options, struct link_hooks hooks, struct link **ret_link)
{
    AUTO(link_free) struct link *link = calloc(1, sizeof *link);
    if (!link)
        return ERR_NOMEM;
    link->loop = loop;
    link->hooks = hooks;
    if (!copy_options(&link->options, options))
        return ERR_NOMEM;
    snprintf(link->endpoint, sizeof link->endpoint, "%s", options->endpoints);
    link->timer = timer_new(loop, on_timer, link);
    if (!link->timer)
        return ERR_NOMEM;
    enum err e = places_new(loop, options->endpoints, options->server_keys, on_found, link, &link->places);
    if (e)
        return e;
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed ||
        getrandom(link->instance, sizeof link->instance, 0) != sizeof link->instance)
        return ERR_SYSTEM;
    link->started_at = loop_now(loop);
    session_init(&link->session, link->started_at, seed);
    link->session.several = places_several(link->places);
    link->starting = true; /* bad settings show here */
    act(link, session_tick(&link->session, link->started_at));
    link->starting = false;
    if (link->made && link->made != ERR_UNREACHABLE)
        return link->made;
    timer_set(link->timer, session_due(&link->session));
    *ret_link = TAKE(link);
    return ERR_OK;
}

void link_free(struct link **link_ptr)
{
    struct link *link = TAKE(*link_ptr);
    if (!link)
        return;
    assert(!link->in_turn);
    if (link->wire && session_end(&link->session, loop_now(link->loop)) & SESSION_BYE) {
        struct msg_bye bye;
        if (say(link, MESSAGE_BYE, &bye, NULL) == ERR_OK)
            wire_linger(link->wire, BYE_MS);
    }
    wire_free(&link->wire);
    scout_free(&link->scout);
    places_free(&link->places);
    timer_free(&link->timer);
    frame_done(&link->frame);
    frame_buffer_done(&link->buffer);
    free((char *)link->options.endpoints);
    free((char *)link->options.server_keys);
    free((char *)link->options.name);
    explicit_bzero(&link->options.secret_key, sizeof link->options.secret_key);
    free(link);
}

static void drop_if_due(struct link *link)
{
    if (!link->drop)
        return;
    link->drop = false;
    wire_free(&link->wire);
}

static void log_if_never_up(struct link *link)
{
    if (link->counts.sessions || link->said_down || loop_now(link->loop) - link->started_at < PATIENCE_MS)
        return;
    link->session.why = "unreachable";
    log_down(link);
}

/* When a place that was turned to counts as silent; MSEC_NEVER: none is. */
static msec silent_at(const struct link *link)
{
    bool waits = link->session.state == SESSION_REACHING || link->session.state == SESSION_GREETING;
    return waits ? link->session.since + SILENT_MS : MSEC_NEVER;
}

/* Redis does not answer this broker: if that is so for it alone, its standby leads by now, and it cannot know. Or this place
 * does not answer: the broker may have moved. */
static bool wants_scout(const struct link *link)
{
    bool stalled = link_is_up(link) && link->stalled;
    return places_several(link->places) && (stalled || loop_now(link->loop) >= silent_at(link));
}

/* Later than a stalled one's; not earlier than the last one's. */
static uint64_t scouted_epoch(const struct link *link)
{
    uint64_t epoch = link->session.epoch;
    return link_is_up(link) || !epoch ? epoch : epoch - 1;
}

static void look_elsewhere(struct link *link)
{
    if (!wants_scout(link))
        scout_free(&link->scout);
    else if (!link->scout && scout_new(link->loop, &link->options, link->places, scouted_epoch(link), &link->scout) != ERR_OK)
        return; /* without memory in a later turn */
    const struct places *found = link->scout ? scout_turn(link->scout) : NULL;
    if (!found)
        return;
    places_follow(link->places, found);
    scout_free(&link->scout);
    link->led = true;
    act(link, session_move(&link->session, loop_now(link->loop)));
    link->led = false;
}

void link_turn(struct link *link)
{
    link->in_turn = true;
    if (link->wire)
        wire_turn(link->wire);
    drop_if_due(link);
    act(link, session_tick(&link->session, loop_now(link->loop)));
    look_elsewhere(link);
    drop_if_due(link);
    log_if_never_up(link);
    msec due = session_due(&link->session), silent = silent_at(link);
    if (places_several(link->places) && !link->scout && silent != MSEC_NEVER)
        due = MIN(due, MAX(silent, loop_now(link->loop) + 1));
    timer_set(link->timer, due);
    link->in_turn = false;
}

bool link_is_up(const struct link *link)
{
    return link->session.state == SESSION_OPEN;
}
uint64_t link_epoch(const struct link *link)
{
    return link->session.epoch;
}
msec link_heard_at(const struct link *link)
{
    return link->session.heard_at;
}
const struct link_counts *link_counts(const struct link *link)
{
    return &link->counts;
}

uint64_t link_unacked_bytes(const struct link *link)
{
    return link->sent > link->acked ? link->sent - link->acked : 0;
}
