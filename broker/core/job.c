#include "broker/core/job.h"

#include <stdlib.h>

#define MESSAGE_KEPT 256

/* ---- the table of moves ---- */

bool job_may_move(unsigned from, unsigned to)
{
    static const uint16_t moves[8] = {
        [0] = 1 << STATE_PENDING,
        [STATE_PENDING] = 1 << STATE_PROCESSING | 1 << STATE_FAILED | 1 << STATE_CANCELLED | 1 << STATE_EXPIRED,
        [STATE_PROCESSING] = 1 << STATE_PENDING | 1 << STATE_RETRYING | 1 << STATE_COMPLETED | 1 << STATE_FAILED |
                             1 << STATE_CANCELLED | 1 << STATE_EXPIRED,
        [STATE_RETRYING] = 1 << STATE_PENDING | 1 << STATE_FAILED | 1 << STATE_CANCELLED | 1 << STATE_EXPIRED,
    };
    return from < ARRAY_COUNT(moves) && moves[from] & 1u << to;
}

/* ---- jobs by id ---- */

static size_t bucket_of(const struct job_table *table, const struct id *id)
{
    uint64_t random; /* bytes 8 to 15 hold random bits and the tag: as good as a hash */
    memcpy(&random, id->bytes + 8, sizeof random);
    return (size_t)(random * 0x9e3779b97f4a7c15u >> 20) & (table->size - 1);
}

enum err job_table_reserve(struct job_table *table)
{
    if (table->size && (table->count < table->size || table->frozen))
        return ERR_OK;
    struct job_table grown = {.size = table->size ? table->size * 2 : 1024};
    grown.buckets = calloc(grown.size, sizeof *grown.buckets);
    if (!grown.buckets)
        return table->size ? ERR_OK : ERR_NOMEM; /* longer chains do until there is memory */
    for (size_t i = 0; i < table->size; i++)
        for (struct job *job = table->buckets[i], *next; job; job = next) {
            next = job->chain;
            job_table_add(&grown, job);
        }
    free(table->buckets);
    *table = grown;
    return ERR_OK;
}

void job_table_add(struct job_table *table, struct job *job)
{
    struct job **bucket = &table->buckets[bucket_of(table, &job->id)];
    job->chain = *bucket;
    *bucket = job;
    table->count++;
}

void job_table_remove(struct job_table *table, struct job *job)
{
    struct job **link = &table->buckets[bucket_of(table, &job->id)];
    while (*link != job)
        link = &(*link)->chain;
    *link = job->chain;
    job->chain = NULL;
    table->count--;
}

struct job *job_table_find(const struct job_table *table, const struct id *id)
{
    if (!table->size)
        return NULL;
    struct job *job = table->buckets[bucket_of(table, id)];
    while (job && !id_equal(&job->id, id))
        job = job->chain;
    return job;
}

void job_table_done(struct job_table *table)
{
    free(table->buckets);
    *table = (struct job_table){0};
}

/* ---- one job ---- */

static struct spec *spec_new(const struct rec_spec *from, struct span idem)
{
    struct spec *spec = calloc(1, sizeof *spec + from->request_id.len + from->trace.len + 1);
    if (!spec)
        return NULL;
    spec->capabilities = from->capabilities;
    spec->run_at = from->run_at;
    spec->deadline = from->deadline;
    spec->delay_ms = from->delay_ms;
    spec->max_wait_ms = from->max_wait_ms;
    spec->timeout_ms = from->timeout_ms;
    spec->backoff_base_ms = from->backoff_base_ms;
    spec->backoff_cap_ms = from->backoff_cap_ms;
    spec->result_ttl_ms = from->result_ttl_ms;
    spec->input_estimate = from->input_estimate;
    spec->output_estimate = from->output_estimate;
    spec->max_attempts = from->max_attempts;
    spec->ack = from->ack;
    spec->backoff_exact = from->backoff_exact;
    spec->stream = from->stream;
    spec->cancel_on_leave = from->cancel_on_leave;
    spec->has_idem = idem.len == sizeof spec->idem;
    if (spec->has_idem)
        memcpy(spec->idem, idem.data, sizeof spec->idem);
    spec->request_id_len = (uint8_t)from->request_id.len;
    spec->trace_len = (uint8_t)from->trace.len;
    if (from->request_id.len)
        memcpy(spec->texts, from->request_id.data, from->request_id.len);
    if (from->trace.len)
        memcpy(spec->texts + from->request_id.len, from->trace.data, from->trace.len);
    return spec;
}

struct job *job_new(struct names *names, const struct id *id, const struct rec_spec *spec, struct span idem, struct blob *body)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->id = *id;
    list_init(&job->place);
    list_init(&job->watches);
    job->due.of = DUE_JOB;
    job->class = spec->class ? spec->class : CLASS_STANDARD;
    job->priority = spec->priority ? spec->priority : 5;
    job->display_bytes = spec->display_bytes;
    job->spec = spec_new(spec, idem);
    job->route = name_get(names, spec->route);
    if (!job->spec || !job->route) {
        job_free(names, &job);
        return NULL;
    }
    job->body = blob_ref(body);
    job->body_bytes = body ? (uint32_t)body->len : 0;
    return job;
}

static void history_free(struct names *names, struct history **history)
{
    struct history *h = TAKE(*history);
    if (!h)
        return;
    for (uint32_t i = 0; i < h->count; i++) {
        name_put(names, &h->worker[i]);
        name_put(names, &h->deployment[i]);
        free(h->message[i]);
    }
    free(h);
}

void job_free(struct names *names, struct job **job)
{
    struct job *mine = TAKE(*job);
    if (!mine)
        return;
    assert(list_empty(&mine->place) && list_empty(&mine->watches) && !mine->lease && !mine->ending);
    blob_free(&mine->body);
    name_put(names, &mine->route);
    history_free(names, &mine->history);
    free(mine->spec);
    free(mine);
}

void job_spec(const struct job *job, struct rec_spec *ret_spec)
{
    const struct spec *spec = job->spec;
    *ret_spec = (struct rec_spec){
        .route = name_span(job->route),
        .class = job->class,
        .priority = job->priority,
        .capabilities = spec->capabilities,
        .run_at = spec->run_at,
        .deadline = spec->deadline,
        .delay_ms = spec->delay_ms,
        .max_wait_ms = spec->max_wait_ms,
        .timeout_ms = spec->timeout_ms,
        .max_attempts = spec->max_attempts,
        .backoff_base_ms = spec->backoff_base_ms,
        .backoff_cap_ms = spec->backoff_cap_ms,
        .backoff_exact = spec->backoff_exact,
        .result_ttl_ms = spec->result_ttl_ms,
        .stream = spec->stream,
        .ack = spec->ack,
        .cancel_on_leave = spec->cancel_on_leave,
        .input_estimate = spec->input_estimate,
        .output_estimate = spec->output_estimate,
        .display_bytes = job->display_bytes,
        .request_id = span_of(spec->texts, spec->request_id_len),
        .trace = span_of(spec->texts + spec->request_id_len, spec->trace_len),
    };
}

uint64_t job_bytes(const struct job *job)
{
    return sizeof *job + sizeof *job->spec + job->spec->request_id_len + job->spec->trace_len + job->body_bytes;
}

/* ---- its attempts ---- */

enum err job_history_reserve(struct job *job)
{
    if (!job->history)
        job->history = calloc(1, sizeof *job->history);
    return job->history ? ERR_OK : ERR_NOMEM;
}

static void clear_row(struct names *names, struct history *h, uint32_t at)
{
    name_put(names, &h->worker[at]);
    name_put(names, &h->deployment[at]);
    free(TAKE(h->message[at]));
}

struct rec_attempt *job_history_add(struct names *names, struct job *job, struct name *worker, struct name *deployment)
{
    struct history *h = job->history;
    assert(h);
    if (h->count == PROTO_ATTEMPTS) {
        clear_row(names, h, 0);
        memmove(h->list, h->list + 1, (PROTO_ATTEMPTS - 1) * sizeof *h->list);
        memmove(h->worker, h->worker + 1, (PROTO_ATTEMPTS - 1) * sizeof *h->worker);
        memmove(h->deployment, h->deployment + 1, (PROTO_ATTEMPTS - 1) * sizeof *h->deployment);
        memmove(h->message, h->message + 1, (PROTO_ATTEMPTS - 1) * sizeof *h->message);
        h->count--;
    }
    uint32_t at = h->count++;
    h->worker[at] = name_ref(worker);
    h->deployment[at] = name_ref(deployment);
    h->message[at] = NULL;
    h->list[at] = (struct rec_attempt){.worker = name_span(worker), .deployment = name_span(deployment)};
    return &h->list[at];
}

struct rec_attempt *job_history_last(struct job *job)
{
    return job->history && job->history->count ? &job->history->list[job->history->count - 1] : NULL;
}

void job_history_drop(struct names *names, struct job *job)
{
    if (job_history_last(job))
        clear_row(names, job->history, --job->history->count);
}

void job_history_say(struct job *job, struct span message)
{
    struct rec_attempt *row = job_history_last(job);
    size_t len = MIN(message.len, (size_t)MESSAGE_KEPT);
    while (len && len < message.len && (message.data[len] & 0xc0) == 0x80)
        len--; /* whole characters */
    char *copy = row && len ? malloc(len) : NULL;
    if (!copy)
        return;
    memcpy(copy, message.data, len);
    uint32_t at = job->history->count - 1;
    free(job->history->message[at]);
    job->history->message[at] = copy;
    row->message = span_of(copy, len);
}
