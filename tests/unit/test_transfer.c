/* Transfers against a scripted server: what each way of breaking is called, that a request is sent once, that closing closes.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <curl/curl.h>
#include <netdb.h>
#include <pthread.h>

#include "common/clock.h"
#include "common/json.h"
#include "tests/unit/scripted_server.h"
#include "worker/transfer.h"

static void open_server(struct server *server)
{
    listen_server(server);
    accept_server(server);
}

/* ---- the client ---- */

struct client {
    struct loop *loop;
    struct transfers *transfers;
    struct timer *timer;
    struct transfer *transfer;
    struct json_out body;
    unsigned connected, answered, ended, status;
    size_t stop_after; /* bytes of the body; 0: never */
    bool stop_at_head;
    msec cancelled_at;
    enum fault fault;
    char detail[256], seen_header[256];
};

static void no_turn(void *arg) {}
static void on_connected(void *arg)
{
    ((struct client *)arg)->connected++;
}
static void on_answered(void *arg)
{
    ((struct client *)arg)->answered++;
}
static bool on_bytes(void *arg, struct span bytes)
{
    struct client *client = arg;
    if (!bytes.len) {
        client->status = transfer_status(client->transfer);
        struct span header = transfer_header(client->transfer, "x-seen");
        snprintf(client->seen_header, sizeof client->seen_header, "%.*s", SPAN_ARG(header));
        if (client->stop_at_head) /* here: close from outside, once the head is there */
            loop_stop(client->loop);
    }
    json_raw(&client->body, bytes);
    return !client->stop_after || client->body.len < client->stop_after;
}
static void on_ended(void *arg, enum fault fault, const char *detail)
{
    struct client *client = arg;
    client->ended++;
    client->fault = fault;
    snprintf(client->detail, sizeof client->detail, "%s", detail);
    transfer_free(&client->transfer);
    loop_stop(client->loop);
}

static void too_long(void *arg)
{
    fail_msg("the transfer did not end");
}

static void open_client(struct client *client)
{
    client->loop = loop_new(no_turn, NULL);
    client->timer = timer_new(client->loop, too_long, NULL);
    struct transfers_options options = {.http = true, .connections = 8};
    assert_int_equal(transfers_new(client->loop, &options, &client->transfers), ERR_OK);
}

static void close_client(struct client *client)
{
    transfer_free(&client->transfer);
    transfers_free(&client->transfers);
    timer_free(&client->timer);
    loop_free(&client->loop);
    json_out_done(&client->body);
}

#define ANSWER_MAX 100000

static void call_url(struct client *client, const char *url)
{
    client->connected = client->answered = client->ended = client->status = 0;
    client->body.len = 0;
    struct transfer_request request = {.url = url,
                                       .headers = {"Content-Type: application/json", "Authorization: Bearer sk-1"},
                                       .body = span_str("{\"a\":1}"),
                                       .connect_ms = 2000,
                                       .answer_max = ANSWER_MAX};
    struct transfer_hooks hooks = {on_connected, on_answered, on_bytes, on_ended, client};
    assert_int_equal(transfer_start(client->transfers, &request, &hooks, &client->transfer), ERR_OK);
    timer_set(client->timer, clock_mono() + 10000);
    loop_run(client->loop);
    timer_set(client->timer, MSEC_NEVER);
}

static void call(struct client *client, const struct server *server)
{
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/v1/x", server->port);
    call_url(client, url);
}

/* One call to a server that answers `answer` and then does `then`. */
static enum fault outcome(const char *answer, enum then then, struct client *ret)
{
    struct server server = {.answer = answer, .answer_len = strlen(answer), .then = then};
    struct client client = {0};
    open_server(&server);
    open_client(&client);
    call(&client, &server);
    assert_int_equal(client.ended, 1);
    assert_true(server.requests <= 1);
    close_client(&client);
    close_server(&server);
    if (ret)
        *ret = client;
    return client.fault;
}

/* ---- whole answers ---- */

static void a_whole_answer(void **state)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nX-Seen: one\r\nx-seen: two\r\nContent-Length: 5\r\n\r\nhello";
    struct server server = {.answer = answer, .answer_len = sizeof answer - 1};
    struct client client = {0};
    open_server(&server);
    open_client(&client);
    for (unsigned i = 1; i <= 3; i++) {
        call(&client, &server);
        assert_int_equal(client.fault, FAULT_NONE);
        assert_int_equal(client.status, 200);
        assert_int_equal(client.connected, 1);
        assert_int_equal(client.answered, 1);
        assert_memory_equal(client.body.data, "hello", 5);
        assert_string_equal(client.seen_header, "two");
        assert_int_equal(server.requests, i);
    }
    assert_int_equal(server.connections, 1); /* used again */
    assert_string_equal(server.body, "{\"a\":1}");
    assert_non_null(strstr(server.head, "POST /v1/x HTTP/1.1\r\n"));
    assert_non_null(strstr(server.head, "\r\nAuthorization: Bearer sk-1\r\n"));
    assert_null(strcasestr(server.head, "\r\nExpect:"));
    close_client(&client);
    close_server(&server);
}

static void answers_in_other_forms(void **state)
{
    struct client client;
    assert_int_equal(
        outcome("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", KEEP, &client),
        FAULT_NONE);
    assert_int_equal(outcome("HTTP/1.1 200 OK\r\n\r\nhello", CLOSE, &client), FAULT_NONE); /* the close is the end */
    /* a length beyond all numbers: curl takes it for unknown, and only the body can tell whether it is whole */
    assert_int_equal(outcome("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello", CLOSE, &client),
                     FAULT_NONE);
    assert_int_equal(outcome("HTTP/1.1 204 No Content\r\n\r\n", KEEP, &client), FAULT_NONE);
    assert_int_equal(client.status, 204); /* the head is told although there is no body */
    assert_int_equal(
        outcome("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", KEEP, &client),
        FAULT_NONE);
    assert_int_equal(client.status, 200);
}

static void redirects_are_not_followed(void **state)
{
    struct client client;
    assert_int_equal(outcome("HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", KEEP, &client),
                     FAULT_NONE);
    assert_int_equal(client.status, 307);
    assert_int_equal(client.connected, 1);
}

/* ---- broken ones ---- */

static void ways_of_breaking(void **state)
{
    static const struct {
        const char *answer;
        enum then then;
        enum fault fault;
        unsigned answered;
    } rows[] = {
        {"", CLOSE, FAULT_RESET, 0},
        {"", RESET, FAULT_RESET, 0},
        {"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", RESET, FAULT_RESET, 1},
        {"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", CLOSE, FAULT_CUT, 1},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", CLOSE, FAULT_CUT, 1},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n", CLOSE, FAULT_FRAMING, 1},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n", CLOSE, FAULT_FRAMING, 1},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n", CLOSE, FAULT_FRAMING, 1},
        {"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", CLOSE, FAULT_FRAMING, 1},
        {"this is not HTTP\r\n\r\n", CLOSE, FAULT_FRAMING, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct client client;
        enum fault fault = outcome(rows[i].answer, rows[i].then, &client);
        if (fault != rows[i].fault)
            fail_msg("row %zu: fault %d instead of %d (%s)", i, fault, rows[i].fault, client.detail);
        assert_int_equal(client.connected, 1);
        assert_true(client.answered >= rows[i].answered);
    }
}

static void a_refused_connection(void **state)
{
    struct server server = {0};
    struct client client = {0};
    open_server(&server);
    close_server(&server); /* its port is now nobody's */
    open_client(&client);
    call(&client, &server);
    assert_int_equal(client.fault, FAULT_CONNECT);
    assert_int_equal(client.connected, 0);
    close_client(&client);
}

static void a_server_without_tls(void **state)
{
    struct server server = {.answer = "HTTP/1.1 400 x\r\n\r\n", .answer_len = 18, .then = CLOSE};
    struct client client = {0};
    char url[64];
    open_server(&server);
    open_client(&client);
    snprintf(url, sizeof url, "https://127.0.0.1:%d/", server.port);
    /* the server waits for a request's end, which no handshake has: curl's connect clock ends it, or the garbage does */
    call_url(&client, url);
    assert_true(client.fault == FAULT_TLS || client.fault == FAULT_CONNECT);
    assert_int_equal(client.connected, 0);
    close_client(&client);
    close_server(&server);
}

static void bodies_and_heads_above_their_limits(void **state)
{
    struct json_out answer = {0};
    json_lit(&answer, "HTTP/1.1 200 OK\r\n\r\n");
    for (int i = 0; i < ANSWER_MAX / 10 + 1; i++)
        json_lit(&answer, "0123456789");
    json_raw(&answer, span_of("", 1));
    struct client client;
    assert_int_equal(outcome(answer.data, HOLD, &client), FAULT_TOO_LARGE);
    answer.len = 0;
    json_lit(&answer, "HTTP/1.1 200 OK\r\n"); /* many lines */
    for (int i = 0; i < 8000; i++)
        json_lit(&answer, "X: 0123456789\r\n");
    json_raw(&answer, span_of("", 1));
    assert_int_equal(outcome(answer.data, HOLD, &client), FAULT_HEAD);
    answer.len = 0;
    json_lit(&answer, "HTTP/1.1 200 OK\r\nX: "); /* one line */
    for (int i = 0; i < 30000; i++)
        json_lit(&answer, "0123456789");
    json_raw(&answer, span_of("", 1));
    assert_int_equal(outcome(answer.data, HOLD, &client), FAULT_HEAD);
    answer.len = 0;
    for (int i = 0; i < 30000; i++)
        json_lit(&answer, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n");
    json_raw(&answer, span_of("", 1));
    assert_int_equal(outcome(answer.data, HOLD, &client), FAULT_HEAD);
    json_out_done(&answer);
}

/* ---- once, and closed ---- */

static void a_reused_connection_that_breaks_is_not_tried_again_in_silence(void **state)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    struct server server = {.answer = answer, .answer_len = sizeof answer - 1, .answers_max = 1};
    struct client client = {0};
    open_server(&server);
    open_client(&client);
    call(&client, &server);
    assert_int_equal(client.fault, FAULT_NONE);
    call(&client, &server);
    assert_int_equal(client.fault, FAULT_RESET);
    assert_int_equal(client.connected, 1);
    assert_int_equal(server.requests, 2);
    close_client(&client);
    close_server(&server);
}

static void an_incomplete_answers_connection_is_not_used_again(void **state)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello";
    struct server server = {.answer = answer, .answer_len = sizeof answer - 1};
    struct client client = {.stop_after = 5};
    open_server(&server);
    open_client(&client);
    for (unsigned i = 1; i <= 2; i++) {
        call(&client, &server);
        assert_int_equal(client.fault, FAULT_STOPPED);
        assert_int_equal(server.connections, i);
    }
    close_client(&client);
    close_server(&server);
}

/* Waits for the server's threads to see the close. */
static msec closed_at(struct server *server)
{
    while (!server->peer_closed_at)
        usleep(200);
    return server->peer_closed_at;
}

static void closing_a_call_closes_its_socket(void **state)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    struct server server = {.answer = answer, .answer_len = sizeof answer - 1, .then = HOLD};
    struct client client = {.stop_at_head = true};
    open_server(&server);
    open_client(&client);
    call(&client, &server);
    assert_int_equal(client.ended, 0);
    assert_int_equal(transfers_open(client.transfers), 1);
    msec at = clock_mono();
    transfer_free(&client.transfer);
    assert_int_equal(transfers_open(client.transfers), 0);
    assert_true(closed_at(&server) - at <= 100);
    close_client(&client);
    close_server(&server);
}

/* ---- names ---- */

static atomic_bool resolver_hangs;
static pthread_mutex_t resolver_gate = PTHREAD_MUTEX_INITIALIZER;

/* Stands in front of the C library's: a name server that does not answer. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
    if (!resolver_hangs)
        return EAI_NONAME;
    pthread_mutex_lock(&resolver_gate);
    pthread_mutex_unlock(&resolver_gate);
    return EAI_AGAIN;
}

static void a_name_without_an_address(void **state)
{
    struct client client = {0};
    resolver_hangs = false;
    open_client(&client);
    call_url(&client, "http://no-such-host.test/");
    assert_int_equal(client.fault, FAULT_RESOLVE);
    assert_int_equal(client.connected, 0);
    close_client(&client);
}

static void a_resolver_that_hangs_holds_nothing_up(void **state)
{
    struct client client = {0};
    resolver_hangs = true;
    pthread_mutex_lock(&resolver_gate);
    open_client(&client);
    msec before = clock_mono();
    call_url(&client, "http://no-answer.test/"); /* its connect clock is 2 s */
    msec took = clock_mono() - before;
    assert_true(client.fault == FAULT_CONNECT || client.fault == FAULT_RESOLVE);
    assert_true(took >= 1900 && took < 3500);
    before = clock_mono();
    close_client(&client);
    assert_true(clock_mono() - before < 500); /* nor does closing wait for the thread */
    pthread_mutex_unlock(&resolver_gate);
}

static void urls_we_do_not_call(void **state)
{
    static const char *const urls[] = {"ftp://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/", "smb://x/y"};
    struct client client = {0};
    open_client(&client);
    for (size_t i = 0; i < ARRAY_COUNT(urls); i++) {
        call_url(&client, urls[i]);
        assert_int_equal(client.fault, FAULT_INTERNAL);
        assert_int_equal(client.connected, 0);
    }
    transfers_free(&client.transfers);
    struct transfers_options options = {.http = false, .connections = 8};
    assert_int_equal(transfers_new(client.loop, &options, &client.transfers), ERR_OK);
    call_url(&client, "http://127.0.0.1:1/");
    assert_int_equal(client.fault, FAULT_INTERNAL);
    close_client(&client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_answer),
        cmocka_unit_test(answers_in_other_forms),
        cmocka_unit_test(redirects_are_not_followed),
        cmocka_unit_test(ways_of_breaking),
        cmocka_unit_test(a_refused_connection),
        cmocka_unit_test(a_server_without_tls),
        cmocka_unit_test(bodies_and_heads_above_their_limits),
        cmocka_unit_test(a_reused_connection_that_breaks_is_not_tried_again_in_silence),
        cmocka_unit_test(an_incomplete_answers_connection_is_not_used_again),
        cmocka_unit_test(closing_a_call_closes_its_socket),
        cmocka_unit_test(a_name_without_an_address),
        cmocka_unit_test(a_resolver_that_hangs_holds_nothing_up),
        cmocka_unit_test(urls_we_do_not_call),
    };
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    curl_global_cleanup();
    return failed;
}
