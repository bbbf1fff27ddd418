#include "tests/sim/truth.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/retry.h"
#include "tests/sim/data.h"
#include "tests/sim/people.h"

#define FENCE   "%" PRIu64 ":%" PRIu64
#define PAIR(f) (f).epoch, (f).n

static struct fact facts[FACTS_MAX + 1];
static unsigned count;
static struct record record;
static struct frame frame;
/* Which job an idempotency key leads to, and whether Redis lost that. */
static struct {
    unsigned holder;
    bool undone;
} keys[4][KEYS + 1];
/* What the commit that is being applied does to j: and r: keys; what is added comes before what is removed. */
static struct {
    unsigned job;
    enum { JOB_SAVED, JOB_DROPPED, END_DROPPED } what;
} done[3 * FACTS_MAX];
static unsigned done_count;

void truth_begin(void)
{
    count = 0;
    memset(keys, 0, sizeof keys);
    done_count = 0;
}

/* ---- facts ---- */

unsigned facts_count(void)
{
    return count;
}

struct fact *fact_at(unsigned number)
{
    return number && number <= count ? &facts[number] : NULL;
}

struct fact *fact_new(void)
{
    if (count == FACTS_MAX)
        return NULL;
    struct fact *fact = &facts[++count];
    *fact = (struct fact){.number = count, .excused = sim.split};
    return fact;
}

/* The 40 random bits of its id are its number. */
struct fact *fact_of(const struct id *id)
{
    unsigned number =
        (unsigned)id->bytes[9] << 24 | (unsigned)id->bytes[10] << 16 | (unsigned)id->bytes[11] << 8 | id->bytes[12];
    struct fact *fact = fact_at(number);
    return fact && id_equal(&fact->id, id) ? fact : NULL;
}

static struct fact *known(const struct id *id)
{
    struct fact *fact = fact_of(id);
    MUST(fact, "a job that nobody asked for");
    return fact;
}

struct span fact_display(const struct fact *fact)
{
    static char text[64];
    if (fact->number % 3 == 0)
        return span_of(text, 0);
    return span_of(text, (size_t)snprintf(text, sizeof text, "{\"shown\":%u}", fact->number));
}

struct span fact_request(const struct fact *fact)
{
    static char text[64];
    return span_of(text, (size_t)snprintf(text, sizeof text, "{\"prompt\":\"p\",\"job\":%u}", fact->number));
}

/* ---- what Redis takes in ---- */

static uint64_t print_of(struct span bytes, uint64_t from)
{
    for (size_t i = 0; i < bytes.len; i++)
        from = (from ^ bytes.data[i]) * 1099511628211u;
    return from;
}

static unsigned counted_rows(const struct fact *fact, const struct rec_attempt *list, uint32_t rows)
{
    unsigned counted = 0;
    for (uint32_t i = 0; i < rows; i++)
        counted += list[i].run > fact->old_runs && retry_rule(list[i].kind).counted;
    return counted;
}

static uint8_t bit_of(struct span deployment)
{
    return span_is(deployment, "fast") ? 2 : 1;
}

static uint8_t refusers(const struct fact *fact, const struct rec_attempt *list, uint32_t rows)
{
    uint8_t bits = 0;
    for (uint32_t i = 0; i < rows; i++)
        if (list[i].run > fact->forgiven_runs && retry_rule(list[i].kind).elsewhere)
            bits |= bit_of(list[i].deployment);
    return bits;
}

static void check_attempts(const struct fact *fact, const struct rec_job *job)
{
    bool live = job->state == STATE_PENDING || job->state == STATE_RETRYING;
    unsigned counted = counted_rows(fact, job->attempts, job->attempts_count);
    MUST(counted <= fact->max_attempts, "job %u: %u calls have failed upstream, of %u", fact->number, counted,
         fact->max_attempts);
    MUST(!live || counted < fact->max_attempts, "job %u is to be tried again and has had all its attempts", fact->number);
    MUST(!live || job->solo_crashes < 3, "job %u is to be tried again and has crashed its worker %u times", fact->number,
         job->solo_crashes);
}

/* What a job has been through is never forgotten, whoever leads. */
static void check_past(struct fact *fact, const struct rec_job *job)
{
    bool forgot = job->failed_attempts < fact->failed || job->crashes < fact->crashes || job->solo_crashes < fact->solo_crashes;
    MUST(!forgot || fact->undone || fact->excused, "job %u: its failures are fewer than they were", fact->number);
    fact->failed = job->failed_attempts;
    fact->crashes = job->crashes;
    fact->solo_crashes = job->solo_crashes;
}

/* What is due is due before anything else that happens then. */
static void check_in_time(const struct fact *fact, const struct rec_ended *end)
{
    msec until = end->spec.deadline ? end->spec.deadline : MSEC_NEVER;
    if (end->spec.max_wait_ms)
        until = MIN(until, end->created_at + (msec)end->spec.max_wait_ms);
    MUST(end->state == STATE_EXPIRED || end->completed_at <= until || fact->excused, "job %u is %s %lld ms after it had to end",
         fact->number, state_name(end->state), (long long)(end->completed_at - until));
}

static void take_lease(struct fact *fact, const struct rec_job *job)
{
    bool had_none = !job->fence.epoch && !job->fence.n;
    if (had_none && fact->old_runs) /* redriven, and not leased since */
        return;
    int order = fence_compare(job->fence, fact->fence);
    if (fact->excused) {
        fact->fence = job->fence;
        fact->run = fact->lease_run = job->run;
    } else if (order > 0) {
        MUST(job->run > fact->run || !fact->run, "job %u: another lease " FENCE ", and run %u as before", fact->number,
             PAIR(job->fence), job->run);
        fact->fence = job->fence;
        fact->run = fact->lease_run = job->run;
    } else {
        MUST(order == 0 || fact->undone, "job %u: its fence goes back from " FENCE " to " FENCE, fact->number,
             PAIR(fact->fence), PAIR(job->fence));
        MUST(order || job->run == fact->lease_run, "job %u: run %u has the fence of run %u, " FENCE, fact->number, job->run,
             fact->run, PAIR(job->fence));
    }
}

/* A failed job lives again: it may fail as often as a new one, and will have another end. */
static void redriven(struct fact *fact)
{
    TRACE("Redis has job %u live again", fact->number);
    MUST(fact->redriven || fact->excused, "job %u lives again, and nobody asked for it", fact->number);
    if (!fact->undone) {
        note(TROUBLE_REDRIVEN);
        fact->redrives++;
    }
    fact->old_runs = fact->forgiven_runs = fact->run;
    fact->left = fact->fence;
    fact->failed = fact->crashes = fact->solo_crashes = 0;
    fact->ended = false;
    fact->shown = 0;
    fact->refused_by = 0;
}

static void job_stored(struct fact *fact, struct span value)
{
    MUST(record_unpack(&record, RECORD_JOB, value) == ERR_OK, "job %u: its record cannot be read", fact->number);
    const struct rec_job *job = &record.job;
    char ended_key[RECORD_KEY_BYTES + 1];
    record_key_ended(ended_key, 0, &fact->id);
    if (data_get(ended_key).data) /* to be dropped in the same commit */
        redriven(fact);
    MUST(span_is(job->spec.tenant, fact->tenant), "job %u is another tenant's", fact->number);
    if (!fact->excused)
        check_attempts(fact, job);
    check_past(fact, job);
    take_lease(fact, job);
    struct fence over = job->fence;
    if (job->state == STATE_PROCESSING)
        over = job->fence.n ? (struct fence){job->fence.epoch, job->fence.n - 1} : (struct fence){0};
    if (fence_compare(over, fact->left) > 0)
        fact->left = over;
    fact->refused_by = refusers(fact, job->attempts, job->attempts_count);
    fact->stored = true;
    fact->removed = false;
    fact->undone &= fence_compare(job->fence, fact->fence) != 0;
    TRACE("Redis has job %u: state %s, run %u, fence " FENCE, fact->number, state_name(job->state), job->run, PAIR(job->fence));
}

/* The result names the run that made it. */
static void check_result(const struct fact *fact, struct span body)
{
    struct span result = span_of(body.data + record.ended.display_bytes, record.ended.result_bytes);
    char text[160];
    unsigned number = 0;
    struct fence fence = {0};
    snprintf(text, sizeof text, "%.*s", (int)MIN(result.len, sizeof text - 1), (const char *)result.data);
    const char *at = strstr(text, "job ");
    MUST(at && sscanf(at, "job %u of " FENCE, &number, &fence.epoch, &fence.n) == 3, "job %u: a strange result: %s",
         fact->number, text);
    MUST(number == fact->number, "job %u has the result of job %u", fact->number, number);
    MUST(fence_compare(fence, fact->fence) == 0, "job %u: the result of run " FENCE " counts, superseded by " FENCE,
         fact->number, PAIR(fence), PAIR(fact->fence));
}

static void end_stored(struct fact *fact, struct span value)
{
    MUST(record_unpack(&record, RECORD_ENDED, value) == ERR_OK, "job %u: the record of its end cannot be read", fact->number);
    const struct rec_ended *end = &record.ended;
    struct span result = span_of(record.body.data + end->display_bytes, end->result_bytes);
    uint64_t print = print_of(result, end->kind + (uint64_t)end->completed_at * 64);
    struct span shown = span_of(record.body.data, end->display_bytes);
    check_in_time(fact, end);
    MUST(state_is_terminal(end->state), "job %u ends in state %u", fact->number, end->state);
    MUST(!shown.len || span_equal(shown, fact_display(fact)), "job %u is shown as another", fact->number);
    if (end->state == STATE_COMPLETED && !fact->excused)
        check_result(fact, record.body);
    bool was_its_end = false;
    for (unsigned i = 0; i < fact->prints_count; i++)
        was_its_end |= fact->prints[i] == print;
    bool never_vouched = sim.synced && fact->undone && !fact->shown; /* no replica had it, and nobody was told */
    if (fact->ended && !fact->excused && !never_vouched)
        MUST((fact->end_state == end->state && fact->end_print == print) || (fact->undone && was_its_end),
             "job %u has two ends: %s, then %s", fact->number, state_name(fact->end_state), state_name(end->state));
    if (!was_its_end) {
        MUST(fact->prints_count < ENDS_MAX, "job %u ends more often than the model knows", fact->number);
        fact->prints[fact->prints_count++] = print;
    }
    MUST(fact->excused || counted_rows(fact, end->attempts, end->attempts_count) <= fact->max_attempts,
         "job %u: more calls have failed upstream than it may make", fact->number);
    if (!fact->ended) {
        sim.troubles[TROUBLE_CANCELLED] += end->state == STATE_CANCELLED;
        sim.troubles[TROUBLE_EXPIRED] += end->state == STATE_EXPIRED;
        sim.troubles[TROUBLE_FAILED] += end->state == STATE_FAILED;
        sim.troubles[TROUBLE_POISONED] += end->kind == KIND_POISON;
    }
    fact->ended = fact->stored = true;
    fact->run = MAX(fact->run, end->run);
    fact->end_state = end->state;
    fact->end_print = print;
    bool latest = print == fact->prints[fact->prints_count - 1] && fact->prints_count > fact->redrives;
    fact->undone &= !latest;
    TRACE("Redis has the end of job %u: %s %s", fact->number, state_name(end->state), kind_name(end->kind));
}

static void key_stored(struct span value)
{
    if (!value.data)
        return;
    MUST(record_unpack(&record, RECORD_IDEM, value) == ERR_OK, "a key's record cannot be read");
    struct fact *fact = known(&record.idem.id);
    keys[fact->tenant_number][fact->key].holder = fact->number;
}

void truth_commit_begins(void)
{
    done_count = 0;
}

static void did(const struct fact *fact, int what)
{
    MUST(done_count < ARRAY_COUNT(done), "a commit does too much");
    done[done_count].job = fact->number;
    done[done_count++].what = what;
}

static bool has_done(const struct fact *fact, int what)
{
    bool found = false;
    for (unsigned i = 0; i < done_count; i++)
        found |= done[i].job == fact->number && done[i].what == (unsigned)what;
    return found;
}

static void check_saved(const struct fact *fact)
{
    char key[RECORD_KEY_BYTES + 1];
    record_key_ended(key, 0, &fact->id);
    MUST(!data_get(key).data || fact->excused || broker_is_healing(), "job %u is saved as live and has ended", fact->number);
}

/* A live job leaves Redis by its end, or because its caller gave it up. */
static void check_dropped(struct fact *fact)
{
    MUST(fact->ended || fact->withdrawn || fact->excused, "job %u is removed and has not ended", fact->number);
    fact->removed = true;
    fact->undone &= !fact->withdrawn;
    TRACE("Redis has job %u no more", fact->number);
}

void truth_commit_ends(void)
{
    for (unsigned i = 0; i < done_count; i++) {
        struct fact *fact = &facts[done[i].job];
        if (done[i].what == JOB_SAVED)
            check_saved(fact);
        else if (done[i].what == JOB_DROPPED)
            check_dropped(fact);
        else if (!has_done(fact, JOB_SAVED))
            MUST(fact->forgotten || fact->excused, "job %u is forgotten, and nobody asked for it", fact->number);
    }
    done_count = 0;
}

/* "{q0}:j:…" and 26 characters of an id. 'i' for an idempotency key, 0 for anything else. */
static char kind_of(const char *key, struct id *ret_id)
{
    char text[ID_TEXT_LEN + 1];
    const char *at = strchr(key, ':');
    if (!at || !at[1] || at[2] != ':')
        return (char)(at && strncmp(at, ":idem:", 6) == 0 ? 'i' : 0);
    snprintf(text, sizeof text, "job_%s", at + 3);
    return (char)(id_parse(span_str(text), ret_id) == ERR_OK ? at[1] : 0);
}

void truth_stored(const char *key, struct span value)
{
    struct id id;
    char kind = kind_of(key, &id);
    if (kind == 'i')
        key_stored(value);
    if (kind == 'j' && value.data) {
        did(known(&id), JOB_SAVED);
        job_stored(known(&id), value);
    } else if (kind == 'j')
        did(known(&id), JOB_DROPPED);
    else if (kind == 'r' && value.data)
        end_stored(known(&id), value);
    else if (kind == 'r')
        did(known(&id), END_DROPPED);
}

/* Redis has lost who leads, and the leader is stopped: another may lead meanwhile, and both believe in themselves. Three
 * failures at once, and no promise holds. */
static void split(void)
{
    TRACE("nobody knows who leads");
    sim.split = true;
    for (unsigned n = 1; n <= count; n++)
        facts[n].excused = true;
}

void truth_unstored(const char *key)
{
    struct id id;
    char kind = kind_of(key, &id);
    if (strcmp(key, "{q0}:epoch") == 0 && brokers_were_stopped())
        split();
    if (kind == 'j' || kind == 'r' || kind == 'b') {
        struct fact *fact = known(&id);
        if (!fact->undone)
            TRACE("Redis has lost something of job %u", fact->number);
        fact->undone = true;
        fact->excused |= !broker_leading() && !sim.synced; /* nobody has it any more */
    }
    if (kind == 'i')
        for (unsigned t = 0; t < 4; t++)
            for (unsigned k = 0; k <= KEYS; k++)
                keys[t][k].undone = true;
}

/* Whether Redis has taken in that this run is not the one in force, or never will be: a lease and the end of its job may share
 * a commit, and then only the end is seen. */
static bool is_over(const struct fact *fact, struct fence fence)
{
    return fact->excused || fact->ended || fact->removed || fact->withdrawn || fence_compare(fence, fact->left) <= 0;
}

/* ---- who leads ---- */

static bool is_owed(const struct fact *fact)
{
    return fact->accepted && !fact->ended && !fact->withdrawn && !fact->excused;
}

void truth_leads(void)
{
    for (unsigned n = 1; n <= count; n++) {
        char key[RECORD_KEY_BYTES + 1];
        record_key_job(key, 0, &facts[n].id);
        MUST(!is_owed(&facts[n]) || data_get(key).data, "job %u was accepted and is not there for the next broker", n);
    }
}

void truth_forgives(void)
{
    for (unsigned n = 1; n <= count; n++) {
        facts[n].forgiven_runs = facts[n].run;
        facts[n].refused_by = 0;
    }
}

void truth_leader_gone(bool with_its_ring)
{
    for (unsigned n = 1; with_its_ring && !sim.synced && n <= count; n++)
        if (facts[n].undone && !facts[n].excused) {
            facts[n].excused = true;
            TRACE("nobody has what Redis lost of job %u", n);
        }
}

/* ---- what a broker says ---- */

static unsigned message_of(struct span header)
{
    size_t at = header.len && header.data[0] == 0xdc ? 3 : 1;
    return header.len > at + 1 ? header.data[at + 1] : 0;
}

bool truth_is_submit(struct span header)
{
    return message_of(header) == MESSAGE_SUBMIT;
}

static enum role role_of(const char *endpoint)
{
    return strstr(endpoint, "/api.") ? ROLE_API : strstr(endpoint, "/worker.") ? ROLE_WORKER : ROLE_MONITOR;
}

static void said_ack(const struct msg_ack *ack)
{
    struct fact *fact = known(&ack->id);
    if (ack->error)
        return;
    TRACE("says: job %u is accepted%s", fact->number, ack->existing ? ", it exists" : "");
    MUST(fact->stored || fact->excused || fact->withdrawn, "job %u is acknowledged and not stored", fact->number);
    if (ack->existing) {
        note(TROUBLE_ONE_KEY);
        return;
    }
    if (fact->withdrawn || fact->excused)
        return;
    if (fact->key && !fact->accepted) {
        struct fact *other = fact_at(keys[fact->tenant_number][fact->key].holder);
        MUST(!other || other == fact || keys[fact->tenant_number][fact->key].undone || !is_owed(other),
             "one key has made jobs %u and %u", other->number, fact->number);
    }
    fact->accepted = true;
}

static void show(struct fact *fact, uint8_t state, uint32_t run, const char *how)
{
    TRACE("%s job %u: %s, run %u", how, fact->number, state_name(state), run);
    if (fact->excused || fact->withdrawn)
        return;
    MUST(run <= fact->run, "job %u is shown in run %u, which is not stored", fact->number, run);
    bool same_turn = fact->shown_at == sim.now; /* events are gathered, answers are not */
    MUST(!fact->shown || state_is_terminal(state) || same_turn || sim.unsure, "job %u is shown as %s, after its end",
         fact->number, state_name(state));
    if (!state_is_terminal(state))
        return;
    MUST(fact->ended && fact->end_state == state, "job %u is shown as %s, which is not stored", fact->number,
         state_name(state));
    if (!fact->shown)
        fact->shown_at = sim.now;
    fact->shown = state;
}

static void said_answer(const struct msg_answer *answer)
{
    struct fact *fact = fact_of(&answer->id);
    if (!fact)
        return;
    if (answer->view.state && (answer->error == ERR_OK || answer->error == ERR_ENDED))
        show(fact, answer->view.state, answer->view.run, "answers:");
    if (answer->error == ERR_NOT_LIVE)
        MUST(!is_owed(fact) || fact->forgotten || sim.unsure, "job %u is said not to be live", fact->number);
}

static void said_events(const struct msg_events *events, struct span body)
{
    size_t at = 0;
    for (uint32_t i = 0; i < events->items_count; i++) {
        const struct rec_event *event = &events->items[i];
        struct fact *fact = known(&event->id);
        if (event->event == EVENT_STATUS || event->event == EVENT_ENDED)
            show(fact, event->state, event->run, "tells of");
        if (event->event == EVENT_ENDED && !fact->excused) {
            MUST(record_unpack(&record, RECORD_ENDED, span_of(body.data + at, event->bytes)) == ERR_OK,
                 "job %u: its end comes without its record", fact->number);
            MUST(record.ended.state == fact->end_state, "job %u: its end comes with another record", fact->number);
        }
        at += event->bytes;
    }
}

static void said_job(const struct msg_job *job, struct span body, struct proc *to)
{
    struct fact *fact = known(&job->id);
    TRACE("sends job %u, run %u, fence " FENCE " to %s", fact->number, job->run, PAIR(job->fence), to->name);
    MUST(span_equal(body, fact_request(fact)), "job %u is sent with another's request", fact->number);
    MUST(is_over(fact, job->fence) || fence_compare(job->fence, fact->fence) <= 0,
         "job %u is sent with a lease that is not stored", fact->number);
}

static void said_cancel(const struct msg_cancel_run *cancel)
{
    struct fact *fact = known(&cancel->id);
    TRACE("cancels the run " FENCE " of job %u", PAIR(cancel->fence), fact->number);
    MUST(is_over(fact, cancel->fence), "job %u: its run is cancelled before that is stored", fact->number);
}

static void said_outcome_acks(const struct msg_outcome_ack *acks)
{
    for (uint32_t i = 0; i < acks->items_count; i++) {
        struct fact *fact = known(&acks->items[i].id);
        TRACE("has the outcome " FENCE " of job %u", PAIR(acks->items[i].fence), fact->number);
        if (fence_compare(acks->items[i].fence, fact->fence) < 0)
            note(TROUBLE_LATE_OUTCOME);
        MUST(is_over(fact, acks->items[i].fence),
             "job %u: the outcome of " FENCE " is acknowledged before what it led to is stored", fact->number,
             PAIR(acks->items[i].fence));
    }
}

static void said_welcome(const struct msg_welcome *welcome, struct proc *to)
{
    TRACE("welcomes %s", to->name);
    for (uint32_t i = 0; i < welcome->verdicts_count; i++) {
        const struct rec_verdict *v = &welcome->verdicts[i];
        struct fact *fact = known(&v->id);
        TRACE("  job %u, " FENCE ": %s", fact->number, PAIR(v->fence), verdict_name(v->verdict));
        if (v->verdict == VERDICT_ABORT)
            continue;
        note(TROUBLE_ADOPTED);
        MUST(fact->excused || fence_compare(v->fence, fact->fence) >= 0, "job %u: the superseded run " FENCE " is adopted",
             fact->number, PAIR(v->fence));
    }
}

void truth_said(struct proc *from, const char *endpoint, struct proc *to, struct span header, struct span body)
{
    const char *why = "";
    unsigned message = message_of(header);
    if (message == MESSAGE_PROBE || message == MESSAGE_HEARTBEAT_ACK || message == MESSAGE_SNAPSHOT)
        return;
    enum err e = frame_decode(&frame, header, body, ROLE_BROKER, to ? role_of(endpoint) : ROLE_MONITOR, PROTO_MINOR, &why);
    MUST(e == ERR_OK, "the broker says what its peer refuses: %s", why);
    switch (frame.message) {
    case MESSAGE_ACK:
        said_ack(&frame.ack);
        return;
    case MESSAGE_ANSWER:
        said_answer(&frame.answer);
        return;
    case MESSAGE_EVENTS:
        said_events(&frame.events, body);
        return;
    case MESSAGE_JOB:
        said_job(&frame.job, body, to);
        return;
    case MESSAGE_CANCEL_RUN:
        said_cancel(&frame.cancel_run);
        return;
    case MESSAGE_OUTCOME_ACK:
        said_outcome_acks(&frame.outcome_ack);
        return;
    case MESSAGE_WELCOME:
        said_welcome(&frame.welcome, to);
        return;
    case MESSAGE_CHANGE:
        if (state_is_terminal(frame.change.state))
            show(known(&frame.change.id), frame.change.state, 0, "feeds");
        return;
    default:
        return;
    }
}

/* ---- what is heard ---- */

static void broker_hears(enum role role, struct span header, struct span body)
{
    const char *why = "";
    unsigned message = message_of(header);
    if (message == MESSAGE_HEARTBEAT)
        return;
    if (frame_decode(&frame, header, body, role, ROLE_BROKER, PROTO_MINOR, &why) != ERR_OK)
        broken("a peer says what the broker refuses: %s", why);
    switch (frame.message) {
    case MESSAGE_SUBMIT:
        known(&frame.submit.id)->submitted = true;
        sim.troubles[TROUBLE_AGAIN] += frame.submit.again;
        TRACE("hears: submit job %u%s", known(&frame.submit.id)->number, frame.submit.again ? ", again" : "");
        return;
    case MESSAGE_WITHDRAW:
        known(&frame.withdraw.id)->withdrawn = true;
        note(TROUBLE_WITHDRAWN);
        TRACE("hears: withdraw job %u", known(&frame.withdraw.id)->number);
        return;
    case MESSAGE_FORGET:
        known(&frame.forget.id)->forgotten = true;
        return;
    case MESSAGE_RETRY:
        known(&frame.retry.id)->redriven = true;
        TRACE("hears: redrive job %u", known(&frame.retry.id)->number);
        return;
    case MESSAGE_CANCEL:
        TRACE("hears: cancel job %u", known(&frame.cancel.id)->number);
        return;
    case MESSAGE_OUTCOME:
        TRACE("hears: outcome " FENCE " of job %u, %s", PAIR(frame.outcome.fence), known(&frame.outcome.id)->number,
              kind_name(frame.outcome.kind));
        return;
    default:
        return;
    }
}

void truth_heard(struct proc *by, const char *endpoint, bool by_broker, struct span header, struct span body)
{
    const char *why = "";
    if (by_broker) {
        broker_hears(role_of(endpoint), header, body);
        return;
    }
    if (message_of(header) != MESSAGE_JOB)
        return;
    if (frame_decode(&frame, header, body, ROLE_BROKER, ROLE_WORKER, PROTO_MINOR, &why) == ERR_OK)
        sim.delivering = frame.job.fence;
}

struct fence truth_call(struct fact *fact)
{
    fact->calls++;
    TRACE("calls the provider for job %u, call %u, fence " FENCE, fact->number, fact->calls, PAIR(sim.delivering));
    MUST(fact->submitted, "job %u is called and was never submitted", fact->number);
    return sim.delivering;
}

/* ---- the end ---- */

bool truth_is_settled(void)
{
    for (unsigned n = 1; n <= count; n++)
        if (is_owed(&facts[n]))
            return false;
    return data_members("{q0}:live") == 0;
}

void truth_settled(void)
{
    for (unsigned n = 1; n <= count; n++) {
        char key[RECORD_KEY_BYTES + 1];
        record_key_job(key, 0, &facts[n].id);
        MUST(!is_owed(&facts[n]), "job %u was accepted and never ended", n);
        MUST(!data_get(key).data, "job %u is still live in Redis", n);
        MUST(!(sim.gentle || sim.cuts) || facts[n].calls <= facts[n].failed_calls + 1,
             "job %u: %u calls, of which %u failed, without a reason", n, facts[n].calls, facts[n].failed_calls);
    }
    MUST(data_members("{q0}:live") == 0, "something is still live in Redis");
}
