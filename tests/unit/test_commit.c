/* Commits and their ring, without Redis: what is sent, in which order, and what may be forgotten. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "broker/body.h"
#include "broker/ring.h"
#include "broker/settings.h"
#include "proto/record.h"
#include "worker/deployment.h"

static const char sha[41] = "0123456789012345678901234567890123456789";

static struct id id_of(uint8_t n)
{
    struct id id = {{0}};
    id.bytes[15] = n;
    return id;
}

static const struct rec_spec a_spec = {.tenant = {(const uint8_t *)"acme", 4}, .queue = {(const uint8_t *)"q", 1}};

static struct effect save_job(uint64_t number, uint8_t n)
{
    return (struct effect){
        .type = EFFECT_SAVE_JOB, .number = number, .id = id_of(n), .job_record = {.spec = a_spec, .state = 1}};
}

static struct effect save_ended(uint64_t number, uint8_t n, uint64_t ttl_ms)
{
    return (struct effect){.type = EFFECT_SAVE_ENDED,
                           .number = number,
                           .id = id_of(n),
                           .ttl_ms = ttl_ms,
                           .ended = {.spec = a_spec, .state = STATE_COMPLETED, .completed_at = 3600000 + n}};
}

static void add(struct commit *c, struct effect e)
{
    assert_int_equal(commit_add(c, &e), ERR_OK);
}

/* ARGV of the script: position `i` counted from 1, as it counts. */
static struct span arg_at(const struct commit *c, size_t i)
{
    size_t argc;
    const struct span *argv = commit_argv(c, &argc);
    char keys[16];
    snprintf(keys, sizeof keys, "%.*s", SPAN_ARG(argv[2]));
    size_t at = 3 + (size_t)atoi(keys) + i - 1;
    assert_true(at < argc);
    return argv[at];
}

static unsigned count_of(const struct commit *c, unsigned verb) /* 1 MSET … 8 SREM */
{
    char text[16];
    snprintf(text, sizeof text, "%.*s", SPAN_ARG(arg_at(c, 4 + verb)));
    return (unsigned)atoi(text);
}

static struct commit *closed(struct commit *c)
{
    assert_int_equal(commit_close(c, (struct commit_at){9, 1}, (struct commit_at){8, 5}, sha, 42), ERR_OK);
    return c;
}

static void the_head_says_where_it_belongs(void **state)
{
    AUTO(commit_free) struct commit *c = commit_new(3);
    add(c, save_job(1, 1));
    closed(c);
    size_t argc;
    const struct span *argv = commit_argv(c, &argc);
    assert_true(span_is(argv[0], "EVALSHA") && span_is(argv[1], sha) && span_is(argv[2], "4"));
    assert_true(span_is(argv[3], "{q3}:epoch") && span_is(argv[4], "{q3}:last") && span_is(argv[5], "{q3}:live"));
    assert_true(span_is(arg_at(c, 1), "9") && span_is(arg_at(c, 2), "1") && span_is(arg_at(c, 3), "8:5") &&
                span_is(arg_at(c, 4), "42"));
    commit_renumber(c, (struct commit_at){10, 7}, (struct commit_at){10, 6});
    assert_true(span_is(arg_at(c, 1), "10") && span_is(arg_at(c, 2), "7") && span_is(arg_at(c, 3), "10:6") &&
                span_is(arg_at(c, 4), "42"));
}

static void the_last_write_to_a_key_wins(void **state)
{
    AUTO(commit_free) struct commit *c = commit_new(0);
    add(c, save_job(1, 1));
    add(c, save_job(2, 1));
    add(c, save_ended(3, 1, 60000));
    closed(c);
    assert_int_equal(count_of(c, 1), 0); /* j: is not written to be removed */
    assert_int_equal(count_of(c, 2), 1);
    assert_int_equal(count_of(c, 5), 1);
    assert_int_equal(count_of(c, 7), 0);
    assert_int_equal(count_of(c, 8), 1);
    assert_int_equal(c->first, 1);
    assert_int_equal(c->last, 3);
    assert_non_null(commit_ended_record(c, 3));
    assert_null(commit_ended_record(c, 2));
}

static void the_last_value_of_a_key_is_written(void **state)
{
    AUTO(commit_free) struct commit *c = commit_new(0);
    AUTO(record_done) struct record record = {0};
    struct effect first = save_job(1, 1), second = save_job(2, 1);
    first.job_record.state = STATE_PENDING;
    second.job_record.state = STATE_PROCESSING;
    add(c, first);
    add(c, second);
    closed(c);
    assert_int_equal(count_of(c, 1), 1);
    assert_int_equal(record_unpack(&record, RECORD_JOB, arg_at(c, 13)), ERR_OK);
    assert_int_equal(record.job.state, STATE_PROCESSING);
}

static void an_expiry_is_merged_into_the_write_before_it(void **state)
{
    AUTO(commit_free) struct commit *c = commit_new(0);
    AUTO(blob_free) struct blob *body = blob_copy(span_str("body"));
    add(c, (struct effect){.type = EFFECT_SAVE_BODY, .number = 1, .id = id_of(1), .body = body});
    add(c, (struct effect){.type = EFFECT_DROP_BODY, .number = 2, .id = id_of(1), .ttl_ms = 500});
    add(c, (struct effect){.type = EFFECT_DROP_BODY, .number = 3, .id = id_of(2), .ttl_ms = 500});
    add(c, (struct effect){.type = EFFECT_DROP_BODY, .number = 4, .id = id_of(3)});
    add(c, (struct effect){.type = EFFECT_DROP_BODY, .number = 5, .id = id_of(3), .ttl_ms = 500}); /* gone is gone */
    closed(c);
    assert_int_equal(count_of(c, 1), 0);
    assert_int_equal(count_of(c, 2), 1);
    assert_int_equal(count_of(c, 4), 1);
    assert_int_equal(count_of(c, 5), 1);
}

static void one_index_is_one_zadd(void **state)
{
    AUTO(commit_free) struct commit *c = commit_new(0);
    for (uint8_t n = 1; n <= 100; n++)
        add(c, save_ended(n, n, 1000u * n));
    closed(c);
    assert_int_equal(count_of(c, 3), 1);
    assert_int_equal(count_of(c, 2), 100);
    /* After MSET and SET PX: the longest life and an hour, then how many members. */
    assert_true(span_is(arg_at(c, 13 + 200), "3700000"));
    assert_true(span_is(arg_at(c, 13 + 201), "100"));
}

static void a_commit_is_bounded(void **state)
{
    AUTO(commit_free) struct commit *c = commit_new(0);
    uint8_t *data;
    AUTO(blob_free) struct blob *large = blob_new(COMMIT_BYTES_MAX, &data);
    memset(data, 0, COMMIT_BYTES_MAX);
    struct effect alone = {.type = EFFECT_SAVE_BODY, .number = 1, .id = id_of(1), .body = large}, job = save_job(1, 1);
    assert_false(commit_is_full_for(c, &alone));
    for (unsigned n = 1; n <= COMMIT_WRITES_MAX; n++) {
        assert_false(commit_is_full_for(c, &job));
        add(c, save_job(n, (uint8_t)n));
    }
    assert_true(commit_is_full_for(c, &job));
    assert_true(commit_is_full_for(c, &alone));
}

/* A broker that died between the two would leave a key that leads nowhere. */
static void a_key_and_its_job_share_a_commit(void **state)
{
    AUTO(commit_free) struct commit *c = commit_new(0);
    unsigned n = 1;
    struct effect key = {.type = EFFECT_SAVE_IDEM, .joined = 1, .ttl_ms = 1000}, job = save_job(1, 1);
    for (; n <= COMMIT_WRITES_MAX - 2; n++)
        add(c, save_job(n, (uint8_t)n));
    assert_false(commit_is_full_for(c, &key)); /* both find room … */
    add(c, save_job(n, (uint8_t)n));
    assert_true(commit_is_full_for(c, &key)); /* … or neither */
    assert_false(commit_is_full_for(c, &job));
}

/* Its body, its record away, its state: between them a start would find it twice, or not at all. */
static void a_job_that_lives_again_is_one_commit(void **state)
{
    AUTO(commit_free) struct commit *c = commit_new(0);
    static const uint8_t large[COMMIT_BYTES_MAX];
    AUTO(blob_free) struct blob *body = blob_copy(span_of(large, sizeof large));
    assert_non_null(body);
    struct effect saved = {.type = EFFECT_SAVE_BODY, .joined = 2, .body = body},
                  ended = {.type = EFFECT_DROP_ENDED, .joined = 1, .keeps_body = true}, job = save_job(3, 1);
    add(c, save_job(1, 2));
    assert_true(commit_is_full_for(c, &saved)); /* too large to come into one that has begun … */
    commit_free(&c);
    c = commit_new(0);
    saved.number = 1;
    add(c, saved);
    assert_false(commit_is_full_for(c, &ended)); /* … but what belongs to it comes with it */
    ended.number = 2;
    add(c, ended);
    assert_false(commit_is_full_for(c, &job));
    add(c, job);
    assert_true(commit_is_full_for(c, &job));
}

static void places_are_read_strictly(void **state)
{
    struct commit_at at;
    msec now;
    assert_int_equal(commit_at_parse(span_str("1795341600000:77:5"), &at, &now), ERR_OK);
    assert_true(at.epoch == 1795341600000 && at.n == 77 && now == 5);
    static const char *const wrong[] = {
        "", "1", "1:2", "1:2:", ":2:3", "1:2:3:", "1:2:x", "a:2:3", "99999999999999999999:1:1", "-1:1:1"};
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++)
        assert_int_equal(commit_at_parse(span_str(wrong[i]), &at, &now), ERR_MALFORMED);
}

static void a_body_that_was_changed_is_refused(void **state)
{
    AUTO(blob_free) struct blob *packed = NULL;
    AUTO(blob_free) struct blob *body = NULL;
    assert_int_equal(body_pack(span_str("hello"), &packed), ERR_OK);
    assert_int_equal(body_unpack(blob_span(packed), &body), ERR_OK);
    assert_true(span_is(blob_span(body), "hello"));
    uint8_t bytes[32];
    for (size_t i = 0; i < packed->len; i++) {
        struct blob *ignored = NULL;
        memcpy(bytes, packed->data, packed->len);
        bytes[i] ^= 4;
        assert_int_equal(body_unpack(span_of(bytes, packed->len), &ignored), ERR_CORRUPT);
        assert_int_equal(body_unpack(span_of(packed->data, i), &ignored), ERR_CORRUPT);
    }
}

/* ---- the ring ---- */

static uint64_t numbers;

static void push(struct ring *ring)
{
    struct commit *c = commit_new(0);
    ++numbers;
    add(c, save_job(numbers, (uint8_t)numbers));
    assert_int_equal(commit_close(c, ring_next_at(ring), ring_before_next(ring), sha, 1), ERR_OK);
    ring_push(ring, &c);
}

/* A ring's list head must not move, so it is made in place. */
#define A_RING(ring, commits)                                                                                                  \
    struct ring ring;                                                                                                          \
    numbers = 0;                                                                                                               \
    ring_init(&ring);                                                                                                          \
    ring_start(&ring, 10, (struct commit_at){9, 4});                                                                           \
    for (unsigned i_ = 0; i_ < (commits); i_++)                                                                                \
    push(&ring)

static uint64_t stored(struct ring *ring, uint64_t n, msec now)
{
    struct list released;
    list_init(&released);
    return ring_stored(ring, n, now, &released);
}

static uint64_t send_n(struct ring *ring)
{
    struct commit *c = ring_send(ring);
    return c ? c->at.n : 0;
}

static void commits_are_sent_once_and_in_order(void **state)
{
    A_RING(ring, 3);
    assert_int_equal(send_n(&ring), 1);
    assert_int_equal(send_n(&ring), 2);
    assert_int_equal(stored(&ring, 1, 0), 1);
    push(&ring);
    assert_int_equal(send_n(&ring), 3);
    assert_int_equal(send_n(&ring), 4);
    assert_int_equal(send_n(&ring), 0);
    assert_int_equal(stored(&ring, 4, 0), 4);
    assert_int_equal(stored(&ring, 4, 0), 0);
    assert_int_equal(ring.waiting_bytes, 0);
    ring_done(&ring);
}

static void what_the_store_lacks_is_sent_again(void **state)
{
    A_RING(ring, 4);
    while (send_n(&ring))
        ;
    stored(&ring, 3, 0);
    assert_true(ring_rewind(&ring, (struct commit_at){10, 1})); /* an older data set */
    assert_int_equal(ring.stored_n, 1);
    assert_int_equal(send_n(&ring), 2);
    assert_true(ring_rewind(&ring, (struct commit_at){9, 4})); /* from before this epoch */
    assert_int_equal(send_n(&ring), 1);
    assert_true(ring_rewind(&ring, (struct commit_at){10, 4})); /* it had more than was confirmed */
    assert_int_equal(send_n(&ring), 0);
    assert_false(ring_rewind(&ring, (struct commit_at){10, 5}));
    assert_false(ring_rewind(&ring, (struct commit_at){9, 3}));
    assert_false(ring_rewind(&ring, (struct commit_at){11, 1}));
    ring_done(&ring);
}

static void only_old_commits_are_forgotten(void **state)
{
    A_RING(ring, 4);
    while (send_n(&ring))
        ;
    stored(&ring, 3, 1000);
    ring_trim(&ring, 1000 + RING_KEEP_MS - 1, 0);
    assert_true(ring_rewind(&ring, (struct commit_at){9, 4}));
    stored(&ring, 3, 1000);
    ring_trim(&ring, 1000 + RING_KEEP_MS, 1u << 30); /* there is room: kept for longer */
    assert_true(ring_rewind(&ring, (struct commit_at){9, 4}));
    stored(&ring, 3, 1000);
    ring_trim(&ring, 1000 + RING_KEEP_MS, 0);
    assert_int_equal(ring.bytes, ring.waiting_bytes); /* the fourth is not stored: never forgotten */
    assert_false(ring_rewind(&ring, (struct commit_at){10, 2}));
    assert_true(ring_rewind(&ring, (struct commit_at){10, 3}));
    assert_int_equal(send_n(&ring), 4);
    stored(&ring, 4, 1000);
    ring_trim(&ring, 1000 + RING_KEEP_MAX_MS, 1u << 30);
    assert_int_equal(ring.bytes, 0);
    assert_true(ring_rewind(&ring, (struct commit_at){10, 4}));
    assert_false(ring_rewind(&ring, (struct commit_at){10, 3}));
    ring_done(&ring);
}

static void a_new_epoch_begins_at_one(void **state)
{
    A_RING(ring, 4);
    while (send_n(&ring))
        ;
    stored(&ring, 2, 0);
    ring_trim(&ring, RING_KEEP_MAX_MS, 0);
    ring_start(&ring, 20, (struct commit_at){7, 7});
    struct commit *c = ring_send(&ring);
    assert_true(commit_at_equal(c->at, (struct commit_at){20, 1}));
    assert_true(span_is(arg_at(c, 1), "20") && span_is(arg_at(c, 3), "7:7"));
    assert_int_equal(c->first, 3); /* the core's numbers stay */
    assert_int_equal(stored(&ring, 2, 0), 4);
    ring_done(&ring);
}

static void a_write_is_found_by_its_number(void **state)
{
    A_RING(ring, 4);
    assert_int_equal(ring_find(&ring, 3)->at.n, 3);
    assert_null(ring_find(&ring, 5));
    assert_null(ring_find(&ring, 0));
    ring_done(&ring);
}

/* ---- settings ---- */

static void a_route_to_nowhere_is_refused(void **state)
{
    AUTO(conf_free) struct conf *conf = NULL;
    struct conf_fault fault = {""};
    struct settings settings = {0};
    assert_int_equal(conf_load(NULL, 0, &conf, &fault), ERR_OK);
    assert_int_equal(settings_make(conf, &settings, &fault), ERR_OK);
    assert_int_equal(settings.sched.routes_count, 1);
    assert_string_equal(settings.sched.deployments[settings.sched.routes[0].deployments[0]].name, "echo");
    settings_done(&settings);
    free(conf->routes[0].deployments[0]);
    conf->routes[0].deployments[0] = strdup("nowhere");
    assert_int_equal(settings_make(conf, &settings, &fault), ERR_SETTINGS);
    assert_non_null(strstr(fault.text, "nowhere"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_head_says_where_it_belongs),
        cmocka_unit_test(the_last_write_to_a_key_wins),
        cmocka_unit_test(the_last_value_of_a_key_is_written),
        cmocka_unit_test(an_expiry_is_merged_into_the_write_before_it),
        cmocka_unit_test(one_index_is_one_zadd),
        cmocka_unit_test(a_commit_is_bounded),
        cmocka_unit_test(a_key_and_its_job_share_a_commit),
        cmocka_unit_test(a_job_that_lives_again_is_one_commit),
        cmocka_unit_test(places_are_read_strictly),
        cmocka_unit_test(a_body_that_was_changed_is_refused),
        cmocka_unit_test(commits_are_sent_once_and_in_order),
        cmocka_unit_test(what_the_store_lacks_is_sent_again),
        cmocka_unit_test(only_old_commits_are_forgotten),
        cmocka_unit_test(a_new_epoch_begins_at_one),
        cmocka_unit_test(a_write_is_found_by_its_number),
        cmocka_unit_test(a_route_to_nowhere_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
