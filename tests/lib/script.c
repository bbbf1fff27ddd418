#include "tests/lib/script.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_TENANT "acme"
#define DEFAULT_QUEUE  "q"

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "script: %s\n", what);
    abort();
}

/* ---- names ---- */

/* Bytes 8 to 15 hold the name, so that an id tells it. */
struct id script_id(const char *name)
{
    struct id id = {.bytes = {0}};
    size_t len = strlen(name);
    must(len >= 1 && len <= 8, "a job's name has 1 to 8 characters");
    id.bytes[7] = ID_STORED;
    memcpy(id.bytes + 8, name, len);
    return id;
}

static const char *name_of(const struct id *id)
{
    static char names[4][9];
    static unsigned turn;
    char *name = names[turn++ % 4];
    memcpy(name, id->bytes + 8, 8);
    name[8] = 0;
    return name;
}

/* 32 bytes made of a short text: keys and hashes. */
static struct span bytes32(uint8_t out[32], const char *text)
{
    if (!text)
        return (struct span){0};
    memset(out, 0, 32);
    memcpy(out, text, strnlen(text, 31));
    return span_of(out, 32);
}

peer_number script_peer(struct script *t, const char *name)
{
    peer_number found = 0;
    for (unsigned i = 0; i < t->peers_count; i++)
        if (strcmp(t->peers[i].name, name) == 0)
            found = t->peers[i].number;
    return found;
}

static const char *peer_name(const struct script *t, peer_number number)
{
    for (unsigned i = 0; i < t->peers_count; i++)
        if (t->peers[i].number == number)
            return t->peers[i].name;
    return number ? "?" : "nobody";
}

static peer_number new_session(struct script *t, const char *name)
{
    must(t->peers_count < SCRIPT_PEERS, "too many sessions");
    struct script_peer *peer = &t->peers[t->peers_count++];
    snprintf(peer->name, sizeof peer->name, "%s", name);
    peer->number = t->peers_count;
    return peer->number;
}

/* ---- effects as text ---- */

static PRINTF(2, 3) void put(struct script *t, const char *format, ...)
{
    char line[4096];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    must(len >= 0 && (size_t)len < sizeof line, "a line is too long");
    if (t->len + (size_t)len + 1 > t->size) {
        t->size = (t->len + (size_t)len + 1) * 2;
        t->text = realloc(t->text, t->size);
        must(t->text != NULL, "no memory");
    }
    memcpy(t->text + t->len, line, (size_t)len + 1);
    t->len += (size_t)len;
}

static void put_fence(struct script *t, struct fence fence)
{
    if (fence.epoch == SCRIPT_EPOCH)
        put(t, " %" PRIu64, fence.n);
    else
        put(t, " %" PRIu64 ":%" PRIu64, fence.epoch, fence.n);
}

static void put_state(struct script *t, unsigned state, unsigned reason)
{
    put(t, " %s", state ? state_name(state) : "-");
    if (reason && reason != REASON_READY)
        put(t, "/%s", reason_name(reason));
}

static void put_view(struct script *t, const struct rec_view *view)
{
    put_state(t, view->state, view->reason);
    put(t, " progress %u calls %u", view->progress, view->attempt);
    if (view->retry_at)
        put(t, " again %" PRId64, view->retry_at);
}

static void put_attempts(struct script *t, const struct rec_attempt *attempts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        put(t, " [%.*s%s%s]", SPAN_ARG(attempts[i].worker), attempts[i].kind ? " " : "", kind_name(attempts[i].kind));
}

static void put_job_record(struct script *t, const struct effect *e)
{
    const struct rec_job *r = &e->job_record;
    put(t, "#%" PRIu64 " save job %s %s", e->number, name_of(&e->id), state_name(r->state));
    if (r->run)
        put_fence(t, r->fence);
    if (r->again_at)
        put(t, " again %" PRId64, r->again_at);
    if (r->failed_attempts)
        put(t, " failed %u", r->failed_attempts);
    if (r->throttles)
        put(t, " throttled %u", r->throttles);
    if (r->crashes || r->solo_crashes)
        put(t, " crashes %u+%u", r->crashes, r->solo_crashes);
}

static void put_ended(struct script *t, const struct effect *e)
{
    put(t, "#%" PRIu64 " save ended %s %s", e->number, name_of(&e->id), state_name(e->ended.state));
    if (e->ended.kind)
        put(t, " %s", kind_name(e->ended.kind));
    if (e->parts[0].len)
        put(t, " display %.*s", SPAN_ARG(e->parts[0]));
    if (e->parts[1].len)
        put(t, " result %.*s", SPAN_ARG(e->parts[1]));
    if (e->parts[2].len)
        put(t, " log %.*s", SPAN_ARG(e->parts[2]));
    if (e->ended.message.len)
        put(t, " \"%.*s\"", SPAN_ARG(e->ended.message));
    put_attempts(t, e->ended.attempts, e->ended.attempts_count);
    put(t, " for %" PRIu64, e->ttl_ms);
}

static void put_event(struct script *t, const struct effect *e)
{
    const struct rec_event *event = &e->event;
    put(t, "event %s %s %s", peer_name(t, e->peer), name_of(&event->id), event_name(event->event));
    if (event->event == EVENT_TOKEN) {
        struct span body = blob_span(e->body);
        put(t, " %u-%" PRIu64 " %.*s", event->run, event->offset, SPAN_ARG(body));
        return;
    }
    put_state(t, event->state, event->reason);
    if (event->event == EVENT_PROGRESS)
        put(t, " %u", event->progress);
    if (e->save)
        put(t, " #%" PRIu64, e->save);
}

static void put_lookup(struct script *t, const struct lookup_key *key)
{
    static const char *const kinds[] = {
        [LOOKUP_IDEM] = "idem", [LOOKUP_BODY] = "body", [LOOKUP_ENDED] = "ended", [LOOKUP_ANY] = "any"};
    if (key->kind == LOOKUP_IDEM)
        put(t, "lookup idem %.32s", (const char *)key->hash);
    else
        put(t, "lookup %s %s", kinds[key->kind], name_of(&key->id));
}

static void put_job(struct script *t, const struct effect *e)
{
    const struct msg_job *job = &e->job;
    struct span body = blob_span(e->body);
    size_t len = e->body_len ? e->body_len : body.len - e->body_from;
    must(e->body_from + len <= body.len, "a JOB names more than its body has");
    put(t, "job %s %s", peer_name(t, e->peer), name_of(&job->id));
    put_fence(t, job->fence);
    put(t, " call %u %.*s %.*s", job->attempt, SPAN_ARG(job->deployment), (int)len,
        body.len ? (const char *)body.data + e->body_from : "");
    if (job->stream || job->watched)
        put(t, "%s%s", job->stream ? " stream" : "", job->watched ? " watched" : "");
}

static void put_effect(struct script *t, const struct effect *e)
{
    const char *to = peer_name(t, e->peer);
    switch (e->type) {
    case EFFECT_WELCOME:
        put(t, "welcome %s%s", to, e->welcome.stalled ? " stalled" : "");
        for (uint32_t i = 0; i < e->welcome.verdicts_count; i++)
            put(t, " %s %s", name_of(&e->welcome.verdicts[i].id), verdict_name(e->welcome.verdicts[i].verdict));
        break;
    case EFFECT_HEARTBEAT_ACK:
        put(t, "beat %s%s workers %u", to, e->heartbeat_ack.stalled ? " stalled" : "", e->heartbeat_ack.workers);
        for (uint32_t i = 0; i < e->heartbeat_ack.drop_count; i++)
            put(t, " drop %s", name_of(&e->heartbeat_ack.drop[i].id));
        break;
    case EFFECT_ACK:
        put(t, "ack %s %s", to, name_of(&e->ack.id));
        if (e->ack.error)
            put(t, " %s", err_name(e->ack.error));
        else
            put(t, "%s %s", e->ack.existing ? " existing" : "", e->ack.state ? state_name(e->ack.state) : "-");
        if (e->ack.retry_after_ms)
            put(t, " in %u", e->ack.retry_after_ms);
        break;
    case EFFECT_ANSWER:
        put(t, "answer %s %s", to, name_of(&e->answer.id));
        if (e->answer.error)
            put(t, " %s", err_name(e->answer.error));
        if (!e->answer.error || e->answer.error == ERR_ENDED)
            put_view(t, &e->answer.view);
        break;
    case EFFECT_EVENT:
        put_event(t, e);
        break;
    case EFFECT_JOB:
        put_job(t, e);
        break;
    case EFFECT_CANCEL_RUN:
        put(t, "cancel %s %s", to, name_of(&e->cancel_run.id));
        put_fence(t, e->cancel_run.fence);
        break;
    case EFFECT_WATCH_RUN:
        put(t, "watch %s %s %s %" PRIu64, to, name_of(&e->watch_run.id), e->watch_run.on ? "on" : "off", e->watch_run.from);
        break;
    case EFFECT_OUTCOME_ACK:
        put(t, "release %s %s", to, name_of(&e->outcome_ack.id));
        put_fence(t, e->outcome_ack.fence);
        break;
    case EFFECT_SAVE_JOB:
        put_job_record(t, e);
        break;
    case EFFECT_SAVE_BODY:
        put(t, "#%" PRIu64 " save body %s", e->number, name_of(&e->id));
        break;
    case EFFECT_SAVE_ENDED:
        put_ended(t, e);
        break;
    case EFFECT_SAVE_IDEM:
        put(t, "#%" PRIu64 " save idem %.32s %s", e->number, (const char *)e->hash, name_of(&e->idem_record.id));
        break;
    case EFFECT_DROP_JOB:
        put(t, "#%" PRIu64 " drop job %s", e->number, name_of(&e->id));
        break;
    case EFFECT_DROP_BODY:
        put(t, "#%" PRIu64 " drop body %s", e->number, name_of(&e->id));
        if (e->ttl_ms)
            put(t, " in %" PRIu64, e->ttl_ms);
        break;
    case EFFECT_DROP_ENDED:
        put(t, "#%" PRIu64 " drop ended %s", e->number, name_of(&e->id));
        break;
    case EFFECT_DROP_IDEM:
        put(t, "#%" PRIu64 " drop idem %.32s", e->number, (const char *)e->hash);
        break;
    case EFFECT_LOOKUP:
        put_lookup(t, &e->lookup);
        break;
    case EFFECT_CHANGE:
        put(t, "change %s", name_of(&e->change.id));
        put_state(t, e->change.state, e->change.reason);
        break;
    }
    if (e->after)
        put(t, " @%" PRIu64, e->after);
    put(t, "\n");
}

static void take_effects(struct script *t)
{
    for (size_t i = 0; i < t->effects.count; i++) {
        const struct effect *e = &t->effects.list[i];
        if (e->type == EFFECT_JOB) {
            t->seen_job++;
            t->last_job = e->job;
            t->last_worker = e->peer;
        }
        if (t->each)
            t->each(t->arg, e);
        if (!t->quiet && (t->changes || e->type != EFFECT_CHANGE))
            put_effect(t, e);
    }
    effects_clear(&t->effects);
}

/* ---- life ---- */

struct script *script_unstarted(const struct sched_settings *settings)
{
    struct script *t = calloc(1, sizeof *t);
    must(t != NULL, "no memory");
    t->settings = *settings;
    t->sched = sched_new(settings, 1);
    must(t->sched != NULL, "no memory");
    script_as(t, "api", DEFAULT_TENANT);
    return t;
}

void script_start(struct script *t, uint64_t epoch)
{
    script_step(t, &(struct input){.type = INPUT_START, .start = {.epoch = epoch, .ack = ACK_STORED, .shard = 1}});
}

struct script *script_with(const struct sched_settings *settings)
{
    struct script *t = script_unstarted(settings);
    script_start(t, SCRIPT_EPOCH);
    api(t, "api");
    script_scene(t);
    return t;
}

struct script *script_new(void)
{
    return script_with(&sched_defaults);
}

void script_free(struct script **script)
{
    struct script *t = TAKE(*script);
    if (!t)
        return;
    sched_free(&t->sched);
    effects_done(&t->effects);
    free(t->text);
    free(t);
}

static void check(struct script *t, const struct input *in)
{
    const char *wrong = t->quiet ? NULL : sched_check(t->sched);
    if (!wrong)
        return;
    fprintf(stderr, "script: after input %d at %" PRId64 ": %s\n%s", in->type, t->now, wrong, t->text ? t->text : "");
    abort();
}

void script_step(struct script *t, struct input *in)
{
    if (t->before)
        t->before(in);
    enum err e = sched_step(t->sched, t->now, in, &t->effects);
    bool short_of_memory = t->after && t->after(e);
    check(t, in);
    take_effects(t);
    if (e && short_of_memory) {
        e = sched_step(t->sched, t->now, in, &t->effects);
        check(t, in);
        take_effects(t);
    }
    must(e == ERR_OK, "no memory");
}

void tick(struct script *t)
{
    script_step(t, &(struct input){.type = INPUT_TICK});
}

void stand_still(struct script *t, msec ms)
{
    t->now += ms;
    script_step(t, &(struct input){.type = INPUT_MISSED, .missed = {ms}});
}

void script_at(struct script *t, msec now)
{
    for (msec next; (next = sched_next(t->sched)) <= now;) {
        t->now = MAX(t->now, next);
        tick(t);
    }
    t->now = now;
}

void script_scene(struct script *t)
{
    t->len = 0;
    if (t->text)
        t->text[0] = 0;
}

void script_expect(struct script *t, const char *file, int line, const char *const *lines)
{
    const char *at = t->text ? t->text : "";
    bool same = true;
    for (; *lines && same; lines++) {
        size_t len = strlen(*lines);
        same = strncmp(at, *lines, len) == 0 && at[len] == '\n';
        if (same)
            at += len + 1;
    }
    if (!same || *at) {
        fprintf(stderr, "%s:%d: expected %s%s%s but there was\n%s", file, line, same ? "nothing more" : "\"",
                same ? "" : lines[-1], same ? "" : "\"", *at ? at : "nothing more\n");
        abort();
    }
    script_scene(t);
}

/* ---- sessions ---- */

static void fill_instance(uint8_t instance[16], const char *name)
{
    memset(instance, 0, 16);
    memcpy(instance, name, strnlen(name, 16));
}

void script_worker(struct script *t, const char *name, struct script_hello hello)
{
    struct rec_served served[8];
    struct rec_held held[16];
    struct msg_hello msg = {
        .role = ROLE_WORKER, .slots = hello.slots, .solo = hello.solo, .name = span_str(name), .served = served, .held = held};
    if (!hello.serves[0])
        hello.serves[0] = "echo";
    for (; hello.serves[msg.served_count]; msg.served_count++)
        served[msg.served_count] = (struct rec_served){.name = span_str(hello.serves[msg.served_count])};
    for (; hello.held[msg.held_count].job; msg.held_count++) {
        const struct script_held *from = &hello.held[msg.held_count];
        held[msg.held_count] =
            (struct rec_held){.id = script_id(from->job), .fence = {SCRIPT_EPOCH, from->n}, .finished = hello.finished};
    }
    fill_instance(msg.instance, name);
    script_step(t, &(struct input){.type = INPUT_HELLO, .peer = new_session(t, name), .hello = &msg});
}

void api(struct script *t, const char *name)
{
    struct msg_hello msg = {.role = ROLE_API, .name = span_str(name)};
    fill_instance(msg.instance, name);
    script_step(t, &(struct input){.type = INPUT_HELLO, .peer = new_session(t, name), .hello = &msg});
}

void gone(struct script *t, const char *name)
{
    script_step(t, &(struct input){.type = INPUT_GONE, .peer = script_peer(t, name)});
}

void bye(struct script *t, const char *name)
{
    script_step(t, &(struct input){.type = INPUT_GONE, .peer = script_peer(t, name), .gone.bye = true});
}

void script_beat(struct script *t, const char *name, uint32_t slots, const struct script_held *held)
{
    struct rec_lease leases[64];
    struct msg_heartbeat msg = {.slots = slots, .leases = leases};
    for (; held[msg.leases_count].job; msg.leases_count++) {
        const struct script_held *from = &held[msg.leases_count];
        leases[msg.leases_count] = (struct rec_lease){script_id(from->job), {SCRIPT_EPOCH, from->n}};
    }
    script_step(t, &(struct input){.type = INPUT_HEARTBEAT, .peer = script_peer(t, name), .heartbeat = &msg});
}

/* ---- from api ---- */

void script_as(struct script *t, const char *from, const char *tenant)
{
    t->from = from;
    t->tenant = tenant;
}

static struct input from_api(struct script *t, enum input_type type)
{
    return (struct input){.type = type, .peer = script_peer(t, t->from)};
}

static struct blob *joined(const char *display, const char *request)
{
    char text[4096];
    int len = snprintf(text, sizeof text, "%s%s", display ? display : "", request);
    must(len >= 0 && (size_t)len < sizeof text, "a body is too long");
    struct blob *blob = blob_copy(span_of(text, (size_t)len));
    must(blob != NULL, "no memory");
    return blob;
}

void script_submit(struct script *t, const char *job, struct script_submit s)
{
    uint8_t key[32], hash[32];
    struct msg_submit msg = {.ref = 1, .id = script_id(job), .again = s.again, .watch = s.watch};
    msg.idem = bytes32(key, s.key);
    msg.body_hash = bytes32(hash, s.key && !s.body_hash ? "same" : s.body_hash);
    msg.spec = (struct rec_spec){
        .tenant = span_str(s.tenant ? s.tenant : DEFAULT_TENANT),
        .queue = span_str(s.queue ? s.queue : DEFAULT_QUEUE),
        .route = span_str(s.route ? s.route : "echo"),
        .class = s.class,
        .priority = s.priority,
        .run_at = s.run_at,
        .deadline = s.deadline,
        .delay_ms = s.delay_ms,
        .max_wait_ms = s.max_wait_ms,
        .timeout_ms = s.timeout_ms,
        .max_attempts = s.max_attempts,
        .backoff_base_ms = s.backoff_base_ms,
        .backoff_cap_ms = s.backoff_cap_ms,
        .backoff_exact = s.backoff_exact,
        .result_ttl_ms = s.result_ttl_ms,
        .stream = s.stream,
        .ack = s.ack,
        .cancel_on_leave = s.cancel_on_leave,
        .display_bytes = s.display ? (uint32_t)strlen(s.display) : 0,
    };
    AUTO(blob_free) struct blob *body = joined(s.display, s.request ? s.request : job);
    script_step(t, &(struct input){
                       .type = INPUT_SUBMIT, .peer = script_peer(t, s.from ? s.from : "api"), .submit = &msg, .body = body});
}

void withdraw(struct script *t, const char *job)
{
    struct msg_withdraw msg = {.id = script_id(job)};
    struct input in = from_api(t, INPUT_WITHDRAW);
    in.withdraw = &msg;
    script_step(t, &in);
}

void cancel(struct script *t, const char *job)
{
    struct msg_cancel msg = {.ref = 1, .id = script_id(job), .tenant = span_str(t->tenant)};
    struct input in = from_api(t, INPUT_CANCEL);
    in.cancel = &msg;
    script_step(t, &in);
}

void forget(struct script *t, const char *job)
{
    struct msg_forget msg = {.ref = 1, .id = script_id(job), .tenant = span_str(t->tenant)};
    struct input in = from_api(t, INPUT_FORGET);
    in.forget = &msg;
    script_step(t, &in);
}

void retry(struct script *t, const char *job)
{
    struct msg_retry msg = {.ref = 1, .id = script_id(job), .tenant = span_str(t->tenant)};
    struct input in = from_api(t, INPUT_RETRY);
    in.retry = &msg;
    script_step(t, &in);
}

void ask(struct script *t, const char *job)
{
    struct msg_ask msg = {.ref = 1, .id = script_id(job), .tenant = span_str(t->tenant)};
    struct input in = from_api(t, INPUT_ASK);
    in.ask = &msg;
    script_step(t, &in);
}

void watch(struct script *t, const char *job, bool tokens)
{
    struct msg_watch msg = {.ref = 1, .id = script_id(job), .tenant = span_str(t->tenant), .tokens = tokens};
    struct input in = from_api(t, INPUT_WATCH);
    in.watch = &msg;
    script_step(t, &in);
}

void unwatch(struct script *t, const char *job, bool left)
{
    struct msg_unwatch msg = {.id = script_id(job), .left = left};
    struct input in = from_api(t, INPUT_UNWATCH);
    in.unwatch = &msg;
    script_step(t, &in);
}

void patch(struct script *t, const char *job, uint8_t priority, msec deadline)
{
    struct msg_patch msg = {
        .ref = 1, .id = script_id(job), .tenant = span_str(t->tenant), .priority = priority, .deadline = deadline};
    struct input in = from_api(t, INPUT_PATCH);
    in.patch = &msg;
    script_step(t, &in);
}

/* ---- from workers ---- */

static struct fence fence_of(uint64_t n, uint64_t epoch)
{
    return (struct fence){epoch ? epoch : SCRIPT_EPOCH, n};
}

void script_outcome(struct script *t, const char *from, const char *job, uint64_t n, struct script_outcome o)
{
    const char *result = o.kind ? "" : o.result ? o.result : "ok";
    struct msg_outcome msg = {
        .id = script_id(job),
        .fence = fence_of(n, o.epoch),
        .kind = o.kind,
        .http_status = o.http_status,
        .retry_after_ms = o.retry_after_ms,
        .message = span_str(o.message),
        .result_bytes = (uint32_t)strlen(result),
        .log_bytes = o.log ? (uint32_t)strlen(o.log) : 0,
    };
    AUTO(blob_free) struct blob *body = joined(result, o.log ? o.log : "");
    script_step(t, &(struct input){.type = INPUT_OUTCOME, .peer = script_peer(t, from), .outcome = &msg, .body = body});
}

void progress(struct script *t, const char *from, const char *job, uint64_t n, unsigned percent)
{
    struct rec_progress item = {script_id(job), fence_of(n, 0), (uint8_t)percent};
    script_step(t, &(struct input){.type = INPUT_PROGRESS, .peer = script_peer(t, from), .progress = &item});
}

void run_event(struct script *t, const char *from, const char *job, uint64_t n, uint64_t offset, const char *bytes)
{
    struct rec_run_event item = {
        .id = script_id(job), .fence = fence_of(n, 0), .offset = offset, .bytes = (uint32_t)strlen(bytes)};
    AUTO(blob_free) struct blob *body = joined(bytes, "");
    script_step(t, &(struct input){.type = INPUT_RUN_EVENT, .peer = script_peer(t, from), .run_event = &item, .body = body});
}

void unsent(struct script *t, const char *from, const char *job, uint64_t n)
{
    struct rec_lease item = {script_id(job), fence_of(n, 0)};
    script_step(t, &(struct input){.type = INPUT_UNSENT, .peer = script_peer(t, from), .unsent = &item});
}

/* ---- from the store ---- */

void stored_to(struct script *t, uint64_t number)
{
    script_step(t, &(struct input){.type = INPUT_STORED, .stored.number = number});
}

void stored(struct script *t)
{
    stored_to(t, sched_written(t->sched));
}
void stall(struct script *t)
{
    script_step(t, &(struct input){.type = INPUT_STALL});
}
void flow(struct script *t)
{
    script_step(t, &(struct input){.type = INPUT_FLOW});
}
void full(struct script *t)
{
    script_step(t, &(struct input){.type = INPUT_FULL});
}
void room(struct script *t)
{
    script_step(t, &(struct input){.type = INPUT_ROOM});
}

static struct lookup_key key_of(enum lookup_kind kind, const char *name)
{
    struct lookup_key key;
    memset(&key, 0, sizeof key);
    key.kind = (uint8_t)kind;
    if (kind == LOOKUP_IDEM)
        bytes32(key.hash, name);
    else
        key.id = script_id(name);
    return key;
}

void found_body(struct script *t, const char *job, const char *body)
{
    AUTO(blob_free) struct blob *blob = joined(body, "");
    script_step(t, &(struct input){.type = INPUT_FOUND, .found.key = key_of(LOOKUP_BODY, job), .body = blob});
}

void found_idem(struct script *t, const char *key, const char *job, const char *body_hash)
{
    struct rec_idem idem = {.id = script_id(job)};
    bytes32(idem.body_hash, body_hash);
    script_step(t, &(struct input){.type = INPUT_FOUND, .found = {.key = key_of(LOOKUP_IDEM, key), .idem = &idem}});
}

void found_ended(struct script *t, enum lookup_kind kind, const char *job, const char *tenant, enum state state,
                 const char *key)
{
    uint8_t idem[32];
    found_record(t, kind, job,
                 (struct rec_ended){.state = (uint8_t)state, .spec.tenant = span_str(tenant), .idem = bytes32(idem, key)});
}

void found_record(struct script *t, enum lookup_kind kind, const char *job, struct rec_ended ended)
{
    if (!ended.spec.tenant.len)
        ended.spec.tenant = span_str("acme");
    script_step(t, &(struct input){.type = INPUT_FOUND, .found = {.key = key_of(kind, job), .ended = &ended}});
}

void found_live(struct script *t, const char *job)
{
    script_step(t, &(struct input){.type = INPUT_FOUND, .found.key = key_of(LOOKUP_ANY, job)});
}

void absent(struct script *t, enum lookup_kind kind, const char *name)
{
    script_step(t, &(struct input){.type = INPUT_ABSENT, .absent.key = key_of(kind, name)});
}

void unknown(struct script *t, enum lookup_kind kind, const char *name)
{
    script_step(t, &(struct input){.type = INPUT_UNKNOWN, .absent.key = key_of(kind, name)});
}

void rewrite(struct script *t, uint64_t epoch)
{
    script_step(t, &(struct input){.type = INPUT_REWRITE, .rewrite.epoch = epoch});
}

void script_recover(struct script *t, const char *job, struct rec_job record)
{
    if (!record.spec.tenant.len)
        record.spec.tenant = span_str(DEFAULT_TENANT);
    if (!record.spec.queue.len)
        record.spec.queue = span_str(DEFAULT_QUEUE);
    if (!record.spec.route.len)
        record.spec.route = span_str("echo");
    script_step(t, &(struct input){.type = INPUT_RECOVER, .id = script_id(job), .recover = &record});
}

/* ---- operators ---- */

void pause_tenant(struct script *t, const char *tenant, bool on)
{
    script_step(t, &(struct input){.type = INPUT_PAUSE, .pause = {.tenant = span_str(tenant), .on = on}});
}

void pause_queue(struct script *t, const char *queue, bool on)
{
    script_step(t, &(struct input){.type = INPUT_PAUSE, .pause = {.queue = span_str(queue), .on = on}});
}

void drain(struct script *t, const char *peer)
{
    script_step(t, &(struct input){.type = INPUT_DRAIN, .peer = peer ? script_peer(t, peer) : 0});
}

void settings(struct script *t, const struct sched_settings *settings)
{
    t->settings = *settings;
    script_step(t, &(struct input){.type = INPUT_SETTINGS, .settings = settings});
}
