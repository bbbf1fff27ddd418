/* Commits: gathered, closed, sent, confirmed. What is sent next is the ring's to say; whether anything may be sent, the link's.
 */
#include "broker/store_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"

/* Silence has become a stall, which the turn sees; questions have waited long enough. */
static void on_alarm(void *arg)
{
    asks_expire(arg);
}

struct store *store_new(struct loop *loop, const struct store_options *options, struct store_hooks hooks)
{
    AUTO(store_free_bare) struct store *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->loop = loop;
    s->options = *options;
    s->hooks = hooks;
    snprintf(s->name, sizeof s->name, "%s", options->name);
    ring_init(&s->ring);
    list_init(&s->released);
    list_init(&s->asks);
    s->again = timer_new(loop, link_on_again, s);
    s->beat = timer_new(loop, link_on_beat, s);
    s->alarm = timer_new(loop, on_alarm, s);
    if (!s->again || !s->beat || !s->alarm || script_load(&s->commit_script, &s->leader_script) != ERR_OK)
        return NULL;
    struct redis_options redis = *options->redis;
    redis.reply_timeout_ms = STORE_REPLY_MS;
    s->redis = redis_new(loop, &redis, (struct redis_hooks){link_up, link_down, s});
    if (!s->redis)
        return NULL;
    s->options.redis = NULL;
    s->options.name = s->name;
    link_start(s);
    return TAKE(s);
}

void store_free_bare(struct store **store)
{
    struct store *s = TAKE(*store);
    if (!s)
        return;
    redis_free(&s->redis);
    asks_free(s);
    recover_free(&s->recover);
    recover_free(&s->sweep);
    record_done(&s->record);
    commit_free(&s->open);
    ring_done(&s->ring);
    timer_free(&s->again);
    timer_free(&s->beat);
    timer_free(&s->alarm);
    free(s);
}

void store_free(struct store **store, void (*drop)(struct list *held))
{
    struct store *s = *store;
    if (!s)
        return;
    struct list *node;
    LIST_EACH (node, &s->ring.commits)
        drop(&CONTAINER_OF(node, struct commit, node)->held);
    if (s->open)
        drop(&s->open->held);
    drop(&s->released);
    store_free_bare(store);
}

/* ---- in ---- */

static bool open_commit(struct store *s)
{
    if (s->open)
        return true;
    s->open = commit_new(s->options.shard);
    if (s->open)
        s->open->opened_at = loop_now(s->loop);
    return s->open != NULL;
}

enum err store_write(struct store *s, const struct effect *write, msec now)
{
    assert(s->phase == PHASE_SERVE && write->number == s->written_number + 1);
    s->core_now = now;
    if (s->open && commit_is_full_for(s->open, write))
        commits_close(s);
    if (s->close_failed || !open_commit(s))
        return ERR_NOMEM;
    s->written_number = write->number;
    return commit_add(s->open, write);
}

/* The commit stays open when there is no memory to close it; the next try is in the next turn. */
void commits_close(struct store *s)
{
    if (!s->open || !s->open->writes)
        return;
    enum err e = commit_close(s->open, ring_next_at(&s->ring), ring_before_next(&s->ring), s->commit_script.sha, s->core_now);
    s->close_failed = e != ERR_OK;
    if (e == ERR_OK)
        ring_push(&s->ring, &s->open);
}

void commits_repair(struct store *s, const struct id *ids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (s->open && s->open->writes >= COMMIT_WRITES_MAX)
            commits_close(s);
        if (s->close_failed || !open_commit(s) || commit_add_repair(s->open, &ids[i]) != ERR_OK)
            return; /* found again at the next start */
    }
}

static struct commit *commit_of(const struct store *s, uint64_t number)
{
    if (s->open && s->open->first && number >= s->open->first)
        return s->open;
    return ring_find(&s->ring, number);
}

struct list *store_held(struct store *s, uint64_t number, size_t bytes)
{
    assert(number <= s->written_number);
    if (number <= s->stored_number)
        return NULL;
    struct commit *c = commit_of(s, number);
    assert(c);
    c->held_bytes += bytes;
    s->ring.held_bytes += bytes;
    return &c->held;
}

struct blob *store_ended_record(const struct store *s, uint64_t number)
{
    const struct commit *c = commit_of(s, number);
    return c ? commit_ended_record(c, number) : NULL;
}

/* ---- out ---- */

void commits_stored(struct store *s, uint64_t n)
{
    uint64_t before = s->ring.stored_n;
    uint64_t number = ring_stored(&s->ring, n, loop_now(s->loop), &s->released);
    s->stored_number = MAX(s->stored_number, number);
    if (s->ring.stored_n == before)
        return;
    s->tries = 0;
    if (s->refused[0]) {
        s->refused[0] = '\0';
        log_event(LOG_STORE_TAKES, "last=%" PRIu64, s->ring.stored_n);
    }
}

static uint64_t pop_in_flight(struct store *s)
{
    uint64_t n = s->in_flight[0];
    assert(s->in_flight_count);
    s->in_flight_count--;
    memmove(s->in_flight, s->in_flight + 1, s->in_flight_count * sizeof s->in_flight[0]);
    return n;
}

static void taken(struct store *s, uint64_t n)
{
    s->wrote_n = MAX(s->wrote_n, n);
    if (!s->options.replicas)
        commits_stored(s, n);
}

/* An answer speaks of commit n alone, but `ok` and `applied` vouch for every one before it: each names its predecessor. */
static void on_commit(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    uint64_t n = pop_in_flight(s);
    struct span text = reply_span(reply);
    if (!reply)
        return; /* the connection broke; the next greeting tells what was stored */
    if (reply_is(reply, "ok")) {
        taken(s, n);
    } else if (reply_is(reply, "applied")) {
        s->stats.commits_applied++;
        taken(s, n);
    } else if (reply_is(reply, "FENCED")) {
        link_fenced(s);
    } else if (reply->type != REDIS_REPLY_ERROR && text.len >= 3 && memcmp(text.data, "at ", 3) == 0) {
        s->stats.commits_gap++;
        link_refused(s, NULL);
    } else {
        s->stats.commits_refused++;
        link_refused(s, reply->type == REDIS_REPLY_ERROR ? reply->str : "a strange answer");
    }
    link_settled(s);
}

bool commits_wait(struct store *s, redis_on_reply *on_reply)
{
    char replicas[24], ms[24];
    snprintf(replicas, sizeof replicas, "%u", s->options.replicas);
    snprintf(ms, sizeof ms, "%d", STORE_WAIT_MS);
    struct span argv[] = {span_str("WAIT"), span_str(replicas), span_str(ms)};
    return redis_command(s->redis, on_reply, s, argv, ARRAY_COUNT(argv)) == ERR_OK;
}

bool commits_replicated(const struct store *s, const redisReply *reply, const char **ret_why)
{
    *ret_why = reply->type == REDIS_REPLY_ERROR ? reply->str : "too few replicas have it";
    return reply->type == REDIS_REPLY_INTEGER && reply->integer >= (long long)s->options.replicas;
}

static void on_wait(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    const char *why;
    s->waiting = false;
    if (!reply)
        return;
    if (commits_replicated(s, reply, &why)) {
        commits_stored(s, MIN(s->wait_n, s->wrote_n));
    } else {
        s->stats.wait_short++;
        link_refused(s, why);
    }
    link_settled(s);
}

static bool send_commit(struct store *s)
{
    if (!s->ring.unsent)
        commits_close(s);
    uint64_t most = s->ring.most_sent_n;
    struct commit *c = ring_send(&s->ring);
    if (!c)
        return false;
    size_t argc;
    const struct span *argv = commit_argv(c, &argc);
    if (redis_command(s->redis, on_commit, s, argv, argc) != ERR_OK) {
        link_refused(s, "no memory or no connection to send it");
        link_settled(s);
        return false;
    }
    s->in_flight[s->in_flight_count++] = c->at.n;
    s->stats.commits_resent += c->at.n <= most;
    s->stats.commit_bytes += c->bytes;
    return true;
}

static void send_wait(struct store *s)
{
    s->wait_n = s->ring.sent_n;
    s->waiting = commits_wait(s, on_wait);
    if (!s->waiting)
        link_refused(s, "no memory or no connection to wait for replicas");
}

static void send_commits(struct store *s)
{
    bool sent = false;
    while (s->link == LINK_READY && !s->waiting && s->in_flight_count < STORE_IN_FLIGHT && send_commit(s))
        sent = true;
    if (sent && s->options.replicas && s->link == LINK_READY)
        send_wait(s);
}

/* ---- stalls ---- */

/* When the oldest write that is not stored was made; MSEC_NEVER: all are. */
static msec oldest_at(const struct store *s)
{
    if (s->ring.unstored)
        return s->ring.unstored->opened_at;
    return s->open ? s->open->opened_at : MSEC_NEVER;
}

bool store_is_behind(const struct store *s)
{
    return s->ring.stored_n < s->behind_n || s->rewrite_due || s->rising;
}

static size_t open_bytes(const struct store *s)
{
    return s->open ? s->open->bytes : 0;
}

bool store_is_leading(const struct store *s)
{
    return s->phase == PHASE_SERVE && loop_now(s->loop) - s->held_at < STORE_LEADER_MS;
}

bool store_is_current(const struct store *s)
{
    return store_is_leading(s) && s->link == LINK_READY && !store_is_behind(s);
}

bool store_is_stalled(const struct store *s)
{
    msec now = loop_now(s->loop), limit = s->options.stall_ms, oldest = oldest_at(s);
    if (s->phase != PHASE_SERVE || s->unfit || store_is_behind(s))
        return true;
    if (oldest != MSEC_NEVER && now - oldest >= limit)
        return true;
    if (s->link == LINK_READY ? redis_waiting_ms(s->redis) >= limit : now - s->not_ready_at >= limit)
        return true;
    return s->ring.waiting_bytes + s->ring.held_bytes + open_bytes(s) > s->options.stall_bytes ||
           s->ring.bytes + open_bytes(s) > s->options.ring_bytes;
}

static void set_alarm(struct store *s)
{
    msec at = asks_expire_at(s), oldest = oldest_at(s), limit = s->options.stall_ms, now = loop_now(s->loop);
    if (oldest != MSEC_NEVER && oldest + limit > now)
        at = MIN(at, oldest + limit);
    if (s->link != LINK_READY && s->not_ready_at + limit > now)
        at = MIN(at, s->not_ready_at + limit);
    /* A full ring drains by age. */
    if (s->ring.bytes > s->options.ring_bytes)
        at = MIN(at, now + 100);
    if (at != timer_at(s->alarm))
        timer_set(s->alarm, at);
}

void store_turn(struct store *s, msec now)
{
    if (s->phase != PHASE_SERVE)
        return;
    s->core_now = now;
    if (s->rewritten) {
        commits_close(s);
        if (!s->close_failed) {
            s->rewritten = false;
            s->behind_n = s->ring.closed_n;
        }
    }
    link_look_at_memory(s);
    /* Redis answers before it writes, and when its disk is full it keeps what it could not write and refuses the next command:
     * a commit is written when leadership was renewed so long after it. */
    ring_trim(&s->ring, MIN(loop_now(s->loop), s->held_at), s->options.ring_bytes);
    send_commits(s);
    asks_send(s);
    sweep_end(s);
    redis_flush(s->redis);
    set_alarm(s);
}

/* ---- what the owner asks ---- */

void store_released(struct store *s, struct list *out)
{
    list_append(out, &s->released);
}
uint64_t store_stored(const struct store *s)
{
    return s->stored_number;
}
bool store_is_full(const struct store *s)
{
    return s->full;
}
bool store_is_settled(const struct store *s)
{
    return !s->ring.unstored && (!s->open || !s->open->writes);
}

bool store_must_rewrite(struct store *s, uint64_t *ret_epoch)
{
    if (!s->rewrite_due)
        return false;
    s->rewrite_due = s->rewritten = false;
    *ret_epoch = s->epoch;
    return true;
}

void store_rewritten(struct store *s)
{
    s->rewritten = !s->rewrite_due; /* else it came back older once more, and all is to be written again */
}

void store_stats(const struct store *s, struct store_stats *ret_stats)
{
    *ret_stats = s->stats;
    ret_stats->commits = s->ring.stored_count;
    ret_stats->commit_writes = s->ring.stored_writes;
    ret_stats->commit_ms = s->ring.stored_ms;
    ret_stats->waiting_commits = s->ring.closed_n - s->ring.stored_n + (s->open && s->open->writes);
    ret_stats->waiting_bytes = s->ring.waiting_bytes + open_bytes(s);
    ret_stats->held_bytes = s->ring.held_bytes;
    ret_stats->ring_bytes = s->ring.bytes;
    ret_stats->redis_bytes = s->fit.bytes;
    ret_stats->redis_bytes_max = s->fit.bytes_max;
    ret_stats->store_full = s->full;
    ret_stats->store_stalled = store_is_stalled(s);
}
