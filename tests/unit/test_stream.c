/* Readers of jobs' events, between a broker and a Redis that say what a test wants: who is asked what, how often, and what each
 * reader is given, byte for byte. */
#include "tests/unit/api_world.h"

/* --- reading --- */

/* The body so far, out of its chunks. whole: the last chunk has come. */
static const char *body_of(const struct client *c, bool *whole)
{
    static char body[sizeof c->got];
    size_t len = 0, size;
    const char *at = strstr(c->got, "\r\n\r\n"), *const end = c->got + c->len;
    *whole = false;
    at = at ? at + 4 : end;
    while (at < end && strstr(at, "\r\n")) {
        char *digits_end;
        size = strtoul(at, &digits_end, 16);
        const char *data = digits_end + 2;
        if (data + size + 2 > end)
            break;
        assert_memory_equal(digits_end, "\r\n", 2);
        assert_memory_equal(data + size, "\r\n", 2);
        memcpy(body + len, data, size);
        len += size;
        at = data + size + 2;
        *whole = size == 0;
    }
    body[len] = '\0';
    return body;
}

static bool has_body(struct world *w)
{
    bool whole;
    return strcmp(body_of(w->client, &whole), w->wanted) == 0;
}

static bool has_text(struct world *w)
{
    return strstr(w->client->got, w->wanted);
}

static bool has_begun(struct world *w)
{
    bool whole;
    return body_of(w->client, &whole)[0];
}

static bool has_ended(struct world *w)
{
    bool whole;
    body_of(w->client, &whole);
    return whole || w->client->ended;
}

/* Exactly this since the last time. */
static void expect_events(struct client *c, const char *text)
{
    c->world->client = c;
    c->world->wanted = text;
    run_until(c->world, text, text[0] ? has_body : has_begun);
    c->world->client = NULL;
}

/* The stream has ended in order, and this is all of it. */
static void expect_end(struct client *c, const char *text)
{
    bool whole;
    c->world->client = c;
    run_until(c->world, "the end", has_ended);
    c->world->client = NULL;
    const char *body = body_of(c, &whole);
    assert_true(whole);
    assert_string_equal(body, text);
}

static void expect_cut(struct client *c, const char *text)
{
    bool whole;
    c->world->client = c;
    run_until(c->world, "the cut", has_ended);
    c->world->client = NULL;
    const char *body = body_of(c, &whole);
    assert_false(whole);
    assert_string_equal(body, text);
}

/* A round trip: whatever was on its way has arrived. */
static void settle(struct world *w)
{
    struct client *c = dial(w);
    request(c, "GET", "/livez", "", "");
    expect_reply(c, 200, "");
    hang_up(&c);
}

static struct client *read_from(struct world *w, const struct id *id, const char *more)
{
    struct client *c = dial(w);
    request(c, "GET", path_of(id, more), "", "");
    return c;
}

static struct client *read_all(struct world *w, const struct id *id)
{
    return read_from(w, id, "/events");
}

/* --- what the broker says --- */

struct told {
    enum job_event event;
    enum state state;
    uint32_t run;
    uint64_t offset;
    uint8_t progress;
    const char *lines;
};

static void tell_event(struct world *w, const struct id *id, struct told t)
{
    struct rec_event item = {.id = *id,
                             .event = (uint8_t)t.event,
                             .run = t.run,
                             .offset = t.offset,
                             .state = (uint8_t)t.state,
                             .progress = t.progress,
                             .attempt = (uint16_t)t.run,
                             .bytes = t.lines ? (uint32_t)strlen(t.lines) : 0};
    tell_with(w, MESSAGE_EVENTS, &(struct msg_events){.items = &item, .items_count = 1}, span_str(t.lines ? t.lines : ""));
}

static void tell_tokens(struct world *w, const struct id *id, uint32_t run, uint64_t offset, const char *lines)
{
    tell_event(w, id,
               (struct told){.event = EVENT_TOKEN, .state = STATE_PROCESSING, .run = run, .offset = offset, .lines = lines});
}

static void tell_record(struct world *w, const struct id *id, struct blob *record)
{
    struct rec_event item = {
        .id = *id, .event = EVENT_ENDED, .run = 1, .state = STATE_COMPLETED, .bytes = (uint32_t)(record ? record->len : 0)};
    tell_with(w, MESSAGE_EVENTS, &(struct msg_events){.items = &item, .items_count = 1}, blob_span(record));
}

static void answer_run(struct world *w, const struct seen *s, enum state state, uint32_t run)
{
    tell(w, MESSAGE_ANSWER,
         &(struct msg_answer){.ref = s->ref,
                              .id = s->id,
                              .view = {.state = (uint8_t)state,
                                       .progress = state == STATE_PROCESSING ? 10 : 0,
                                       .priority = 5,
                                       .queue = span_str("default"),
                                       .created_at = 1767322800123,
                                       .run = run,
                                       .attempt = (uint16_t)run,
                                       .max_attempts = 3}});
}

static struct seen expect_watch(struct world *w, uint32_t run, uint64_t offset)
{
    struct seen s = expect_frame(w, MESSAGE_WATCH);
    assert_int_equal(s.run, run);
    assert_int_equal(s.offset, offset);
    assert_string_equal(s.tenant, "default");
    return s;
}

/* --- events, as they are written --- */

static struct id job;
static char job_text[ID_TEXT_LEN + 1];

#define A           "{\"text\":\"a\",\"index\":0}\n" /* 23 bytes */
#define B           "{\"text\":\"b\",\"index\":1}\n"
#define C           "{\"text\":\"c\",\"index\":2}\n"
#define TOKEN_A(at) "id: " at "\nevent: token\ndata: {\"text\":\"a\",\"index\":0}\n\n"
#define TOKEN_B(at) "id: " at "\nevent: token\ndata: {\"text\":\"b\",\"index\":1}\n\n"
#define TOKEN_C(at) "id: " at "\nevent: token\ndata: {\"text\":\"c\",\"index\":2}\n\n"
#define RESTARTED   "id: 2-0\nevent: attempt.restarted\ndata: {\"run\":2,\"discard_from\":\"1-0\"}\n\n"

/* "STATUS 1-0 processing" and so on, spelt out; two texts at a time. */
static const char *status(const char *at, const char *state, unsigned progress, unsigned attempt)
{
    static char text[2][256];
    static unsigned turn_of;
    char *out = text[turn_of++ % 2];
    snprintf(
        out, sizeof text[0],
        "id: %s\nevent: status\ndata: {\"id\":\"%s\",\"status\":\"%s\",\"reason\":null,\"progress\":%u,\"attempt\":%u}\n\n", at,
        job_text, state, progress, attempt);
    return out;
}

static const char *joined(const char *a, const char *b, const char *c)
{
    static char text[4096];
    snprintf(text, sizeof text, "%s%s%s", a, b, c);
    return text;
}

static void done_at(char *out, size_t size, const char *at, const char *before)
{
    struct blob *blob = record_of("default", "{\"content\":\"done\"}");
    struct record record = {0};
    struct json_out text = {0};
    assert_int_equal(record_unpack(&record, RECORD_ENDED, blob_span(blob)), ERR_OK);
    assert_int_equal(job_from_ended(&text, &job, &record.ended, record.body), ERR_OK);
    snprintf(out, size, "%sid: %s\nevent: done\ndata: %s\n\n", before, at, text.data);
    json_out_done(&text);
    record_done(&record);
    blob_free(&blob);
}

static struct blob *ended(uint32_t run, const char *log)
{
    return record_with("default", "{\"content\":\"done\"}", run, log);
}

/* A reader of a job that is processing its first run, from the beginning. */
static struct client *begin(struct world *w)
{
    struct client *c = read_all(w, &job);
    struct seen s = expect_watch(w, 0, 0);
    answer_run(w, &s, STATE_PROCESSING, 1);
    expect_events(c, status("1-0", "processing", 10, 1));
    return c;
}

/* --- a stream --- */

static void test_what_a_reader_is_given(void **state)
{
    struct world *w = *state;
    char all[4096];
    struct client *c = begin(w);
    assert_non_null(strstr(c->got, "Content-Type: text/event-stream\r\n"));
    assert_non_null(strstr(c->got, "Transfer-Encoding: chunked\r\n"));
    assert_int_equal(w->gets, 1);
    tell_tokens(w, &job, 1, 0, A B);
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23") TOKEN_B("1-46"), ""));
    tell_event(w, &job, (struct told){.event = EVENT_PROGRESS, .state = STATE_PROCESSING, .run = 1, .progress = 42});
    snprintf(all, sizeof all, "%s%s%s", status("1-0", "processing", 10, 1), TOKEN_A("1-23") TOKEN_B("1-46"),
             "id: 1-46\nevent: progress\ndata: {\"progress\":42}\n\n");
    expect_events(c, all);
    struct blob *record = ended(1, A B C);
    tell_record(w, &job, record);
    char text[8192], before[4200];
    snprintf(before, sizeof before, "%s%s", all, TOKEN_C("1-69"));
    done_at(text, sizeof text, "1-69", before);
    expect_end(c, text);
    blob_free(&record);
    settle(w);
    expect_no_frame(w); /* the watch ended with the job */
    hang_up(&c);
}

static void test_a_job_is_asked_for_once(void **state)
{
    struct world *w = *state;
    struct client *readers[5];
    for (int i = 0; i < 4; i++)
        readers[i] = read_all(w, &job);
    struct seen s = expect_watch(w, 0, 0);
    answer_run(w, &s, STATE_PENDING, 0);
    for (int i = 0; i < 4; i++)
        expect_events(readers[i], status("0-0", "pending", 0, 0));
    readers[4] = read_all(w, &job);
    expect_events(readers[4], status("0-0", "pending", 0, 0));
    assert_int_equal(w->gets, 1);
    expect_no_frame(w);
    tell_event(w, &job, (struct told){.event = EVENT_STATUS, .state = STATE_PROCESSING, .run = 1, .progress = 10});
    for (int i = 0; i < 5; i++)
        expect_events(readers[i], joined(status("0-0", "pending", 0, 0), status("1-0", "processing", 10, 1), ""));
    for (int i = 0; i < 5; i++) {
        settle(w);
        expect_no_frame(w);
        hang_up(&readers[i]);
    }
    s = expect_frame(w, MESSAGE_UNWATCH);
    assert_true(s.left && id_equal(&s.id, &job));
}

static void test_a_waiting_caller_and_a_reader_share_a_watch(void **state)
{
    struct world *w = *state;
    struct client *c = begin(w), *waiting = dial(w);
    request(waiting, "GET", path_of(&job, "?wait=50ms"), "", "");
    struct seen s = expect_frame(w, MESSAGE_ASK);
    answer_live(w, &s, STATE_PROCESSING);
    s = expect_frame(w, MESSAGE_ASK); /* the time is up */
    answer_live(w, &s, STATE_PROCESSING);
    expect_reply(waiting, 200, "\"status\":\"processing\"");
    settle(w);
    expect_no_frame(w); /* the reader still watches */
    tell_tokens(w, &job, 1, 0, A);
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23"), ""));
    hang_up(&waiting);
    hang_up(&c);
    assert_true(expect_frame(w, MESSAGE_UNWATCH).left);
}

/* --- places --- */

static void test_a_reader_goes_on_where_it_stopped(void **state)
{
    struct world *w = *state;
    struct client *c = read_from(w, &job, "/events?after=1-24"); /* inside B */
    struct seen s = expect_watch(w, 1, 24);
    answer_run(w, &s, STATE_PROCESSING, 1);
    expect_events(c, status("1-24", "processing", 10, 1));
    tell_tokens(w, &job, 1, 0, A B); /* as the worker has them, for another */
    tell_tokens(w, &job, 1, 46, C);
    expect_events(c, joined(status("1-24", "processing", 10, 1), TOKEN_C("1-69"), ""));
    hang_up(&c);
}

static void test_tokens_left_out_are_asked_for_again(void **state)
{
    struct world *w = *state;
    struct client *c = begin(w);
    tell_tokens(w, &job, 1, 0, A);
    tell_tokens(w, &job, 1, 46, C); /* B was left out */
    struct seen s = expect_watch(w, 1, 23);
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23"), ""));
    answer_run(w, &s, STATE_PROCESSING, 1);
    tell_tokens(w, &job, 1, 23, B C);
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23") TOKEN_B("1-46") TOKEN_C("1-69"), ""));
    hang_up(&c);
}

static void test_who_joins_late_is_given_the_log_and_others_nothing_twice(void **state)
{
    struct world *w = *state;
    struct client *c = begin(w);
    tell_tokens(w, &job, 1, 0, A B);
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23") TOKEN_B("1-46"), ""));
    struct client *late = read_all(w, &job), *later = read_from(w, &job, "/events?after=1-23");
    struct seen s = expect_watch(w, 1, 0);
    expect_events(later, status("1-23", "processing", 10, 1));
    tell_event(w, &job, (struct told){.event = EVENT_PROGRESS, .state = STATE_PROCESSING, .run = 1, .progress = 50});
    answer_run(w, &s, STATE_PROCESSING, 1);
    tell_tokens(w, &job, 1, 46, C); /* goes on meanwhile */
    tell_tokens(w, &job, 1, 0, A B);
    tell_tokens(w, &job, 1, 46, C);
    expect_events(late, joined(status("1-0", "processing", 10, 1), "id: 1-0\nevent: progress\ndata: {\"progress\":50}\n\n",
                               TOKEN_A("1-23") TOKEN_B("1-46") TOKEN_C("1-69")));
    expect_events(later, joined(status("1-23", "processing", 10, 1), "id: 1-23\nevent: progress\ndata: {\"progress\":50}\n\n",
                                TOKEN_B("1-46") TOKEN_C("1-69")));
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23") TOKEN_B("1-46"),
                            "id: 1-46\nevent: progress\ndata: {\"progress\":50}\n\n" TOKEN_C("1-69")));
    hang_up(&c);
    hang_up(&late);
    hang_up(&later);
}

#define LINE_BYTES 1000

/* Lines of a log, each of LINE_BYTES. */
static char *long_lines(unsigned from, unsigned to)
{
    struct json_out out = {0};
    for (unsigned i = from; i < to; i++)
        json_printf(&out, "{\"text\":\"%*s\",\"index\":%06u}\n", LINE_BYTES - 27, "", i);
    assert_int_equal(out.len, (to - from) * LINE_BYTES);
    return out.data;
}

static bool has_lines(struct world *w)
{
    return w->client->lines >= w->count;
}

/* Each event is four lines. */
static void expect_lines(struct client *c, unsigned events)
{
    c->world->client = c;
    c->world->count = 4 * events;
    run_until(c->world, "many tokens", has_lines);
    c->world->client = NULL;
}

static void test_who_reads_slowly_is_given_the_log_as_it_takes_it(void **state)
{
    struct world *w = *state;
    char *log = long_lines(0, 400), *more = long_lines(400, 800);
    w->conf.api.stream_bytes = 65536;
    struct client *c = begin(w);
    c->counts = true;
    tell_tokens(w, &job, 1, 0, log);
    expect_lines(c, 400);

    struct client *slow = read_all(w, &job);
    event_del(&slow->readable);
    slow->counts = true;
    struct seen s = expect_watch(w, 1, 0);
    answer_run(w, &s, STATE_PROCESSING, 1);
    tell_tokens(w, &job, 1, 0, log);
    tell_tokens(w, &job, 1, 400 * LINE_BYTES, more); /* more than it has room for: left out */
    expect_lines(c, 800);
    expect_no_frame(w); /* as long as it takes nothing, nothing is asked for */
    event_add(&slow->readable, NULL);
    s = expect_watch(w, 1, 400 * LINE_BYTES);
    answer_run(w, &s, STATE_PROCESSING, 1);
    tell_tokens(w, &job, 1, 400 * LINE_BYTES, more);
    expect_lines(slow, 800);
    assert_int_equal(stream_counts(&w->api)->cut, 0);
    free(log);
    free(more);
    hang_up(&slow);
    hang_up(&c);
}

static void test_another_run_begins_anew(void **state)
{
    struct world *w = *state;
    struct client *c = begin(w);
    tell_tokens(w, &job, 1, 0, A);
    tell_event(w, &job, (struct told){.event = EVENT_STATUS, .state = STATE_PROCESSING, .run = 2, .progress = 10});
    tell_event(w, &job, (struct told){.event = EVENT_RESTARTED, .state = STATE_PROCESSING, .run = 2, .progress = 10});
    tell_tokens(w, &job, 1, 23, B); /* of a run that is over */
    tell_tokens(w, &job, 2, 0, A);
    char text[2048];
    snprintf(text, sizeof text, "%s%s%s%s", status("1-0", "processing", 10, 1), TOKEN_A("1-23") RESTARTED,
             status("2-0", "processing", 10, 2), TOKEN_A("2-23"));
    expect_events(c, text);
    struct client *late = read_from(w, &job, "/events?after=1-23");
    expect_events(late, joined(RESTARTED, status("2-0", "processing", 10, 2), ""));
    hang_up(&c);
    hang_up(&late);
}

static void test_a_run_without_tokens_restarts_nothing(void **state)
{
    struct world *w = *state;
    struct client *c = begin(w);
    tell_event(w, &job, (struct told){.event = EVENT_STATUS, .state = STATE_PROCESSING, .run = 2, .progress = 10});
    expect_events(c, joined(status("1-0", "processing", 10, 1), status("2-0", "processing", 10, 2), ""));
    hang_up(&c);
}

static void test_states_never_go_back(void **state)
{
    static const struct told late[] = {
        {.event = EVENT_STATUS, .state = STATE_PENDING, .run = 0},
        {.event = EVENT_STATUS, .state = STATE_RETRYING, .run = 1},
        {.event = EVENT_PROGRESS, .state = STATE_PROCESSING, .run = 1, .progress = 90},
    };
    struct world *w = *state;
    struct client *c = begin(w);
    tell_event(w, &job, (struct told){.event = EVENT_STATUS, .state = STATE_PENDING, .run = 1});
    for (size_t i = 0; i < ARRAY_COUNT(late); i++)
        tell_event(w, &job, late[i]);
    tell_event(w, &job, (struct told){.event = EVENT_STATUS, .state = STATE_PROCESSING, .run = 2, .progress = 10});
    char text[2048];
    snprintf(text, sizeof text, "%s%s", status("1-0", "processing", 10, 1), status("1-0", "pending", 0, 1));
    strcat(text, status("2-0", "processing", 10, 2));
    expect_events(c, text);
    hang_up(&c);
}

/* --- sessions --- */

static void another_session(struct world *w)
{
    w->epoch += 1000;
    w->count = w->hellos + 1;
    tell(w, MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
    run_until(w, "another session", has_session);
}

static void test_another_broker_is_told_where_readers_are(void **state)
{
    struct world *w = *state;
    struct client *c = begin(w);
    tell_tokens(w, &job, 1, 0, A B);
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23") TOKEN_B("1-46"), ""));
    another_session(w);
    struct seen s = expect_watch(w, 1, 46);
    answer_run(w, &s, STATE_PROCESSING, 1); /* nothing new */
    tell_tokens(w, &job, 1, 0, A B C);      /* the worker's log, from its beginning */
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23") TOKEN_B("1-46") TOKEN_C("1-69"), ""));
    hang_up(&c);
}

static void test_a_store_set_back_is_believed(void **state)
{
    struct world *w = *state;
    struct client *c = begin(w);
    another_session(w);
    struct seen s = expect_watch(w, 1, 0);
    answer_run(w, &s, STATE_PENDING, 0);
    expect_events(c, joined(status("1-0", "processing", 10, 1), status("0-0", "pending", 0, 0), ""));
    hang_up(&c);
}

static void test_a_job_that_ended_between_sessions(void **state)
{
    struct world *w = *state;
    char text[8192];
    struct client *c = begin(w);
    tell_tokens(w, &job, 1, 0, A);
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23"), ""));
    another_session(w);
    struct seen s = expect_watch(w, 1, 23);
    w->stored = ended(1, A B);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    done_at(text, sizeof text, "1-46", joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23") TOKEN_B("1-46"), ""));
    expect_end(c, text);
    hang_up(&c);
}

/* --- ends --- */

static void test_an_ended_job_is_read_without_the_broker(void **state)
{
    static const struct {
        const char *after, *before, *at;
    } rows[] = {
        {"/events", TOKEN_A("2-23") TOKEN_B("2-46"), "2-46"},
        {"/events?after=2-23", TOKEN_B("2-46"), "2-46"},
        {"/events?after=2-1", TOKEN_B("2-46"), "2-46"},
        {"/events?after=2-46", "", "2-46"},
        {"/events?after=1-23", RESTARTED TOKEN_A("2-23") TOKEN_B("2-46"), "2-46"},
        {"/events?after=1-0", TOKEN_A("2-23") TOKEN_B("2-46"), "2-46"},
    };
    struct world *w = *state;
    w->stored = ended(2, A B);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        char text[8192];
        struct client *c = read_from(w, &job, rows[i].after);
        done_at(text, sizeof text, rows[i].at, rows[i].before);
        expect_end(c, text);
        hang_up(&c);
    }
    expect_no_frame(w);
}

static void test_an_end_without_its_record_is_read_from_redis(void **state)
{
    struct world *w = *state;
    char text[8192];
    struct client *c = begin(w);
    w->stored = ended(1, "");
    tell_record(w, &job, NULL);
    done_at(text, sizeof text, "1-0", status("1-0", "processing", 10, 1));
    expect_end(c, text);
    hang_up(&c);
}

static void test_a_job_that_is_nowhere(void **state)
{
    struct world *w = *state;
    struct client *c = read_all(w, &job);
    struct seen s = expect_watch(w, 0, 0);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    s = expect_watch(w, 0, 0);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_reply(c, 410, "\"forgotten\"");
    assert_int_equal(w->gets, 3);
    hang_up(&c);
    c = begin(w); /* and one that is forgotten while it is read */
    another_session(w);
    s = expect_watch(w, 1, 0);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    s = expect_watch(w, 1, 0);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    expect_end(c, status("1-0", "processing", 10, 1));
    hang_up(&c);
}

/* It had ended when the broker was asked, and lives again before its record is looked for. */
static void test_a_job_redriven_meanwhile(void **state)
{
    struct world *w = *state;
    struct client *c = read_all(w, &job);
    struct seen s = expect_watch(w, 0, 0);
    answer_error(w, &s, ERR_NOT_LIVE, 0);
    s = expect_watch(w, 0, 0);
    answer_run(w, &s, STATE_PROCESSING, 1);
    expect_events(c, status("1-0", "processing", 10, 1));
    hang_up(&c);
}

static void test_what_cannot_be_known_now(void **state)
{
    struct world *w = *state;
    struct client *c = read_all(w, &job);
    struct seen s = expect_watch(w, 0, 0);
    answer_error(w, &s, ERR_STORE, 0);
    expect_reply(c, 503, "\"store_unavailable\"");
    assert_non_null(strstr(c->got, "Retry-After: "));
    hang_up(&c);
    assert_false(expect_frame(w, MESSAGE_UNWATCH).left);

    c = begin(w); /* who reads already is not disturbed: it is asked for again */
    another_session(w);
    s = expect_watch(w, 1, 0);
    answer_error(w, &s, ERR_STORE, 0);
    s = expect_watch(w, 1, 0);
    answer_run(w, &s, STATE_PROCESSING, 1);
    tell_tokens(w, &job, 1, 0, A);
    expect_events(c, joined(status("1-0", "processing", 10, 1), TOKEN_A("1-23"), ""));
    hang_up(&c);
}

static void test_a_record_that_is_broken(void **state)
{
    struct world *w = *state;
    w->stored = blob_copy(span_str("Q and no more"));
    struct client *c = read_all(w, &job);
    expect_reply(c, err_http_status(ERR_CORRUPT), "\"corrupt_record\"");
    hang_up(&c);
    blob_free(&w->stored);
    c = begin(w);
    w->stored = blob_copy(span_str("Q and no more"));
    tell_record(w, &job, NULL);
    expect_cut(c, status("1-0", "processing", 10, 1));
    hang_up(&c);
}

/* --- the line --- */

static void test_silence_is_filled(void **state)
{
    struct world *w = *state;
    w->conf.api.heartbeat_ms = 30;
    struct client *c = begin(w);
    expect_events(c, joined(status("1-0", "processing", 10, 1), ":\n\n:\n\n", ""));
    tell_tokens(w, &job, 1, 0, A);
    run_until(w, "tokens", has_session);
    hang_up(&c);
}

static void test_who_stops_sending_is_told_how_things_are(void **state)
{
    struct world *w = *state;
    struct client *c = read_all(w, &job);
    shutdown(c->fd, SHUT_WR);
    struct seen s = expect_watch(w, 0, 0);
    settle(w);
    answer_run(w, &s, STATE_PROCESSING, 1);
    expect_end(c, status("1-0", "processing", 10, 1));
    assert_true(expect_frame(w, MESSAGE_UNWATCH).left);
    hang_up(&c);
    c = begin(w);
    shutdown(c->fd, SHUT_WR);
    expect_end(c, status("1-0", "processing", 10, 1));
    assert_true(expect_frame(w, MESSAGE_UNWATCH).left);
    hang_up(&c);
}

static void test_a_child_that_stops_ends_its_streams(void **state)
{
    struct world *w = *state;
    struct id other = some_id(clock_wall() - 1, "default");
    struct client *c = begin(w), *waiting = read_all(w, &other);
    struct seen s = expect_watch(w, 0, 0);
    stream_end_all(&w->api);
    expect_end(c, status("1-0", "processing", 10, 1));
    assert_false(expect_frame(w, MESSAGE_UNWATCH).left);
    answer_run(w, &s, STATE_PENDING, 0);
    waiting->world->client = waiting;
    run_until(w, "the end of one that had not begun", has_ended);
    assert_non_null(strstr(waiting->got, "\"pending\""));
    hang_up(&waiting);
    hang_up(&c);
}

static void test_a_stream_waits_for_the_answer_before_it(void **state)
{
    struct world *w = *state;
    struct id other = some_id(clock_wall() - 1, "default");
    struct client *c = dial(w);
    char two[512];
    request(c, "GET", path_of(&other, "?wait=20s"), "", "");
    int len = snprintf(two, sizeof two, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path_of(&job, "/events"));
    assert_int_equal(send(c->fd, two, (size_t)len, MSG_NOSIGNAL), len);
    struct seen first = expect_frame(w, MESSAGE_ASK), s = expect_watch(w, 0, 0);
    answer_live(w, &first, STATE_PROCESSING);
    answer_run(w, &s, STATE_PROCESSING, 1);
    tell_tokens(w, &job, 1, 0, A);
    settle(w);
    assert_int_equal(c->len, 0);
    tell_ended(w, &other);
    tell_tokens(w, &job, 1, 23, B);
    w->client = c;
    w->wanted = TOKEN_B("1-46");
    run_until(w, "both answers", has_text);
    const char *stream = strstr(c->got, "text/event-stream");
    assert_non_null(stream);
    assert_true(strstr(c->got, "\"status\":\"completed\"") < stream);
    assert_non_null(strstr(stream, TOKEN_A("1-23")));
    hang_up(&c);
}

/* --- */

static int setup_job(void **state)
{
    int failed = setup(state);
    job = some_id(clock_wall(), "default");
    id_print(&job, job_text);
    return failed;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup_job, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_a_reader_is_given),
        TEST(test_a_job_is_asked_for_once),
        TEST(test_a_waiting_caller_and_a_reader_share_a_watch),
        TEST(test_a_reader_goes_on_where_it_stopped),
        TEST(test_tokens_left_out_are_asked_for_again),
        TEST(test_who_joins_late_is_given_the_log_and_others_nothing_twice),
        TEST(test_who_reads_slowly_is_given_the_log_as_it_takes_it),
        TEST(test_another_run_begins_anew),
        TEST(test_a_run_without_tokens_restarts_nothing),
        TEST(test_states_never_go_back),
        TEST(test_another_broker_is_told_where_readers_are),
        TEST(test_a_store_set_back_is_believed),
        TEST(test_a_job_that_ended_between_sessions),
        TEST(test_an_ended_job_is_read_without_the_broker),
        TEST(test_an_end_without_its_record_is_read_from_redis),
        TEST(test_a_job_that_is_nowhere),
        TEST(test_a_job_redriven_meanwhile),
        TEST(test_what_cannot_be_known_now),
        TEST(test_a_record_that_is_broken),
        TEST(test_silence_is_filled),
        TEST(test_who_stops_sending_is_told_how_things_are),
        TEST(test_a_child_that_stops_ends_its_streams),
        TEST(test_a_stream_waits_for_the_answer_before_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
