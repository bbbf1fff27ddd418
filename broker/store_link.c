/* The connection: what is read before anything is written, who leads, and where commits go on after a break or a refusal.
 *
 * Every break, refusal, gap and doubt ends in one place: a greeting. It loads the scripts, reads whether this Redis may be
 * trusted, renews leadership and learns `last`; then the commits after `last` are sent, the same bytes as before. */
#include "broker/store_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/log.h"

static void greet(struct store *s);
static void confirm(struct store *s);

static void set_link(struct store *s, enum link_state link)
{
    if (s->link == LINK_READY && link != LINK_READY)
        s->not_ready_at = loop_now(s->loop);
    s->link = link;
}

void link_start(struct store *s)
{
    s->link = LINK_DOWN;
    s->not_ready_at = loop_now(s->loop);
    s->answers_at = s->hold_asked_at = MSEC_NEVER;
}

/* ---- trying again ---- */

/* At once the first time, then 50 ms doubling. */
static void greet_again(struct store *s)
{
    msec wait_ms = s->tries ? MIN(50 << MIN(s->tries - 1, 5u), STORE_AGAIN_MAX_MS) : 0;
    s->tries++;
    set_link(s, LINK_AGAIN);
    timer_set(s->again, loop_now(s->loop) + wait_ms);
}

void link_on_again(void *arg)
{
    struct store *s = arg;
    if (s->link == LINK_AGAIN)
        greet(s);
    else if (s->link == LINK_READY && s->phase == PHASE_CONFIRM)
        confirm(s);
}

void link_refused(struct store *s, const char *why)
{
    if (why && strcmp(why, s->refused) != 0) {
        snprintf(s->refused, sizeof s->refused, "%s", why);
        log_event(LOG_STORE_REFUSED, "reason=%s", log_str(span_str(why)));
    }
    if (s->link == LINK_READY)
        set_link(s, LINK_SETTLE);
}

void link_settled(struct store *s)
{
    if (s->link == LINK_SETTLE && !s->in_flight_count && !s->waiting)
        greet_again(s);
}

void link_down(void *arg, const char *reason)
{
    struct store *s = arg;
    s->stats.store_breaks++;
    s->in_flight_count = 0;
    s->waiting = false;
    s->answers_at = s->hold_asked_at = MSEC_NEVER;
    set_link(s, LINK_DOWN);
    timer_set(s->again, MSEC_NEVER);
}

void link_up(void *arg)
{
    struct store *s = arg;
    s->tries = 0;
    if (s->phase != PHASE_LEFT && s->phase != PHASE_FENCED)
        greet(s);
}

void link_fenced(struct store *s)
{
    if (s->phase == PHASE_FENCED || s->phase == PHASE_LEFT)
        return;
    s->phase = PHASE_FENCED;
    timer_set(s->beat, MSEC_NEVER);
    timer_set(s->again, MSEC_NEVER);
    log_event(LOG_STORE_FENCED, "epoch=%" PRIu64, s->epoch);
    s->hooks.fenced(s->hooks.arg);
}

/* ---- is this Redis fit? ---- */

/* The value of "name:" in INFO's text; empty when it has none. */
static struct span info_value(struct span info, const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i + len < info.len; i++) {
        if ((i && info.data[i - 1] != '\n') || memcmp(info.data + i, name, len) != 0 || info.data[i + len] != ':')
            continue;
        size_t from = i + len + 1, to = from;
        while (to < info.len && info.data[to] != '\r' && info.data[to] != '\n')
            to++;
        return span_of(info.data + from, to - from);
    }
    return (struct span){0};
}

static uint64_t number(struct span text)
{
    char copy[24];
    snprintf(copy, sizeof copy, "%.*s", SPAN_ARG(text));
    return strtoull(copy, NULL, 10);
}

/* What is not counted for eviction (replication and AOF buffers) is not counted against maxmemory either. */
static void read_memory(struct fitness *fit, struct span info)
{
    uint64_t used = number(info_value(info, "used_memory")), apart = number(info_value(info, "mem_not_counted_for_evict"));
    struct span policy = info_value(info, "maxmemory_policy");
    fit->bytes = used - MIN(apart, used);
    fit->bytes_max = number(info_value(info, "maxmemory"));
    fit->evicts = policy.len && !span_is(policy, "noeviction");
}

/* Redis is asked every second; what was sent since counts as it is. What has become full stays so until there is room to speak
 * of: each change is news for the core, which looks at every job then. */
void link_look_at_memory(struct store *s)
{
    uint64_t since = s->stats.commit_bytes - s->fit.sent_bytes + (s->open ? s->open->bytes : 0);
    uint64_t limit = s->fit.bytes_max / 100 * (s->full ? STORE_ROOM_PERCENT : STORE_FULL_PERCENT);
    bool full = s->fit.bytes_max && s->fit.bytes + since >= limit;
    if (full == s->full)
        return;
    s->full = full;
    log_event(full ? LOG_STORE_FULL : LOG_STORE_ROOM, "bytes=%" PRIu64 " bytes_max=%" PRIu64, s->fit.bytes + since,
              s->fit.bytes_max);
}

static const char *unfit_because(const struct fitness *fit)
{
    if (!fit->known_aof)
        return "INFO does not say whether AOF is on";
    if (!fit->aof)
        return "AOF is off (appendonly no): a restart would lose every job";
    return fit->evicts ? "maxmemory-policy is not noeviction: accepted jobs would vanish" : NULL;
}

static enum ack ack_of(const struct store *s, const struct fitness *fit)
{
    return s->options.replicas || (fit->aof && fit->always) ? ACK_SYNCED : ACK_STORED;
}

/* ---- the greeting ---- */

static void greet_failed(struct store *s, const char *why)
{
    if (!s->greet_error[0])
        snprintf(s->greet_error, sizeof s->greet_error, "%s", why);
}

/* Notes an error reply; true when the reply can be used. A broken connection greets anew by itself. */
static bool usable(struct store *s, const redisReply *reply)
{
    if (!reply)
        return false;
    if (reply->type == REDIS_REPLY_ERROR)
        greet_failed(s, reply->str);
    return reply->type != REDIS_REPLY_ERROR;
}

static void on_script(void *arg, const redisReply *reply)
{
    usable(arg, reply);
}

static void on_persistence(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    if (!usable(s, reply))
        return;
    struct span aof = info_value(reply_span(reply), "aof_enabled");
    s->fit_next.known_aof = aof.len > 0;
    s->fit_next.aof = span_is(aof, "1");
}

static void on_memory(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    if (usable(s, reply))
        read_memory(&s->fit_next, reply_span(reply));
}

/* Who may not WAIT would never hear that anything is synced: said now, not by a shard that stalls for ever. */
static void on_wait_allowed(void *arg, const redisReply *reply)
{
    if (reply && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "NOPERM", 6) == 0)
        greet_failed(arg, reply->str);
}

static void greeted(struct store *s);

/* The ACL user may lack CONFIG: then `always` cannot be known and is not claimed. */
static void on_config(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    if (!reply)
        return;
    s->fit_next.always = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 && reply_is(reply->element[1], "always");
    greeted(s);
}

static void command(struct store *s, redis_on_reply *on_reply, const char *a, const char *b, struct span c)
{
    struct span argv[] = {span_str(a), span_str(b), c};
    if (redis_command(s->redis, on_reply, s, argv, c.data ? 3 : 2) != ERR_OK)
        redis_reset(s->redis, "no memory for a command");
}

static void greet(struct store *s)
{
    set_link(s, LINK_GREET);
    s->greet_error[0] = '\0';
    s->fit_next = (struct fitness){0};
    command(s, on_script, "SCRIPT", "LOAD", s->commit_script.text);
    command(s, on_script, "SCRIPT", "LOAD", s->leader_script.text);
    command(s, on_persistence, "INFO", "persistence", (struct span){0});
    command(s, on_memory, "INFO", "memory", (struct span){0});
    if (s->options.replicas)
        command(s, on_wait_allowed, "WAIT", "0", span_str("0"));
    command(s, on_config, "CONFIG", "GET", span_str("appendfsync"));
    redis_flush(s->redis);
}

/* The greeting ended without what was needed. A demoted master may be replaced behind the same address: connect anew. */
static void not_greeted(struct store *s, const char *why)
{
    link_refused(s, why);
    if (strncmp(why, "READONLY", 8) == 0)
        redis_reset(s->redis, "a replica answers");
    else
        greet_again(s);
}

/* ---- leadership ---- */

static void leader_script(struct store *s, redis_on_reply *on_reply, const char *verb, const struct span *args, size_t count)
{
    static const char *const names[] = {"leader", "epoch", "last", "tagkey", "tagkey_before", "led"};
    char keys[ARRAY_COUNT(names)][RECORD_KEY_BYTES + 1];
    struct span argv[5 + ARRAY_COUNT(names) + 6] = {span_str("EVALSHA"), span_of(s->leader_script.sha, 40), span_str("6")};
    size_t argc = 3;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        argv[argc++] = span_of(keys[i], record_key_named(keys[i], s->options.shard, names[i]));
    argv[argc++] = span_str(verb);
    argv[argc++] = span_str(s->name);
    for (size_t i = 0; i < count; i++)
        argv[argc++] = args[i];
    if (redis_command(s->redis, on_reply, s, argv, argc) != ERR_OK)
        redis_reset(s->redis, "no memory for a command");
    redis_flush(s->redis);
}

/* Leadership is good from when it was asked for, not from when that was heard: this process may have been stopped in between.
 */
static void ask_hold(struct store *s)
{
    s->hold_asked_at = MIN(s->hold_asked_at, loop_now(s->loop));
}

static void held(struct store *s)
{
    if (s->hold_asked_at != MSEC_NEVER)
        s->held_at = s->hold_asked_at;
    s->hold_asked_at = MSEC_NEVER;
}

static void hold(struct store *s, redis_on_reply *on_reply)
{
    ask_hold(s);
    char epoch[24], ttl[24];
    snprintf(epoch, sizeof epoch, "%" PRIu64, s->epoch);
    snprintf(ttl, sizeof ttl, "%d", STORE_LEADER_MS);
    struct span args[] = {span_str(epoch), span_str(ttl), span_of(s->tag_key, sizeof s->tag_key),
                          span_of(s->tag_key_before, s->tag_key_before_len)};
    leader_script(s, on_reply, "hold", args, ARRAY_COUNT(args));
}

static const redisReply *element(const redisReply *reply, size_t i)
{
    return reply && reply->type == REDIS_REPLY_ARRAY && i < reply->elements ? reply->element[i] : NULL;
}

/* A Redis that has just come back may lack what it had answered, the leader's last beats among it; the leader has all of it in
 * its ring and is on its way. A broker that took its place at once would fence it, and lose that for good. So a leader that did
 * not leave is followed only on a connection that has answered for as long as a leader lives: by then one that lives has
 * renewed itself. */
static bool has_watched(const struct store *s)
{
    return s->answers_at != MSEC_NEVER && loop_now(s->loop) - s->answers_at >= STORE_LEADER_MS;
}

static void someone_leads(struct store *s, const redisReply *reply)
{
    const redisReply *pttl = element(reply, 2);
    struct span leader = reply_span(element(reply, 1));
    msec left_ms = pttl && pttl->type == REDIS_REPLY_INTEGER && pttl->integer >= 0 ? (msec)pttl->integer + 1 : STORE_BEAT_MS;
    if (s->answers_at == MSEC_NEVER)
        s->answers_at = loop_now(s->loop);
    if (leader.len && !span_is(leader, s->waits_for)) {
        snprintf(s->waits_for, sizeof s->waits_for, "%.*s", SPAN_ARG(leader));
        log_event(LOG_STORE_WAITS, "leader=%s", log_str(leader));
        s->hooks.held(s->hooks.arg, leader);
    }
    s->tries = 0;
    set_link(s, LINK_AGAIN);
    timer_set(s->again, loop_now(s->loop) + MIN(left_ms, STORE_BEAT_MS / 2));
}

static void on_job(void *arg, const struct id *id, const struct rec_job *job)
{
    struct store *s = arg;
    s->hooks.job(s->hooks.arg, id, job);
}

/* ---- everything recovered is written ----
 *
 * Under `everysec` Redis may answer up to two seconds before it calls write(2) (it waits for an fsync in progress), and a Redis
 * killed then comes back without. What this broker wrote itself it could send again; what the one before it wrote, only that
 * one had. So nothing is shown before Redis has handed all of it to the kernel: its AOF buffer has been empty once since we
 * lead. */

static void serve(struct store *s)
{
    const struct id *missing;
    size_t missing_count = recover_missing(s->recover, &missing);
    s->phase = PHASE_SERVE;
    /* What has a place in `live` but no state cannot be run, and would be found again at every start. */
    commits_repair(s, missing, missing_count);
    recover_free(&s->recover);
    s->hooks.recovered(s->hooks.arg, &s->recovered);
}

static void on_written(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    if (!reply || s->phase != PHASE_CONFIRM)
        return;
    struct span waiting = info_value(reply_span(reply), "aof_buffer_length");
    bool late = loop_now(s->loop) >= s->confirm_by;
    if (waiting.len && !span_is(waiting, "0") && !late) {
        timer_set(s->again, loop_now(s->loop) + STORE_CONFIRM_MS);
        return;
    }
    if (late)
        log_event(LOG_STORE_UNWRITTEN, "aof_buffer_bytes=%" PRIu64, number(waiting));
    serve(s);
}

/* What was recovered may be on this Redis alone, and would be shown as stored. WAIT counts from this connection's last write,
 * which is to `leader` and younger than all of it. Without replicas no commit would be taken either: it is waited for as long
 * as it takes. */
static void on_replicated(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    const char *why;
    if (!reply || s->phase != PHASE_CONFIRM)
        return;
    if (commits_replicated(s, reply, &why)) {
        s->confirm_by = loop_now(s->loop) + STORE_CONFIRM_MAX_MS;
        command(s, on_written, "INFO", "persistence", (struct span){0});
        redis_flush(s->redis);
        return;
    }
    s->stats.wait_short++;
    link_refused(s, why);
    link_settled(s);
}

static void confirm(struct store *s)
{
    if (!s->options.replicas)
        command(s, on_written, "INFO", "persistence", (struct span){0});
    else if (!commits_wait(s, on_replicated))
        redis_reset(s->redis, "no memory for a command");
    redis_flush(s->redis);
}

static void on_recovered(void *arg, const struct store_recovered *counts)
{
    struct store *s = arg;
    log_event(LOG_STORE_RECOVERED, "jobs=%" PRIu64 " missing=%" PRIu64 " corrupt=%" PRIu64 " took_ms=%lld", counts->jobs,
              counts->missing, counts->corrupt, (long long)counts->took_ms);
    s->stats.records_corrupt += counts->corrupt;
    s->recovered = *counts;
    s->phase = PHASE_CONFIRM;
    s->confirm_by = loop_now(s->loop) + STORE_CONFIRM_MAX_MS;
    confirm(s);
}

static void on_recover_failed(void *arg, const char *why)
{
    struct store *s = arg;
    link_refused(s, why);
    redis_reset(s->redis, why);
}

static bool read_lead(const redisReply *reply, struct store_lead *lead, struct commit_at *last)
{
    struct span epoch = reply_span(element(reply, 1)), at = reply_span(element(reply, 2)), tag = reply_span(element(reply, 3)),
                before = reply_span(element(reply, 4));
    lead->epoch = number(epoch);
    if (!lead->epoch || tag.len != ID_KEY_BYTES || commit_at_parse(at, last, &lead->last_now) != ERR_OK)
        return false;
    memcpy(lead->tag_key, tag.data, ID_KEY_BYTES);
    lead->has_tag_key_before = before.len == ID_KEY_BYTES;
    if (lead->has_tag_key_before)
        memcpy(lead->tag_key_before, before.data, ID_KEY_BYTES);
    return true;
}

static void on_take(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    struct store_lead lead = {0};
    struct commit_at last;
    if (!reply)
        return;
    if (reply_is(element(reply, 0), "held")) {
        s->hold_asked_at = MSEC_NEVER; /* answered: leadership counts from the question that gets it */
        someone_leads(s, reply);
        return;
    }
    if (!reply_is(element(reply, 0), "taken") || !read_lead(reply, &lead, &last)) {
        not_greeted(s, reply->type == REDIS_REPLY_ERROR ? reply->str : "`last` or `tagkey` cannot be read");
        return;
    }
    held(s);
    s->epoch = lead.epoch;
    memcpy(s->tag_key, lead.tag_key, sizeof s->tag_key);
    memcpy(s->tag_key_before, lead.tag_key_before, sizeof s->tag_key_before);
    s->tag_key_before_len = lead.has_tag_key_before ? sizeof s->tag_key_before : 0;
    lead.ack = s->ack = ack_of(s, &s->fit);
    ring_start(&s->ring, s->epoch, last);
    struct recover_hooks hooks = {on_job, on_recovered, on_recover_failed, s};
    s->recover = recover_new(s->loop, s->redis, s->options.shard, hooks);
    if (!s->recover) {
        redis_reset(s->redis, "no memory to recover");
        return;
    }
    s->phase = PHASE_RECOVER;
    s->tries = 0;
    set_link(s, LINK_READY);
    timer_set(s->beat, loop_now(s->loop) + STORE_BEAT_MS);
    log_event(LOG_STORE_LEADS, "epoch=%" PRIu64 " ack=%s last=%" PRIu64 ":%" PRIu64, s->epoch, ack_name(s->ack), last.epoch,
              last.n);
    s->hooks.leads(s->hooks.arg, &lead);
    recover_go(s->recover);
}

static void take(struct store *s)
{
    char wall[24], ttl[24];
    uint8_t fresh[ID_KEY_BYTES];
    if (getrandom(fresh, sizeof fresh, 0) != sizeof fresh) {
        not_greeted(s, "no randomness for a tag key");
        return;
    }
    snprintf(wall, sizeof wall, "%lld", (long long)clock_wall());
    snprintf(ttl, sizeof ttl, "%d", STORE_LEADER_MS);
    bool stands_by = s->options.standby || s->waits_for[0];
    struct span args[] = {span_str(wall), span_str(ttl), span_str(stands_by ? "1" : "0"), span_of(fresh, sizeof fresh),
                          span_str(has_watched(s) ? "1" : "0")};
    ask_hold(s);
    leader_script(s, on_take, "take", args, ARRAY_COUNT(args));
}

/* ---- where to go on ---- */

static void go_on(struct store *s)
{
    set_link(s, LINK_READY);
    if (s->phase == PHASE_RECOVER)
        recover_go(s->recover);
    else if (s->phase == PHASE_CONFIRM)
        confirm(s);
    else
        sweep_go_on(s);
}

/* A new epoch for a store that lacks more than the ring has. `last` under it is asked for once more: what was read is too old.
 */
static void rise(struct store *s)
{
    s->stats.store_rewrites++;
    s->rising = true;
    s->epoch = MAX(s->epoch + 1, (uint64_t)MAX(clock_wall(), 0));
    log_event(LOG_STORE_REWRITE, "epoch=%" PRIu64, s->epoch);
    greet_again(s);
}

static void risen(struct store *s, struct commit_at last)
{
    s->rising = false;
    ring_start(&s->ring, s->epoch, last);
    s->behind_n = UINT64_MAX; /* until what the caller writes anew is stored */
    s->wrote_n = 0;
    s->rewrite_due = true;
    go_on(s);
}

/* With replicas `last` says only what this Redis has: what too few others have is sent again, to be waited for again. */
static void resume(struct store *s, struct commit_at last)
{
    uint64_t stored_n = s->ring.stored_n;
    struct commit_at from = last;
    if (s->options.replicas && last.epoch == s->epoch)
        from.n = MIN(last.n, stored_n);
    if (!ring_rewind(&s->ring, from)) {
        rise(s);
        return;
    }
    if (s->ring.stored_n < stored_n) {
        s->stats.store_older++;
        s->behind_n = MAX(s->behind_n, stored_n);
        log_event(LOG_STORE_OLDER, "last=%" PRIu64 ":%" PRIu64 " shown=%" PRIu64, last.epoch, last.n, stored_n);
    }
    s->wrote_n = s->ring.stored_n;
    if (from.epoch == s->epoch)
        commits_stored(s, from.n);
    go_on(s);
}

static void on_hold(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    struct commit_at last;
    msec now;
    if (!reply || s->phase == PHASE_LEFT)
        return;
    if (reply_is(element(reply, 0), "FENCED")) {
        link_fenced(s);
        return;
    }
    if (!element(reply, 0) || commit_at_parse(reply_span(element(reply, 1)), &last, &now) != ERR_OK) {
        not_greeted(s, reply->type == REDIS_REPLY_ERROR ? reply->str : "`last` cannot be read");
        return;
    }
    held(s);
    if (s->phase == PHASE_RECOVER || s->phase == PHASE_CONFIRM)
        go_on(s); /* should it be an older data set, the first commit finds out */
    else if (s->rising)
        risen(s, last);
    else
        resume(s, last);
}

static void greeted(struct store *s)
{
    if (s->greet_error[0]) {
        not_greeted(s, s->greet_error);
        return;
    }
    s->fit = s->fit_next;
    s->fit.sent_bytes = s->stats.commit_bytes;
    link_look_at_memory(s);
    const char *why = unfit_because(&s->fit);
    if (!why && s->phase != PHASE_SEEK && ack_of(s, &s->fit) < s->ack)
        why = "appendfsync is no longer always, as was promised";
    if (why && s->phase == PHASE_SEEK && !s->warned)
        log_event(s->options.allow_unsafe ? LOG_STORE_UNSAFE : LOG_STORE_UNFIT, "reason=%s", log_str(span_str(why)));
    s->warned = why != NULL;
    s->unfit = why && !s->options.allow_unsafe;
    if (s->unfit && s->phase == PHASE_SEEK)
        s->hooks.unfit(s->hooks.arg, why);
    else if (s->unfit)
        not_greeted(s, why);
    else if (s->phase == PHASE_SEEK)
        take(s);
    else
        hold(s, on_hold);
}

/* ---- every second ---- */

static void on_beat_hold(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    if (!reply || s->phase == PHASE_LEFT)
        return;
    if (reply_is(element(reply, 0), "FENCED"))
        link_fenced(s);
    else if (reply_is(element(reply, 0), "mine"))
        held(s);
    else if (s->phase != PHASE_SERVE)
        redis_reset(s->redis, "leadership could not be renewed");
    else {
        link_refused(s, reply->type == REDIS_REPLY_ERROR ? reply->str : NULL);
        link_settled(s);
    }
}

static void on_beat_memory(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    if (!reply || reply->type == REDIS_REPLY_ERROR)
        return;
    read_memory(&s->fit, reply_span(reply));
    s->fit.sent_bytes = s->beat_bytes;
    link_look_at_memory(s);
}

void link_on_beat(void *arg)
{
    struct store *s = arg;
    timer_set(s->beat, loop_now(s->loop) + STORE_BEAT_MS);
    if (s->link != LINK_READY)
        return;
    hold(s, on_beat_hold);
    s->beat_bytes = s->stats.commit_bytes;
    command(s, on_beat_memory, "INFO", "memory", (struct span){0});
}

/* ---- leaving ---- */

static void on_leave(void *arg, const redisReply *reply)
{
    struct store *s = arg;
    s->on_left(s->left_arg);
}

void store_leave(struct store *s, void (*on_left)(void *arg), void *arg)
{
    char epoch[24];
    bool leads = s->phase == PHASE_SERVE || s->phase == PHASE_RECOVER || s->phase == PHASE_CONFIRM;
    timer_set(s->beat, MSEC_NEVER);
    timer_set(s->again, MSEC_NEVER);
    s->phase = PHASE_LEFT;
    s->on_left = on_left;
    s->left_arg = arg;
    if (!leads || s->link != LINK_READY) {
        on_left(arg);
        return;
    }
    snprintf(epoch, sizeof epoch, "%" PRIu64, s->epoch);
    leader_script(s, on_leave, "leave", (struct span[]){span_str(epoch)}, 1);
}
