#include "proto/session.h"

#include "common/random.h"

#define FIRST_WAIT_MS  20 /* before a transport is made again; doubles */
#define WAIT_MAX_MS    1000
#define TURN_MAX_MS    60 /* … where there are several places: one of them may listen any moment */
#define REFUSED_MS     5000
#define REACH_MS       10000 /* a transport that does not connect is made anew: names are looked up again */
#define FIRST_HELLO_MS 200   /* before HELLO is said again on the same transport; doubles */
#define HELLO_MAX_MS   2000
#define GREET_MS       10000
#define TURN_MS        1000  /* where there are several places: to connect to one, and to be welcomed there … */
#define OLDER_MS       10000 /* a later epoch was heard of so lately: an earlier one is not believed */
#define LASTED_MS      1000  /* a session that stood this long forgives the tries before it */
#define HEARTBEAT_MS   5000  /* when WELCOME names no interval */

/* Between half of it and all of it. */
static msec jitter(struct session *session, msec ms)
{
    return ms / 2 + (msec)(random_draw(&session->random) % (uint64_t)(ms / 2 + 1));
}

static msec doubled(msec first, unsigned times, msec max)
{
    return times < 16 ? MIN(first << times, max) : max;
}

static void enter(struct session *session, msec now, enum session_state state)
{
    session->state = state;
    session->since = now;
}

void session_init(struct session *session, msec now, uint64_t seed)
{
    *session = (struct session){.random = seed, .due_at = now, .since = now, .why = ""};
}

msec session_due(const struct session *session)
{
    return session->due_at;
}

/* Back to the start, whatever went wrong. */
static unsigned leave(struct session *session, msec now, msec wait_ms, const char *why)
{
    bool was_open = session->state == SESSION_OPEN;
    if (was_open && now - session->since >= LASTED_MS)
        session->tries = 0;
    if (!wait_ms)
        wait_ms = doubled(FIRST_WAIT_MS, session->tries++, session->several ? TURN_MAX_MS : WAIT_MAX_MS);
    enter(session, now, SESSION_AWAY);
    session->due_at = now + jitter(session, wait_ms);
    session->peer_minor = 0;
    session->why = why;
    return (was_open ? SESSION_DOWN : 0) | SESSION_DROP;
}

static unsigned say_hello(struct session *session, msec now)
{
    session->due_at = now + jitter(session, doubled(FIRST_HELLO_MS, session->hellos++, HELLO_MAX_MS));
    return SESSION_HELLO;
}

static unsigned keep_open(struct session *session, msec now)
{
    unsigned acts = 0;
    msec silence_at = session->heard_at + SESSION_SILENCE * session->heartbeat_ms;
    if (now >= silence_at)
        return leave(session, now, 0, "silence");
    if (now >= session->heartbeat_at) {
        session->heartbeat_at = now + session->heartbeat_ms;
        acts = SESSION_HEARTBEAT;
    }
    session->due_at = MIN(session->heartbeat_at, silence_at);
    return acts;
}

unsigned session_tick(struct session *session, msec now)
{
    if (now < session->due_at)
        return 0;
    switch (session->state) {
    case SESSION_AWAY:
        enter(session, now, SESSION_REACHING);
        session->hellos = 0;
        session->due_at = now + jitter(session, session->several ? TURN_MS : REACH_MS);
        return SESSION_CONNECT;
    case SESSION_REACHING:
        return leave(session, now, 0, "unreachable");
    case SESSION_GREETING:
        if (now - session->since >= (session->several ? TURN_MS : GREET_MS))
            return leave(session, now, 0, "no welcome");
        return say_hello(session, now);
    case SESSION_OPEN:
        return keep_open(session, now);
    case SESSION_ENDED:
        return 0;
    }
    return 0;
}

unsigned session_connected(struct session *session, msec now, bool connected)
{
    if (session->state == SESSION_AWAY || session->state == SESSION_ENDED)
        return 0;
    if (!connected)
        return leave(session, now, 0, session->state == SESSION_REACHING ? "unreachable" : "disconnected");
    if (session->state != SESSION_REACHING)
        return 0;
    enter(session, now, SESSION_GREETING);
    return say_hello(session, now);
}

static unsigned welcomed(struct session *session, msec now, const struct frame *frame)
{
    if (frame->epoch < session->epoch && now - session->heard_at < OLDER_MS)
        return leave(session, now, 0, "an older epoch");
    if (session->state == SESSION_GREETING)
        enter(session, now, SESSION_OPEN);
    session->new_epoch = frame->epoch != session->epoch;
    session->epoch = frame->epoch;
    session->refused = false;
    session->peer_minor = frame->welcome.minor;
    session->heartbeat_ms = frame->welcome.heartbeat_ms ? frame->welcome.heartbeat_ms : HEARTBEAT_MS;
    session->heard_at = now;
    session->heartbeat_at = now + session->heartbeat_ms;
    session->due_at = session->heartbeat_at;
    return SESSION_UP;
}

static unsigned refused(struct session *session, msec now)
{
    bool again = session->refused;
    session->refused = true;
    return leave(session, now, REFUSED_MS, "refused") | (again ? 0 : SESSION_REFUSAL);
}

unsigned session_frame(struct session *session, msec now, const struct frame *frame)
{
    bool open = session->state == SESSION_OPEN;
    if ((!open && session->state != SESSION_GREETING) || session_is_stale(session, frame))
        return 0;
    if (open && frame->epoch > session->epoch)
        return leave(session, now, 0, "new epoch");
    switch (frame->message) {
    case MESSAGE_WELCOME:
        return welcomed(session, now, frame);
    case MESSAGE_REFUSED:
        return refused(session, now);
    case MESSAGE_HELLO_WANTED: /* before WELCOME it answers what a session before said */
        return open ? leave(session, now, 0, "hello wanted") : 0;
    default:
        if (!open)
            return 0;
        session->heard_at = now;
        session->due_at = MIN(session->heartbeat_at, now + SESSION_SILENCE * session->heartbeat_ms);
        return SESSION_DELIVER;
    }
}

unsigned session_move(struct session *session, msec now)
{
    return session->state == SESSION_ENDED ? 0 : leave(session, now, 1, "another broker leads");
}

unsigned session_end(struct session *session, msec now)
{
    bool open = session->state == SESSION_OPEN;
    enter(session, now, SESSION_ENDED);
    session->due_at = MSEC_NEVER;
    return (open ? SESSION_BYE : 0) | SESSION_DROP;
}
