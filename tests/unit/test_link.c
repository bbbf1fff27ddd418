/* A link and a broker played by a ROUTER: sessions, deaths and returns, over ipc and tcp. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/link.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "common/clock.h"

#define DEADLINE_MS 15000

/* The broker's side. */
struct broker {
    struct wire *wire;
    uint64_t epoch;
    uint32_t heartbeat_ms;
    bool mute; /* takes frames and says nothing */
    enum err refuse;
    unsigned hellos, heartbeats, byes, asks, bad;
    struct msg_hello hello; /* numbers only */
    uint8_t instance[16];
    char name[64];
    struct wire_route route;
    uint64_t received; /* what the peer said it received */
    uint64_t got_bytes, sent_bytes;
    struct frame frame;
    struct frame_buffer buffer;
};

/* The peer's side. */
struct peer {
    struct link *link;
    unsigned ups, downs, new_epochs, frames, drains;
    uint32_t slots;
    uint64_t last_ref;
    bool send_when_up;
};

static struct world {
    struct loop *loop;
    struct timer *deadline;
    char dir[64];
    char endpoint[160];
    struct broker broker;
    struct peer peer;
    bool (*done)(void);
    bool late;
} world;

static struct broker *const broker = &world.broker;
static struct peer *const peer = &world.peer;

/* --- the broker ----------------------------------------------------------------------------------------------------------- */

static void reply(enum message message, const void *fields)
{
    assert_int_equal(frame_encode(message, fields, broker->epoch, broker->got_bytes, &broker->buffer), ERR_OK);
    enum err e = wire_send(broker->wire, &broker->route, span_of(broker->buffer.data, broker->buffer.len), NULL);
    if (!e)
        broker->sent_bytes += broker->buffer.len;
}

static void answer_hello(void)
{
    struct msg_hello *hello = &broker->frame.hello;
    broker->hellos++;
    broker->hello = *hello;
    memcpy(broker->instance, hello->instance, sizeof broker->instance);
    snprintf(broker->name, sizeof broker->name, "%.*s", SPAN_ARG(hello->name));
    broker->got_bytes = broker->sent_bytes = 0;
    if (broker->refuse) {
        reply(MESSAGE_REFUSED, &(struct msg_refused){.error = (uint16_t)broker->refuse, .detail = span_str("go \"away\"")});
        return;
    }
    reply(MESSAGE_WELCOME, &(struct msg_welcome){.heartbeat_ms = broker->heartbeat_ms, .shard = 7});
    broker->sent_bytes = 0;
}

static void on_broker_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body)
{
    const char *why = "";
    if (frame_decode(&broker->frame, header, body, ROLE_API, ROLE_BROKER, 0, &why)) {
        broker->bad++;
        return;
    }
    if (broker->mute)
        return;
    broker->route = *route;
    broker->received = broker->frame.received;
    if (broker->frame.message != MESSAGE_HELLO)
        broker->got_bytes += header.len + body.len;
    switch (broker->frame.message) {
    case MESSAGE_HELLO:
        assert_int_equal(broker->frame.epoch, 0);
        answer_hello();
        break;
    case MESSAGE_HEARTBEAT:
        broker->heartbeats++;
        reply(MESSAGE_HEARTBEAT_ACK, &(struct msg_heartbeat_ack){.now = 1});
        break;
    case MESSAGE_ASK:
        broker->asks++;
        reply(MESSAGE_ANSWER, &(struct msg_answer){.ref = broker->frame.ask.ref});
        break;
    case MESSAGE_BYE:
        broker->byes++;
        break;
    default:
        break;
    }
}

static void start_broker(uint64_t epoch)
{
    struct wire_options options = {.kind = WIRE_ROUTER, .bind = true, .endpoint = world.endpoint};
    struct wire_hooks hooks = {.message = on_broker_message};
    assert_int_equal(wire_new(world.loop, &options, hooks, &broker->wire), ERR_OK);
    broker->epoch = epoch;
}

static void kill_broker(void)
{
    wire_free(&broker->wire);
}

/* Another broker of the shard, which answers HELLO, and knocks, under its own epoch. */
static struct standby {
    struct wire *wire;
    uint64_t epoch;
    unsigned hellos, knocks;
    struct frame frame;
    struct frame_buffer buffer;
} standby;

static void on_standby_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body)
{
    const char *why = "";
    assert_int_equal(frame_decode(&standby.frame, header, body, ROLE_API, ROLE_BROKER, 0, &why), ERR_OK);
    bool hello = standby.frame.message == MESSAGE_HELLO;
    struct msg_welcome welcome = {.heartbeat_ms = 5000, .shard = 7};
    standby.hellos += hello;
    standby.knocks += !hello;
    assert_int_equal(frame_encode(hello ? MESSAGE_WELCOME : MESSAGE_HELLO_WANTED, &welcome, standby.epoch, 0, &standby.buffer),
                     ERR_OK);
    struct span bytes = span_of(standby.buffer.data, standby.buffer.len);
    assert_int_equal(wire_send(standby.wire, route, bytes, NULL), ERR_OK);
}

static void start_standby(const char *endpoint, uint64_t epoch)
{
    struct wire_options options = {.kind = WIRE_ROUTER, .bind = true, .endpoint = endpoint};
    standby.epoch = epoch;
    assert_int_equal(wire_new(world.loop, &options, (struct wire_hooks){.message = on_standby_message}, &standby.wire), ERR_OK);
}

/* --- the peer ------------------------------------------------------------------------------------------------------------- */

static enum err ask(uint64_t ref)
{
    return link_send(peer->link, MESSAGE_ASK, &(struct msg_ask){.ref = ref, .tenant = span_str("acme")}, NULL);
}

static void fill_hello(void *arg, struct msg_hello *hello)
{
    hello->slots = peer->slots;
}

static void on_up(void *arg, const struct msg_welcome *welcome, bool new_epoch)
{
    assert_int_equal(welcome->shard, 7);
    assert_true(link_is_up(peer->link));
    peer->ups++;
    peer->new_epochs += new_epoch;
    if (peer->send_when_up)
        assert_int_equal(ask(1000 + peer->ups), ERR_OK);
}

static void on_down(void *arg)
{
    assert_false(link_is_up(peer->link));
    peer->downs++;
}

static void on_frame(void *arg, const struct frame *frame)
{
    peer->frames++;
    if (frame->message == MESSAGE_DRAIN)
        peer->drains++;
    if (frame->message == MESSAGE_ANSWER)
        peer->last_ref = frame->answer.ref;
}

static enum err start_link_to(const struct link_options *options)
{
    struct link_hooks hooks = {.hello = fill_hello, .up = on_up, .down = on_down, .frame = on_frame};
    return link_new(world.loop, options, hooks, &peer->link);
}

static void start_link(void)
{
    struct link_options options = {.endpoints = world.endpoint, .role = ROLE_API, .name = "host:1"};
    assert_int_equal(start_link_to(&options), ERR_OK);
}

/* --- the loop ------------------------------------------------------------------------------------------------------------- */

static void turn(void *arg)
{
    if (broker->wire)
        wire_turn(broker->wire);
    if (standby.wire)
        wire_turn(standby.wire);
    if (peer->link)
        link_turn(peer->link);
    if (world.late || world.done())
        loop_stop(world.loop);
}

static void on_deadline(void *arg)
{
    world.late = true;
}

static bool run_for(msec limit_ms, bool (*done)(void))
{
    world.done = done;
    world.late = false;
    timer_set(world.deadline, clock_mono() + limit_ms);
    loop_run(world.loop);
    timer_set(world.deadline, MSEC_NEVER);
    return !world.late;
}
static bool run_until(bool (*done)(void))
{
    return run_for(DEADLINE_MS, done);
}

static bool is_up(void)
{
    return link_is_up(peer->link);
}
static bool is_down(void)
{
    return !link_is_up(peer->link);
}
static bool is_up_again(void)
{
    return peer->ups >= 2 && link_is_up(peer->link);
}
static bool beat_thrice(void)
{
    return broker->heartbeats >= 3;
}
static bool has_frame(void)
{
    return peer->frames > 0;
}
static bool said_bye(void)
{
    return broker->byes > 0;
}
static bool never(void)
{
    return false;
}

static int begin(void **state)
{
    world = (struct world){0};
    standby = (struct standby){0};
    snprintf(world.dir, sizeof world.dir, "/tmp/test_link.XXXXXX");
    assert_non_null(mkdtemp(world.dir));
    snprintf(world.endpoint, sizeof world.endpoint, "ipc://%s/broker.sock", world.dir);
    world.loop = loop_new(turn, NULL);
    world.deadline = timer_new(world.loop, on_deadline, NULL);
    broker->heartbeat_ms = 5000;
    peer->slots = 64;
    return 0;
}

static int end(void **state)
{
    link_free(&peer->link);
    wire_free(&broker->wire);
    wire_free(&standby.wire);
    frame_done(&standby.frame);
    frame_buffer_done(&standby.buffer);
    frame_done(&broker->frame);
    frame_buffer_done(&broker->buffer);
    timer_free(&world.deadline);
    loop_free(&world.loop);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", world.dir);
    return system(command);
}

/* --- tests ---------------------------------------------------------------------------------------------------------------- */

static void hello_and_welcome(void **state)
{
    start_broker(100);
    start_link();
    assert_int_equal(ask(1), ERR_CLOSED);
    assert_true(run_until(is_up));
    assert_int_equal(peer->ups, 1);
    assert_int_equal(peer->new_epochs, 1);
    assert_int_equal(link_epoch(peer->link), 100);
    assert_int_equal(broker->hellos, 1);
    assert_int_equal(broker->hello.role, ROLE_API);
    assert_int_equal(broker->hello.minor, PROTO_MINOR);
    assert_int_equal(broker->hello.slots, 64);
    assert_string_equal(broker->name, "host:1");
    assert_int_equal(ask(7), ERR_OK);
    assert_true(run_until(has_frame));
    assert_int_equal(peer->last_ref, 7);
    assert_true(link_heard_at(peer->link) > 0);
}

static void the_broker_may_come_later(void **state)
{
    start_link();
    assert_false(run_for(300, is_up));
    start_broker(100);
    assert_true(run_until(is_up));
    assert_int_equal(peer->downs, 0);
}

static void a_killed_and_restarted_broker_is_found_again(void **state)
{
    start_broker(100);
    start_link();
    peer->send_when_up = true;
    assert_true(run_until(is_up));
    uint8_t instance[16];
    memcpy(instance, broker->instance, sizeof instance);
    kill_broker();
    assert_true(run_until(is_down));
    assert_int_equal(peer->downs, 1);
    assert_int_equal(ask(1), ERR_CLOSED);
    assert_false(run_for(300, is_up));
    start_broker(101);
    msec from = clock_mono();
    assert_true(run_until(is_up_again));
    assert_true(clock_mono() - from < 1000);
    assert_int_equal(peer->new_epochs, 2);
    assert_memory_equal(instance, broker->instance, sizeof instance);
    peer->frames = 0;
    assert_true(run_until(has_frame));
    assert_int_equal(peer->last_ref, 1002); /* nothing of the first session came */
}

static void heartbeats_keep_it_up(void **state)
{
    broker->heartbeat_ms = 100;
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    msec from = clock_mono();
    assert_true(run_until(beat_thrice));
    assert_in_range(clock_mono() - from, 250, 2000);
    assert_int_equal(peer->downs, 0);
}

static bool heard_twice(void)
{
    return broker->hellos >= 2;
}

static void silence_ends_it_and_it_comes_back(void **state)
{
    broker->heartbeat_ms = 100;
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    broker->mute = true; /* its transport stays: nothing but silence tells */
    msec from = clock_mono();
    assert_true(run_until(is_down));
    assert_in_range(clock_mono() - from, 150, 2000);
    broker->mute = false;
    assert_true(run_until(is_up_again));
    assert_int_equal(peer->new_epochs, 1);
    assert_true(heard_twice());
}

static void hello_wanted_opens_a_new_session(void **state)
{
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    reply(MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    assert_true(run_until(is_down));
    assert_true(run_until(is_up_again));
    assert_int_equal(broker->hellos, 2);
}

static void a_newer_epoch_on_an_open_session_opens_a_new_one(void **state)
{
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    broker->epoch = 101;
    reply(MESSAGE_PROBE, &(struct msg_probe){});
    assert_true(run_until(is_up_again));
    assert_int_equal(peer->downs, 1);
    assert_int_equal(peer->new_epochs, 2);
    assert_int_equal(link_epoch(peer->link), 101);
    assert_int_equal(peer->frames, 0);
}

static bool has_stale(void)
{
    return link_counts(peer->link)->frames_stale > 0;
}

static void a_frame_of_an_older_epoch_is_dropped_and_counted(void **state)
{
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    broker->epoch = 99;
    reply(MESSAGE_DRAIN, &(struct msg_drain){});
    broker->epoch = 100;
    assert_true(run_until(has_stale));
    assert_int_equal(peer->drains, 0);
    reply(MESSAGE_DRAIN, &(struct msg_drain){});
    assert_true(run_until(has_frame));
    assert_int_equal(peer->drains, 1);
    assert_true(link_is_up(peer->link));
}

static bool has_ten_bad(void)
{
    return link_counts(peer->link)->frames_bad >= 10;
}

static void bad_frames_are_counted_and_never_fatal(void **state)
{
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(wire_send(broker->wire, &broker->route, span_str("\xdf\xff\xff\x4b\x4f"), NULL), ERR_OK);
    assert_true(run_until(has_ten_bad));
    assert_true(link_is_up(peer->link));
    assert_int_equal(ask(3), ERR_OK);
    assert_true(run_until(has_frame));
}

static bool hello_came(void)
{
    return broker->hellos > 0;
}

static void refused_is_tried_again_later(void **state)
{
    start_broker(100);
    broker->refuse = ERR_INCOMPATIBLE;
    start_link();
    assert_true(run_until(hello_came));
    assert_false(run_for(500, heard_twice));
    broker->refuse = ERR_OK;
    assert_true(run_until(is_up));
    assert_int_equal(broker->hellos, 2);
    assert_int_equal(peer->downs, 0);
}

static void goodbye_is_heard(void **state)
{
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    uint8_t *data;
    AUTO(blob_free) struct blob *body = blob_new(1 << 20, &data);
    memset(data, 'x', body->len);
    assert_int_equal(link_send(peer->link, MESSAGE_SUBMIT, &(struct msg_submit){.ref = 1}, body), ERR_OK);
    link_free(&peer->link); /* with much before it that has not left yet */
    assert_true(run_until(said_bye));
}

static unsigned answers;
static bool all_answered(void)
{
    return peer->frames >= answers;
}

static void both_sides_know_what_arrived(void **state)
{
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    assert_int_equal(link_unacked_bytes(peer->link), 0);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(ask(i), ERR_OK);
    assert_true(link_unacked_bytes(peer->link) > 0);
    answers = 20;
    assert_true(run_until(all_answered));
    assert_int_equal(link_unacked_bytes(peer->link), 0);
    uint64_t sent = broker->sent_bytes;
    assert_int_equal(ask(99), ERR_OK);
    answers = 21;
    assert_true(run_until(all_answered));
    assert_int_equal(broker->received, sent); /* as the last question said */
}

static void what_arrived_is_counted_anew_in_each_session(void **state)
{
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    assert_int_equal(ask(1), ERR_OK);
    answers = 1;
    assert_true(run_until(all_answered));
    reply(MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    assert_true(run_until(is_up_again));
    assert_int_equal(link_unacked_bytes(peer->link), 0);
    assert_int_equal(ask(2), ERR_OK);
    answers = 2;
    assert_true(run_until(all_answered));
    assert_int_equal(broker->received, 0); /* nothing had arrived when it asked */
}

static void a_text_that_is_none_is_not_sent(void **state)
{
    start_broker(100);
    start_link();
    assert_true(run_until(is_up));
    struct msg_ask bad = {.tenant = span_str("a\x01")};
    assert_int_equal(link_send(peer->link, MESSAGE_ASK, &bad, NULL), ERR_MALFORMED);
    char name[PROTO_TENANT_BYTES + 1];
    memset(name, 'x', sizeof name);
    bad.tenant = span_of(name, sizeof name);
    assert_int_equal(link_send(peer->link, MESSAGE_ASK, &bad, NULL), ERR_LIMIT);
    assert_int_equal(ask(1), ERR_OK);
    assert_true(run_until(has_frame));
    assert_int_equal(broker->bad, 0);
}

static void settings_that_cannot_work_are_refused_at_once(void **state)
{
    struct link_options options = {.endpoints = "tcp://127.0.0.1:5555", .role = ROLE_WORKER, .name = "w"};
    assert_int_equal(start_link_to(&options), ERR_SETTINGS);
    options.endpoints = "";
    assert_int_equal(start_link_to(&options), ERR_SETTINGS);
    assert_null(peer->link);
}

/* A worker host is started before its key is let in at the broker. */
static void over_tcp_a_key_may_be_let_in_later(void **state)
{
    struct wire_key public_key, secret_key, our_public, our_secret;
    zmq_curve_keypair(public_key.text, secret_key.text);
    zmq_curve_keypair(our_public.text, our_secret.text);
    struct wire_options wire_options = {
        .kind = WIRE_ROUTER, .bind = true, .endpoint = "tcp://127.0.0.1:*", .public_key = public_key, .secret_key = secret_key};
    assert_int_equal(wire_new(world.loop, &wire_options, (struct wire_hooks){.message = on_broker_message}, &broker->wire),
                     ERR_OK);
    broker->epoch = 100;
    struct link_options options = {.endpoints = wire_endpoint(broker->wire),
                                   .server_keys = public_key.text,
                                   .role = ROLE_API,
                                   .name = "far:1",
                                   .public_key = our_public,
                                   .secret_key = our_secret};
    assert_int_equal(start_link_to(&options), ERR_OK);
    assert_false(run_for(500, is_up));
    assert_int_equal(broker->hellos, 0);
    assert_int_equal(wire_allow(broker->wire, &our_public, 1), ERR_OK);
    assert_true(run_until(is_up));
    assert_int_equal(ask(5), ERR_OK);
    assert_true(run_until(has_frame));
}

/* The second place's broker: the standby, once the first is gone. */
static void the_standby_is_found_where_it_listens(void **state)
{
    char endpoints[400], second[160];
    start_broker(100);
    snprintf(second, sizeof second, "ipc://%s/standby.sock", world.dir);
    snprintf(endpoints, sizeof endpoints, "%s,%s", world.endpoint, second);
    struct link_options options = {.endpoints = endpoints, .role = ROLE_API, .name = "host:1"};
    assert_int_equal(start_link_to(&options), ERR_OK);
    assert_true(run_until(is_up));
    kill_broker();
    assert_true(run_until(is_down));
    assert_false(run_for(1500, is_up)); /* nobody leads yet */
    snprintf(world.endpoint, sizeof world.endpoint, "%s", second);
    start_broker(200);
    msec from = clock_mono();
    assert_true(run_until(is_up_again));
    assert_true(clock_mono() - from < 1000);
    assert_int_equal(link_epoch(peer->link), 200);
}

/* Where the broker was, the kernel still takes connections: its process is stopped. */
static void a_place_that_takes_and_says_nothing_does_not_hold_it_up(void **state)
{
    char endpoints[400], second[160];
    start_broker(100);
    struct wire *silent = broker->wire;
    broker->wire = NULL; /* bound, and never looked at again */
    snprintf(second, sizeof second, "ipc://%s/standby.sock", world.dir);
    snprintf(endpoints, sizeof endpoints, "%s,%s", world.endpoint, second);
    start_standby(second, 200);
    struct link_options options = {.endpoints = endpoints, .role = ROLE_API, .name = "host:1"};
    assert_int_equal(start_link_to(&options), ERR_OK);
    msec from = clock_mono();
    assert_true(run_until(is_up));
    assert_true(clock_mono() - from < 800);
    assert_int_equal(link_epoch(peer->link), 200);
    wire_free(&silent);
}

/* Where the broker was, the kernel alone answers: a process that is stopped, threads and all. */
static void a_place_that_does_not_even_shake_hands_does_not_hold_it_up(void **state)
{
    char endpoints[400], second[160];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/broker.sock", world.dir);
    int stopped = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(stopped, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(stopped, 16), 0);
    snprintf(second, sizeof second, "ipc://%s/standby.sock", world.dir);
    snprintf(endpoints, sizeof endpoints, "%s,%s", world.endpoint, second);
    struct link_options options = {.endpoints = endpoints, .role = ROLE_API, .name = "host:1"};
    assert_int_equal(start_link_to(&options), ERR_OK);
    assert_false(run_for(2300, is_up)); /* nobody leads yet */
    start_standby(second, 200);
    msec from = clock_mono();
    assert_true(run_until(is_up));
    assert_true(clock_mono() - from < 600); /* at whatever moment it begins to listen */
    assert_int_equal(link_epoch(peer->link), 200);
    close(stopped);
}

static void a_broker_that_returns_where_it_was_is_found_again(void **state)
{
    char endpoints[400];
    snprintf(endpoints, sizeof endpoints, "ipc://%s/nobody.sock,%s", world.dir, world.endpoint);
    start_broker(100);
    struct link_options options = {.endpoints = endpoints, .role = ROLE_API, .name = "host:1"};
    assert_int_equal(start_link_to(&options), ERR_OK);
    for (unsigned i = 1; i <= 3; i++) {
        assert_true(run_until(is_up));
        assert_int_equal(peer->ups, i);
        kill_broker();
        assert_true(run_until(is_down));
        start_broker(100 + i);
    }
    assert_true(run_until(is_up));
}

static bool is_at_standby(void)
{
    return link_is_up(peer->link) && standby.hellos > 0;
}
static bool has_knocked(void)
{
    return standby.knocks >= 2;
}

/* A link to two brokers, with a session at the first, which then says that its store does not answer. */
static void start_stalled(uint64_t epoch)
{
    static char endpoints[400], second[160];
    snprintf(second, sizeof second, "ipc://%s/standby.sock", world.dir);
    snprintf(endpoints, sizeof endpoints, "%s,%s", world.endpoint, second);
    start_broker(100);
    struct link_options options = {.endpoints = endpoints, .role = ROLE_API, .name = "host:1"};
    assert_int_equal(start_link_to(&options), ERR_OK);
    assert_true(run_until(is_up));
    start_standby(second, epoch);
    reply(MESSAGE_HEARTBEAT_ACK, &(struct msg_heartbeat_ack){.stalled = true});
}

/* Redis is away for that broker alone: its standby leads, and it cannot know. */
static void a_stalled_broker_is_left_for_one_that_leads_by_now(void **state)
{
    start_stalled(200);
    msec from = clock_mono();
    assert_true(run_until(is_at_standby));
    assert_true(clock_mono() - from < 2000);
    assert_int_equal(link_epoch(peer->link), 200);
    assert_int_equal(peer->downs, 1);
    assert_int_equal(peer->ups, 2);
    assert_int_equal(peer->new_epochs, 2);
    assert_int_equal(standby.hellos, 1);
}

/* Redis is away for all: nobody has taken over, and the session at hand goes on undisturbed. */
static void a_stalled_broker_is_kept_while_no_other_leads(void **state)
{
    start_stalled(100);
    assert_true(run_until(has_knocked));
    assert_int_equal(standby.hellos, 0);
    assert_int_equal(peer->downs, 0);
    assert_int_equal(broker->hellos, 1);
    peer->frames = 0;
    reply(MESSAGE_HEARTBEAT_ACK, &(struct msg_heartbeat_ack){.stalled = false});
    assert_true(run_until(has_frame));
    unsigned knocks = standby.knocks;
    standby.epoch = 200;
    assert_false(run_for(1000, is_at_standby)); /* well again: no more knocks */
    assert_true(standby.knocks <= knocks + 1);
    assert_int_equal(peer->downs, 0);
}

static unsigned turns_seen;
static bool count_turn(void)
{
    return ++turns_seen > 100;
}

static void a_link_at_rest_or_without_a_broker_lets_the_loop_sleep(void **state)
{
    start_link();
    turns_seen = 0;
    assert_false(run_for(300, count_turn));
    start_broker(100);
    assert_true(run_until(is_up));
    turns_seen = 0;
    assert_false(run_for(300, count_turn));
    assert_true(turns_seen < 20);
}

static void it_may_be_freed_at_any_moment(void **state)
{
    for (unsigned i = 0; i < 30; i++) {
        peer->ups = 0;
        start_link();
        run_for(i, never);
        if (i % 3 == 0 && !broker->wire)
            start_broker(100 + i);
        run_for(i % 7, never);
        link_free(&peer->link);
        if (i % 5 == 0)
            kill_broker();
    }
}

int main(void)
{
#define LINK(test) cmocka_unit_test_setup_teardown(test, begin, end)
    const struct CMUnitTest tests[] = {
        LINK(hello_and_welcome),
        LINK(the_broker_may_come_later),
        LINK(a_killed_and_restarted_broker_is_found_again),
        LINK(heartbeats_keep_it_up),
        LINK(silence_ends_it_and_it_comes_back),
        LINK(hello_wanted_opens_a_new_session),
        LINK(a_newer_epoch_on_an_open_session_opens_a_new_one),
        LINK(a_frame_of_an_older_epoch_is_dropped_and_counted),
        LINK(bad_frames_are_counted_and_never_fatal),
        LINK(refused_is_tried_again_later),
        LINK(goodbye_is_heard),
        LINK(both_sides_know_what_arrived),
        LINK(what_arrived_is_counted_anew_in_each_session),
        LINK(a_text_that_is_none_is_not_sent),
        LINK(settings_that_cannot_work_are_refused_at_once),
        LINK(over_tcp_a_key_may_be_let_in_later),
        LINK(the_standby_is_found_where_it_listens),
        LINK(a_place_that_takes_and_says_nothing_does_not_hold_it_up),
        LINK(a_place_that_does_not_even_shake_hands_does_not_hold_it_up),
        LINK(a_broker_that_returns_where_it_was_is_found_again),
        LINK(a_stalled_broker_is_left_for_one_that_leads_by_now),
        LINK(a_stalled_broker_is_kept_while_no_other_leads),
        LINK(a_link_at_rest_or_without_a_broker_lets_the_loop_sleep),
        LINK(it_may_be_freed_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
