/* Pure: one provider call as a state machine over (now, input). It knows four clocks and what a failure means by how far the
 * call had come; it knows neither sockets nor a provider's protocol.
 *
 *   CONNECTING ──connected──► WAITING ──content──► FLOWING ──proven──► CLOSING ──finished──► ENDED
 *       │ connect clock          │ first-token clock   │ idle clock       │ grace               ▲
 *       └────────────────────────┴─────────────────────┴──────────────────┴─ total clock, ──────┘
 *                                                                            failure, cancel
 *
 * Instants are on the loop's clock. Once ended, further inputs change nothing. */
#pragma once

#include "common/base.h"
#include "proto/words.h"

/* A proven answer whose connection is not over yet waits this long, so that the connection can be used again. */
#define CALL_CLOSING_MS 250

enum call_state { CALL_CONNECTING, CALL_WAITING, CALL_FLOWING, CALL_CLOSING, CALL_ENDED };

struct call_clocks {
    msec connect_ms;     /* until the connection stands and the request leaves */
    msec first_token_ms; /* from then to the first content (streams) or the first byte of the body */
    msec idle_ms;        /* between two pieces of content (streams) or two reads of the body */
    msec total_ms;       /* from the start */
};

/* How a transport failed; transfer.h says which one when. */
enum fault {
    FAULT_NONE,
    FAULT_RESOLVE,   /* no address for the name */
    FAULT_CONNECT,   /* refused, unreachable, or not in time */
    FAULT_TLS,       /* handshake or certificate */
    FAULT_RESET,     /* the connection broke */
    FAULT_CUT,       /* closed in order, before what was announced had come */
    FAULT_FRAMING,   /* what came is not HTTP/1.1: chunk sizes, lengths, head */
    FAULT_HEAD,      /* the head of the reply is too large */
    FAULT_TOO_LARGE, /* the body is larger than this call may take */
    FAULT_STOPPED,   /* whoever read the body wanted no more */
    FAULT_NOMEM,     /* our memory */
    FAULT_STARVED,   /* our descriptors: no connection was begun */
    FAULT_INTERNAL,  /* our request, our limits */
};

enum call_event {
    CALL_CONNECTED, /* the request leaves: from here on the provider may have seen it */
    CALL_BYTES,     /* bytes of the reply came, its head included */
    CALL_CONTENT,   /* text, reasoning or a piece of a tool call; without stream, bytes of the body */
    CALL_PROVEN,    /* the protocol's own end was seen: the answer is whole whatever the connection does now */
    CALL_FINISHED,  /* the connection is done and the adapter says `kind`; KIND_NONE: the answer is whole */
    CALL_BROKEN,    /* the transport failed by `fault` */
    CALL_CANCEL,    /* close it: `kind` says why (KIND_CANCELLED, KIND_STOPPING); a proven answer stays a success */
    CALL_CLOCK,     /* time passed */
};

struct call_input {
    enum call_event event;
    enum kind kind;
    enum fault fault;
};

struct call {
    enum call_state state;
    struct call_clocks clocks;
    msec started_at, sent_at, first_at, content_at, closing_at, ended_at; /* 0: not yet */
    bool answered;                                                        /* a byte came back */
    enum kind kind;                                                       /* once ended; KIND_NONE: success */
    const char *why; /* once ended in failure, a clause for people; static */
};

void call_start(struct call *call, msec now, const struct call_clocks *clocks);

/* Gives one input. true: the call ended by it; close the connection now if it still stands. */
bool call_step(struct call *call, msec now, const struct call_input *input);

/* When CALL_CLOCK is due next. MSEC_NEVER once ended. */
msec call_deadline(const struct call *call);

/* Milliseconds for the outcome; 0 where it did not come to that. */
uint32_t call_connect_ms(const struct call *call);
uint32_t call_first_token_ms(const struct call *call);
uint32_t call_total_ms(const struct call *call);
