/* The provider that workers call, in the place of the echo adapter: its answers name the job and the run that asked, and now
 * and then it fails in every way there is. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/people.h"
#include "worker/providers.h"

struct answer {
    struct fact *fact;
    struct fence fence;
    enum kind kind; /* how it will fail; KIND_NONE: it will not */
    bool stream;
    unsigned pieces;
};

static void *create(const struct provider_call *about)
{
    struct answer *call = calloc(1, sizeof *call);
    if (call)
        call->stream = about->stream;
    return call;
}

static void destroy(void *state)
{
    free(state);
}

static enum kind failure(void)
{
    static const enum kind kinds[] = {KIND_CONNECT,   KIND_SENT,      KIND_OVERLOAD, KIND_OVERLOAD,        KIND_THROTTLED,
                                      KIND_THROTTLED, KIND_QUOTA,     KIND_AUTH,     KIND_CLIENT,          KIND_STREAM_CUT,
                                      KIND_STALL,     KIND_BAD_FRAME, KIND_TIMEOUT,  KIND_ANSWER_TOO_LARGE};
    return chance(setup.failures) && !sim.calm ? kinds[draw(ARRAY_COUNT(kinds))] : KIND_NONE;
}

static void crash(void *a, uint64_t life)
{
    struct proc *proc = a;
    if (proc->alive && proc->life == life)
        worker_dies(proc);
}

static bool answer(void *state, const struct provider_call *about, struct provider_local *local, struct provider_failure *fault)
{
    struct answer *call = state;
    const cJSON *job = json_get(about->request, "job");
    call->fact = fact_at(cJSON_IsNumber(job) ? (unsigned)job->valuedouble : 0);
    MUST(call->fact, "a call for no job");
    call->fence = truth_call(call->fact);
    call->kind = failure();
    call->pieces = call->stream ? 1 + (unsigned)draw(4) : 1;
    local->first_ms = (msec)draw(chance(100) ? 8000 : 400);
    local->step_ms = (msec)draw(200);
    if (call->fact->poison) {
        note(TROUBLE_POISON);
        later((msec)draw((uint64_t)local->first_ms + 1), crash, sim.running, sim.running->life);
    }
    return true;
}

static bool step(void *state, const struct provider_sink *sink)
{
    struct answer *call = state;
    sink->text(sink->arg, span_str("word "));
    return --call->pieces > 0;
}

static bool end(void *state, const struct provider_sink *sink, struct json_out *result, struct provider_failure *fault)
{
    struct answer *call = state;
    char text[96];
    if (call->kind) {
        call->fact->failed_calls++;
        return provider_fail(fault, call->kind, (struct span){0}, "so it goes");
    }
    snprintf(text, sizeof text, "{\"content\":\"job %u of %" PRIu64 ":%" PRIu64 "\"}", call->fact->number, call->fence.epoch,
             call->fence.n);
    json_raw(result, span_str(text));
    return true;
}

static void usage(const void *state, struct provider_usage *usage)
{
    *usage = (struct provider_usage){.known = true, .input_tokens = 1, .output_tokens = 1};
}

const struct provider provider_echo = {
    .name = "echo",
    .create = create,
    .destroy = destroy,
    .answer = answer,
    .step = step,
    .end = end,
    .usage = usage,
};
