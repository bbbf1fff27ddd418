/* ZeroMQ sockets on the loop: over ipc and over tcp with CURVE, friends, strangers and liars. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/wire.h"

#include <czmq.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"

#define DEADLINE_MS 10000
#define WIRES_MAX   8

/* --- a world of wires on one loop ----------------------------------------------------------------------------------------- */

struct end {
    struct wire *wire;
    unsigned messages;
    unsigned bad;
    int connected;           /* −1: told that it broke */
    struct wire_route route; /* of the last message */
    char key[41];
    char header[64];
    size_t header_len;
    uint8_t *body;
    size_t body_len;
    char why[64];
    bool echo;
    unsigned refused; /* echoes that could not be sent */
    unsigned strangers;
};

static struct world {
    struct loop *loop;
    struct timer *deadline;
    char dir[64];
    struct end ends[WIRES_MAX];
    bool (*done)(void *arg);
    void *done_arg;
    bool late;
    unsigned turns;
} world;

static void on_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body)
{
    struct end *end = arg;
    end->messages++;
    if (route)
        end->route = *route;
    snprintf(end->key, sizeof end->key, "%s", key);
    end->header_len = MIN(header.len, sizeof end->header);
    memcpy(end->header, header.data, end->header_len);
    free(end->body);
    end->body = malloc(body.len + 1);
    memcpy(end->body, body.data, body.len);
    end->body_len = body.len;
    if (end->echo && wire_send(end->wire, route, header, NULL))
        end->refused++;
}

static void on_bad(void *arg, const struct wire_route *route, const char *why)
{
    struct end *end = arg;
    end->bad++;
    snprintf(end->why, sizeof end->why, "%s", why);
}

static void on_connected(void *arg, bool connected)
{
    struct end *end = arg;
    end->connected = connected ? 1 : -1;
}

static void on_stranger(void *arg)
{
    struct end *end = arg;
    end->strangers++;
}

static void turn(void *arg)
{
    world.turns++;
    for (unsigned i = 0; i < WIRES_MAX; i++)
        if (world.ends[i].wire)
            wire_turn(world.ends[i].wire);
    if (world.late || world.done(world.done_arg))
        loop_stop(world.loop);
}

static void on_deadline(void *arg)
{
    world.late = true;
}

/* Runs the loop until done(arg); false at the deadline. */
static bool run_for(msec limit_ms, bool (*done)(void *arg), void *arg)
{
    world.done = done;
    world.done_arg = arg;
    world.late = false;
    timer_set(world.deadline, clock_mono() + limit_ms);
    loop_run(world.loop);
    timer_set(world.deadline, MSEC_NEVER);
    return !world.late;
}
static bool run_until(bool (*done)(void *arg), void *arg)
{
    return run_for(DEADLINE_MS, done, arg);
}

static bool never(void *arg)
{
    return false;
}
static bool is_connected(void *arg)
{
    return ((struct end *)arg)->connected == 1;
}
static bool is_broken(void *arg)
{
    return ((struct end *)arg)->connected == -1;
}
static bool has_message(void *arg)
{
    return ((struct end *)arg)->messages > 0;
}
static bool has_bad(void *arg)
{
    return ((struct end *)arg)->bad > 0;
}

static int begin(void **state)
{
    world = (struct world){0};
    snprintf(world.dir, sizeof world.dir, "/tmp/test_wire.XXXXXX");
    assert_non_null(mkdtemp(world.dir));
    world.loop = loop_new(turn, NULL);
    world.deadline = timer_new(world.loop, on_deadline, NULL);
    return 0;
}

static int end(void **state)
{
    for (unsigned i = 0; i < WIRES_MAX; i++) {
        wire_free(&world.ends[i].wire);
        free(world.ends[i].body);
    }
    timer_free(&world.deadline);
    loop_free(&world.loop);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", world.dir);
    return system(command);
}

static struct wire_hooks hooks_of(struct end *e)
{
    return (struct wire_hooks){
        .message = on_message, .bad = on_bad, .connected = on_connected, .stranger = on_stranger, .arg = e};
}

static enum err open_wire(unsigned i, struct wire_options options)
{
    world.ends[i].connected = 0;
    return wire_new(world.loop, &options, hooks_of(&world.ends[i]), &world.ends[i].wire);
}

static const char *ipc_path(const char *name)
{
    static char text[128];
    snprintf(text, sizeof text, "%s/run/%s", world.dir, name);
    return text;
}

static const char *ipc(const char *name)
{
    static char text[160];
    snprintf(text, sizeof text, "ipc://%s", ipc_path(name));
    return text;
}

static struct span bytes(const char *text)
{
    return span_str(text);
}

static void send_ok(struct end *e, const struct wire_route *route, const char *header, struct blob *body)
{
    assert_int_equal(wire_send(e->wire, route, bytes(header), body), ERR_OK);
}

/* --- ipc ------------------------------------------------------------------------------------------------------------------ */

static struct end *const server = &world.ends[0];
static struct end *const client = &world.ends[1];
static struct end *const other = &world.ends[2];

static void open_ipc_pair(void)
{
    assert_int_equal(open_wire(0, (struct wire_options){.kind = WIRE_ROUTER, .bind = true, .endpoint = ipc("s")}), ERR_OK);
    assert_int_equal(open_wire(1, (struct wire_options){.kind = WIRE_DEALER, .endpoint = ipc("s")}), ERR_OK);
    assert_true(run_until(is_connected, client));
}

static void ipc_carries_both_ways(void **state)
{
    open_ipc_pair();
    assert_string_equal(wire_endpoint(server->wire), ipc("s"));
    AUTO(blob_free) struct blob *body = blob_copy(bytes("{\"a\":1}"));
    send_ok(client, NULL, "to the server", body);
    assert_true(run_until(has_message, server));
    assert_int_equal(server->route.len, 5);
    assert_string_equal(server->key, "");
    assert_memory_equal(server->header, "to the server", 13);
    assert_int_equal(server->body_len, 7);
    assert_memory_equal(server->body, "{\"a\":1}", 7);
    send_ok(server, &server->route, "to the client", NULL);
    assert_true(run_until(has_message, client));
    assert_memory_equal(client->header, "to the client", 13);
    assert_int_equal(client->body_len, 0);
}

static bool is_unshared(void *arg)
{
    loop_again(world.loop); /* another thread lets go of it */
    return atomic_load(&((struct blob *)arg)->refs) == 1;
}

static void a_large_body_is_referenced_until_sent(void **state)
{
    open_ipc_pair();
    uint8_t *data;
    AUTO(blob_free) struct blob *body = blob_new(3 << 20, &data);
    for (size_t i = 0; i < body->len; i++)
        data[i] = (uint8_t)(i * 7 + (i >> 8));
    send_ok(client, NULL, "large", body);
    assert_true(run_until(has_message, server));
    assert_int_equal(server->body_len, body->len);
    assert_memory_equal(server->body, body->data, body->len);
    assert_true(run_until(is_unshared, body));
}

static void unsent_bodies_are_let_go_when_freed(void **state)
{
    open_ipc_pair();
    uint8_t *data;
    AUTO(blob_free) struct blob *body = blob_new(1 << 20, &data);
    memset(data, 'x', body->len);
    for (unsigned i = 0; i < 50; i++) /* nobody receives: most of it stays queued */
        send_ok(client, NULL, "h", body);
    wire_free(&client->wire);
    wire_free(&server->wire);
    assert_true(run_until(is_unshared, body));
}

static void nothing_queues_for_a_peer_that_is_away(void **state)
{
    assert_int_equal(open_wire(1, (struct wire_options){.kind = WIRE_DEALER, .endpoint = ipc("nobody")}), ERR_OK);
    assert_int_equal(wire_send(client->wire, NULL, bytes("h"), NULL), ERR_WOULD_BLOCK);
}

static void what_is_larger_than_the_other_side_takes_is_not_sent(void **state)
{
    open_ipc_pair();
    uint8_t *data;
    AUTO(blob_free) struct blob *body = blob_new(PROTO_FRAME_BYTES + 1, &data);
    assert_int_equal(wire_send(client->wire, NULL, bytes("h"), body), ERR_LIMIT);
    send_ok(client, NULL, "h", NULL);
    assert_true(run_until(has_message, server));
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode;
}

static void an_ipc_socket_is_ours_alone(void **state)
{
    mode_t before = umask(0);
    open_ipc_pair();
    umask(before);
    assert_int_equal(mode_of(ipc_path("s")), S_IFSOCK | 0700);
    assert_int_equal(mode_of(ipc_path("")) & 07777, 0700);
    wire_free(&server->wire);
    assert_int_equal(access(ipc_path("s"), F_OK), -1);
}

static void a_directory_open_to_others_is_refused(void **state)
{
    char dir[128], endpoint[192];
    snprintf(dir, sizeof dir, "%s/open", world.dir);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/s", dir);
    mkdir(dir, 0755);
    chmod(dir, 0755);
    assert_int_equal(open_wire(0, (struct wire_options){.kind = WIRE_ROUTER, .bind = true, .endpoint = endpoint}),
                     ERR_SETTINGS);
    assert_null(server->wire);
    chmod(dir, 0700);
    assert_int_equal(open_wire(0, (struct wire_options){.kind = WIRE_ROUTER, .bind = true, .endpoint = endpoint}), ERR_OK);
}

static void a_stale_socket_is_replaced_and_a_successors_left_alone(void **state)
{
    mkdir(ipc_path(""), 0700);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, ipc_path("s"), strlen(ipc_path("s")));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    close(fd);
    open_ipc_pair();

    assert_int_equal(open_wire(2, (struct wire_options){.kind = WIRE_ROUTER, .bind = true, .endpoint = ipc("s")}), ERR_OK);
    wire_free(&server->wire); /* the older one ends after its successor began */
    assert_int_equal(access(ipc_path("s"), F_OK), 0);
    assert_true(run_until(is_connected, client));
    wire_free(&client->wire);
    assert_int_equal(open_wire(1, (struct wire_options){.kind = WIRE_DEALER, .endpoint = ipc("s")}), ERR_OK);
    assert_true(run_until(is_connected, client));
    send_ok(client, NULL, "to the successor", NULL);
    assert_true(run_until(has_message, other));
}

static void bad_endpoints_are_refused(void **state)
{
    char path[300];
    memset(path, 'a', sizeof path);
    memcpy(path, "ipc:///tmp/", 11);
    path[sizeof path - 1] = 0;
    const char *bad[] = {NULL, "", "ipc://", "inproc://x", "udp://127.0.0.1:1", "tcp://127.0.0.1:0", path};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_int_equal(open_wire(0, (struct wire_options){.kind = WIRE_ROUTER, .bind = true, .endpoint = bad[i]}),
                         ERR_SETTINGS);
        assert_int_equal(open_wire(0, (struct wire_options){.kind = WIRE_DEALER, .endpoint = bad[i]}), ERR_SETTINGS);
    }
}

/* More than one turn's worth, answered while more arrives: the descriptor fires only once for many messages, and sending reads
 * its signal too. */
static unsigned wanted;
static bool has_wanted(void *arg)
{
    return client->messages + server->refused >= wanted;
}

static void no_message_waits_for_another_to_arrive(void **state)
{
    open_ipc_pair();
    server->echo = true;
    for (unsigned round = 0; round < 200; round++) {
        unsigned burst = round % 7 == 0 ? 2000 : 1 + round % 3;
        for (unsigned i = 0; i < burst; i++)
            send_ok(client, NULL, "burst", NULL);
        wanted += burst;
        assert_true(run_until(has_wanted, NULL));
    }
    assert_int_equal(server->refused, 0);
    assert_int_equal(client->messages, wanted);
}

/* Every send of a long turn may read the signal of what arrived since the turn began. Between the two lies a moment, in which
 * the message crosses ZeroMQ's own thread. */
static bool send_late(void *arg)
{
    zsock_t *raw = arg;
    if (raw && server->messages == 0) {
        zstr_sendm(raw, "came in the middle");
        zstr_send(raw, "");
        for (msec until = clock_mono() + 3; clock_mono() < until;)
            ;
        send_ok(server, &server->route, "said afterwards", NULL);
    }
    return true;
}

static void what_arrives_while_sending_is_not_forgotten(void **state)
{
    open_ipc_pair();
    send_ok(client, NULL, "whom to send to", NULL);
    assert_true(run_until(has_message, server));
    struct wire_route route = server->route;
    zsock_t *raw = zsock_new_dealer(NULL);
    assert_int_equal(zsock_connect(raw, "%s", ipc("s")), 0);
    for (unsigned i = 0; i < 50; i++) {
        server->messages = 0;
        server->route = route;
        run_until(send_late, raw);
        assert_true(run_for(1000, has_message, server));
    }
    zsock_destroy(&raw);
}

static bool has_turned(void *arg)
{
    return world.turns >= *(unsigned *)arg;
}

static void an_idle_wire_lets_the_loop_sleep(void **state)
{
    open_ipc_pair();
    send_ok(client, NULL, "h", NULL);
    assert_true(run_until(has_message, server));
    unsigned many = world.turns + 50;
    assert_false(run_for(200, has_turned, &many));
}

/* --- messages that are not ours ------------------------------------------------------------------------------------------- */

static void only_two_parts_are_delivered(void **state)
{
    open_ipc_pair();
    zsock_t *raw = zsock_new_dealer(NULL);
    assert_int_equal(zsock_connect(raw, "%s", ipc("s")), 0);
    zstr_send(raw, "alone");
    assert_true(run_until(has_bad, server));
    assert_string_equal(server->why, "fewer than two parts");
    server->bad = 0;
    for (unsigned i = 0; i < 5000; i++)
        zstr_sendm(raw, "part");
    zstr_send(raw, "last");
    assert_true(run_until(has_bad, server));
    assert_string_equal(server->why, "more than two parts");
    server->bad = 0;
    zmsg_t *message = zmsg_new();
    void *large = calloc(1, PROTO_HEADER_BYTES + 1);
    zmsg_addmem(message, large, PROTO_HEADER_BYTES + 1);
    zmsg_addstr(message, "");
    zmsg_send(&message, raw);
    free(large);
    assert_true(run_until(has_bad, server));
    assert_string_equal(server->why, "the header is too long");
    assert_int_equal(server->messages, 0);
    zstr_sendm(raw, "header");
    zstr_send(raw, "body");
    assert_true(run_until(has_message, server));
    assert_int_equal(server->messages, 1);
    zsock_destroy(&raw);
}

static bool is_unreachable(void *arg)
{
    loop_again(world.loop);
    return wire_send(server->wire, arg, bytes("probe"), NULL) == ERR_UNREACHABLE;
}

static void a_part_over_the_limit_breaks_that_connection_only(void **state)
{
    open_ipc_pair();
    zsock_t *raw = zsock_new(ZMQ_DEALER);
    zsock_set_reconnect_ivl(raw, -1);
    assert_int_equal(zsock_connect(raw, "%s", ipc("s")), 0);
    zstr_sendm(raw, "hello");
    zstr_send(raw, "");
    assert_true(run_until(has_message, server));
    struct wire_route liar = server->route;
    server->messages = 0;

    zmsg_t *message = zmsg_new();
    void *large = calloc(1, PROTO_FRAME_BYTES + 1);
    zmsg_addstr(message, "header");
    zmsg_addmem(message, large, PROTO_FRAME_BYTES + 1);
    zmsg_send(&message, raw);
    free(large);
    assert_true(run_until(is_unreachable, &liar));
    assert_int_equal(server->messages, 0);
    send_ok(client, NULL, "still here", NULL);
    assert_true(run_until(has_message, server));
    zsock_destroy(&raw);
}

/* --- a peer that dies ----------------------------------------------------------------------------------------------------- */

/* Another process: says hello and waits to be killed. */
static int be_a_peer(const char *endpoint)
{
    zsys_handler_set(NULL);
    zsock_t *dealer = zsock_new(ZMQ_DEALER);
    if (!dealer || zsock_connect(dealer, "%s", endpoint) != 0)
        return 1;
    zstr_sendm(dealer, "hello");
    zstr_send(dealer, "");
    for (;;)
        pause();
}

static void a_killed_peer_is_unreachable_within_milliseconds(void **state)
{
    assert_int_equal(open_wire(0, (struct wire_options){.kind = WIRE_ROUTER, .bind = true, .endpoint = ipc("s")}), ERR_OK);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        execl("/proc/self/exe", "test_wire", "peer", ipc("s"), NULL);
        _exit(127);
    }
    assert_true(run_until(has_message, server));
    send_ok(server, &server->route, "probe", NULL);
    msec killed_at = clock_mono();
    kill(pid, SIGKILL);
    bool found = run_until(is_unreachable, &server->route);
    msec took_ms = clock_mono() - killed_at;
    waitpid(pid, NULL, 0);
    assert_true(found);
    assert_true(took_ms < 1000);
}

static bool would_block(void *arg)
{
    loop_again(world.loop);
    return wire_send(client->wire, NULL, bytes("h"), NULL) == ERR_WOULD_BLOCK;
}

static void a_dealer_hears_that_its_router_is_gone(void **state)
{
    open_ipc_pair();
    wire_free(&server->wire);
    assert_true(run_until(is_broken, client));
    assert_true(run_until(would_block, NULL));
}

static void an_unknown_route_is_unreachable(void **state)
{
    open_ipc_pair();
    struct wire_route route = {5, {0, 1, 2, 3, 4}};
    assert_int_equal(wire_send(server->wire, &route, bytes("h"), NULL), ERR_UNREACHABLE);
}

static void a_goodbye_gets_time_to_leave(void **state)
{
    open_ipc_pair();
    uint8_t *data;
    AUTO(blob_free) struct blob *body = blob_new(8 << 20, &data);
    memset(data, 0, body->len);
    send_ok(client, NULL, "bye", body);
    wire_linger(client->wire, 5000);
    wire_free(&client->wire);
    assert_true(run_until(has_message, server));
    assert_int_equal(server->body_len, body->len);
}

/* --- tcp with CURVE ------------------------------------------------------------------------------------------------------- */

struct pair {
    struct wire_key public_key, secret_key;
};

static struct pair new_pair(void)
{
    struct pair pair;
    assert_int_equal(zmq_curve_keypair(pair.public_key.text, pair.secret_key.text), 0);
    return pair;
}

static struct pair ours, friend, stranger;

static enum err open_tcp_server(const struct wire_key *allowed, size_t count)
{
    return open_wire(0, (struct wire_options){.kind = WIRE_ROUTER,
                                              .bind = true,
                                              .endpoint = "tcp://127.0.0.1:*",
                                              .public_key = ours.public_key,
                                              .secret_key = ours.secret_key,
                                              .allowed = allowed,
                                              .allowed_count = count});
}

static enum err open_tcp_client(unsigned i, const struct pair *pair, const struct wire_key *server_key)
{
    return open_wire(i, (struct wire_options){.kind = WIRE_DEALER,
                                              .endpoint = wire_endpoint(server->wire),
                                              .public_key = pair->public_key,
                                              .secret_key = pair->secret_key,
                                              .server_key = *server_key});
}

static int begin_tcp(void **state)
{
    begin(state);
    ours = new_pair();
    friend = new_pair();
    stranger = new_pair();
    assert_int_equal(open_tcp_server(&friend.public_key, 1), ERR_OK);
    return 0;
}

static void tcp_without_keys_is_refused(void **state)
{
    struct pair p = new_pair();
    struct wire_options options = {.kind = WIRE_ROUTER, .bind = true, .endpoint = "tcp://127.0.0.1:*"};
    assert_int_equal(open_wire(0, options), ERR_SETTINGS);
    options.public_key = p.public_key;
    assert_int_equal(open_wire(0, options), ERR_SETTINGS);
    options.secret_key = p.secret_key;
    options.kind = WIRE_DEALER;
    options.bind = false;
    options.endpoint = "tcp://127.0.0.1:9";
    assert_int_equal(open_wire(0, options), ERR_SETTINGS);
    memset(options.server_key.text, '~', 40); /* no Z85 */
    assert_int_equal(open_wire(0, options), ERR_SETTINGS);
}

static void tcp_carries_both_ways_and_names_the_sender(void **state)
{
    assert_int_equal(open_tcp_client(1, &friend, &ours.public_key), ERR_OK);
    assert_true(run_until(is_connected, client));
    uint8_t *data;
    AUTO(blob_free) struct blob *body = blob_new(PROTO_FRAME_BYTES, &data);
    memset(data, 'b', body->len);
    send_ok(client, NULL, "to the server", body);
    assert_true(run_until(has_message, server));
    assert_string_equal(server->key, friend.public_key.text);
    assert_int_equal(server->body_len, body->len);
    send_ok(server, &server->route, "to the client", NULL);
    assert_true(run_until(has_message, client));
    assert_string_equal(client->key, "");
}

static void an_unknown_key_gets_nothing_through(void **state)
{
    assert_int_equal(open_tcp_client(1, &stranger, &ours.public_key), ERR_OK);
    assert_int_equal(open_tcp_client(2, &friend, &stranger.public_key), ERR_OK); /* takes us for somebody else */
    assert_int_equal(open_tcp_client(3, &friend, &ours.public_key), ERR_OK);
    assert_true(run_until(is_connected, &world.ends[3]));
    assert_true(run_until(is_broken, client));
    assert_int_equal(wire_send(client->wire, NULL, bytes("h"), NULL), ERR_WOULD_BLOCK);
    assert_int_not_equal(other->connected, 1);
    assert_int_equal(server->messages, 0);
}

static void the_lists_of_two_sockets_are_two(void **state)
{
    struct wire_options options = {.kind = WIRE_ROUTER,
                                   .bind = true,
                                   .endpoint = "tcp://127.0.0.1:*",
                                   .public_key = ours.public_key,
                                   .secret_key = ours.secret_key,
                                   .allowed = &stranger.public_key,
                                   .allowed_count = 1};
    assert_int_equal(open_wire(2, options), ERR_OK);
    options = (struct wire_options){.kind = WIRE_DEALER,
                                    .endpoint = wire_endpoint(other->wire),
                                    .public_key = stranger.public_key,
                                    .secret_key = stranger.secret_key,
                                    .server_key = ours.public_key};
    assert_int_equal(open_wire(3, options), ERR_OK);
    options.public_key = friend.public_key;
    options.secret_key = friend.secret_key;
    assert_int_equal(open_wire(4, options), ERR_OK);
    assert_true(run_until(is_connected, &world.ends[3]));
    assert_true(run_until(is_broken, &world.ends[4]));
}

static void a_revoked_key_is_ignored_and_then_refused(void **state)
{
    assert_int_equal(open_tcp_client(1, &friend, &ours.public_key), ERR_OK);
    assert_true(run_until(is_connected, client));
    send_ok(client, NULL, "before", NULL);
    assert_true(run_until(has_message, server));
    assert_int_equal(wire_allow(server->wire, &stranger.public_key, 1), ERR_OK);
    send_ok(client, NULL, "after", NULL);
    assert_true(run_until(has_bad, server));
    assert_int_equal(server->messages, 1);
    assert_int_equal(open_tcp_client(2, &friend, &ours.public_key), ERR_OK);
    assert_int_equal(open_tcp_client(3, &stranger, &ours.public_key), ERR_OK);
    assert_true(run_until(is_connected, &world.ends[3]));
    assert_true(run_until(is_broken, other)); /* refused, and told so */

    struct wire_key broken = {"not a key"};
    assert_int_equal(wire_allow(server->wire, &broken, 1), ERR_SETTINGS);
    struct wire_key both[] = {stranger.public_key, friend.public_key};
    assert_int_equal(wire_allow(server->wire, both, 2), ERR_OK);
    send_ok(client, NULL, "again", NULL);
    server->messages = 0;
    assert_true(run_until(has_message, server));
    wire_free(&other->wire);
    assert_int_equal(open_tcp_client(2, &friend, &ours.public_key), ERR_OK);
    assert_true(run_until(is_connected, other));
}

static int connect_raw(const char *endpoint)
{
    int port = atoi(strrchr(endpoint, ':') + 1);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static bool strangers_have_gone(void *arg)
{
    return server->strangers >= 500;
}

/* ZMTP/1.0 takes raw bytes for messages where no mechanism stands before it. */
static void forged_frames_are_never_delivered(void **state)
{
    static const uint8_t old_greeting[] = {3, 0, 'W', '1', 6, 1, 'E', 'V', 'I', 'L', '!', 1, 0};
    static const uint8_t null_greeting[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'};
    static const uint8_t ready[] = {4, 5, 5, 'R', 'E', 'A', 'D', 'Y', 1, 1, 'h', 0, 1, 'b'};
    uint8_t junk[96];
    srandom(7);
    for (unsigned i = 0; i < 500; i++) {
        int fd = connect_raw(wire_endpoint(server->wire));
        for (size_t k = 0; k < sizeof junk; k++)
            junk[k] = (uint8_t)random();
        if (i % 5 == 0)
            send(fd, old_greeting, sizeof old_greeting, MSG_NOSIGNAL);
        else if (i % 5 == 1) {
            send(fd, null_greeting, sizeof null_greeting, MSG_NOSIGNAL);
            send(fd, ready, sizeof ready, MSG_NOSIGNAL);
        } else if (i % 5 == 2)
            send(fd, "GET / HTTP/1.1\r\nHost: quern\r\n\r\n", 32, MSG_NOSIGNAL);
        else
            send(fd, junk, 1 + (size_t)random() % sizeof junk, MSG_NOSIGNAL);
        close(fd);
    }
    assert_int_equal(open_tcp_client(1, &friend, &ours.public_key), ERR_OK);
    assert_true(run_until(is_connected, client));
    send_ok(client, NULL, "a friend's", NULL);
    assert_true(run_until(has_message, server));
    assert_true(run_until(strangers_have_gone, NULL));
    wire_free(&client->wire);
    run_for(300, never, NULL);
    assert_int_equal(server->strangers, 500); /* the friend that left was none */
    assert_int_equal(server->messages, 1);
    assert_int_equal(server->bad, 0);
    assert_memory_equal(server->header, "a friend's", 10);
}

static bool is_closed(void *arg)
{
    char c;
    ssize_t n = recv(*(int *)arg, &c, 1, MSG_DONTWAIT);
    loop_again(world.loop);
    return n == 0 || (n < 0 && errno != EAGAIN);
}

static void a_silent_connection_is_closed(void **state)
{
    int fd = connect_raw(wire_endpoint(server->wire));
    char greeting[64];
    recv(fd, greeting, sizeof greeting, 0); /* it speaks first */
    msec from = clock_mono();
    assert_true(run_until(is_closed, &fd));
    assert_true(clock_mono() - from < 4000);
    close(fd);
}

/* --- the feed ------------------------------------------------------------------------------------------------------------- */

static bool publish(void *arg)
{
    loop_again(world.loop);
    assert_int_equal(wire_send(server->wire, NULL, bytes("change"), NULL), ERR_OK);
    return client->messages > 0;
}

static void a_feed_reaches_its_subscriber(void **state)
{
    assert_int_equal(open_wire(0, (struct wire_options){.kind = WIRE_PUB, .bind = true, .endpoint = ipc("feed")}), ERR_OK);
    assert_int_equal(open_wire(1, (struct wire_options){.kind = WIRE_SUB, .endpoint = ipc("feed")}), ERR_OK);
    assert_true(run_until(publish, NULL));
    assert_memory_equal(client->header, "change", 6);
    assert_int_equal(client->connected, 1);
}

static void a_feed_without_listeners_never_blocks(void **state)
{
    assert_int_equal(open_wire(0, (struct wire_options){.kind = WIRE_PUB, .bind = true, .endpoint = ipc("feed")}), ERR_OK);
    for (unsigned i = 0; i < 10000; i++)
        assert_int_equal(wire_send(server->wire, NULL, bytes("change"), NULL), ERR_OK);
}

/* --- key files ------------------------------------------------------------------------------------------------------------ */

static void a_key_file_is_written_once_and_read_by_its_owner(void **state)
{
    char path[128];
    snprintf(path, sizeof path, "%s/broker.key", world.dir);
    struct wire_key made, public_key, secret_key;
    assert_int_equal(wire_key_read(path, &public_key, &secret_key), ERR_SETTINGS);
    assert_int_equal(wire_key_make(path, &made), ERR_OK);
    assert_int_equal(mode_of(path), S_IFREG | 0600);
    assert_int_equal(wire_key_make(path, &made), ERR_SYSTEM);
    assert_int_equal(wire_key_read(path, &public_key, &secret_key), ERR_OK);
    assert_string_equal(public_key.text, made.text);
    char derived[41];
    assert_int_equal(zmq_curve_public(derived, secret_key.text), 0);
    assert_string_equal(derived, public_key.text);
    zcert_t *cert = zcert_load(path); /* czmq reads it as its own */
    assert_non_null(cert);
    assert_string_equal(zcert_public_txt(cert), public_key.text);
    zcert_destroy(&cert);

    chmod(path, 0640);
    assert_int_equal(wire_key_read(path, &public_key, &secret_key), ERR_SETTINGS);
    chmod(path, 0600);
    assert_int_equal(truncate(path, 120), 0);
    assert_int_equal(wire_key_read(path, &public_key, &secret_key), ERR_SETTINGS);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "peer") == 0)
        return be_a_peer(argv[2]);
#define IPC(test) cmocka_unit_test_setup_teardown(test, begin, end)
#define TCP(test) cmocka_unit_test_setup_teardown(test, begin_tcp, end)
    const struct CMUnitTest tests[] = {
        IPC(ipc_carries_both_ways),
        IPC(a_large_body_is_referenced_until_sent),
        IPC(unsent_bodies_are_let_go_when_freed),
        IPC(nothing_queues_for_a_peer_that_is_away),
        IPC(what_is_larger_than_the_other_side_takes_is_not_sent),
        IPC(an_ipc_socket_is_ours_alone),
        IPC(a_directory_open_to_others_is_refused),
        IPC(a_stale_socket_is_replaced_and_a_successors_left_alone),
        IPC(bad_endpoints_are_refused),
        IPC(no_message_waits_for_another_to_arrive),
        IPC(what_arrives_while_sending_is_not_forgotten),
        IPC(an_idle_wire_lets_the_loop_sleep),
        IPC(only_two_parts_are_delivered),
        IPC(a_part_over_the_limit_breaks_that_connection_only),
        IPC(a_killed_peer_is_unreachable_within_milliseconds),
        IPC(a_dealer_hears_that_its_router_is_gone),
        IPC(an_unknown_route_is_unreachable),
        IPC(a_goodbye_gets_time_to_leave),
        IPC(tcp_without_keys_is_refused),
        TCP(tcp_carries_both_ways_and_names_the_sender),
        TCP(an_unknown_key_gets_nothing_through),
        TCP(the_lists_of_two_sockets_are_two),
        TCP(a_revoked_key_is_ignored_and_then_refused),
        TCP(forged_frames_are_never_delivered),
        TCP(a_silent_connection_is_closed),
        IPC(a_feed_reaches_its_subscriber),
        IPC(a_feed_without_listeners_never_blocks),
        IPC(a_key_file_is_written_once_and_read_by_its_owner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
