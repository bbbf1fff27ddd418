/* A run ends in finish() and nowhere else: from the transfer's end, from a clock, from a cancel, or from the last piece of an
 * adapter that needs no network. Inside a transfer's callbacks it may only be decided, not done: the transfer is stopped and
 * ends at once. */
#include "worker/run.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "worker/retry_after.h"

#define ANSWER_SLACK    (64 * 1024) /* JSON around a whole answer's text */
#define ANSWER_FACTOR   4           /* bytes of JSON per byte of text, when all of it is escaped */
#define STREAM_FACTOR   128         /* bytes of a stream per byte of text: a chunk for every token */
#define EXPECTED_TOKENS 512         /* of an answer whose request names no bound */
#define TIMEOUT_MAX_MS  86400000    /* no call takes longer than a day */
#define TRACE_BYTES     55          /* of a traceparent */

static const struct span none = {0};

/* What a run needs only until it has finished. */
struct run_parts {
    struct call call;
    const struct deployment *deployment;
    void *adapter; /* the adapter's state */
    struct provider_failure failure;
    struct provider_request request;
    struct transfer *transfer;
    struct timer *timer;
    struct provider_local local;
    msec local_at;              /* when a local answer's next piece is due; MSEC_NEVER: not local */
    bool streams;               /* content is the sign of life, not bytes */
    bool failed;                /* the adapter has said why */
    struct json_out model;      /* with a NUL */
    struct json_out error_body; /* of a reply with a status of 300 or more */
    uint32_t pieces;
    uint64_t expected;
    char trace[sizeof "traceparent: " + TRACE_BYTES];
};

/* ---- making and freeing ---- */

enum err run_new(const struct run_place *place, const struct msg_job *job, struct run **ret_run)
{
    AUTO(run_free) struct run *run = calloc(1, sizeof *run);
    if (!run)
        return ERR_NOMEM;
    run->place = place;
    run->id = job->id;
    run->fence = job->fence;
    run->number = job->run;
    run->stream = job->stream;
    run->progress = run->progress_sent = 10;
    list_init(&run->node);
    eventlog_init(&run->log, PROTO_LOG_BYTES);
    run->parts = calloc(1, sizeof *run->parts);
    if (!run->parts)
        return ERR_NOMEM;
    *ret_run = TAKE(run);
    return ERR_OK;
}

static void free_parts(struct run *run)
{
    struct run_parts *parts = TAKE(run->parts);
    if (!parts)
        return;
    transfer_free(&parts->transfer);
    timer_free(&parts->timer);
    if (parts->adapter)
        parts->deployment->provider->destroy(parts->adapter);
    json_out_done(&parts->request.body);
    json_out_done(&parts->model);
    json_out_done(&parts->error_body);
    free(parts);
}

void run_free(struct run **run_ptr)
{
    struct run *run = TAKE(*run_ptr);
    if (!run)
        return;
    list_remove(&run->node);
    free_parts(run);
    eventlog_done(&run->log);
    blob_free(&run->body);
    free(run->message);
    free(run);
}

struct span run_log(const struct run *run)
{
    if (!run->finished)
        return span_of(run->log.lines.data, run->log.lines.len);
    struct span body = blob_span(run->body);
    return body.len ? span_of(body.data + run->result_bytes, run->log_bytes) : none;
}

/* ---- the end ---- */

/* result, then the log: both leave in one frame. */
static bool take_body(struct run *run, const struct json_out *result)
{
    uint8_t *data;
    eventlog_flush(&run->log);
    run->body = blob_new(result->len + run->log.lines.len, &data);
    if (!run->body)
        return false;
    run->result_bytes = result->len;
    run->log_bytes = run->log.lines.len;
    memcpy(data, result->data, result->len);
    if (run->log_bytes)
        memcpy(data + result->len, run->log.lines.data, run->log_bytes);
    return true;
}

static void take_message(struct run *run, const char *words, const char *detail)
{
    struct run_parts *parts = run->parts;
    int made = asprintf(&run->message, "%s%s%s", words, detail[0] ? ": " : "", detail);
    if (made < 0)
        run->message = NULL;
    else if (parts->deployment && parts->deployment->key)
        secret_hide(parts->deployment->key, run->message, (size_t)made);
}

static uint32_t narrow(uint64_t value)
{
    return (uint32_t)MIN(value, (uint64_t)UINT32_MAX);
}

static void take_usage(struct run *run)
{
    struct run_parts *parts = run->parts;
    struct provider_usage usage = {0};
    if (parts->adapter)
        parts->deployment->provider->usage(parts->adapter, &usage);
    if (usage.known)
        run->usage = (struct rec_usage){.input_tokens = narrow(usage.input_tokens),
                                        .output_tokens = narrow(usage.output_tokens),
                                        .cached_tokens = narrow(usage.cached_tokens),
                                        .source = run->kind ? USAGE_PARTIAL : USAGE_PROVIDER};
    else if (run->kind && parts->pieces) /* the provider tells at the end, which did not come: a piece is about a token */
        run->usage = (struct rec_usage){.output_tokens = parts->pieces, .source = USAGE_PARTIAL};
}

static void say_text(void *arg, struct span text);
static void say_reasoning(void *arg, struct span text);
static void say_tool(void *arg, unsigned index, struct span id, struct span name, struct span arguments);

static struct provider_sink sink_of(struct run *run)
{
    return (struct provider_sink){say_text, say_reasoning, say_tool, run};
}

/* The call has ended well as far as clocks and transport know: the adapter has the last word. */
static void conclude(struct run *run)
{
    struct run_parts *parts = run->parts;
    AUTO(json_out_done) struct json_out result = {0};
    struct provider_sink sink = sink_of(run);
    bool fine = parts->deployment->provider->end(parts->adapter, &sink, &result, &parts->failure);
    if (fine && !take_body(run, &result))
        fine = provider_fail(&parts->failure, KIND_WORKER, none, "no memory for the result");
    parts->failed = !fine;
}

/* A reply that says no: what its body means, and how long to stay away. */
static void classify(struct run *run)
{
    struct run_parts *parts = run->parts;
    const struct transfer *transfer = parts->transfer;
    run->retry_after_ms =
        retry_after_read(transfer_header(transfer, "retry-after-ms"), transfer_header(transfer, "retry-after"),
                         transfer_header(transfer, "date"), clock_wall());
    struct span body = span_of(parts->error_body.data, parts->error_body.len);
    parts->deployment->provider->classify(run->http_status, body, run->retry_after_ms > 0, &parts->failure);
    parts->failed = true;
}

/* Once, when the call has ended. What the provider said comes before what the clocks or the transport say, but not before our
 * own wish to end the call. detail: the transport's words. */
static void finish(struct run *run, const char *detail)
{
    struct run_parts *parts = run->parts;
    assert(!run->finished && parts->call.state == CALL_ENDED);
    run->kind = parts->call.kind;
    bool wished = run->kind == KIND_CANCELLED || run->kind == KIND_STOPPING;
    if (!wished && run->http_status >= 300)
        classify(run);
    if (!run->kind && !parts->failed)
        conclude(run);
    if (!wished && parts->failed) {
        run->kind = parts->failure.kind;
        take_message(run, parts->failure.text, "");
    } else if (run->kind) {
        take_message(run, parts->call.why ? parts->call.why : "", detail);
    }
    take_usage(run);
    run->connect_ms = call_connect_ms(&parts->call);
    run->first_token_ms = call_first_token_ms(&parts->call);
    run->total_ms = call_total_ms(&parts->call);
    run->finished = true;
    free_parts(run);
    eventlog_done(&run->log);
    run->place->ended(run->place->arg, run);
}

/* ---- clocks ---- */

/* Moves the timer only when it must ring sooner: a clock that was put off is looked at again when it rings. */
static void set_timer(struct run *run)
{
    struct run_parts *parts = run->parts;
    msec due = MIN(call_deadline(&parts->call), parts->local_at);
    if (timer_at(parts->timer) > due)
        timer_set(parts->timer, due);
}

static bool tell(struct run *run, enum call_event event, enum kind kind, enum fault fault)
{
    struct call_input input = {.event = event, .kind = kind, .fault = fault};
    return call_step(&run->parts->call, loop_now(run->place->loop), &input);
}

static void local_due(struct run *run);

static void timer_due(void *arg)
{
    struct run *run = arg;
    struct run_parts *parts = run->parts;
    if (parts->local_at <= loop_now(run->place->loop)) {
        local_due(run);
        return;
    }
    if (tell(run, CALL_CLOCK, KIND_NONE, FAULT_NONE))
        finish(run, "");
    else
        set_timer(run);
}

void run_cancel(struct run *run, enum kind kind)
{
    if (!run->finished && tell(run, CALL_CANCEL, kind, FAULT_NONE))
        finish(run, "");
}

void run_refuse(struct run *run, enum kind kind, const char *why)
{
    struct run_parts *parts = run->parts;
    call_start(&parts->call, loop_now(run->place->loop), &(struct call_clocks){0});
    parts->failed = !provider_fail(&parts->failure, kind, none, "%s", why);
    tell(run, CALL_FINISHED, kind, FAULT_NONE);
    finish(run, "");
}

/* ---- content ---- */

static void count_piece(struct run *run)
{
    struct run_parts *parts = run->parts;
    parts->pieces++;
    if (run->stream)
        run->progress = (unsigned)(10 + MIN(parts->pieces * 89 / parts->expected, 89));
    if (parts->streams)
        tell(run, CALL_CONTENT, KIND_NONE, FAULT_NONE);
}

static void spoke(struct run *run)
{
    bool first = run->parts->pieces == 1;
    if (run->stream)
        run->place->spoke(run->place->arg, run, first);
}

static void say_text(void *arg, struct span text)
{
    struct run *run = arg;
    count_piece(run);
    if (run->stream)
        eventlog_text(&run->log, EVENTLOG_TEXT, text);
    spoke(run);
}

static void say_reasoning(void *arg, struct span text)
{
    struct run *run = arg;
    count_piece(run);
    if (run->stream)
        eventlog_text(&run->log, EVENTLOG_REASONING, text);
    spoke(run);
}

static void say_tool(void *arg, unsigned index, struct span id, struct span name, struct span arguments)
{
    struct run *run = arg;
    count_piece(run);
    if (run->stream)
        eventlog_tool(&run->log, index, id, name, arguments);
    spoke(run);
}

/* ---- an answer over the network ---- */

static void connected(void *arg)
{
    struct run *run = arg;
    tell(run, CALL_CONNECTED, KIND_NONE, FAULT_NONE);
    set_timer(run);
}

static void answered(void *arg)
{
    tell(arg, CALL_BYTES, KIND_NONE, FAULT_NONE);
}

static bool take_error(struct run *run, struct span bytes)
{
    struct run_parts *parts = run->parts;
    size_t room = PROVIDER_ERROR_MAX - parts->error_body.len;
    json_raw(&parts->error_body, span_of(bytes.data, MIN(bytes.len, room)));
    return bytes.len <= room && !parts->error_body.failed;
}

static bool took_bytes(void *arg, struct span bytes)
{
    struct run *run = arg;
    struct run_parts *parts = run->parts;
    const struct provider *provider = parts->deployment->provider;
    if (!bytes.len) {
        run->http_status = transfer_status(parts->transfer);
        if (run->http_status < 300)
            parts->streams = provider->head(parts->adapter, transfer_header(parts->transfer, "Content-Type"));
        return true;
    }
    if (run->http_status >= 300)
        return take_error(run, bytes);
    if (!parts->streams)
        tell(run, CALL_CONTENT, KIND_NONE, FAULT_NONE);
    struct provider_sink sink = sink_of(run);
    if (!provider->feed(parts->adapter, bytes, &sink, &parts->failure)) {
        parts->failed = true;
        return false;
    }
    if (parts->call.state != CALL_CLOSING && provider->proven(parts->adapter))
        tell(run, CALL_PROVEN, KIND_NONE, FAULT_NONE);
    set_timer(run);
    return true;
}

static void transfer_ended(void *arg, enum fault fault, const char *detail)
{
    struct run *run = arg;
    tell(run, fault ? CALL_BROKEN : CALL_FINISHED, KIND_NONE, fault);
    finish(run, detail);
}

/* A trace id goes upstream only in its exact form: it came from a caller. */
static bool is_trace(struct span trace)
{
    if (trace.len != TRACE_BYTES)
        return false;
    for (size_t i = 0; i < trace.len; i++) {
        uint8_t c = trace.data[i];
        bool dash = i == 2 || i == 35 || i == 52;
        if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
    }
    return true;
}

static void list_headers(struct run *run, const struct msg_job *job, struct transfer_request *request)
{
    struct run_parts *parts = run->parts;
    size_t count = 0;
    request->headers[count++] = "Content-Type: application/json";
    request->headers[count++] = run->stream ? "Accept: text/event-stream, application/json" : "Accept: application/json";
    if (parts->deployment->key_header)
        request->headers[count++] = secret_text(parts->deployment->key_header);
    if (is_trace(job->trace)) {
        snprintf(parts->trace, sizeof parts->trace, "traceparent: %.*s", SPAN_ARG(job->trace));
        request->headers[count++] = parts->trace;
    }
    for (size_t i = 0; parts->request.headers[i] && count < TRANSFER_HEADERS; i++)
        request->headers[count++] = parts->request.headers[i];
}

static size_t answer_max(const struct run *run)
{
    return run->place->result_max * (run->stream ? STREAM_FACTOR : ANSWER_FACTOR) + ANSWER_SLACK;
}

static void start_transfer(struct run *run, const struct msg_job *job)
{
    struct run_parts *parts = run->parts;
    AUTO(json_out_done) struct json_out url = {0};
    json_printf(&url, "%s%s", parts->deployment->base_url, parts->request.path);
    json_raw(&url, span_of("", 1));
    struct transfer_request request = {
        .url = url.data,
        .body = span_of(parts->request.body.data, parts->request.body.len),
        .connect_ms = run->place->connect_ms,
        .answer_max = answer_max(run),
    };
    struct transfer_hooks hooks = {connected, answered, took_bytes, transfer_ended, run};
    list_headers(run, job, &request);
    enum err e = url.failed ? ERR_NOMEM : transfer_start(run->place->transfers, &request, &hooks, &parts->transfer);
    if (!e) {
        set_timer(run);
        return;
    }
    tell(run, CALL_BROKEN, KIND_NONE, e == ERR_NOMEM ? FAULT_NOMEM : FAULT_INTERNAL);
    finish(run, e == ERR_NOMEM ? "" : "the URL cannot be called");
}

/* ---- an answer without a network ---- */

static void local_due(struct run *run)
{
    struct run_parts *parts = run->parts;
    struct provider_sink sink = sink_of(run);
    bool more = true;
    while (more && parts->local_at <= loop_now(run->place->loop)) {
        more = parts->deployment->provider->step(parts->adapter, &sink);
        parts->local_at += parts->local.step_ms;
    }
    if (more) {
        set_timer(run);
        return;
    }
    tell(run, CALL_FINISHED, KIND_NONE, FAULT_NONE);
    finish(run, "");
}

static void start_local(struct run *run)
{
    struct run_parts *parts = run->parts;
    tell(run, CALL_CONNECTED, KIND_NONE, FAULT_NONE);
    parts->streams = true;
    parts->local_at = loop_now(run->place->loop) + parts->local.first_ms;
    if (parts->local.first_ms == 0)
        local_due(run);
    else
        set_timer(run);
}

/* ---- the beginning ---- */

/* How long the answer may become, for the progress of a stream. */
static uint64_t expected_tokens(const cJSON *request)
{
    static const char *const names[] = {"max_completion_tokens", "max_tokens", "max_output_tokens", "num_predict"};
    const cJSON *params = json_get(request, "params");
    int64_t value;
    for (size_t i = 0; cJSON_IsObject(params) && i < ARRAY_COUNT(names); i++) {
        const cJSON *item = json_get(params, names[i]);
        if (item && json_int(item, &value) && value > 0)
            return (uint64_t)value;
    }
    return EXPECTED_TOKENS;
}

/* The adapter's state and its request. false: `failure` says why not. */
static bool prepare(struct run *run, const struct msg_job *job, struct span body)
{
    struct run_parts *parts = run->parts;
    const struct provider *provider = parts->deployment->provider;
    AUTO(json_free) cJSON *tree = NULL;
    enum err e = json_parse(body, &tree, NULL);
    if (!e && !cJSON_IsObject(tree))
        e = ERR_BAD_JSON;
    if (e)
        return provider_fail(&parts->failure, KIND_WORKER, none, "%s",
                             e == ERR_NOMEM ? "no memory for the request" : "the request is not a JSON object");
    json_raw(&parts->model, parts->deployment->model[0] ? span_str(parts->deployment->model) : job->model);
    json_raw(&parts->model, span_of("", 1));
    struct provider_call call = {
        .request = tree, .model = parts->model.data, .stream = run->stream, .result_max = run->place->result_max};
    parts->adapter = parts->model.failed ? NULL : provider->create(&call);
    parts->timer = timer_new(run->place->loop, timer_due, run);
    if (!parts->adapter || !parts->timer)
        return provider_fail(&parts->failure, KIND_WORKER, none, "no memory for the call");
    parts->expected = expected_tokens(tree);
    if (provider->build)
        return provider->build(parts->adapter, &call, &parts->request, &parts->failure);
    return provider->answer(parts->adapter, &call, &parts->local, &parts->failure);
}

void run_start(struct run *run, const struct deployment *deployment, const struct msg_job *job, struct span body)
{
    struct run_parts *parts = run->parts;
    struct call_clocks clocks = {
        .connect_ms = run->place->connect_ms,
        .first_token_ms = run->place->first_token_ms,
        .idle_ms = run->place->idle_ms,
        .total_ms = (msec)MIN(MAX(job->timeout_ms, (uint64_t)1), (uint64_t)TIMEOUT_MAX_MS),
    };
    parts->deployment = deployment;
    parts->local_at = MSEC_NEVER;
    parts->streams = job->stream;
    call_start(&parts->call, loop_now(run->place->loop), &clocks);
    if (!prepare(run, job, body)) {
        parts->failed = true;
        tell(run, CALL_FINISHED, parts->failure.kind, FAULT_NONE);
        finish(run, "");
    } else if (deployment->provider->build) {
        start_transfer(run, job);
    } else {
        start_local(run);
    }
}
