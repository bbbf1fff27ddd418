/* Which Redis is the master: Sentinels and Redises played by servers in this loop that say what the test wants them to say. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/redis.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/fault_malloc.h"

#define PATIENCE_MS 10000
#define SERVERS     4

/* A server of either kind. */
static struct server {
    struct evconnlistener *listener;
    int port;
    const char *role;     /* as a Redis: "master", "slave" */
    int names;            /* as a Sentinel: the port of the master it names; 0: it knows none; −1: it does not answer */
    int epoch;            /* of its configuration */
    const char *asks_for; /* password; NULL: none */
    unsigned connections, questions, pings;
} servers[SERVERS];

static struct world {
    struct loop *loop;
    struct timer *patience;
    struct redis *redis;
    bool (*done)(void);
    unsigned ups, downs;
    char reason[160];
    unsigned open; /* connections, at the servers */
    bool late;
} w;

/* ---- servers ---- */

static void say(struct bufferevent *bev, const char *format, ...) PRINTF(2, 3);
static void say(struct bufferevent *bev, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    evbuffer_add_vprintf(bufferevent_get_output(bev), format, args);
    va_end(args);
}

static void answer(struct server *s, struct bufferevent *bev, char words[8][128], int count)
{
    char text[16];
    if (strcmp(words[0], "HELLO") == 0 && s->asks_for && (count < 5 || strcmp(words[4], s->asks_for) != 0)) {
        say(bev, "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    } else if (strcmp(words[0], "HELLO") == 0) {
        say(bev, "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$4\r\nrole\r\n$%zu\r\n%s\r\n", strlen(s->role), s->role);
    } else if (strcmp(words[0], "PING") == 0) {
        s->pings++;
        say(bev, "+PONG\r\n");
    } else if (s->names < 0) {
        s->questions++;
    } else if (strcmp(words[1], "get-master-addr-by-name") == 0) {
        s->questions++;
        snprintf(text, sizeof text, "%d", s->names);
        assert_string_equal(words[2], "q0");
        if (s->names)
            say(bev, "*2\r\n$9\r\n127.0.0.1\r\n$%zu\r\n%s\r\n", strlen(text), text);
        else
            say(bev, "*-1\r\n");
    } else if (!s->names) {
        say(bev, "-ERR No such master with that name\r\n");
    } else {
        snprintf(text, sizeof text, "%d", s->epoch);
        say(bev, "*4\r\n$4\r\nname\r\n$2\r\nq0\r\n$12\r\nconfig-epoch\r\n$%zu\r\n%s\r\n", strlen(text), text);
    }
}

static char *line(struct evbuffer *in)
{
    return evbuffer_readln(in, NULL, EVBUFFER_EOL_CRLF);
}

/* What is sent to loopback in one write arrives in one piece. */
static void on_bytes(struct bufferevent *bev, void *arg)
{
    struct evbuffer *in = bufferevent_get_input(bev);
    char *head;
    while ((head = line(in))) {
        char words[8][128] = {{0}};
        int count = atoi(head + 1);
        free(head);
        assert_in_range(count, 1, 8);
        for (int i = 0; i < count; i++) {
            free(line(in));
            char *word = line(in);
            assert_non_null(word);
            snprintf(words[i], sizeof words[i], "%s", word);
            free(word);
        }
        answer(arg, bev, words, count);
    }
}

static void on_end(struct bufferevent *bev, short what, void *arg)
{
    bufferevent_free(bev);
    w.open--;
}

static void on_connection(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int len, void *arg)
{
    struct server *s = arg;
    struct bufferevent *bev = bufferevent_socket_new(loop_base(w.loop), fd, BEV_OPT_CLOSE_ON_FREE);
    s->connections++;
    w.open++;
    bufferevent_setcb(bev, on_bytes, NULL, on_end, s);
    bufferevent_enable(bev, EV_READ | EV_WRITE);
}

static int start_server(unsigned i, const char *role)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    struct server *s = &servers[i];
    s->role = role;
    s->listener = evconnlistener_new_bind(loop_base(w.loop), on_connection, s, LEV_OPT_CLOSE_ON_FREE, 16,
                                          (struct sockaddr *)&address, sizeof address);
    assert_non_null(s->listener);
    getsockname(evconnlistener_get_fd(s->listener), (struct sockaddr *)&address, &len);
    return s->port = ntohs(address.sin_port);
}

static void start_sentinel(unsigned i, int names, int epoch)
{
    start_server(i, "sentinel");
    servers[i].names = names;
    servers[i].epoch = epoch;
}

/* ---- the client ---- */

static void turn(void *arg)
{
    if (w.done && w.done())
        loop_stop(w.loop);
}

static void out_of_patience(void *arg)
{
    w.late = true;
    loop_stop(w.loop);
}

static bool run_for(msec ms, bool (*done)(void))
{
    w.done = done;
    w.late = false;
    timer_set(w.patience, clock_mono() + ms);
    loop_run(w.loop);
    timer_set(w.patience, MSEC_NEVER);
    return !w.late;
}

static void on_up(void *arg)
{
    w.ups++;
}
static void on_down(void *arg, const char *reason)
{
    w.downs++;
    snprintf(w.reason, sizeof w.reason, "%s", reason);
}

/* sentinels: indexes of servers. */
static void connect_by(const char *password, unsigned count, ...)
{
    char addresses[256] = "";
    va_list args;
    va_start(args, count);
    for (unsigned i = 0; i < count; i++)
        snprintf(addresses + strlen(addresses), sizeof addresses - strlen(addresses), "%s127.0.0.1:%d", i ? ", " : "",
                 servers[va_arg(args, unsigned)].port);
    va_end(args);
    struct redis_options options = {.sentinels = addresses, .master = "q0", .sentinel_password = password};
    w.redis = redis_new(w.loop, &options, (struct redis_hooks){on_up, on_down, NULL});
    assert_non_null(w.redis);
}

static struct server *pinged;
static unsigned pings_before;
static bool is_pinged(void)
{
    return pinged->pings > pings_before;
}

/* It is this Redis that commands reach. */
static void expect_at(unsigned i)
{
    const struct span ping = span_str("PING");
    pinged = &servers[i];
    pings_before = pinged->pings;
    assert_int_equal(redis_command(w.redis, NULL, NULL, &ping, 1), ERR_OK);
    assert_true(run_for(PATIENCE_MS, is_pinged));
}

static bool is_up(void)
{
    return redis_is_up(w.redis);
}
static bool is_up_again(void)
{
    return w.ups >= 2 && redis_is_up(w.redis);
}
static bool is_down(void)
{
    return w.downs > 0;
}
static bool never(void)
{
    return false;
}

static int begin(void **state)
{
    memset(servers, 0, sizeof servers);
    w = (struct world){0};
    w.loop = loop_new(turn, NULL);
    w.patience = timer_new(w.loop, out_of_patience, NULL);
    return 0;
}

static bool all_closed(void)
{
    return w.open == 0;
}

static int end(void **state)
{
    redis_free(&w.redis);
    run_for(PATIENCE_MS, all_closed); /* the servers hear of it */
    for (unsigned i = 0; i < SERVERS; i++)
        if (servers[i].listener)
            evconnlistener_free(servers[i].listener);
    timer_free(&w.patience);
    loop_free(&w.loop);
    return 0;
}

/* ---- tests ---- */

static void the_master_they_name_is_connected_to(void **state)
{
    start_sentinel(0, start_server(1, "master"), 1);
    connect_by(NULL, 1, 0u);
    assert_true(run_for(PATIENCE_MS, is_up));
    expect_at(1);
}

static void one_that_is_not_there_and_one_that_is_silent_hold_nothing_up(void **state)
{
    int master = start_server(3, "master");
    start_sentinel(0, -1, 1);
    start_sentinel(1, master, 1);
    start_sentinel(2, master, 1);
    evconnlistener_free(servers[2].listener); /* its port refuses */
    servers[2].listener = NULL;
    connect_by(NULL, 3, 2u, 0u, 1u);
    assert_true(run_for(1000, is_up));
    expect_at(3);
}

static void a_replica_behind_the_name_is_not_used(void **state)
{
    start_sentinel(0, start_server(1, "slave"), 1);
    connect_by(NULL, 1, 0u);
    assert_false(run_for(500, is_up));
    assert_true(servers[1].connections > 0);
    servers[1].role = "master"; /* promoted */
    assert_true(run_for(PATIENCE_MS, is_up));
}

/* The old master answers still, and is wrong. */
static void a_connection_in_order_is_left_when_they_name_another(void **state)
{
    start_sentinel(0, start_server(1, "master"), 1);
    int second = start_server(2, "master");
    connect_by(NULL, 1, 0u);
    assert_true(run_for(PATIENCE_MS, is_up));
    servers[0].names = second;
    servers[0].epoch = 2;
    assert_true(run_for(2500, is_up_again));
    assert_int_equal(w.downs, 1);
    assert_string_equal(w.reason, "the Sentinels name another master");
    expect_at(2);
}

/* It is cut off together with the old master, and they are both sure of themselves. */
static void a_sentinel_that_knows_no_better_is_not_heard(void **state)
{
    int old = start_server(2, "master"), new = start_server(3, "master");
    start_sentinel(0, old, 1);
    start_sentinel(1, old, 1);
    connect_by(NULL, 2, 0u, 1u);
    assert_true(run_for(PATIENCE_MS, is_up));
    servers[1].names = new;
    servers[1].epoch = 2;
    assert_true(run_for(2500, is_up_again));
    unsigned questions = servers[0].questions;
    assert_false(run_for(2500, never));
    assert_true(servers[0].questions > questions); /* it went on saying what it knows */
    assert_int_equal(w.downs, 1);
    expect_at(3);
}

static void sentinels_that_were_set_up_anew_are_heard_after_a_while(void **state)
{
    int master = start_server(1, "master"), other = start_server(2, "master");
    start_sentinel(0, master, 7);
    connect_by(NULL, 1, 0u);
    assert_true(run_for(PATIENCE_MS, is_up));
    servers[0].names = other;
    servers[0].epoch = 0;
    assert_false(run_for(5000, is_down));
    assert_true(run_for(PATIENCE_MS, is_up_again));
    expect_at(2);
}

static void a_name_they_do_not_know_is_no_connection(void **state)
{
    start_sentinel(0, 0, 1);
    connect_by(NULL, 1, 0u);
    assert_false(run_for(2500, is_up));
    assert_string_equal(redis_reason(w.redis), "no Sentinel says where the master is");
    servers[0].names = start_server(1, "master");
    assert_true(run_for(PATIENCE_MS, is_up));
}

static void their_password_is_theirs_alone(void **state)
{
    start_sentinel(0, start_server(1, "master"), 1);
    servers[0].asks_for = "sesame";
    servers[1].asks_for = NULL;
    connect_by("sesame", 1, 0u);
    assert_true(run_for(PATIENCE_MS, is_up));
    redis_free(&w.redis);
    w.ups = 0;
    connect_by("wrong", 1, 0u);
    assert_false(run_for(500, is_up));
}

static void it_may_be_freed_at_any_moment(void **state)
{
    start_sentinel(0, start_server(1, "master"), 1);
    for (msec ms = 0; ms < 20; ms++) {
        connect_by(NULL, 1, 0u);
        run_for(ms, never);
        redis_free(&w.redis);
    }
}

/* Refused at its making it is not made, and nothing is left of it. */
static void memory_refused_is_said_and_nothing_is_left(void **state)
{
    start_sentinel(0, start_server(1, "master"), 1);
    char addresses[64];
    snprintf(addresses, sizeof addresses, "127.0.0.1:%d", servers[0].port);
    const struct redis_options options = {.sentinels = addresses, .master = "q0"};
    long made = 0;
    for (bool untouched = false; !untouched; made++) {
        fault_arm(made + 1, false);
        w.redis = redis_new(w.loop, &options, (struct redis_hooks){on_up, on_down, NULL});
        untouched = !fault_disarm();
        if (!untouched)
            redis_free(&w.redis); /* some are refused to what is tried again */
    }
    assert_true(made > 8);
    assert_true(run_for(PATIENCE_MS, is_up));
}

int main(void)
{
#define SENTINEL(test) cmocka_unit_test_setup_teardown(test, begin, end)
    const struct CMUnitTest tests[] = {
        SENTINEL(the_master_they_name_is_connected_to),
        SENTINEL(one_that_is_not_there_and_one_that_is_silent_hold_nothing_up),
        SENTINEL(a_replica_behind_the_name_is_not_used),
        SENTINEL(a_connection_in_order_is_left_when_they_name_another),
        SENTINEL(a_sentinel_that_knows_no_better_is_not_heard),
        SENTINEL(sentinels_that_were_set_up_anew_are_heard_after_a_while),
        SENTINEL(a_name_they_do_not_know_is_no_connection),
        SENTINEL(their_password_is_theirs_alone),
        SENTINEL(it_may_be_freed_at_any_moment),
        SENTINEL(memory_refused_is_said_and_nothing_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
