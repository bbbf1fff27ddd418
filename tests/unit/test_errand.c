/* Errands: a submit, a look, a wait, a cancel on their way to an answer. */
#include "tests/unit/api_world.h"

/* --- submit --- */

static void test_submit(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\",\"model\":\"m\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    assert_false(s.again || s.watch);
    assert_string_equal(s.route, "m");
    assert_string_equal(s.tenant, "default");
    assert_true(id_belongs(&s.id, &tag_key, span_str("default")));
    assert_int_equal(id_shard(&s.id), 7);
    ack(w, &s);
    expect_reply(c, 202, "\"status\":\"pending\",\"ack\":\"stored\",\"urls\":{\"self\":\"/v1/jobs/job_");
    hang_up(&c);
}

static void test_refused_submit(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = s.id, .error = ERR_QUEUE_FULL, .retry_after_ms = 2001});
    expect_reply(c, 429, "\"code\":\"queue_full\"");
    assert_non_null(strstr(c->got, "\r\nRetry-After: 3\r\n"));
    assert_null(strstr(c->got, "x-should-retry"));
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\",\"ack\":\"synced\"}");
    s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = s.id, .error = ERR_ACK});
    expect_reply(c, 422, "\"code\":\"ack_unavailable\"");
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = s.id, .error = ERR_FENCED}); /* between processes */
    expect_reply(c, 503, "\"code\":\"broker_unavailable\"");
    hang_up(&c);
}

static void test_wait_for_the_end(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=20s", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    assert_true(s.watch);
    ack(w, &s);
    tell_ended(w, &s.id);
    expect_reply(c, 200, "\"status\":\"completed\"");
    assert_non_null(strstr(c->got, "\"result\":{\"content\":\"done\"}"));
    assert_non_null(strstr(c->got, "\"metadata\":{\"a\":1}"));
    assert_non_null(strstr(c->got, "\"created_at\":\"2026-01-02T03:00:00.123Z\""));
    expect_no_frame(w);
    hang_up(&c);
}

/* The end may overtake the acknowledgement on its way. */
static void test_end_before_the_ack(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=20s", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell_ended(w, &s.id);
    expect_reply(c, 200, "\"status\":\"completed\"");
    ack(w, &s);
    request(c, "GET", "/livez", "", "");
    expect_reply(c, 200, "alive");
    hang_up(&c);
}

/* Its caller may have had it forgotten by then, and would pay for it a second time. */
static void test_submit_whose_end_was_heard_is_not_sent_again(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=20s", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell_ended(w, &s.id); /* and the acknowledgement is lost */
    expect_reply(c, 200, "\"status\":\"completed\"");
    w->epoch += 1000;
    w->count = w->hellos + 1;
    tell(w, MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    run_until(w, "another session", has_session);
    assert_int_equal(ask_count(w->api.ask), 0);
    expect_no_frame(w);
    hang_up(&c);
}

static void test_wait_that_is_over(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=30ms", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    ack(w, &s);
    struct seen question = expect_frame(w, MESSAGE_ASK);
    assert_true(id_equal(&question.id, &s.id));
    assert_false(question.watch);
    answer_live(w, &question, STATE_PROCESSING);
    expect_reply(c, 202, "\"status\":\"processing\",\"ack\":\"stored\"");
    struct seen bye = expect_frame(w, MESSAGE_UNWATCH);
    assert_false(bye.left);
    hang_up(&c);
}

/* Whatever happens afterwards: an error now would have the caller submit the same again. */
static void test_accepted_stays_accepted(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=30ms", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = s.id, .ack = ACK_STORED}); /* no state is a new one */
    s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_STORE, 0);
    expect_reply(c, 202, "\"status\":\"pending\",\"ack\":\"stored\"");
    hang_up(&c);
}

static void test_unanswered_submit_is_withdrawn(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    ask_free(&w->api.ask);
    w->conf.api.submit_ms = 80;
    struct link_options link = {.endpoints = w->broker_path, .role = ROLE_API, .name = "test"};
    assert_int_equal(
        ask_new(w->loop, &w->conf, &link, (struct ask_hooks){.event = on_event, .up = on_session, .arg = w}, &w->api.ask),
        ERR_OK);
    w->count = 2;
    run_until(w, "another session", has_session);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    struct seen undo = expect_frame(w, MESSAGE_WITHDRAW);
    assert_true(id_equal(&s.id, &undo.id));
    expect_reply(c, 503, "\"code\":\"outcome_unknown\"");
    assert_non_null(strstr(c->got, "\r\nRetry-After: "));
    ack(w, &s); /* too late: nobody is told twice */
    request(c, "GET", "/livez", "", "");
    expect_reply(c, 200, "alive");
    hang_up(&c);
}

static void test_submit_is_sent_again(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    struct seen first = expect_frame(w, MESSAGE_SUBMIT);
    w->epoch += 1000;
    w->count = w->hellos + 1;
    tell(w, MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    run_until(w, "another session", has_session);
    struct seen again = expect_frame(w, MESSAGE_SUBMIT);
    assert_true(again.again && id_equal(&first.id, &again.id) && first.body_len == again.body_len);
    /* it was there: the caller of a fresh submit gets its 202 all the same */
    tell(w, MESSAGE_ACK,
         &(struct msg_ack){.ref = again.ref, .id = again.id, .existing = true, .state = STATE_PENDING, .ack = ACK_STORED});
    struct seen question = expect_frame(w, MESSAGE_ASK);
    assert_int_equal(w->gets, 1);
    answer_live(w, &question, STATE_PROCESSING);
    expect_reply(c, 202, "\"status\":\"processing\"");
    hang_up(&c);
}

/* A frame of another type under a question's number answers nothing. */
static void test_answer_of_another_question(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "GET", "/v1/stats", "", "");
    struct seen s = expect_frame(w, MESSAGE_STATS);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .state = STATE_PENDING});
    const struct rec_counter counter = {span_str("completed"), 6};
    tell(w, MESSAGE_STATS_ANSWER, &(struct msg_stats_answer){.ref = s.ref, .counters = &counter, .counters_count = 1});
    expect_reply(c, 200, "\"completed\":6");
    hang_up(&c);
}

/* Who left while the broker was away has left all the same. */
static void test_leaving_is_said_to_the_next_broker(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    request(c, "POST", "/v1/jobs?wait=20s", "", "{\"prompt\":\"hello\",\"on_disconnect\":\"cancel\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    wire_free(&w->wire);
    run_until(w, "the broker is gone", broker_down);
    struct linger reset = {.l_onoff = 1};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    hang_up(&c);
    run_until(w, "nobody", nobody);
    open_broker(w);
    struct seen again = expect_frame(w, MESSAGE_SUBMIT);
    assert_true(again.again && id_equal(&again.id, &s.id));
    struct seen bye = expect_frame(w, MESSAGE_UNWATCH);
    assert_true(bye.left && id_equal(&bye.id, &s.id));
}

/* A broker that is away for a moment costs nobody an error. */
static void test_submit_waits_for_the_broker(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    wire_free(&w->wire);
    run_until(w, "the broker is gone", broker_down);
    request(c, "POST", "/v1/jobs", "", "{\"prompt\":\"hello\"}");
    struct client *other = dial(w);
    request(other, "GET", "/readyz", "", "");
    expect_reply(other, 503, "\"broker\":\"no session\"");
    hang_up(&other);
    open_broker(w);
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    assert_false(s.again);
    ack(w, &s);
    expect_reply(c, 202, "\"status\":\"pending\"");
    hang_up(&c);
}

static void test_idempotency_key_leads_to_the_first_job(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id first = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"first\"}");
    request(c, "POST", "/v1/jobs", "Idempotency-Key: k\r\n", "{\"prompt\":\"hello\"}");
    struct seen s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = first, .existing = true, .state = STATE_COMPLETED});
    expect_reply(c, 200, "\"content\":\"first\"");
    assert_non_null(strstr(c->got, path_of(&first, "") + strlen("/v1/jobs/")));
    /* the key is kept longer than its job */
    blob_free(&w->stored);
    request(c, "POST", "/v1/jobs", "Idempotency-Key: k\r\n", "{\"prompt\":\"hello\"}");
    s = expect_frame(w, MESSAGE_SUBMIT);
    tell(w, MESSAGE_ACK, &(struct msg_ack){.ref = s.ref, .id = first, .existing = true, .state = STATE_COMPLETED});
    s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "the job that the idempotency key made");
    hang_up(&c);
}

/* --- show --- */

static void test_show_ended(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"x\"}");
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(
        c, 200, "\"usage\":{\"input_tokens\":3,\"output_tokens\":4,\"cached_tokens\":0,\"cost\":null,\"source\":\"provider\"}");
    assert_non_null(strstr(c->got, "\"priority\":8"));
    assert_non_null(strstr(c->got, "\"attempts\":[{\"run\":1,\"deployment\":\"d\""));
    expect_no_frame(w);
    hang_up(&c);
}

static void test_show_live(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    assert_int_equal(w->gets, 1);
    assert_string_equal(s.tenant, "default");
    answer_live(w, &s, STATE_PENDING);
    expect_reply(c, 200, "\"status\":\"pending\",\"reason\":\"ready\",\"progress\":10");
    assert_non_null(strstr(c->got, "\"type\":\"chat\",\"tags\":[\"t\"]"));
    hang_up(&c);
}

/* The job ends between the look into Redis and the question. */
static void test_ended_between_two_looks(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"just\"}");
    w->stored_from = 2;
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 200, "\"content\":\"just\"");
    w->stored_from = 4;
    request(c, "GET", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_ENDED, STATE_COMPLETED);
    expect_reply(c, 200, "\"content\":\"just\"");
    hang_up(&c);
}

static void test_forgotten(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall() - 7200000, "default");
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "\"code\":\"forgotten\"");
    assert_int_equal(w->gets, 3); /* its record, twice, and its state */
    /* made in the future: not by us */
    id = some_id(clock_wall() + 7200000, "default");
    request(c, "GET", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 404, "\"code\":\"not_found\"");
    hang_up(&c);
}

/* Foreign and made-up ids: one body, no question, no look, whatever there is. */
static void test_foreign(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id foreign = some_id(clock_wall(), "other"),
              shard = id_make(clock_wall(), 8, ID_STORED, 1, &tag_key, span_str("default"));
    struct id guess = some_id(clock_wall(), "default");
    guess.bytes[9] ^= 1;
    char paths[5][128], bodies[5][256];
    strcpy(paths[0], path_of(&foreign, ""));
    strcpy(paths[1], path_of(&shard, ""));
    strcpy(paths[2], path_of(&guess, ""));
    strcpy(paths[3], "/v1/jobs/job_nonsense");
    strcpy(paths[4], path_of(&foreign, "?wait=10s"));
    w->stored = record_of("other", "{\"content\":\"secret\"}");
    for (int i = 0; i < 5; i++) {
        request(c, "GET", paths[i], "X-Request-Id: r\r\n", "");
        expect_reply(c, 404, "\"code\":\"not_found\"");
        strcpy(bodies[i], strstr(c->got, "\r\n\r\n"));
        assert_string_equal(bodies[i], bodies[0]);
        request(c, "DELETE", paths[i % 4], "", "");
        expect_reply(c, 404, "\"code\":\"not_found\"");
    }
    assert_int_equal(w->gets, 0);
    expect_no_frame(w);
    hang_up(&c);
}

/* One in 16 million foreign ids has a tag that fits: the record's tenant decides. */
static void test_foreign_record(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("other", "{\"content\":\"secret\"}");
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(c, 404, "\"code\":\"not_found\"");
    hang_up(&c);
}

static void test_corrupt_record(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"x\"}");
    ((uint8_t *)w->stored->data)[w->stored->len - 3] ^= 1;
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(c, 500, "\"code\":\"corrupt_record\"");
    blob_free(&w->stored);
    w->stored = record_of("default", "{\"content\":\"x\"},\"status\":\"failed\"");
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(c, 500, "\"code\":\"corrupt_record\"");
    /* a state in the store that the broker does not hold: it could not read it */
    w->stored_from = w->gets + 3;
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    s = expect_frame(w, MESSAGE_ASK);
    w->stored_from = w->gets + 2;
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 500, "\"code\":\"corrupt_record\"");
    hang_up(&c);
}

/* It had ended when the broker was asked, and lives again before its record is looked for. */
static void test_redriven_meanwhile(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    w->stored = record_of("default", "{\"content\":\"x\"}");
    w->stored_from = 3; /* its state; no record */
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PENDING);
    expect_reply(c, 200, "\"status\":\"pending\"");
    hang_up(&c);
}

static void test_redis_away(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    close_redis(w);
    run_until(w, "Redis is gone", redis_down);
    request(c, "GET", path_of(&id, ""), "", "");
    expect_reply(c, 503, "\"code\":\"store_unavailable\"");
    assert_non_null(strstr(c->got, "\r\nRetry-After: 1\r\n"));
    request(c, "GET", "/readyz", "", "");
    expect_reply(c, 503, "\"redis\":\"not connected\"");
    request(c, "GET", "/health", "", "");
    expect_reply(c, 200, "\"status\":\"degraded\"");
    open_redis(w);
    run_until(w, "Redis is back", redis_up);
    request(c, "GET", "/readyz", "", "");
    expect_reply(c, 200, "\"status\":\"healthy\"");
    hang_up(&c);
}

static void test_store_stalled(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "GET", path_of(&id, ""), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    tell(w, MESSAGE_ANSWER, &(struct msg_answer){.ref = s.ref, .id = s.id, .error = ERR_STORE, .retry_after_ms = 4000});
    expect_reply(c, 503, "\"code\":\"store_unavailable\"");
    assert_non_null(strstr(c->got, "\r\nRetry-After: 4\r\n"));
    hang_up(&c);
}

/* --- waiting on a job that is there --- */

static void test_long_poll(void **state)
{
    struct world *w = *state;
    struct client *a = dial(w), *b = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(a, "GET", path_of(&id, "?wait=20s"), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    assert_true(s.watch);
    answer_live(w, &s, STATE_PROCESSING);
    request(b, "GET", path_of(&id, "?wait=20s"), "", "");
    s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    expect_waiting(w, 2);
    hang_up(&b); /* one of two: its answer is made at once, the watch stays */
    s = expect_frame(w, MESSAGE_ASK);
    assert_false(s.watch);
    answer_live(w, &s, STATE_PROCESSING);
    struct client *c = dial(w);
    request(c, "GET", "/v1/stats", "", "");
    s = expect_frame(w, MESSAGE_STATS);
    tell(w, MESSAGE_STATS_ANSWER, &(struct msg_stats_answer){.ref = s.ref});
    expect_reply(c, 200, "\"waiting\":0");
    expect_no_frame(w);
    tell_ended(w, &id);
    expect_reply(a, 200, "\"status\":\"completed\"");
    expect_no_frame(w);
    hang_up(&a);
    hang_up(&c);
}

static void test_wait_survives_a_new_session(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "GET", path_of(&id, "?wait=20s"), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    w->epoch += 1000;
    expect_waiting(w, 1);
    w->count = w->hellos + 1;
    tell(w, MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    run_until(w, "another session", has_session);
    s = expect_frame(w, MESSAGE_ASK);
    assert_true(s.watch);
    answer_live(w, &s, STATE_RETRYING);
    tell_ended(w, &id);
    expect_reply(c, 200, "\"status\":\"completed\"");
    hang_up(&c);
}

static void test_leaving_cancels_when_asked(void **state)
{
    struct world *w = *state;
    for (int cancel = 0; cancel <= 1; cancel++) {
        struct client *c = dial(w);
        request(c, "POST", "/v1/jobs?wait=20s", "",
                cancel ? "{\"prompt\":\"hello\",\"on_disconnect\":\"cancel\"}" : "{\"prompt\":\"hello\"}");
        struct seen s = expect_frame(w, MESSAGE_SUBMIT);
        ack(w, &s);
        expect_waiting(w, 1);
        struct linger reset = {.l_onoff = cancel}; /* with a reset, and in the ordinary way */
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        hang_up(&c);
        if (!cancel) {
            struct seen question = expect_frame(w, MESSAGE_ASK);
            answer_live(w, &question, STATE_PROCESSING);
        }
        struct seen bye = expect_frame(w, MESSAGE_UNWATCH);
        assert_true(id_equal(&bye.id, &s.id));
        assert_int_equal(bye.left, cancel);
        run_until(w, "nobody", nobody);
        w->seen_used = w->seen_count;
    }
}

static void test_waits_end_with_the_child(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "GET", path_of(&id, "?wait=20s"), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    expect_waiting(w, 1);
    server_drain(w->api.server);
    errand_end_waits(&w->api);
    s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    expect_reply(c, 200, "\"status\":\"processing\"");
    assert_non_null(strstr(c->got, "Connection: close"));
    hang_up(&c);
    run_until(w, "nobody", nobody);
}

/* --- cancel and forget --- */

static void test_cancel(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "POST", path_of(&id, "/cancel"), "", "");
    struct seen s = expect_frame(w, MESSAGE_CANCEL);
    answer_live(w, &s, STATE_CANCELLED);
    expect_reply(c, 200, "\"status\":\"cancelled\"}"); /* without its record, what is certain */
    w->stored = record_of("default", "{}");
    request(c, "POST", path_of(&id, "/cancel"), "", "");
    s = expect_frame(w, MESSAGE_CANCEL);
    answer_live(w, &s, STATE_CANCELLED);
    expect_reply(c, 200, "\"metadata\":{\"a\":1},\"created_at\":\"2026-01-02T03:00:00.123Z\"");
    blob_free(&w->stored);
    request(c, "DELETE", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_CANCEL);
    answer_error(w, &s, ERR_ENDED, STATE_CANCELLED);
    expect_reply(c, 409, "\"code\":\"already_ended\",\"message\":\"the job has already ended: it is cancelled\"");
    w->stored = record_of("default", "{}");
    request(c, "DELETE", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_CANCEL);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 409, "it is completed");
    blob_free(&w->stored);
    request(c, "DELETE", path_of(&id, ""), "", "");
    s = expect_frame(w, MESSAGE_CANCEL);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "\"code\":\"forgotten\"");
    hang_up(&c);
}

static void test_forget(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    struct id id = some_id(clock_wall(), "default");
    request(c, "DELETE", path_of(&id, "?forget=1"), "", "");
    struct seen s = expect_frame(w, MESSAGE_FORGET);
    answer_error(w, &s, ERR_OK, 0);
    expect_reply(c, 204, "\r\n\r\n");
    assert_null(strstr(c->got, "Content-Length"));
    request(c, "DELETE", path_of(&id, "?forget=1"), "", "");
    s = expect_frame(w, MESSAGE_FORGET);
    answer_error(w, &s, ERR_CONFLICT, 0);
    expect_reply(c, 409, "\"code\":\"conflict\"");
    request(c, "DELETE", path_of(&id, "?forget=1"), "", "");
    s = expect_frame(w, MESSAGE_FORGET);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "\"code\":\"forgotten\"");
    request(c, "DELETE", path_of(&id, "?forget=no"), "", "");
    expect_reply(c, 422, "\"param\":\"forget\"");
    hang_up(&c);
}

/* --- the rest of the table --- */

static void test_stats(void **state)
{
    struct world *w = *state;
    struct client *c = dial(w);
    const struct rec_counter counters[] = {
        {span_str("waiting"), 2}, {span_str("active"), 1},    {span_str("completed"), 6},  {span_str("failed"), 1},
        {span_str("expired"), 1}, {span_str("cancelled"), 3}, {span_str("workers"), 4},    {span_str("done_ms_total"), 300},
        {span_str("p50_ms"), 40}, {span_str("p99_ms"), 90},   {span_str("per_minute"), 8}, {span_str("uptime_ms"), 61999},
    };
    request(c, "GET", "/v1/stats", "", "");
    struct seen s = expect_frame(w, MESSAGE_STATS);
    tell(w, MESSAGE_STATS_ANSWER,
         &(struct msg_stats_answer){.ref = s.ref, .counters = counters, .counters_count = ARRAY_COUNT(counters)});
    expect_reply(c, 200,
                 "{\"waiting\":2,\"active\":1,\"completed\":6,\"failed\":1,\"cancelled\":3,\"expired\":1,\"total\":3,"
                 "\"success_rate\":0.7500,\"failure_rate\":0.2500,\"mean_ms\":50.0,\"p50_ms\":40,\"p99_ms\":90,"
                 "\"per_minute\":8,\"queue_size\":2,\"workers\":4,\"uptime_s\":61}");
    hang_up(&c);
}

static void test_routes(void **state)
{
    static const struct {
        const char *method, *path, *fields, *body;
        int status;
        const char *part;
    } cases[] = {
        {"GET", "/nowhere", "", "", 404, "no_such_path"},
        {"GET", "/", "", "", 404, "no_such_path"},
        {"GET", "/v1/jobs/", "", "", 404, "no_such_path"},
        {"GET", "/v1/jobs/a/b", "", "", 404, "no_such_path"},
        {"GET", "/livezz", "", "", 404, "no_such_path"},
        {"PUT", "/v1/jobs", "", "", 405, "\r\nAllow: POST, GET, HEAD\r\n"},
        {"POST", "/v1/jobs/x", "", "", 405, "\r\nAllow: GET, HEAD, DELETE, PATCH\r\n"},
        {"GET", "/v1/jobs/x/cancel", "", "", 405, "\r\nAllow: POST\r\n"},
        {"BREW", "/livez", "", "", 405, "\r\nAllow: GET, HEAD\r\n"},
        {"OPTIONS", "/livez", "", "", 204, "\r\nAllow: GET, HEAD\r\n"},
        {"OPTIONS", "*", "", "", 204, "\r\nAllow: "},
        {"GET", "http://elsewhere/livez", "", "", 200, "alive"},
        {"GET", "/v1/stats?x=1", "", "", 422,
         "\"code\":\"unknown_field\",\"message\":\"there is no such query parameter\",\"param\":\"x\""},
        {"GET", "/v1/stats?%00=1", "", "", 400, "bad_request"},
        {"POST", "/v1/jobs?wait=61s", "", "{\"prompt\":\"x\"}", 422, "\"param\":\"wait\""},
        {"POST", "/v1/jobs?wait=1s&wait=2s", "", "{\"prompt\":\"x\"}", 422, "\"param\":\"wait\""},
        {"POST", "/v1/jobs?wait=%31", "", "{\"prompt\":5}", 422, "\"param\":\"prompt\""},
        {"POST", "/v1/jobs", "Content-Type: text/plain\r\n", "", 415, "unsupported_media_type"},
        {"POST", "/v1/jobs", "Origin: http://elsewhere\r\n", "", 415, "unsupported_media_type"},
        {"POST", "/v1/jobs", "", "", 400, "invalid_json"},
        {"POST", "/v1/jobs", "Content-Type: Application/JSON ; charset=utf-8\r\n", "", 400, "invalid_json"},
        {"POST", "/v1/jobs", "Idempotency-Key: a\r\nIdempotency-Key: b\r\n", "{\"prompt\":\"x\"}", 422,
         "\"param\":\"Idempotency-Key\""},
        {"POST", "/v1/jobs", "", "{\"prompt\":\"x\",}", 400, "\"code\":\"invalid_json\""},
    };
    struct world *w = *state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct client *c = dial(w);
        request(c, cases[i].method, cases[i].path, cases[i].fields, cases[i].body);
        expect_reply(c, cases[i].status, cases[i].part);
        hang_up(&c);
    }
    expect_no_frame(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(test_submit),
        TEST(test_refused_submit),
        TEST(test_wait_for_the_end),
        TEST(test_end_before_the_ack),
        TEST(test_submit_whose_end_was_heard_is_not_sent_again),
        TEST(test_wait_that_is_over),
        TEST(test_accepted_stays_accepted),
        TEST(test_unanswered_submit_is_withdrawn),
        TEST(test_submit_is_sent_again),
        TEST(test_answer_of_another_question),
        TEST(test_leaving_is_said_to_the_next_broker),
        TEST(test_submit_waits_for_the_broker),
        TEST(test_idempotency_key_leads_to_the_first_job),
        TEST(test_show_ended),
        TEST(test_show_live),
        TEST(test_ended_between_two_looks),
        TEST(test_forgotten),
        TEST(test_foreign),
        TEST(test_foreign_record),
        TEST(test_corrupt_record),
        TEST(test_redriven_meanwhile),
        TEST(test_redis_away),
        TEST(test_store_stalled),
        TEST(test_long_poll),
        TEST(test_wait_survives_a_new_session),
        TEST(test_leaving_cancels_when_asked),
        TEST(test_waits_end_with_the_child),
        TEST(test_cancel),
        TEST(test_forget),
        TEST(test_stats),
        TEST(test_routes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
