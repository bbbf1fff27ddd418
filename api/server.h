/* The HTTP side of one api child: the inherited listener, its connections, their clocks, and what they may cost together.
 *
 * One listener is shared by all children, level-triggered, one accept per wake-up and child: whoever wakes first takes one, and
 * a stopped child leaves the others the queue (reliability.md 2.7: SO_REUSEPORT hangs a fifth of all connects when one of
 * several children stops). A child at its share of connections stops listening until it has room. */
#pragma once

#include "api/conn.h"
#include "common/conf.h"
#include "common/loop.h"

#define SERVER_INPUT_BYTES  (256u << 20) /* of requests on their way in, per child; beyond: 503 overloaded */
#define SERVER_OUTPUT_BYTES (256u << 20) /* of answers not yet taken, per child; beyond: the reader stuck longest is cut */
#define SERVER_LINGER_MS    2000
#define SERVER_FAREWELL_MS  1000 /* how long an idle connection of a draining server may still bring a request */
#define SERVER_PAUSE_MS     100  /* without listening, after the kernel refused a descriptor */

enum server_clock { CLOCK_IDLE, CLOCK_HEAD, CLOCK_BODY, CLOCK_LINGER, CLOCK_FAREWELL, CLOCK_WRITE, CLOCKS };

/* What /metrics will show; counts since the child started. */
struct server_counts {
    uint64_t accepted, requests, refused; /* refused: answered without reaching a handler */
    uint64_t timeouts, cut, no_descriptor;
};

struct server_hooks {
    /* A complete request. Answer x now or later. */
    void (*serve)(void *arg, struct exchange *x, const struct request *request);
    /* Draining, and the last connection has ended. */
    void (*drained)(void *arg);
    void *arg;
};

/* Fields are for conn.c and exchange.c; others use the functions. */
struct server {
    struct loop *loop;
    const struct conf *conf; /* lent */
    struct server_hooks hooks;
    int listener; /* −1 once draining */
    int reserve;  /* a descriptor to give up when there is none left to accept with */
    struct event acceptable;
    bool open, listening; /* open: server_open was called */
    struct timer *resume; /* listening again after a pause */
    struct timer *alarm;  /* the soonest of the clocks */
    msec alarm_at;
    struct list clocks[CLOCKS]; /* each has one length, so its list is in order */
    msec clock_ms[CLOCKS];
    struct list conns; /* owned */
    unsigned conns_count, conns_max;
    struct list turn;               /* connections with something to do */
    struct list inboxes, exchanges; /* pools: free ones */
    unsigned inboxes_free, exchanges_free;
    size_t input_bytes, output_bytes;
    bool draining;
    msec broken_since; /* what is behind this child is away since; 0: it is not */
    uint64_t random;   /* state of random_draw: names of requests and spans */
    msec date_due;
    char date[HTTP_DATE_LEN + 1];
    struct server_counts counts;
};

/* listener: a listening, non-blocking socket, taken over; it is left alone until server_open. conf is lent for the server's
 * life. ERR_NOMEM, ERR_SYSTEM. */
MUST_USE enum err server_new(struct loop *loop, int listener, const struct conf *conf, struct server_hooks hooks,
                             struct server **ret_server);
void server_free(struct server **server);

/* Takes connections from now on. Again is harmless. */
void server_open(struct server *server);

/* Once per turn: requests that could not be looked at before are now. Then the caller sends what they asked for, and then: */
void server_serve(struct server *server);
/* One write per connection that has something to say. */
void server_flush(struct server *server);

/* Stops accepting; open requests are answered with Connection: close; hooks.drained is called, maybe at once. */
void server_drain(struct server *server);

/* Whether broker and Redis answer: who is refused while they do not is told to come back the later the longer it lasts. */
void server_whole(struct server *server, bool whole);
/* For a refusal that names no time itself. */
msec server_patience(const struct server *server);

/* conn.c's: */
void server_touch(struct server *server, struct conn *c); /* has something to do this turn */
void server_clock_start(struct server *server, enum server_clock kind, struct conn_clock *clock); /* again, if it runs */
static inline void server_clock_stop(struct conn_clock *clock)
{
    list_remove(&clock->node);
}
bool server_input_room(struct server *server, size_t bytes); /* for so many more */
void server_left(struct server *server);                     /* a connection was freed */
const char *server_date(struct server *server);

/* Opens host:port, writes ret_port. Called in the parent, before the fork. ERR_SYSTEM with errno. */
MUST_USE enum err server_listen(const char *host, unsigned port, int *ret_fd, unsigned *ret_port);
