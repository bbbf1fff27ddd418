/* What a child says and in which order, when its link takes everything, nothing, or not yet. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "worker/outbox.h"

/* ---- the link, played ---- */

static struct {
    bool up;
    enum err refuses;     /* what link_send answers */
    struct json_out said; /* "E1@0+5 O1 P1=40 ": events of run 1 from 0, 5 bytes; its outcome; its progress */
    size_t frames, largest;
} fake;

bool link_is_up(const struct link *link)
{
    return fake.up;
}

enum err link_send(struct link *link, enum message message, const void *fields, struct blob *body)
{
    assert_true(fake.up); /* nothing is made ready for nobody */
    if (fake.refuses)
        return fake.refuses;
    fake.frames++;
    fake.largest = MAX(fake.largest, blob_span(body).len);
    if (message == MESSAGE_RUN_EVENTS) {
        const struct msg_run_events *events = fields;
        size_t sum = 0;
        for (uint32_t i = 0; i < events->items_count; i++) {
            const struct rec_run_event *item = &events->items[i];
            json_printf(&fake.said, "E%d@%d+%u ", item->id.bytes[15], (int)item->offset, item->bytes);
            sum += item->bytes;
        }
        assert_int_equal(sum, blob_span(body).len);
        struct span bytes = blob_span(body);
        assert_true(sum > 0 && bytes.data && bytes.data[sum - 1] == '\n'); /* whole lines only */
    } else if (message == MESSAGE_OUTCOME) {
        const struct msg_outcome *outcome = fields;
        json_printf(&fake.said, "O%d%.*s ", outcome->id.bytes[15], SPAN_ARG(outcome->message));
    } else if (message == MESSAGE_PROGRESS) {
        const struct msg_progress *progress = fields;
        for (uint32_t i = 0; i < progress->items_count; i++)
            json_printf(&fake.said, "P%d=%u ", progress->items[i].id.bytes[15], progress->items[i].progress);
    }
    return ERR_OK;
}

static void expect(const char *said)
{
    json_raw(&fake.said, span_of("", 1));
    assert_string_equal(fake.said.data, said);
    fake.said.len = 0;
}

/* ---- a child with a few runs ---- */

static struct loop *loop;
static struct outbox *outbox;
static struct run runs[4];

static void no_turn(void *arg) {}

static int start(void **state)
{
    loop = loop_new(no_turn, NULL);
    outbox = outbox_new(loop);
    fake.up = true;
    fake.refuses = ERR_OK;
    fake.frames = fake.largest = 0;
    for (unsigned i = 0; i < ARRAY_COUNT(runs); i++) {
        runs[i] =
            (struct run){.id.bytes[15] = (uint8_t)i, .fence = {1, i}, .stream = true, .progress = 10, .progress_sent = 10};
        list_init(&runs[i].node);
        eventlog_init(&runs[i].log, PROTO_LOG_BYTES);
    }
    return 0;
}

static int stop(void **state)
{
    for (size_t i = 0; i < ARRAY_COUNT(runs); i++) {
        list_remove(&runs[i].node);
        eventlog_done(&runs[i].log);
        blob_free(&runs[i].body);
    }
    outbox_free(&outbox);
    loop_free(&loop);
    json_out_done(&fake.said);
    return 0;
}

/* A line of text of `len` bytes in all. */
static void speak(struct run *run, size_t len, bool first)
{
    size_t frame = sizeof("{\"text\":\"\",\"index\":0}\n") - 1;
    AUTO(json_out_done) struct json_out text = {0};
    for (size_t i = frame; i < len; i++)
        json_lit(&text, "x");
    eventlog_flush(&run->log);
    run->log.count = 0; /* every index is one digit */
    eventlog_text(&run->log, EVENTLOG_TEXT, span_of(text.data, text.len));
    eventlog_flush(&run->log);
    outbox_spoke(outbox, run, first);
}

static void end(struct run *run)
{
    struct json_out *lines = &run->log.lines;
    uint8_t *data;
    run->body = blob_new(2 + lines->len, &data);
    memcpy(data, "{}", 2);
    if (lines->len)
        memcpy(data + 2, lines->data, lines->len);
    run->result_bytes = 2;
    run->log_bytes = lines->len;
    run->finished = true;
    outbox_ended(outbox, run);
}

static void events_due_again(void)
{
    outbox->sent_at = 0;
}

/* ---- tests ---- */

static void the_first_piece_leaves_at_once_later_ones_together(void **state)
{
    outbox_watch(outbox, &runs[1], true, 0);
    outbox_watch(outbox, &runs[2], true, 0);
    fake.said.len = 0;
    speak(&runs[1], 30, true);
    outbox_turn(outbox);
    expect("E1@0+30 ");
    speak(&runs[1], 40, false);
    outbox_turn(outbox); /* within 20 ms */
    expect("");
    speak(&runs[2], 50, true);
    outbox_turn(outbox); /* another run's first piece takes the rest along */
    expect("E1@30+40 E2@0+50 ");
    speak(&runs[1], 60, false);
    events_due_again();
    outbox_turn(outbox);
    expect("E1@70+60 ");
    events_due_again();
    outbox_turn(outbox);
    expect("");
}

static void nothing_of_unwatched_runs_is_sent(void **state)
{
    speak(&runs[1], 30, true);
    events_due_again();
    outbox_turn(outbox);
    expect("");
    assert_true(list_empty(&outbox->spoken));
    end(&runs[1]);
    outbox_turn(outbox);
    expect("O1 ");
}

static void the_last_events_leave_before_the_outcome(void **state)
{
    outbox_watch(outbox, &runs[1], true, 0);
    speak(&runs[1], 30, true);
    end(&runs[1]);
    end(&runs[2]);
    outbox_turn(outbox);
    expect("E1@0+30 O1 O2 ");
    outbox_turn(outbox);
    expect("");
}

static void what_the_link_does_not_take_is_said_later_in_the_same_order(void **state)
{
    outbox_watch(outbox, &runs[1], true, 0);
    speak(&runs[1], 30, true);
    end(&runs[1]);
    fake.refuses = ERR_WOULD_BLOCK;
    outbox_turn(outbox);
    expect("");
    assert_true(timer_at(outbox->timer) != MSEC_NEVER); /* it will be tried again */
    fake.refuses = ERR_OK;
    fake.up = false;
    outbox_turn(outbox);
    expect("");
    fake.up = true;
    outbox_turn(outbox);
    expect("E1@0+30 O1 ");
    outbox_resend(outbox, &runs[1]); /* a new session */
    outbox_turn(outbox);
    expect("O1 ");
}

static void an_outcome_that_the_link_does_not_take_is_kept(void **state)
{
    end(&runs[1]);
    end(&runs[2]);
    fake.refuses = ERR_WOULD_BLOCK;
    outbox_turn(outbox);
    assert_true(timer_at(outbox->timer) != MSEC_NEVER); /* they will be tried again */
    fake.refuses = ERR_OK;
    outbox_turn(outbox);
    expect("O1 O2 ");
}

/* What TEXT does not take would be refused by the link for ever, and all outcomes behind it wait. */
static void words_of_others_are_made_to_fit(void **state)
{
    runs[1].message = strdup("CN \xff\x1b[1m");
    end(&runs[1]);
    outbox_turn(outbox);
    expect("O1CN ??[1m ");
    free(TAKE(runs[1].message));
}

static void without_a_session_only_the_logs_go_on(void **state)
{
    outbox_watch(outbox, &runs[1], true, 0);
    fake.up = false;
    speak(&runs[1], 30, true);
    eventlog_text(&runs[1].log, EVENTLOG_TEXT, span_str("held"));
    outbox_turn(outbox);
    assert_int_equal(runs[1].log.pending.len, 0);
    fake.up = true;
    runs[1].watched = false;
    outbox_watch(outbox, &runs[1], true, 30); /* the new session resumes */
    outbox_turn(outbox);
    expect("E1@30+26 ");
}

static void a_frame_has_a_bound_and_whole_lines(void **state)
{
    outbox_watch(outbox, &runs[1], true, 0);
    outbox_watch(outbox, &runs[2], true, 0);
    for (int i = 0; i < 3; i++)
        speak(&runs[1], 700000, i == 0);
    speak(&runs[2], 100, true);
    end(&runs[1]);
    for (int i = 0; i < 10 && !outbox->outcomes_count; i++) {
        events_due_again();
        outbox_turn(outbox);
    }
    expect("E1@0+700000 E2@0+100 E1@700000+700000 E1@1400000+700000 O1 ");
    assert_true(fake.largest <= 2 + 2100000);

    runs[3].watched = true; /* a single line above the bound travels alone */
    speak(&runs[3], 3 << 20, true);
    outbox_turn(outbox);
    expect("E3@0+3145728 ");
}

static void a_later_watcher_takes_nothing_from_an_earlier_one(void **state)
{
    outbox_watch(outbox, &runs[1], true, 0);
    speak(&runs[1], 30, true);
    outbox_turn(outbox);
    expect("E1@0+30 ");
    speak(&runs[1], 40, false); /* owed */
    speak(&runs[1], 50, false);
    outbox_watch(outbox, &runs[1], true, 70);
    outbox_turn(outbox);
    expect("E1@30+90 ");
    outbox_watch(outbox, &runs[1], true, 31); /* one from before: again for all, from the next line on */
    outbox_turn(outbox);
    expect("E1@70+50 ");
    outbox_watch(outbox, &runs[1], false, 0);
    speak(&runs[1], 60, false);
    events_due_again();
    outbox_turn(outbox);
    expect("");
}

static void the_log_of_a_finished_run_can_be_asked_for(void **state)
{
    speak(&runs[1], 30, true);
    end(&runs[1]);
    outbox_turn(outbox);
    expect("O1 ");
    outbox_watch(outbox, &runs[1], true, 0);
    outbox_turn(outbox);
    expect("E1@0+30 O1 ");
}

static void progress_is_reported_seldom(void **state)
{
    runs[1].progress = 14; /* less than a step */
    speak(&runs[1], 30, true);
    events_due_again();
    outbox_turn(outbox);
    expect("");
    runs[1].progress = 15;
    speak(&runs[1], 30, false);
    events_due_again();
    outbox_turn(outbox);
    expect("P1=15 ");
    runs[1].progress = 90; /* too soon */
    speak(&runs[1], 30, false);
    events_due_again();
    outbox_turn(outbox);
    expect("");
    runs[1].progress_at -= OUTBOX_PROGRESS_MS;
    speak(&runs[1], 30, false);
    events_due_again();
    outbox_turn(outbox);
    expect("P1=90 ");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, start, stop)
    const struct CMUnitTest tests[] = {
        TEST(the_first_piece_leaves_at_once_later_ones_together),
        TEST(nothing_of_unwatched_runs_is_sent),
        TEST(the_last_events_leave_before_the_outcome),
        TEST(what_the_link_does_not_take_is_said_later_in_the_same_order),
        TEST(an_outcome_that_the_link_does_not_take_is_kept),
        TEST(words_of_others_are_made_to_fit),
        TEST(without_a_session_only_the_logs_go_on),
        TEST(a_frame_has_a_bound_and_whole_lines),
        TEST(a_later_watcher_takes_nothing_from_an_earlier_one),
        TEST(the_log_of_a_finished_run_can_be_asked_for),
        TEST(progress_is_reported_seldom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
