/* Pure: one peer's conversation with its broker: hello, heartbeat, silence, goodbye. Every function takes the time and what
 * happened and returns what is to be done, as bits of enum session_act. It knows neither sockets nor clocks; `link` has those.
 *
 *             tick                  connected               WELCOME
 *      AWAY ───────► REACHING ─────────────────► GREETING ──────────► OPEN
 *       ▲  make anew     │                     HELLO, again   │          │ heartbeats
 *       └────────────────┴───────────────────────────────────┴──────────┘
 *         broken · refused · silence · HELLO_WANTED · another epoch: the transport is destroyed, so that nothing
 *         queued for a dead broker reaches the next; wait 20 ms doubling to 1 s, after REFUSED 5 s, with jitter
 *
 * A WELCOME of an earlier epoch than the last session's comes from a broker that does not know yet that another has taken over:
 * it is not believed until the later one has been silent for ten seconds. Then the store was set back, together with its clock.
 */
#pragma once

#include "proto/frame.h"

#define SESSION_SILENCE 3 /* intervals without a frame: the broker is gone */

enum session_state {
    SESSION_AWAY,     /* no transport; one is made when due */
    SESSION_REACHING, /* the transport connects */
    SESSION_GREETING, /* connected; HELLO is said until WELCOME */
    SESSION_OPEN,
    SESSION_ENDED, /* BYE was said */
};

/* To be done in this order. */
enum session_act {
    SESSION_DOWN = 1 << 0,      /* the session that was open is no more */
    SESSION_REFUSAL = 1 << 1,   /* the broker refuses us: said once, not at every try */
    SESSION_DROP = 1 << 2,      /* destroy the transport */
    SESSION_CONNECT = 1 << 3,   /* make a transport */
    SESSION_HELLO = 1 << 4,     /* send it */
    SESSION_HEARTBEAT = 1 << 5, /* send it */
    SESSION_UP = 1 << 6,        /* the frame is the WELCOME of a session that is open now */
    SESSION_DELIVER = 1 << 7,   /* the frame is for the role */
    SESSION_BYE = 1 << 8,       /* send it */
};

struct session {
    enum session_state state;
    msec due_at;         /* when tick has something to do */
    msec since;          /* when the state began */
    msec heard_at;       /* the broker's last frame; 0: never */
    msec heartbeat_at;   /* the next one */
    msec heartbeat_ms;   /* from WELCOME */
    unsigned tries;      /* transports made since a session lasted */
    unsigned hellos;     /* said on this transport */
    uint64_t epoch;      /* the broker's; of the last session while there is none */
    bool new_epoch;      /* with SESSION_UP: another epoch than the session's before */
    bool refused;        /* the last answer was REFUSED */
    bool several;        /* there are other places where the broker may be: the next is tried soon. Set by the owner */
    unsigned peer_minor; /* of the broker, 0 before its WELCOME */
    uint64_t random;     /* state of the jitter */
    const char *why;     /* of the last DOWN, for the log */
};

/* seed: any number, another one per peer. */
void session_init(struct session *session, msec now, uint64_t seed);

/* When the next tick is due, MSEC_NEVER when only the world can move it on. */
msec session_due(const struct session *session);
unsigned session_tick(struct session *session, msec now);
/* The transport connected, or broke, or could not be made. */
unsigned session_connected(struct session *session, msec now, bool connected);
/* A frame that the table allows. Of an earlier epoch, or outside a session: 0, it is for nobody. */
unsigned session_frame(struct session *session, msec now, const struct frame *frame);
/* Who leads was found elsewhere: leave this place for it at once. */
unsigned session_move(struct session *session, msec now);
unsigned session_end(struct session *session, msec now);

/* Whether the frame is from an earlier epoch than the open session's. */
static inline bool session_is_stale(const struct session *session, const struct frame *frame)
{
    return session->state == SESSION_OPEN && frame->epoch < session->epoch;
}
