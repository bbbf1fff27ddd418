/* Writes, and the effects that show a state: whatever shows one waits for the number of the job's last write. */
#include "broker/core/state.h"
#include "common/patience.h"

static struct effect *give(struct sched *s, enum effect_type type)
{
    return effects_add(s->out, type);
}

static struct effect *give_write(struct sched *s, enum effect_type type)
{
    struct effect *effect = give(s, type);
    effect->number = ++s->written;
    return effect;
}

/* ---- writes ---- */

static void fill_spec(const struct job *job, struct rec_spec *spec)
{
    job_spec(job, spec);
    spec->tenant = tenant_span(job->tenant);
    spec->queue = queue_span(job->queue);
}

static struct span idem_span(const struct job *job)
{
    return job->spec->has_idem ? span_of(job->spec->idem, sizeof job->spec->idem) : (struct span){0};
}

void save_job(struct sched *s, struct job *job)
{
    struct effect *effect = give_write(s, EFFECT_SAVE_JOB);
    effect->id = job->id;
    struct rec_job *record = &effect->job_record;
    *record = (struct rec_job){
        .state = job->state,
        .arrived_at = job->arrived_at,
        .runnable_at = job->runnable_at,
        .again_at = job->again_at,
        .run = job->past->run,
        .fence = job->past->fence,
        .failed_attempts = job->past->failed_attempts,
        .throttles = job->past->throttles,
        .crashes = job->past->crashes,
        .solo_crashes = job->past->solo_crashes,
        .started_at = job->past->started_at,
        .body_bytes = job->body_bytes,
        .idem = idem_span(job),
        .seq = job->seq,
        .calls = job->past->calls,
        .excluded = job->past->excluded,
    };
    fill_spec(job, &record->spec);
    if (job->lease) {
        record->worker = name_span(job->lease->worker_name);
        record->deployment = name_span(job->lease->deployment_name);
    }
    record->attempts = job_attempts(job, &record->attempts_count);
    job->written = s->written;
}

static void give_body(struct sched *s, struct job *job, uint8_t joined)
{
    struct effect *effect = give_write(s, EFFECT_SAVE_BODY);
    effect->joined = joined;
    effect->id = job->id;
    effect->body = job->body;
    job->written = s->written;
}

void save_body(struct sched *s, struct job *job)
{
    give_body(s, job, 0);
}

/* A write changes r:<id>. */
static void touch_ended(struct sched *s, const struct id *id)
{
    struct lookup_key ended = lookup_key_id(LOOKUP_ENDED, id), any = lookup_key_id(LOOKUP_ANY, id);
    lookup_touch(&s->lookups, &ended);
    lookup_touch(&s->lookups, &any);
}

static uint64_t kept_ms(const struct sched *s, const struct job *job)
{
    if (job->state == STATE_FAILED)
        return (uint64_t)s->settings.failed_ttl_ms;
    return job->spec->result_ttl_ms ? job->spec->result_ttl_ms : (uint64_t)s->settings.result_ttl_ms;
}

void save_ended(struct sched *s, struct job *job)
{
    const struct ending *end = job->ending;
    struct effect *effect = give_write(s, EFFECT_SAVE_ENDED);
    struct span body = blob_span(job->body), answer = blob_span(end->answer);
    effect->id = job->id;
    effect->ttl_ms = kept_ms(s, job);
    effect->tenant = tenant_span(job->tenant);
    if (body.len)
        effect->parts[0] = span_of(body.data, job->display_bytes);
    if (end->state == STATE_COMPLETED && answer.len) {
        effect->parts[1] = span_of(answer.data, end->result_bytes);
        effect->parts[2] = span_of(answer.data + end->result_bytes, end->log_bytes);
    }
    struct rec_ended *record = &effect->ended;
    *record = (struct rec_ended){
        .state = job->state,
        .created_at = job->arrived_at,
        .started_at = job->past->started_at,
        .completed_at = end->at,
        .run = job->past->run,
        .attempt = job->past->calls,
        .kind = end->kind,
        .http_status = end->http_status,
        .message = span_of(end->message, end->message_len),
        .deployment = name_span(end->deployment),
        .usage = end->usage,
        .display_bytes = (uint32_t)effect->parts[0].len,
        .result_bytes = (uint32_t)effect->parts[1].len,
        .log_bytes = (uint32_t)effect->parts[2].len,
        .idem = idem_span(job),
    };
    fill_spec(job, &record->spec);
    record->attempts = job_attempts(job, &record->attempts_count);
    touch_ended(s, &job->id);
    job->written = s->written;
    job->ending->save = s->written;
}

void save_idem(struct sched *s, struct job *job, const uint8_t hash[32], const uint8_t body_hash[32])
{
    struct effect *effect = give_write(s, EFFECT_SAVE_IDEM);
    effect->joined = 1; /* the job that it names: a key must never lead nowhere */
    memcpy(effect->hash, hash, sizeof effect->hash);
    effect->ttl_ms = (uint64_t)s->settings.idem_ttl_ms;
    effect->idem_record.id = job->id;
    memcpy(effect->idem_record.body_hash, body_hash, 32);
    struct lookup_key key = lookup_key_hash(hash);
    lookup_touch(&s->lookups, &key);
    job->written = s->written;
}

uint64_t drop_job(struct sched *s, const struct id *id)
{
    give_write(s, EFFECT_DROP_JOB)->id = *id;
    struct lookup_key any = lookup_key_id(LOOKUP_ANY, id);
    lookup_touch(&s->lookups, &any);
    return s->written;
}

uint64_t drop_body(struct sched *s, const struct id *id, uint64_t ttl_ms)
{
    struct effect *effect = give_write(s, EFFECT_DROP_BODY);
    effect->id = *id;
    effect->ttl_ms = ttl_ms;
    return s->written;
}

uint64_t drop_ended(struct sched *s, const struct id *id, const struct rec_ended *ended_record)
{
    struct effect *effect = give_write(s, EFFECT_DROP_ENDED);
    effect->id = *id;
    effect->tenant = ended_record->spec.tenant;
    effect->ended.completed_at = ended_record->completed_at;
    struct lookup_key body = lookup_key_id(LOOKUP_BODY, id);
    lookup_touch(&s->lookups, &body);
    touch_ended(s, id);
    return s->written;
}

/* The record of what it was before it was redriven, if there is one; shares a commit with the job's state, which follows. */
static void drop_old_end(struct sched *s, const struct job *job, msec ended_at)
{
    struct effect *effect = give_write(s, EFFECT_DROP_ENDED);
    effect->joined = 1;
    effect->keeps_body = true;
    effect->id = job->id;
    effect->tenant = tenant_span(job->tenant);
    effect->ended.completed_at = ended_at;
    touch_ended(s, &job->id);
}

/* One commit: between any two of them a start would find the job twice, or a body to which nothing leads. */
void save_redriven(struct sched *s, struct job *job, msec ended_at)
{
    give_body(s, job, 2);
    drop_old_end(s, job, ended_at);
    save_job(s, job);
}

/* Into a store that may be from before it was redriven: only a job that has run can have been. */
void save_anew(struct sched *s, struct job *job)
{
    if (job->past->run)
        drop_old_end(s, job, 0);
    save_job(s, job);
}

uint64_t drop_idem(struct sched *s, const uint8_t hash[32])
{
    struct effect *effect = give_write(s, EFFECT_DROP_IDEM);
    memcpy(effect->hash, hash, sizeof effect->hash);
    struct lookup_key key = lookup_key_hash(hash);
    lookup_touch(&s->lookups, &key);
    return s->written;
}

/* ---- questions to the store ---- */

void ask_store(struct sched *s, const struct lookup_key *key)
{
    give(s, EFFECT_LOOKUP)->lookup = *key;
    s->stats.lookups++;
}

void ask_body(struct sched *s, struct job *job)
{
    if (job->body_asked)
        return;
    job->body_asked = true;
    struct lookup_key key = lookup_key_id(LOOKUP_BODY, &job->id);
    ask_store(s, &key);
}

/* ---- what is shown ---- */

uint32_t retry_after(struct sched *s, struct tenant *tenant, enum err error)
{
    switch (error) {
    case ERR_STORE:
        return (uint32_t)patience(s->stalled ? s->now - s->stalled_at : 0);
    case ERR_DRAINING:
    case ERR_NOMEM:
        return 1000;
    case ERR_OVERLOADED:
        if (s->full) /* ends free nothing until they expire */
            return (uint32_t)patience(s->now - s->full_at);
        return comeback_promise(&s->comeback, s->now);
    case ERR_QUEUE_FULL:
    case ERR_BYTES_FULL:
        return comeback_promise(&tenant->comeback, s->now);
    default:
        return 0; /* waiting would change nothing */
    }
}

void view_job(struct sched *s, struct job *job, struct rec_view *view)
{
    *view = (struct rec_view){
        .state = job->state,
        .reason = (uint8_t)job_reason(job),
        .progress = job->state == STATE_COMPLETED ? 100
                    : job->lease                  ? job->lease->progress
                                                  : 0,
        .priority = job->priority,
        .class = job->class,
        .queue = queue_span(job->queue),
        .created_at = job->arrived_at,
        .started_at = job->past->started_at,
        .retry_at = job->state == STATE_RETRYING || job->scheduled ? job->again_at : 0,
        .run = job->past->run,
        .attempt = job->past->calls,
        .max_attempts = job->max_attempts,
    };
    view->attempts = job_attempts(job, &view->attempts_count);
}

struct effect *answer(struct sched *s, peer_number peer, uint64_t ref, const struct id *id, enum err error, uint64_t after)
{
    struct effect *effect = give(s, EFFECT_ANSWER);
    effect->peer = peer;
    effect->after = after;
    effect->answer.ref = ref;
    effect->answer.id = *id;
    effect->answer.error = (uint16_t)error;
    if (error)
        effect->answer.retry_after_ms = retry_after(s, NULL, error);
    return effect;
}

void answer_job(struct sched *s, peer_number peer, uint64_t ref, struct job *job)
{
    bool over = job_is_over(job);
    struct effect *effect = answer(s, peer, ref, &job->id, over ? ERR_ENDED : ERR_OK, job->written);
    view_job(s, job, &effect->answer.view);
    if (!over && job->body && job->display_bytes) {
        effect->body = job->body;
        effect->body_len = job->display_bytes;
    }
}

static void show_to(struct sched *s, struct job *job, struct watch *watch, enum job_event event)
{
    struct effect *effect = give(s, EFFECT_EVENT);
    effect->peer = watch->api->peer;
    effect->after = event == EVENT_PROGRESS ? 0 : job->written;
    effect->save = event == EVENT_ENDED ? job->ending->save : 0;
    effect->event = (struct rec_event){
        .id = job->id,
        .event = (uint8_t)event,
        .run = job->past->run,
        .state = job->state,
        .reason = (uint8_t)job_reason(job),
        .progress = job->state == STATE_COMPLETED ? 100
                    : job->lease                  ? job->lease->progress
                                                  : 0,
        .attempt = job->past->calls,
    };
}

void show(struct sched *s, struct job *job, enum job_event event)
{
    for (struct watch *watch = job->watches; watch; watch = watch->next)
        if (watch->all || event == EVENT_ENDED)
            show_to(s, job, watch, event);
    if (event != EVENT_STATUS && event != EVENT_ENDED)
        return;
    struct effect *effect = give(s, EFFECT_CHANGE);
    effect->after = job->written;
    effect->change = (struct msg_change){
        .at = s->now,
        .id = job->id,
        .tenant = tenant_span(job->tenant),
        .queue = queue_span(job->queue),
        .state = job->state,
        .reason = (uint8_t)job_reason(job),
        .kind = job->ending ? job->ending->kind : KIND_NONE,
    };
}
