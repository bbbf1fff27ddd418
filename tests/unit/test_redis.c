/* common/redis against a real redis-server in a directory of its own, and against a server in this loop that says what the test
 * wants it to say. Everything waits for events; ten seconds without the awaited one fail the test. */
#include "common/redis.h"

#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/event_struct.h>
#include <fcntl.h>
#include <ftw.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/dial.h"
#include "common/log.h"

#define PATIENCE_MS 10000

/* ---- what every test stands on ---- */

static struct world {
    char dir[64];
    char socket[96];
    pid_t server;
    struct loop *loop;
    struct timer *patience;
    struct redis *redis;
    bool (*done)(void);
    int ups, downs;
    char reason[160];    /* of the last down */
    void (*on_up)(void); /* what the test does in the hook */
    void (*on_turn)(void);
    bool in_callback; /* still set in teardown: an assertion failed there, and nothing of redis is to be touched any more */
} w;

static void turn(void *arg)
{
    if (w.on_turn)
        w.on_turn();
    if (w.done && w.done())
        loop_stop(w.loop);
}

static void out_of_patience(void *arg)
{
    fail_msg("what was awaited did not come; redis: up=%d reason=%s", w.redis && redis_is_up(w.redis),
             w.redis ? redis_reason(w.redis) : "");
}

static void run_until(bool (*done)(void))
{
    w.done = done;
    timer_set(w.patience, clock_mono() + PATIENCE_MS);
    loop_run(w.loop);
    timer_set(w.patience, MSEC_NEVER);
    w.done = NULL;
}

static void up(void *arg)
{
    w.in_callback = true;
    w.ups++;
    if (w.on_up)
        w.on_up();
    w.in_callback = false;
}

static void down(void *arg, const char *reason)
{
    w.in_callback = true;
    w.downs++;
    assert_int_equal(w.downs, w.ups);
    assert_int_equal(redis_pending(w.redis), 0);
    snprintf(w.reason, sizeof w.reason, "%s", reason);
    w.in_callback = false;
}

static bool is_up(void)
{
    return redis_is_up(w.redis);
}
static bool is_down_again(void)
{
    return w.ups > 0 && w.downs == w.ups;
}
static bool has_reason(void)
{
    return redis_reason(w.redis)[0];
}
static const char *wanted;
static bool has_wanted_reason(void)
{
    return strstr(redis_reason(w.redis), wanted);
}
static bool was_up_twice(void)
{
    return w.ups == 2;
}

static void run_until_reason(const char *why)
{
    wanted = why;
    run_until(has_wanted_reason);
}

static void connect_with(struct redis_options options)
{
    w.redis = redis_new(w.loop, &options, (struct redis_hooks){up, down, NULL});
    assert_non_null(w.redis);
}

static void connect_socket(void)
{
    connect_with((struct redis_options){.socket = w.socket, .reply_timeout_ms = 5000});
}

static int setup(void **state)
{
    memset(&w, 0, sizeof w);
    strcpy(w.dir, "/tmp/quern-redis-XXXXXX");
    assert_non_null(mkdtemp(w.dir));
    snprintf(w.socket, sizeof w.socket, "%s/s", w.dir);
    w.loop = loop_new(turn, NULL);
    w.patience = timer_new(w.loop, out_of_patience, NULL);
    return 0;
}

static void kill_server(void)
{
    if (w.server > 0) {
        kill(w.server, SIGKILL);
        waitpid(w.server, NULL, 0);
    }
    w.server = 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void fake_stop(void);

static int teardown(void **state)
{
    kill_server();
    if (!w.in_callback) {
        redis_free(&w.redis);
        fake_stop();
        timer_free(&w.patience);
        loop_free(&w.loop);
    }
    nftw(w.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}

/* ---- a real server ---- */

static void start_server(const char *const *more)
{
    const char *argv[40] = {"redis-server", "--port", "0",         "--unixsocket", w.socket, "--save", "",
                            "--dir",        w.dir,    "--logfile", "log"};
    size_t argc = 11;
    while (more && *more)
        argv[argc++] = *more++;
    w.server = fork();
    assert_true(w.server >= 0);
    if (w.server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
}

/* ---- commands and what came back ---- */

#define REPLIES 4096
static struct {
    int count, nulls, errors;
    char last[256]; /* text of the last reply, or its number */
    size_t last_bytes;
    int order[REPLIES]; /* the tags in the order of their replies */
    void (*on_each)(int tag, const redisReply *reply);
} got;

static void on_reply(void *arg, const redisReply *reply)
{
    int tag = (int)(intptr_t)arg;
    w.in_callback = true;
    assert_true(got.count < REPLIES);
    got.order[got.count++] = tag;
    got.nulls += !reply;
    got.errors += reply && reply->type == REDIS_REPLY_ERROR;
    got.last_bytes = reply && reply->str ? (size_t)reply->len : 0;
    if (reply && reply->str)
        snprintf(got.last, sizeof got.last, "%.200s", reply->str);
    else if (reply)
        snprintf(got.last, sizeof got.last, "%lld", reply->integer);
    if (got.on_each)
        got.on_each(tag, reply);
    w.in_callback = false;
}

static enum err send_spans(int tag, const struct span *argv, size_t argc)
{
    return redis_command(w.redis, on_reply, (void *)(intptr_t)tag, argv, argc);
}

/* Words separated by blanks. */
static enum err send_text(int tag, const char *text)
{
    struct span argv[16];
    size_t argc = 0;
    while (*text) {
        size_t len = strcspn(text, " ");
        argv[argc++] = span_of(text, len);
        text += len + (text[len] == ' ');
    }
    return send_spans(tag, argv, argc);
}

static bool all_answered(void)
{
    return redis_pending(w.redis) == 0;
}

static const char *ask(const char *text)
{
    assert_int_equal(send_text(0, text), ERR_OK);
    run_until(all_answered);
    return got.last;
}

/* ---- tests with the real server ---- */

static void test_replies_come_in_order(void **state)
{
    memset(&got, 0, sizeof got);
    connect_socket(); /* before the server is there: it is tried again until it is */
    run_until(has_reason);
    start_server(NULL);
    assert_int_equal(send_text(0, "PING"), ERR_CLOSED);
    run_until(is_up);
    assert_string_equal(redis_reason(w.redis), "");
    assert_string_equal(ask("PING"), "PONG");
    got.count = 0;
    for (int i = 0; i < 3000; i++)
        assert_int_equal(send_text(i, "INCR n"), ERR_OK);
    assert_int_equal(redis_pending(w.redis), 3000);
    redis_flush(w.redis);
    run_until(all_answered);
    assert_int_equal(got.count, 3000);
    for (int i = 0; i < 3000; i++)
        assert_int_equal(got.order[i], i);
    assert_string_equal(got.last, "3000");
    assert_int_equal(w.downs, 0);
}

static void test_error_replies_are_replies(void **state)
{
    memset(&got, 0, sizeof got);
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    ask("NONSENSE");
    assert_int_equal(got.errors, 1);
    assert_non_null(strstr(got.last, "unknown command"));
    assert_string_equal(ask("CONFIG SET maxmemory 1"), "OK");
    ask("SET a b");
    assert_non_null(strstr(got.last, "OOM"));
    assert_int_equal(redis_command(w.redis, NULL, NULL, (struct span[]){span_str("PING")}, 1), ERR_OK);
    run_until(all_answered);
    assert_int_equal(w.downs, 0);
}

static bool checked_value;
static void check_value(int tag, const redisReply *reply)
{
    const size_t size = 8 << 20;
    if (tag != 2)
        return;
    assert_int_equal(reply->len, size);
    for (size_t i = 0; i < size; i += 4096)
        assert_int_equal((uint8_t)reply->str[i], (uint8_t)(i >> 12));
    checked_value = true;
}

/* Larger than every buffer on the way, with bytes of all values. */
static void send_and_fetch_large_value(void)
{
    memset(&got, 0, sizeof got);
    got.on_each = check_value;
    checked_value = false;
    size_t size = 8 << 20;
    uint8_t *value = malloc(size);
    for (size_t i = 0; i < size; i++)
        value[i] = (uint8_t)(i >> 12);
    assert_int_equal(send_spans(1, (struct span[]){span_str("SET"), span_str("k"), span_of(value, size)}, 3), ERR_OK);
    free(value);
    assert_int_equal(send_text(2, "GET k"), ERR_OK);
    assert_int_equal(send_spans(3, (struct span[]){span_str("SET"), span_of("\0\r\n", 3), {0}}, 3), ERR_OK);
    assert_int_equal(send_spans(4, (struct span[]){span_str("STRLEN"), span_of("\0\r\n", 3)}, 2), ERR_OK);
    run_until(all_answered);
    assert_true(checked_value);
    assert_string_equal(got.last, "0");
    got.on_each = NULL;
}

static void test_large_values_pass_whole(void **state)
{
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    send_and_fetch_large_value();
}

static void test_output_leaves_without_a_flush(void **state)
{
    memset(&got, 0, sizeof got);
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    assert_int_equal(send_text(7, "PING"), ERR_OK);
    run_until(all_answered);
    assert_int_equal(got.count, 1);
}

static void first_on_connection(void)
{
    assert_int_equal(send_text(-1, "PING first"), ERR_OK);
}

static void test_death_of_redis_answers_everything_once(void **state)
{
    memset(&got, 0, sizeof got);
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    kill(w.server, SIGSTOP); /* so that all of it is under way when it dies */
    for (int i = 0; i < 500; i++)
        assert_int_equal(send_text(i, "INCR n"), ERR_OK);
    redis_flush(w.redis);
    kill_server();
    run_until(is_down_again);
    assert_int_equal(got.count, 500);
    assert_int_equal(got.nulls, 500);
    for (int i = 0; i < 500; i++)
        assert_int_equal(got.order[i], i);
    assert_int_equal(redis_pending(w.redis), 0);
    assert_false(redis_is_up(w.redis));
    assert_true(w.reason[0]);

    w.on_up = first_on_connection;
    start_server(NULL);
    run_until(was_up_twice);
    run_until(all_answered);
    assert_int_equal(got.count, 501);
    assert_string_equal(got.last, "first");
    assert_string_equal(ask("GET n"), "0"); /* nothing was sent again: nil has integer 0 */
}

static void test_silence_breaks_the_connection(void **state)
{
    memset(&got, 0, sizeof got);
    start_server(NULL);
    connect_with((struct redis_options){.socket = w.socket, .reply_timeout_ms = 150, .connect_timeout_ms = 150});
    run_until(is_up);
    kill(w.server, SIGSTOP);
    msec before = clock_mono();
    assert_int_equal(send_text(1, "PING"), ERR_OK);
    assert_int_equal(send_text(2, "PING"), ERR_OK);
    run_until(is_down_again);
    assert_in_range(clock_mono() - before, 150, 5000);
    assert_int_equal(got.nulls, 2);
    assert_non_null(strstr(w.reason, "in time"));
    /* Connecting to a stopped server works as far as its backlog goes; only its answer proves that it is there. */
    run_until_reason("HELLO");
    assert_int_equal(w.ups, 1);
    kill(w.server, SIGCONT);
    run_until(was_up_twice);
    assert_string_equal(ask("PING"), "PONG");
}

static void test_user_password_and_db(void **state)
{
    static const char *const acl[] = {"--user", "quern",  "on",      ">secret", "+@all", "-select",
                                      "~*",     "--user", "default", "off",     NULL};
    memset(&got, 0, sizeof got);
    start_server(acl);
    connect_with((struct redis_options){.socket = w.socket, .user = "quern", .password = "wrong"});
    run_until_reason("WRONGPASS");
    assert_int_equal(w.ups, 0);
    assert_int_equal(w.downs, 0);
    redis_free(&w.redis);

    connect_with((struct redis_options){.socket = w.socket});
    run_until_reason("NOAUTH");
    redis_free(&w.redis);

    connect_with((struct redis_options){.socket = w.socket, .user = "quern", .password = "secret"});
    run_until(is_up);
    assert_string_equal(ask("ACL WHOAMI"), "quern");
    redis_free(&w.redis);

    connect_with((struct redis_options){.socket = w.socket, .user = "quern", .password = "secret", .db = 3});
    run_until_reason("NOPERM");
    assert_int_equal(w.ups, 1);
}

static void test_select(void **state)
{
    start_server(NULL);
    connect_with((struct redis_options){.socket = w.socket, .db = 3});
    run_until(is_up);
    assert_non_null(strstr(ask("CLIENT INFO"), " db=3 "));
}

/* HELLO is answered while Redis loads, so that the owner learns of LOADING as an answer to its own command. */
static void test_loading_is_an_error_reply(void **state)
{
    static const char *const whole[] = {"--rdbcompression", "no", NULL};
    static const char *const slowly[] = {"--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024", NULL};
    memset(&got, 0, sizeof got);
    start_server(whole);
    connect_socket();
    run_until(is_up);
    char value[2048];
    memset(value, 'v', sizeof value);
    for (int i = 0; i < 40; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        assert_int_equal(send_spans(0, (struct span[]){span_str("SET"), span_str(key), span_of(value, sizeof value)}, 3),
                         ERR_OK);
    }
    assert_string_equal(ask("SAVE"), "OK");
    kill_server();
    run_until(is_down_again);
    start_server(slowly);
    run_until(was_up_twice);
    ask("GET k1");
    assert_non_null(strstr(got.last, "LOADING"));
}

/* ---- a server in this loop ---- */

static struct fake {
    int listen_fd;
    struct event accept_event;
    struct bufferevent *peer;
    const char *greeting; /* what HELLO gets; NULL: silence */
    const char *say;      /* what the first command after it gets; NULL: silence */
    size_t say_len;
    size_t say_next; /* of single bytes, one per turn */
    bool in_single_bytes, close_after;
    int commands; /* of this connection */
} fake = {.listen_fd = -1};

static void fake_hang_up(void)
{
    if (fake.peer)
        bufferevent_free(fake.peer);
    fake.peer = NULL;
}

static void fake_stop(void)
{
    fake_hang_up();
    if (fake.listen_fd >= 0) {
        event_del(&fake.accept_event);
        close(fake.listen_fd);
    }
    memset(&fake, 0, sizeof fake);
    fake.listen_fd = -1;
}

static void fake_said(struct bufferevent *peer, void *arg)
{
    if (fake.close_after && fake.commands)
        fake_hang_up();
}

static void fake_says_a_byte(void)
{
    if (fake.commands && fake.say_next < fake.say_len)
        assert_int_equal(write(bufferevent_getfd(fake.peer), fake.say + fake.say_next++, 1), 1);
}

static void fake_heard(struct bufferevent *peer, void *arg)
{
    char bytes[65536] = "";
    size_t len = bufferevent_read(peer, bytes, sizeof bytes - 1);
    bytes[len] = '\0';
    if (strstr(bytes, "HELLO")) {
        if (fake.greeting)
            bufferevent_write(peer, fake.greeting, strlen(fake.greeting));
        return;
    }
    if (!fake.in_single_bytes && fake.commands == 0 && fake.say)
        bufferevent_write(peer, fake.say, fake.say_len);
    fake.commands++;
}

static void fake_lost(struct bufferevent *peer, short what, void *arg)
{
    fake_hang_up();
}

static void fake_accept(evutil_socket_t fd, short what, void *arg)
{
    fake_hang_up();
    int peer_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    fake.peer = bufferevent_socket_new(loop_base(w.loop), peer_fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(fake.peer, fake_heard, fake_said, fake_lost, NULL);
    bufferevent_enable(fake.peer, EV_READ | EV_WRITE);
    fake.commands = 0;
}

#define HELLO_REPLY "*2\r\n$6\r\nserver\r\n$5\r\nredis\r\n"

static void fake_start_at(const struct sockaddr *address, socklen_t len)
{
    fake.listen_fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fake.listen_fd, address, len), 0);
    assert_int_equal(listen(fake.listen_fd, 8), 0);
    event_assign(&fake.accept_event, loop_base(w.loop), fake.listen_fd, EV_READ | EV_PERSIST, fake_accept, NULL);
    event_add(&fake.accept_event, NULL);
    fake.greeting = HELLO_REPLY;
}

static void fake_start(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, w.socket);
    fake_start_at((struct sockaddr *)&address, sizeof address);
}

static unsigned fake_start_tcp(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fake_start_at((struct sockaddr *)&address, sizeof address);
    socklen_t len = sizeof address;
    getsockname(fake.listen_fd, (struct sockaddr *)&address, &len);
    return ntohs(address.sin_port);
}

/* The connection comes up, three commands are given, the fake says `say` to them; then it must break for a reason with `why`,
 * and `answered` of the three must have had a real reply. */
static bool closes_after;
static void expect_break(const char *say, size_t len, const char *why, int answered)
{
    memset(&got, 0, sizeof got);
    fake_start();
    fake.say = say;
    fake.say_len = len;
    fake.close_after = closes_after;
    connect_with((struct redis_options){.socket = w.socket, .reply_max_bytes = 1 << 20, .reply_timeout_ms = 5000});
    run_until(is_up);
    for (int i = 0; i < 3; i++)
        assert_int_equal(send_text(i, "GET a"), ERR_OK);
    run_until(is_down_again);
    assert_non_null(strstr(w.reason, why));
    assert_int_equal(got.count, 3);
    assert_int_equal(got.nulls, 3 - answered);
    run_until(was_up_twice); /* and it comes back */
}

#define EXPECT_BREAK(say, why, answered) expect_break(say, sizeof say - 1, why, answered)

static void test_garbage(void **state)
{
    EXPECT_BREAK("HTTP/1.1 400 Bad Request\r\n\r\n", "Protocol error", 0);
}
static void test_resp3_is_refused(void **state)
{
    EXPECT_BREAK("%1\r\n+a\r\n+b\r\n", "Protocol error", 0);
}
static void test_garbage_after_replies(void **state)
{
    EXPECT_BREAK("+a\r\n$3\r\nabc\r\n?\r\n", "Protocol error", 2);
}
static void test_one_reply_too_many(void **state)
{
    EXPECT_BREAK("+a\r\n+b\r\n+c\r\n+d\r\n", "nothing asked", 3);
}
static void test_element_bomb(void **state)
{
    EXPECT_BREAK("*2147483647\r\n", "too many elements", 0);
}
static void test_nested_element_bomb(void **state)
{
    EXPECT_BREAK("*900000\r\n*900000\r\n*900000\r\n", "too many elements", 0);
}
static void test_deep_nesting(void **state)
{
    EXPECT_BREAK("*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n+x\r\n", "No support for nested", 0);
}

static void test_oversize_reply(void **state)
{
    size_t len = 4 << 20;
    char *say = malloc(len);
    memset(say, 'x', len);
    memcpy(say, "+a\r\n$4000000000\r\n", 17);
    expect_break(say, len, "larger than the limit", 1);
    free(say);
}

static void test_end_within_a_reply(void **state)
{
    closes_after = true;
    EXPECT_BREAK("+a\r\n$10\r\nabc", "closed", 1);
    closes_after = false;
}

static void test_many_small_replies_beyond_the_limit_are_fine(void **state)
{
    memset(&got, 0, sizeof got);
    fake_start();
    connect_with((struct redis_options){.socket = w.socket, .reply_max_bytes = 64});
    run_until(is_up);
    static char say[4000 * 5 + 1];
    for (int i = 0; i < 4000; i++)
        memcpy(say + i * 5, "+ok\r\n", 5);
    fake.say = say;
    fake.say_len = 4000 * 5;
    for (int i = 0; i < 4000; i++)
        assert_int_equal(send_text(i, "X"), ERR_OK);
    run_until(all_answered);
    assert_int_equal(got.count, 4000);
    assert_int_equal(w.downs, 0);
}

static void test_reply_in_single_bytes(void **state)
{
    memset(&got, 0, sizeof got);
    fake_start();
    fake.in_single_bytes = true;
    fake.say = "*3\r\n:7\r\n$-1\r\n*1\r\n$5\r\nhello\r\n$6\r\nsecond\r\n";
    fake.say_len = strlen(fake.say);
    connect_socket();
    run_until(is_up);
    w.on_turn = fake_says_a_byte;
    assert_int_equal(send_text(1, "X"), ERR_OK);
    assert_int_equal(send_text(2, "Y"), ERR_OK);
    run_until(all_answered);
    assert_string_equal(got.last, "second");
    assert_int_equal(fake.say_next, fake.say_len);
}

static void test_no_answer_to_hello(void **state)
{
    fake_start();
    fake.greeting = NULL;
    connect_with((struct redis_options){.socket = w.socket, .connect_timeout_ms = 100});
    run_until_reason("HELLO");
    assert_int_equal(w.ups, 0);
    fake.greeting = HELLO_REPLY;
    run_until(is_up);
}

/* It was down without a reason, and nothing was logged. */
static void test_an_empty_error_to_hello_is_told(void **state)
{
    fake_start();
    fake.greeting = "-\r\n";
    connect_with((struct redis_options){.socket = w.socket});
    run_until_reason("without words");
    assert_int_equal(w.ups, 0);
}

/* ---- callbacks that do things ---- */

static void reset_at_1(int tag, const redisReply *reply)
{
    if (tag == 1) {
        assert_non_null(reply);
        redis_reset(w.redis, "the reply makes no sense");
        redis_reset(w.redis, "said once more");
        assert_false(redis_is_up(w.redis));
        assert_int_equal(got.count, 2); /* the others get their NULL when this callback has returned */
    } else {
        assert_int_equal(!reply, tag > 1);
    }
    if (tag >= 1)
        assert_int_equal(send_text(99, "PING"), ERR_CLOSED);
}

static void test_reset_inside_a_reply(void **state)
{
    memset(&got, 0, sizeof got);
    got.on_each = reset_at_1;
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    for (int i = 0; i < 5; i++)
        assert_int_equal(send_text(i, "PING"), ERR_OK);
    run_until(is_down_again);
    assert_int_equal(got.count, 5);
    assert_int_equal(got.nulls, 3);
    assert_string_equal(w.reason, "the reply makes no sense");
    got.on_each = NULL;
    run_until(was_up_twice);
    assert_string_equal(ask("PING"), "PONG");
}

static void reset_at_null(int tag, const redisReply *reply)
{
    if (!reply)
        redis_reset(w.redis, "not this one");
}

static void test_reset_while_it_breaks(void **state)
{
    memset(&got, 0, sizeof got);
    got.on_each = reset_at_null;
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    for (int i = 0; i < 5; i++)
        assert_int_equal(send_text(i, "PING"), ERR_OK);
    redis_reset(w.redis, "from outside"); /* not inside a callback: all is said when it returns */
    assert_int_equal(got.nulls, 5);
    assert_int_equal(w.downs, 1);
    assert_string_equal(w.reason, "from outside");
    redis_reset(w.redis, "again");
    assert_int_equal(w.downs, 1);
    got.on_each = NULL;
    run_until(was_up_twice);
}

static void reset_once(void)
{
    if (w.ups == 1)
        redis_reset(w.redis, "in up");
}

static void test_reset_inside_up(void **state)
{
    w.on_up = reset_once;
    start_server(NULL);
    connect_socket();
    run_until(was_up_twice);
    assert_int_equal(w.downs, 1);
    assert_string_equal(w.reason, "in up");
}

static void ask_more(int tag, const redisReply *reply)
{
    if (tag < 200) {
        assert_int_equal(send_text(tag + 1, "PING"), ERR_OK);
        redis_flush(w.redis);
    }
}

static void test_commands_inside_replies(void **state)
{
    memset(&got, 0, sizeof got);
    got.on_each = ask_more;
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    assert_int_equal(send_text(1, "PING"), ERR_OK);
    run_until(all_answered);
    assert_int_equal(got.count, 200);
    got.on_each = NULL;
}

static void test_free_with_commands_pending(void **state)
{
    memset(&got, 0, sizeof got);
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    for (int i = 0; i < 5; i++)
        assert_int_equal(send_text(i, "PING"), ERR_OK);
    redis_free(&w.redis);
    assert_null(w.redis);
    assert_int_equal(got.count, 0);
    assert_int_equal(w.downs, 0);
    redis_free(&w.redis);
}

/* ---- TCP and TLS ---- */

static bool is_of_this_machine(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool bound = fd >= 0 && bind(fd, address->ai_addr, address->ai_addrlen) == 0;
    if (fd >= 0)
        close(fd);
    return bound;
}

/* Listens at the last of the addresses that `localhost` has: the others are refused first. A container often has none of IPv6,
 * though /etc/hosts names it. */
static unsigned fake_start_at_last_address(void)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    assert_int_equal(getaddrinfo("localhost", NULL, &hints, &found), 0);
    struct addrinfo *last = NULL;
    for (struct addrinfo *each = found; each; each = each->ai_next)
        last = is_of_this_machine(each) ? each : last;
    assert_non_null(last);
    fake_start_at(last->ai_addr, last->ai_addrlen);
    freeaddrinfo(found);
    struct sockaddr_in6 address = {0};
    socklen_t len = sizeof address;
    getsockname(fake.listen_fd, (struct sockaddr *)&address, &len);
    return ntohs(address.sin6_port); /* at the same place in both families */
}

static void test_name_is_resolved(void **state)
{
    memset(&got, 0, sizeof got);
    unsigned port = fake_start_at_last_address();
    fake.say = "+PONG\r\n";
    fake.say_len = 7;
    connect_with((struct redis_options){.host = "localhost", .port = port});
    run_until(is_up);
    assert_string_equal(ask("PING"), "PONG");
    redis_free(&w.redis);
    connect_with((struct redis_options){.host = "name.invalid", .port = port});
    run_until_reason("resolve");
}

static void test_freed_while_resolving(void **state)
{
    connect_with((struct redis_options){.host = "name.invalid", .port = 1, .connect_timeout_ms = 1});
    redis_free(&w.redis);
}

/* It can be read from but not written to: nothing comes, so nothing but the refused write tells. */
static void test_refused_write_breaks_the_connection(void **state)
{
    memset(&got, 0, sizeof got);
    fake_start();
    connect_with((struct redis_options){.socket = w.socket});
    run_until(is_up);
    bufferevent_disable(fake.peer, EV_READ);
    assert_int_equal(shutdown(bufferevent_getfd(fake.peer), SHUT_RD), 0);
    assert_int_equal(send_text(1, "PING"), ERR_OK);
    redis_flush(w.redis);
    assert_int_equal(got.count, 0); /* answered from the loop, not from within the flush */
    run_until(is_down_again);
    assert_int_equal(got.nulls, 1);
    assert_non_null(strstr(w.reason, "write: "));
}

static void test_backoff_grows(void **state)
{
    connect_socket(); /* to nobody */
    msec before = clock_mono();
    run_until(has_reason);
    assert_in_range(clock_mono() - before, 0, 5000);
    fake_start();
    run_until(is_up); /* the first step is at most 50 ms */
    assert_in_range(clock_mono() - before, 20, 5000);
}

/* Certificates made here: an authority, and a server's for 127.0.0.1 and localhost. */
static EVP_PKEY *new_key(void)
{
    return EVP_EC_gen("P-256");
}

static const char *server_names = "IP:127.0.0.1,DNS:localhost";

static X509 *new_certificate(const char *name, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key)
{
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), issuer ? 2 : 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const uint8_t *)name, -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(issuer ? issuer : cert));
    X509_set_pubkey(cert, key);
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer ? issuer : cert, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = issuer ? X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_alt_name, server_names)
                                 : X509V3_EXT_conf_nid(NULL, &ctx, NID_basic_constraints, "critical,CA:TRUE");
    X509_add_ext(cert, ext, -1);
    X509_EXTENSION_free(ext);
    assert_true(X509_sign(cert, issuer ? issuer_key : key, EVP_sha256()) > 0);
    return cert;
}

static void in_dir(char path[128], const char *name)
{
    snprintf(path, 128, "%s/%s", w.dir, name);
}

static void write_pem(const char *name, X509 *cert, EVP_PKEY *key)
{
    char path[128];
    in_dir(path, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(cert ? PEM_write_X509(file, cert) : PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL));
    fclose(file);
}

static void make_certificates(void)
{
    EVP_PKEY *ca_key = new_key(), *key = new_key(), *other_key = new_key();
    X509 *ca = new_certificate("authority", ca_key, NULL, NULL);
    X509 *cert = new_certificate("redis", key, ca, ca_key);
    X509 *other = new_certificate("another authority", other_key, NULL, NULL);
    write_pem("ca", ca, NULL);
    write_pem("cert", cert, NULL);
    write_pem("key", NULL, key);
    write_pem("other", other, NULL);
    X509_free(ca), X509_free(cert), X509_free(other);
    EVP_PKEY_free(ca_key), EVP_PKEY_free(key), EVP_PKEY_free(other_key);
}

static unsigned free_port(void)
{
    unsigned port = fake_start_tcp();
    fake_stop();
    return port;
}

static void expect_reason(const char *why)
{
    run_until_reason(why);
    assert_int_equal(w.ups, 0);
    redis_free(&w.redis);
}

/* A Redis that speaks TLS on a port of this address. */
static unsigned start_tls_server(const char *address)
{
    make_certificates();
    char ca[128], cert[128], key[128], text[16];
    in_dir(ca, "ca"), in_dir(cert, "cert"), in_dir(key, "key");
    unsigned port = free_port();
    snprintf(text, sizeof text, "%u", port);
    start_server((const char *[]){"--tls-port", text, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca,
                                  "--tls-auth-clients", "no", "--bind", address, NULL});
    connect_socket(); /* to know that it is there */
    run_until(is_up);
    redis_free(&w.redis);
    w.ups = 0;
    return port;
}

static void test_tls(void **state)
{
    char ca[128], other[128];
    in_dir(ca, "ca"), in_dir(other, "other");
    unsigned port = start_tls_server("127.0.0.1");
    struct redis_options options = {.host = "127.0.0.1", .port = port, .tls = true, .tls_ca_file = other};
    connect_with(options);
    expect_reason("certificate");
    options.tls_ca_file = NULL; /* the system's do not know it either */
    connect_with(options);
    expect_reason("certificate");
    options.tls_ca_file = "/nonexistent";
    connect_with(options);
    expect_reason("no certificates in /nonexistent");

    options.tls_ca_file = ca;
    options.host = "localhost";
    connect_with(options);
    run_until(is_up);
    redis_free(&w.redis);
    w.ups = 0;
    options.host = "127.0.0.1";
    connect_with(options);
    run_until(is_up);
    send_and_fetch_large_value();
    kill_server();
    run_until(is_down_again);
}

static void test_tls_wrong_address(void **state)
{
    char ca[128];
    in_dir(ca, "ca");
    unsigned port = start_tls_server("127.0.0.2");
    connect_with((struct redis_options){.host = "127.0.0.2", .port = port, .tls = true, .tls_ca_file = ca});
    expect_reason("IP address mismatch");
}

static void test_tls_wrong_name(void **state)
{
    char ca[128];
    in_dir(ca, "ca");
    server_names = "IP:127.0.0.1,DNS:localhost.example";
    unsigned port = start_tls_server("127.0.0.1");
    server_names = "IP:127.0.0.1,DNS:localhost";
    connect_with((struct redis_options){.host = "localhost", .port = port, .tls = true, .tls_ca_file = ca});
    expect_reason("hostname mismatch");
}

/* The stream below, by a reader that takes one byte at a time: what TLS has decrypted, epoll does not tell of. */
static struct dial *dial;
static size_t dial_bytes;
static bool dial_is_open;

static void dial_opened(void *arg)
{
    dial_is_open = true;
}
static void dial_failed(void *arg)
{
    fail_msg("%s", dial_reason(dial));
}
static void dial_readable(void *arg)
{
    char byte;
    size_t len;
    if (dial_read(dial, &byte, 1, &len) == ERR_OK)
        dial_bytes += len;
}

static bool dial_was_opened(void)
{
    return dial_is_open;
}
static bool dial_read_all(void)
{
    return dial_bytes == 7 * 100;
}

static void test_tls_read_in_single_bytes(void **state)
{
    char ca[128];
    in_dir(ca, "ca");
    unsigned port = start_tls_server("127.0.0.1");
    const struct dial_options options = {.host = "127.0.0.1", .port = port, .tls = true, .tls_ca_file = ca};
    dial_bytes = 0;
    dial_is_open = false;
    dial = dial_new(w.loop, &options, (struct dial_hooks){dial_opened, dial_failed, dial_readable, NULL});
    dial_open(dial);
    run_until(dial_was_opened);
    for (int i = 0; i < 100; i++)
        evbuffer_add(dial_out(dial), "PING\r\n", 6);
    dial_flush(dial);
    run_until(dial_read_all);
    dial_close(dial);
    dial_close(dial);
    dial_free(&dial);
}

static void test_tls_to_a_plain_or_silent_server(void **state)
{
    unsigned port = fake_start_tcp();
    connect_with((struct redis_options){.host = "127.0.0.1", .port = port, .tls = true, .connect_timeout_ms = 100});
    expect_reason("in time"); /* the fake waits for HELLO and never says a word */
    fake.say = "-ERR what is this?\r\n";
    fake.say_len = strlen(fake.say);
    connect_with((struct redis_options){.host = "127.0.0.1", .port = port, .tls = true, .connect_timeout_ms = 2000});
    expect_reason("TLS");
}

/* ---- want of memory ---- */

#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
/* The n-th allocation from now fails, in this program and in every library it uses. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static long fail_at = -1, allocations;

static bool refuse(void)
{
    return fail_at >= 0 && ++allocations == fail_at;
}
void *malloc(size_t size)
{
    return refuse() ? NULL : __libc_malloc(size);
}
void *calloc(size_t count, size_t size)
{
    return refuse() ? NULL : __libc_calloc(count, size);
}
void *realloc(void *old, size_t size)
{
    return refuse() ? NULL : __libc_realloc(old, size);
}

#define GIVEN 18 /* more than the first ring of pending commands holds */
static const struct span pings = {(const uint8_t *)"PING", 4};
static bool gave;

static void give_commands(void)
{
    if (gave || !w.redis || !redis_is_up(w.redis))
        return;
    const struct span list[] = {span_str("LRANGE"), span_str("list"), span_str("0"), span_str("-1")}, *ping = &pings;
    gave = true;
    int accepted = 0;
    for (int i = 0; i < GIVEN; i++)
        accepted += redis_command(w.redis, i < 3 ? on_reply : NULL, NULL, i < 2 ? list : ping, i < 2 ? 4 : 1) == ERR_OK;
    assert_true(accepted >= GIVEN - 1); /* one refusal refuses one command */
    w.on_turn = NULL;
}

static bool all_given_are_answered(void)
{
    return gave && redis_pending(w.redis) == 0;
}

/* From the loop to the last reply, with the n-th allocation refused, for every n there is: every accepted command is answered
 * once, and the connection is there in the end. */
static void test_every_refused_allocation(void **state)
{
    fail_at = 2;
    allocations = 0;
    void *volatile probe = malloc(1);
    free(probe);
    fail_at = -1;
    if (!allocations)
        return; /* valgrind keeps malloc for itself */
    start_server(NULL);
    connect_socket();
    run_until(is_up);
    ask("RPUSH list one two three");
    redis_free(&w.redis);
    timer_free(&w.patience);
    loop_free(&w.loop);
    log_start("test");
    int runs = 0;
    for (bool untouched = false; !untouched; runs++) {
        memset(&got, 0, sizeof got);
        w.ups = w.downs = 0;
        gave = false;
        allocations = 0;
        fail_at = runs + 1;
        w.loop = loop_new(turn, NULL);
        w.patience = w.loop ? timer_new(w.loop, out_of_patience, NULL) : NULL;
        const struct redis_options options = {.socket = w.socket, .user = "default", .reply_timeout_ms = 5000};
        w.redis = w.patience ? redis_new(w.loop, &options, (struct redis_hooks){up, down, NULL}) : NULL;
        w.on_turn = give_commands;
        if (w.redis)
            run_until(all_given_are_answered);
        untouched = allocations < fail_at;
        fail_at = -1;
        if (w.redis) {
            assert_in_range(got.count, 2, 3);
            run_until(is_up);
        }
        redis_free(&w.redis);
        timer_free(&w.patience);
        loop_free(&w.loop);
    }
    assert_true(runs > 60);
    w.loop = loop_new(turn, NULL); /* for the teardown */
}
#endif

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_replies_come_in_order),
        T(test_error_replies_are_replies),
        T(test_large_values_pass_whole),
        T(test_output_leaves_without_a_flush),
        T(test_death_of_redis_answers_everything_once),
        T(test_silence_breaks_the_connection),
        T(test_user_password_and_db),
        T(test_select),
        T(test_loading_is_an_error_reply),
        T(test_garbage),
        T(test_resp3_is_refused),
        T(test_garbage_after_replies),
        T(test_one_reply_too_many),
        T(test_element_bomb),
        T(test_nested_element_bomb),
        T(test_deep_nesting),
        T(test_oversize_reply),
        T(test_end_within_a_reply),
        T(test_many_small_replies_beyond_the_limit_are_fine),
        T(test_reply_in_single_bytes),
        T(test_no_answer_to_hello),
        T(test_an_empty_error_to_hello_is_told),
        T(test_reset_inside_a_reply),
        T(test_reset_while_it_breaks),
        T(test_reset_inside_up),
        T(test_commands_inside_replies),
        T(test_free_with_commands_pending),
        T(test_name_is_resolved),
        T(test_freed_while_resolving),
        T(test_refused_write_breaks_the_connection),
        T(test_backoff_grows),
        T(test_tls),
        T(test_tls_wrong_address),
        T(test_tls_wrong_name),
        T(test_tls_read_in_single_bytes),
        T(test_tls_to_a_plain_or_silent_server),
#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
        T(test_every_refused_allocation),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
