#include "proto/scout.h"

#include <stdlib.h>

#define KNOCK_MS 1000 /* for a place to answer; then the next */
#define PACE_MS  200  /* between two places */

struct scout {
    struct loop *loop;
    enum role role;
    struct wire_options wire_options;
    uint64_t epoch;
    const struct places *home;
    struct places *places;
    struct wire *wire;   /* to the place whose turn it is; NULL between two */
    struct timer *timer; /* what is waited for is over */
    bool trying;
    bool failed; /* that place is done with; not now: its own hook may be running */
    bool found;
    struct frame frame;
    struct frame_buffer buffer;
};

static void fail(void *arg)
{
    struct scout *scout = arg;
    scout->failed = true;
}

static void knock(void *arg, bool connected)
{
    struct scout *scout = arg;
    struct msg_heartbeat nothing = {0};
    enum err e = connected ? frame_encode(MESSAGE_HEARTBEAT, &nothing, 0, 0, &scout->buffer) : ERR_CLOSED;
    if (!e)
        e = wire_send(scout->wire, NULL, span_of(scout->buffer.data, scout->buffer.len), NULL);
    if (e)
        fail(scout);
}

static void on_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body)
{
    struct scout *scout = arg;
    const char *why;
    enum err e = frame_decode(&scout->frame, header, body, ROLE_BROKER, scout->role, 0, &why);
    if (!e && scout->frame.message == MESSAGE_HELLO_WANTED && scout->frame.epoch > scout->epoch)
        scout->found = true;
    else
        fail(scout);
}

static void on_found(void *arg, const struct place *place, const char *reason)
{
    struct scout *scout = arg;
    struct wire_hooks hooks = {.message = on_message, .connected = knock, .refused = fail, .arg = scout};
    struct wire_options options = scout->wire_options;
    if (place) {
        options.endpoint = place->endpoint;
        options.server_key = *place->key;
    }
    if (!place || wire_new(scout->loop, &options, hooks, &scout->wire) != ERR_OK)
        fail(scout);
    explicit_bzero(&options, sizeof options);
}

/* Between two places it begins with the next, at one it gives up. */
static void on_timer(void *arg)
{
    struct scout *scout = arg;
    if (scout->trying) {
        fail(scout);
        return;
    }
    if (places_same(scout->places, scout->home))
        places_move_on(scout->places);
    scout->trying = true;
    timer_set(scout->timer, loop_now(scout->loop) + KNOCK_MS);
    places_find(scout->places);
}

const struct places *scout_turn(struct scout *scout)
{
    if (scout->wire)
        wire_turn(scout->wire);
    if (scout->found)
        return scout->places;
    if (scout->failed) {
        scout->failed = scout->trying = false;
        wire_free(&scout->wire);
        places_move_on(scout->places);
        timer_set(scout->timer, loop_now(scout->loop) + PACE_MS);
    }
    return NULL;
}

enum err scout_new(struct loop *loop, const struct link_options *options, const struct places *home, uint64_t epoch,
                   struct scout **ret_scout)
{
    AUTO(scout_free) struct scout *scout = calloc(1, sizeof *scout);
    if (!scout)
        return ERR_NOMEM;
    scout->loop = loop;
    scout->role = options->role;
    scout->epoch = epoch;
    scout->home = home;
    scout->wire_options =
        (struct wire_options){.kind = WIRE_DEALER, .public_key = options->public_key, .secret_key = options->secret_key};
    scout->timer = timer_new(loop, on_timer, scout);
    if (!scout->timer)
        return ERR_NOMEM;
    enum err e = places_new(loop, options->endpoints, options->server_keys, on_found, scout, &scout->places);
    if (e)
        return e;
    places_follow(scout->places, home); /* its names are looked up, and the next one's turn is first */
    timer_set(scout->timer, loop_now(loop));
    *ret_scout = TAKE(scout);
    return ERR_OK;
}

void scout_free(struct scout **scout_ptr)
{
    struct scout *scout = TAKE(*scout_ptr);
    if (!scout)
        return;
    wire_free(&scout->wire);
    places_free(&scout->places);
    timer_free(&scout->timer);
    frame_done(&scout->frame);
    frame_buffer_done(&scout->buffer);
    explicit_bzero(&scout->wire_options, sizeof scout->wire_options);
    free(scout);
}
