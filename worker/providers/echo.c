/* echo: answers "echo: " and the last user message, without a network. Deterministic; for demonstrations, and for measuring the
 * system itself. Params: latency_ms (before the first piece), token_ms (between pieces of a stream); both at most an hour. */
#include <stdlib.h>

#include "worker/providers.h"

#define DELAY_MAX_MS (60 * 60 * 1000)

struct echo {
    bool stream;
    size_t result_max;
    const char *model; /* lent by the call */
    struct json_out text;
    size_t at; /* bytes said */
    struct provider_usage usage;
};

static void *create(const struct provider_call *call)
{
    struct echo *echo = calloc(1, sizeof *echo);
    if (echo)
        *echo = (struct echo){.stream = call->stream, .result_max = call->result_max, .model = call->model};
    return echo;
}

static void destroy(void *state)
{
    struct echo *echo = state;
    json_out_done(&echo->text);
    free(echo);
}

static const cJSON *last_user_content(const cJSON *request)
{
    const cJSON *message, *found = NULL;
    cJSON_ArrayForEach(message, json_get(request, "messages"))
    {
        const char *role = cJSON_IsObject(message) ? json_text(message, "role") : NULL;
        if (role && strcmp(role, "user") == 0)
            found = json_get(message, "content");
    }
    return found ? found : json_get(request, "prompt");
}

static msec delay(const cJSON *request, const char *name)
{
    const cJSON *params = json_get(request, "params");
    const cJSON *value = cJSON_IsObject(params) ? json_get(params, name) : NULL;
    if (!cJSON_IsNumber(value) || !(value->valuedouble > 0))
        return 0;
    return (msec)MIN(value->valuedouble, (double)DELAY_MAX_MS);
}

static bool answer(void *state, const struct provider_call *call, struct provider_local *local,
                   struct provider_failure *failure)
{
    struct echo *echo = state;
    json_lit(&echo->text, "echo: ");
    provider_content(&echo->text, last_user_content(call->request));
    if (echo->text.failed)
        return provider_fail(failure, KIND_WORKER, (struct span){0}, "no memory for the answer");
    local->first_ms = delay(call->request, "latency_ms");
    local->step_ms = delay(call->request, "token_ms");
    echo->usage = (struct provider_usage){
        .known = true, .input_tokens = (echo->text.len - 6 + 3) / 4, .output_tokens = (echo->text.len + 3) / 4};
    return true;
}

/* A token: a word with the spaces before it. */
static size_t token(struct span rest)
{
    size_t len = 0;
    while (len < rest.len && rest.data[len] == ' ')
        len++;
    while (len < rest.len && rest.data[len] != ' ')
        len++;
    return len;
}

static bool step(void *state, const struct provider_sink *sink)
{
    struct echo *echo = state;
    struct span rest = span_of(echo->text.data + echo->at, echo->text.len - echo->at);
    size_t len = echo->stream ? token(rest) : rest.len;
    sink->text(sink->arg, span_of(rest.data, len));
    echo->at += len;
    return echo->at < echo->text.len;
}

static bool end(void *state, const struct provider_sink *sink, struct json_out *result, struct provider_failure *failure)
{
    struct echo *echo = state;
    json_lit(result, "{\"content\":");
    json_str(result, provider_held(&echo->text));
    json_lit(result, ",\"finish_reason\":\"stop\",\"model\":");
    json_str(result, span_str(echo->model[0] ? echo->model : "echo"));
    json_lit(result, ",\"provider\":\"echo\"}");
    return provider_fits(result, echo->result_max, failure);
}

static void usage(const void *state, struct provider_usage *usage)
{
    const struct echo *echo = state;
    *usage = echo->usage;
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
