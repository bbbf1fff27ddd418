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

/* Shared by all jobs that have nothing of their own to say. */
static struct spec plain_spec;
static struct past no_past;

static uint64_t some_ms(uint64_t ms)
{
    return MIN(ms, (uint64_t)SPEC_MS_MAX);
}
static msec some_instant(msec at)
{
    return MAX(0, MIN(at, SPEC_MS_MAX));
}

/* Zeroed before, so that padding compares equal. */
static void fill_spec(struct spec *spec, const struct rec_spec *from, struct span idem)
{
    spec->capabilities = from->capabilities;
    spec->run_at = some_instant(from->run_at);
    spec->deadline = some_instant(from->deadline);
    spec->delay_ms = some_ms(from->delay_ms);
    spec->max_wait_ms = some_ms(from->max_wait_ms);
    spec->timeout_ms = some_ms(from->timeout_ms);
    spec->backoff_base_ms = some_ms(from->backoff_base_ms);
    spec->backoff_cap_ms = some_ms(from->backoff_cap_ms);
    spec->result_ttl_ms = some_ms(from->result_ttl_ms);
    spec->ack = from->ack;
    spec->backoff_exact = from->backoff_exact;
    spec->has_idem = idem.len == sizeof spec->idem;
    if (spec->has_idem)
        memcpy(spec->idem, idem.data, sizeof spec->idem);
}

static struct spec *spec_new(const struct spec *from)
{
    /* Should padding differ, the job merely has one of its own. NOLINTNEXTLINE(bugprone-suspicious-memory-comparison,cert-*) */
    if (memcmp(from, &plain_spec, sizeof *from) == 0)
        return &plain_spec;
    struct spec *spec = malloc(sizeof *spec);
    if (spec)
        memcpy(spec, from, sizeof *spec);
    return spec;
}

enum err job_spec_own(struct job *job)
{
    if (job->spec != &plain_spec)
        return ERR_OK;
    struct spec *spec = calloc(1, sizeof *spec);
    if (!spec)
        return ERR_NOMEM;
    job->spec = spec;
    return ERR_OK;
}

static void copy_texts(struct job *job, struct span request_id, struct span trace)
{
    job->request_id_len = (uint8_t)request_id.len;
    job->trace_len = (uint8_t)trace.len;
    if (request_id.len)
        memcpy(job->texts, request_id.data, request_id.len);
    if (trace.len)
        memcpy(job->texts + request_id.len, trace.data, trace.len);
}

bool job_shared_is_clean(void)
{
    static const struct spec zero_spec;
    static const struct past zero_past;
    /* All four are static, their padding is zeros too. NOLINTNEXTLINE(bugprone-suspicious-memory-comparison,cert-*) */
    return memcmp(&plain_spec, &zero_spec, sizeof plain_spec) == 0 && memcmp(&no_past, &zero_past, sizeof no_past) == 0;
}

struct job *job_new(struct names *names, const struct id *id, const struct rec_spec *from, struct span idem, struct blob *body)
{
    struct job *job = calloc(1, MAX(sizeof *job, offsetof(struct job, texts) + from->request_id.len + from->trace.len));
    if (!job)
        return NULL;
    job->id = *id;
    list_init(&job->place);
    job->due.of = DUE_JOB;
    job->class = from->class ? from->class : CLASS_STANDARD;
    job->priority = from->priority ? from->priority : 5;
    job->stream = from->stream;
    job->cancel_on_leave = from->cancel_on_leave;
    job->max_attempts = from->max_attempts;
    job->display_bytes = from->display_bytes;
    job->input_estimate = from->input_estimate;
    job->output_estimate = from->output_estimate;
    copy_texts(job, from->request_id, from->trace);
    struct spec spec;
    memset(&spec, 0, sizeof spec);
    fill_spec(&spec, from, idem);
    job->spec = spec_new(&spec);
    job->past = &no_past;
    job->route = name_get(names, from->route);
    if (!job->spec || !job->route) {
        job_free(names, &job);
        return NULL;
    }
    job->body = blob_ref(body);
    job->body_bytes = body ? (uint32_t)body->len : 0;
    return job;
}

struct attempt_names {
    struct name *worker, *deployment;
};

static struct attempt_names *names_of(struct history *h)
{
    return (struct attempt_names *)&h->list[h->size];
}

static void clear_row(struct names *names, struct history *h, uint32_t at)
{
    name_put(names, &names_of(h)[at].worker);
    name_put(names, &names_of(h)[at].deployment);
    free((void *)h->list[at].message.data);
    h->list[at].message = (struct span){0};
}

static void past_free(struct names *names, struct past **past)
{
    struct past *mine = TAKE(*past);
    if (mine == &no_past)
        return;
    for (uint32_t i = 0; mine->history && i < mine->history->count; i++)
        clear_row(names, mine->history, i);
    free(mine->history);
    free(mine);
}

void job_free(struct names *names, struct job **job)
{
    struct job *mine = TAKE(*job);
    if (!mine)
        return;
    assert(list_empty(&mine->place) && !mine->watches && !mine->lease && !mine->ending);
    blob_free(&mine->body);
    name_put(names, &mine->route);
    past_free(names, &mine->past);
    if (mine->spec != &plain_spec)
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
        .max_attempts = job->max_attempts,
        .backoff_base_ms = spec->backoff_base_ms,
        .backoff_cap_ms = spec->backoff_cap_ms,
        .backoff_exact = spec->backoff_exact,
        .result_ttl_ms = spec->result_ttl_ms,
        .stream = job->stream,
        .ack = spec->ack,
        .cancel_on_leave = job->cancel_on_leave,
        .input_estimate = job->input_estimate,
        .output_estimate = job->output_estimate,
        .display_bytes = job->display_bytes,
        .request_id = job_request_id(job),
        .trace = job_trace(job),
    };
}

uint64_t job_bytes(const struct job *job)
{
    return sizeof *job + sizeof *job->spec + job->request_id_len + job->trace_len + job->body_bytes;
}

/* ---- its attempts ---- */

static struct history *history_grown(struct history *from)
{
    uint32_t size = from ? MIN(from->size * 2, (uint32_t)PROTO_ATTEMPTS) : 1;
    struct history *h = malloc(sizeof *h + size * (sizeof *h->list + sizeof(struct attempt_names)));
    if (!h)
        return NULL;
    *h = (struct history){.size = size, .count = from ? from->count : 0};
    if (from) {
        memcpy(h->list, from->list, from->count * sizeof *h->list);
        memcpy(names_of(h), names_of(from), from->count * sizeof(struct attempt_names));
    }
    return h;
}

enum err job_past_reserve(struct job *job, struct history **dead)
{
    if (job->past == &no_past) {
        struct past *past = calloc(1, sizeof *past);
        if (!past)
            return ERR_NOMEM;
        job->past = past;
    }
    struct history *old = job->past->history;
    if (old && (old->count < old->size || old->size == PROTO_ATTEMPTS))
        return ERR_OK;
    struct history *grown = history_grown(old);
    if (!grown)
        return ERR_NOMEM;
    job->past->history = grown;
    if (old) {
        old->dead = *dead;
        *dead = old;
    }
    return ERR_OK;
}

struct rec_attempt *job_history_add(struct names *names, struct job *job, struct name *worker, struct name *deployment)
{
    struct history *h = job->past->history;
    assert(h);
    if (h->count == h->size) {
        assert(h->size == PROTO_ATTEMPTS);
        clear_row(names, h, 0);
        memmove(h->list, h->list + 1, (h->size - 1) * sizeof *h->list);
        memmove(names_of(h), names_of(h) + 1, (h->size - 1) * sizeof(struct attempt_names));
        h->count--;
    }
    uint32_t at = h->count++;
    names_of(h)[at] = (struct attempt_names){name_ref(worker), name_ref(deployment)};
    h->list[at] = (struct rec_attempt){.worker = name_span(worker), .deployment = name_span(deployment)};
    return &h->list[at];
}

struct rec_attempt *job_history_last(struct job *job)
{
    struct history *h = job->past->history;
    return h && h->count ? &h->list[h->count - 1] : NULL;
}

void job_history_drop(struct names *names, struct job *job)
{
    if (job_history_last(job))
        clear_row(names, job->past->history, --job->past->history->count);
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
    free((void *)row->message.data);
    row->message = span_of(copy, len);
}

void history_sweep(struct history **dead)
{
    for (struct history *h; (h = *dead);) {
        *dead = h->dead;
        free(h);
    }
}
