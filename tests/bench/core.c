/* What a decision of the scheduler costs, alone: no socket, no store, no worker. For a backlog of n jobs in f flows, after all
 * of them have been submitted to nobody, workers come and every decision is one turn of
 *
 *     outcome of the oldest run → its end, acknowledged → the next job, leased
 *
 * and one STORED for every 64 of them, as a commit would be. Prints nanoseconds for a submit and for such a turn, the looks
 * that ready_next took, the bytes of memory a waiting job costs beside its body, and the one long step there is: new settings,
 * for which everybody who waits finds a flow again. Run: make build/bench-core && build/bench-core */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "broker/core/sched.h"

#define WORKERS 16
#define SLOTS   64
#define TURNS   200000u

struct bench {
    struct sched *sched;
    struct effects effects;
    msec now;
    struct {
        struct id id;
        struct fence fence;
        peer_number peer;
    } runs[WORKERS * SLOTS * 2];
    unsigned from, count;
    uint64_t jobs_sent;
};

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static void step(struct bench *b, struct input *in)
{
    if (sched_step(b->sched, b->now, in, &b->effects) != ERR_OK)
        abort();
    for (size_t i = 0; i < b->effects.count; i++) {
        const struct effect *e = &b->effects.list[i];
        if (e->type != EFFECT_JOB)
            continue;
        unsigned at = (b->from + b->count++) % ARRAY_COUNT(b->runs);
        b->runs[at].id = e->job.id;
        b->runs[at].fence = e->job.fence;
        b->runs[at].peer = e->peer;
        b->jobs_sent++;
    }
    effects_clear(&b->effects);
}

static void stored(struct bench *b)
{
    step(b, &(struct input){.type = INPUT_STORED, .stored.number = sched_written(b->sched)});
}

static void submit(struct bench *b, unsigned n, unsigned flows, struct blob *body)
{
    char tenant[16], queue[16];
    struct msg_submit msg = {.ref = n};
    msg.id.bytes[7] = ID_STORED;
    uint64_t random = (n + 1) * 0x9e3779b97f4a7c15u;
    memcpy(msg.id.bytes + 8, &random, sizeof random);
    memcpy(msg.id.bytes, &n, sizeof n);
    unsigned flow = n % flows;
    snprintf(tenant, sizeof tenant, "t%u", flow / 4);
    snprintf(queue, sizeof queue, "q%u", flow % 4);
    msg.spec = (struct rec_spec){
        .tenant = span_str(tenant),
        .queue = span_str(queue),
        .route = span_str("gpt-4o-mini"),
        .input_estimate = 100,
        .output_estimate = 500,
        .request_id = span_str("0192f0c1-7c4a-7b1e-9d2e-0c5c2b8f3a10"),
    };
    b->now += n % 8 == 0;
    step(b, &(struct input){.type = INPUT_SUBMIT, .peer = 1, .submit = &msg, .body = body});
    if (n % 64 == 63)
        stored(b);
}

static void workers_come(struct bench *b)
{
    struct rec_served served = {.name = span_str("echo")};
    for (unsigned i = 0; i < WORKERS; i++) {
        struct msg_hello hello = {.role = ROLE_WORKER,
                                  .slots = SLOTS,
                                  .name = span_str("w"),
                                  .served = &served,
                                  .served_count = 1,
                                  .instance = {(uint8_t)(i + 1)}};
        step(b, &(struct input){.type = INPUT_HELLO, .peer = 100 + i, .hello = &hello});
    }
    stored(b);
}

static void turn(struct bench *b, struct blob *answer)
{
    unsigned at = b->from;
    struct msg_outcome outcome = {.id = b->runs[at].id, .fence = b->runs[at].fence, .result_bytes = (uint32_t)answer->len};
    b->from = (at + 1) % ARRAY_COUNT(b->runs);
    b->count--;
    step(b, &(struct input){.type = INPUT_OUTCOME, .peer = b->runs[at].peer, .outcome = &outcome, .body = answer});
}

static void one(unsigned jobs, unsigned flows)
{
    struct bench b = {.now = 1700000000000};
    struct sched_settings settings = sched_defaults;
    settings.jobs_max = settings.tenant_jobs_max = 4000000;
    settings.bytes_max = settings.tenant_bytes_max = 8ull << 30;
    b.sched = sched_new(&settings, 1);
    struct blob *body = blob_copy(span_str("{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}")),
                *answer = blob_copy(span_str("{\"text\":\"hi\"}"));
    struct msg_hello hello = {.role = ROLE_API};
    if (!b.sched || !body || !answer)
        abort();
    step(&b, &(struct input){.type = INPUT_START, .start = {.epoch = 1, .ack = ACK_STORED}});
    step(&b, &(struct input){.type = INPUT_HELLO, .peer = 1, .hello = &hello});

    struct mallinfo2 before = mallinfo2();
    double begin = now_ns();
    for (unsigned i = 0; i < jobs; i++)
        submit(&b, i, flows, body);
    stored(&b);
    double submit_ns = (now_ns() - begin) / jobs;
    struct mallinfo2 after = mallinfo2();
    double bytes = (double)(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd) / jobs;

    settings.head_start_ms++; /* another order: nobody stays where he was */
    begin = now_ns();
    step(&b, &(struct input){.type = INPUT_SETTINGS, .settings = &settings});
    double settings_ms = (now_ns() - begin) / 1e6;

    workers_come(&b);
    struct sched_stats stats_before, stats;
    sched_stats(b.sched, &stats_before);
    unsigned turns = 0;
    begin = now_ns();
    for (; turns < TURNS && b.count; turns++) {
        turn(&b, answer);
        if (turns % 64 == 63)
            stored(&b);
    }
    double turn_ns = (now_ns() - begin) / turns;
    sched_stats(b.sched, &stats);
    printf("%8u jobs %6u flows   submit %6.0f ns   turn %6.0f ns   looks %.1f   %5.0f B a job   settings %4.0f ms\n", jobs,
           flows, submit_ns, turn_ns, (double)(stats.dispatch_steps - stats_before.dispatch_steps) / turns, bytes, settings_ms);
    effects_done(&b.effects);
    sched_free(&b.sched);
    blob_free(&body);
    blob_free(&answer);
}

int main(void)
{
    static const unsigned jobs[] = {1000, 100000, 1000000}, flows[] = {1, 100, 10000};
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    for (size_t j = 0; j < ARRAY_COUNT(jobs); j++)
        for (size_t f = 0; f < ARRAY_COUNT(flows); f++)
            if (flows[f] <= jobs[j])
                one(jobs[j], flows[f]);
    return 0;
}
