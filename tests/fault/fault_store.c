/* The way to the store without memory: commits, their ring, what is held back. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "broker/parcel.h"
#include "broker/ring.h"
#include "proto/record.h"
#include "tests/lib/fault.h"

static const char sha[41] = "0123456789012345678901234567890123456789";
static const struct rec_spec a_spec = {.tenant = {(const uint8_t *)"acme", 4}, .queue = {(const uint8_t *)"q", 1}};

static struct id id_of(unsigned n)
{
    struct id id = {{0}};
    id.bytes[14] = (uint8_t)(n >> 8);
    id.bytes[15] = (uint8_t)n;
    return id;
}

/* One write of every kind, again and again. */
static struct effect write_of(uint64_t number, struct blob *body)
{
    static const enum effect_type kinds[] = {EFFECT_SAVE_BODY, EFFECT_SAVE_IDEM, EFFECT_SAVE_JOB,   EFFECT_SAVE_ENDED,
                                             EFFECT_DROP_BODY, EFFECT_DROP_JOB,  EFFECT_DROP_ENDED, EFFECT_DROP_IDEM};
    struct effect e = {.type = kinds[number % ARRAY_COUNT(kinds)], .number = number, .id = id_of((unsigned)number)};
    e.ttl_ms = 1000;
    e.tenant = a_spec.tenant;
    switch (e.type) {
    case EFFECT_SAVE_BODY:
        e.body = body;
        break;
    case EFFECT_SAVE_JOB:
        e.job_record = (struct rec_job){.spec = a_spec, .state = STATE_PENDING};
        break;
    case EFFECT_SAVE_ENDED:
        e.parts[1] = span_str("{}");
        e.ended = (struct rec_ended){.spec = a_spec, .state = STATE_COMPLETED, .completed_at = 7200000, .result_bytes = 2};
        break;
    case EFFECT_DROP_ENDED:
        e.ended.completed_at = 7200000;
        break;
    default:
        break;
    }
    return e;
}

/* A commit that is refused a write is of no use, and goes. */
static enum err gather(void *arg)
{
    AUTO(commit_free) struct commit *c = commit_new(7);
    AUTO(blob_free) struct blob *body = blob_copy(span_str("body"));
    if (!c || !body)
        return ERR_NOMEM;
    for (uint64_t number = 1; number <= 64; number++) {
        struct effect write = write_of(number, body);
        enum err e = commit_add(c, &write);
        if (e)
            return e;
    }
    struct id id = id_of(9);
    return commit_add_repair(c, &id);
}

/* A commit on its way to the ring. */
struct closing {
    struct ring *ring;
    struct commit *commit;
    struct blob *body;
    uint64_t written;
};

static void gather_for(struct closing *c)
{
    c->commit = commit_new(7);
    assert_non_null(c->commit);
    for (int i = 0; i < 20; i++) {
        struct effect write = write_of(++c->written, c->body);
        assert_int_equal(commit_add(c->commit, &write), ERR_OK);
    }
}

static enum err close_commit(void *arg)
{
    struct closing *c = arg;
    return commit_close(c->commit, ring_next_at(c->ring), ring_before_next(c->ring), sha, 42);
}

/* One that found no memory to be closed is still open, and is closed later: the same, and in its place. */
static void closed(void *arg, enum err e)
{
    struct closing *c = arg;
    size_t argc;
    if (e)
        assert_int_equal(close_commit(c), ERR_OK);
    assert_true(commit_at_equal(c->commit->at, ring_next_at(c->ring)));
    assert_true(span_is(commit_argv(c->commit, &argc)[0], "EVALSHA"));
    assert_true(argc > 60);
    uint64_t first = c->commit->first;
    ring_push(c->ring, &c->commit);
    assert_int_equal(ring_find(c->ring, first)->first, first);
    gather_for(c);
}

static enum err read_place(void *arg)
{
    struct commit_at at;
    msec now;
    return commit_at_parse(span_str("1795341600000:77:5"), &at, &now);
}

static void commits(void **state)
{
    struct ring ring;
    struct closing closing = {.ring = &ring, .body = blob_copy(span_str("body"))};
    ring_init(&ring);
    ring_start(&ring, 10, (struct commit_at){9, 4});
    gather_for(&closing);
    fault_tell("commit_new, commit_add", fault_sweep("commit_add", gather, NULL, NULL));
    fault_tell("commit_close", fault_sweep("commit_close", close_commit, closed, &closing));
    fault_tell("commit_at_parse", fault_sweep("commit_at_parse", read_place, NULL, NULL));
    commit_free(&closing.commit);
    ring_done(&ring);
    blob_free(&closing.body);
}

/* Sending, confirming, going back and beginning anew touch nothing but what is there. */
static enum err go_round(void *arg)
{
    struct ring *ring = arg;
    struct list released;
    list_init(&released);
    while (ring_send(ring))
        continue;
    if (!ring_rewind(ring, (struct commit_at){ring->epoch, 0}))
        return ERR_INVALID;
    while (ring_send(ring))
        continue;
    (void)ring_stored(ring, ring->closed_n, 5, &released);
    ring_start(ring, ring->epoch + 1, (struct commit_at){ring->epoch, 0});
    ring_trim(ring, 6, 1 << 20);
    return ring->unsent ? ERR_OK : ERR_INVALID;
}

static void a_ring(void **state)
{
    struct ring ring;
    struct closing closing = {.ring = &ring, .body = blob_copy(span_str("body"))};
    ring_init(&ring);
    ring_start(&ring, 10, (struct commit_at){9, 4});
    for (int i = 0; i < 5; i++) {
        gather_for(&closing);
        assert_int_equal(close_commit(&closing), ERR_OK);
        ring_push(&ring, &closing.commit);
    }
    fault_tell("ring_send, ring_rewind, ring_start …", fault_sweep("ring", go_round, NULL, &ring));
    ring_done(&ring);
    blob_free(&closing.body);
}

static enum err make_parcel(void *arg)
{
    AUTO(parcel_free) struct parcel *parcel = NULL;
    return parcel_make(arg, NULL, NULL, &parcel);
}

static void parcels(void **state)
{
    struct effect shown[] = {
        {.type = EFFECT_ACK, .ack = {.ref = 1}},
        {.type = EFFECT_OUTCOME_ACK, .outcome_ack = {.fence = {1, 2}}},
        {.type = EFFECT_CHANGE, .change = {.tenant = span_str("acme"), .queue = span_str("q")}},
        {.type = EFFECT_EVENT, .event = {.event = EVENT_STATUS}},
    };
    unsigned long refusals = 0;
    for (size_t i = 0; i < ARRAY_COUNT(shown); i++)
        refusals += fault_sweep("parcel_make", make_parcel, NULL, &shown[i]);
    fault_tell("parcel_make", refusals);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commits),
        cmocka_unit_test(a_ring),
        cmocka_unit_test(parcels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
