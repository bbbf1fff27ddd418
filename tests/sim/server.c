#include "tests/sim/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/script.h"
#include "tests/sim/truth.h"

#define SCRIPTS   4
#define LINES_MAX 4096
#define ALWAYS_MS 2000 /* Redis waits so long for an fsync in progress, and then writes all the same */

struct request {
    struct request *next;
    struct line *line;
    struct span *argv;
    size_t argc;
};

struct line {
    struct redis *client;
    bool open;           /* at the server's end */
    bool closed;         /* at the client's */
    msec to_at, from_at; /* arrival of the last command, of the last reply */
    bool waits;          /* for a WAIT: what follows on this line follows after it */
    struct request *behind, **behind_end;
};

static struct server {
    bool down;
    msec loading_until, stalled_until, slow_until, refused_until;
    enum refusal refusal;
    unsigned percent;
    char loaded[SCRIPTS][41];
    unsigned loaded_count;
    uint64_t written;    /* position: what survives a kill */
    uint64_t replicated; /* what the replica may have … */
    uint64_t vouched;    /* … and what WAIT has said it has */
    msec replica_cut_until;
    struct request *queue, **queue_end; /* while it is stalled */
    struct line *lines[LINES_MAX];
    unsigned lines_count;
} server;

void server_begin(void)
{
    server = (struct server){.percent = 10};
    server.queue_end = &server.queue;
    data_begin();
}

static const char *const refusals[REFUSALS] = {
    [REFUSE_OOM] = "OOM command not allowed when used memory > 'maxmemory'.",
    [REFUSE_READONLY] = "READONLY You can't write against a read only replica.",
    [REFUSE_BUSY] = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    [REFUSE_MISCONF] = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    [REFUSE_NOREPLICAS] = "NOREPLICAS Not enough good replicas to write.",
};

/* ---- the disk and the replica ---- */

/* Whatever was done is written, unless the disk is slow. */
static void disk_goes_on(void)
{
    if (sim.now >= server.slow_until)
        server.written = data_position();
    if (sim.now >= server.replica_cut_until)
        server.replicated = data_position();
}

static bool unwritten(void)
{
    disk_goes_on();
    return server.written < data_position();
}

/* ---- commands ---- */

static redisReply *run_info(struct span section)
{
    char text[256];
    if (span_is(section, "memory"))
        snprintf(text, sizeof text,
                 "# Memory\r\nused_memory:%u\r\nmaxmemory:100000000\r\nmaxmemory_policy:noeviction\r\n"
                 "mem_not_counted_for_evict:0\r\n",
                 server.percent * 1000000);
    else
        snprintf(text, sizeof text, "# Persistence\r\nloading:0\r\naof_enabled:1\r\naof_buffer_length:%u\r\n",
                 unwritten() ? 4096u : 0u);
    return reply_text(REDIS_REPLY_STRING, span_str(text));
}

static redisReply *run_config(void)
{
    redisReply *reply = reply_list(2);
    reply->element[0] = reply_text(REDIS_REPLY_STRING, span_str("appendfsync"));
    reply->element[1] = reply_text(REDIS_REPLY_STRING, span_str("everysec"));
    return reply;
}

static redisReply *run_load(struct span text)
{
    const char *sha = script_add(text);
    for (unsigned i = 0; i < server.loaded_count; i++)
        if (strcmp(server.loaded[i], sha) == 0)
            return reply_text(REDIS_REPLY_STRING, span_str(sha));
    MUST(server.loaded_count < SCRIPTS, "more scripts than expected");
    memcpy(server.loaded[server.loaded_count++], sha, 41);
    return reply_text(REDIS_REPLY_STRING, span_str(sha));
}

static redisReply *run_script(const struct span *argv, size_t argc)
{
    bool loaded = false;
    for (unsigned i = 0; i < server.loaded_count; i++)
        loaded |= span_is(argv[1], server.loaded[i]);
    if (!loaded)
        return reply_error("NOSCRIPT No matching script. Please use EVAL.");
    if (sim.now < server.refused_until && server.refusal != REFUSE_NOTHING)
        return reply_error(refusals[server.refusal]);
    size_t keys = (size_t)strtoull((const char *)argv[2].data, NULL, 10);
    MUST(keys + 3 <= argc, "EVALSHA names more keys than it has");
    truth_commit_begins();
    redisReply *reply = script_run(argv[1], argv + 3, keys, argv + 3 + keys, argc - 3 - keys);
    truth_commit_ends();
    return reply;
}

static redisReply *run_command(const struct span *argv, size_t argc)
{
    if (span_is(argv[0], "INFO"))
        return run_info(argv[1]);
    if (sim.now < server.loading_until)
        return reply_error("LOADING Redis is loading the dataset in memory");
    if (sim.now < server.refused_until && server.refusal == REFUSE_BUSY)
        return reply_error(refusals[REFUSE_BUSY]);
    if (span_is(argv[0], "CONFIG"))
        return run_config();
    if (span_is(argv[0], "SCRIPT"))
        return run_load(argv[2]);
    if (span_is(argv[0], "EVALSHA"))
        return run_script(argv, argc);
    redisReply *reply = data_run(argv, argc);
    MUST(reply, "a command that the simulation does not know");
    return reply;
}

/* ---- replies ---- */

struct answering {
    struct line *line;
    redisReply *reply; /* NULL: the end of the line */
};

static void arrive_back(void *a, uint64_t b)
{
    struct answering *answering = a;
    if (answering->line->closed)
        return;
    if (answering->reply)
        redis_take_reply(answering->line->client, answering->line, answering->reply);
    else
        redis_take_break(answering->line->client, answering->line, "the connection was closed");
}

static void answer(struct line *line, redisReply *reply)
{
    struct answering *answering = keep(sizeof *answering);
    *answering = (struct answering){line, reply};
    msec at = sim.now + (msec)draw(2);
    line->from_at = MAX(line->from_at, at);
    later(line->from_at - sim.now, arrive_back, answering, 0);
}

static void hang_up(struct line *line)
{
    if (!line->open)
        return;
    line->open = false;
    answer(line, NULL);
}

/* ---- executing ---- */

static void take(struct request *request);

static void end_wait(void *a, uint64_t position)
{
    struct line *line = a;
    if (!line->open || !line->waits)
        return;
    disk_goes_on();
    bool has_it = server.replicated >= position;
    if (has_it)
        server.vouched = MAX(server.vouched, position);
    answer(line, reply_number(has_it));
    line->waits = false;
    struct request *behind = line->behind;
    line->behind = NULL;
    line->behind_end = &line->behind;
    while (behind) {
        struct request *next = behind->next;
        take(behind);
        behind = next;
    }
}

static void execute(struct request *request)
{
    struct line *line = request->line;
    if (span_is(request->argv[0], "WAIT")) {
        line->waits = true;
        bool cut_off = sim.now + 3 < server.replica_cut_until;
        later(cut_off ? 1000 : 1 + (msec)draw(3), end_wait, line, data_position());
        return;
    }
    data_next();
    redisReply *reply = run_command(request->argv, request->argc);
    disk_goes_on();
    if (line->open)
        answer(line, reply);
}

static void take(struct request *request)
{
    struct line *line = request->line;
    request->next = NULL;
    if (line->waits) {
        *line->behind_end = request;
        line->behind_end = &request->next;
    } else if (sim.now < server.stalled_until || server.queue) {
        *server.queue_end = request;
        server.queue_end = &request->next;
    } else
        execute(request);
}

static void go_on(void *a, uint64_t b)
{
    if (sim.now < server.stalled_until)
        return;
    while (server.queue) {
        struct request *request = server.queue;
        server.queue = request->next;
        if (!server.queue)
            server.queue_end = &server.queue;
        if (request->line->waits)
            take(request);
        else
            execute(request);
    }
}

static void arrive(void *a, uint64_t b)
{
    struct request *request = a;
    if (!request->line->open)
        return; /* the server has hung up, or died */
    take(request);
}

void server_send(struct line *line, const struct span *argv, size_t argc)
{
    struct request *request = keep(sizeof *request);
    *request = (struct request){.line = line, .argv = (struct span *)argv, .argc = argc};
    msec at = sim.now + (msec)draw(2);
    line->to_at = MAX(line->to_at, at);
    later(line->to_at - sim.now, arrive, request, 0);
}

struct line *server_open(struct redis *client)
{
    if (server.down)
        return NULL;
    struct line *line = keep(sizeof *line);
    *line = (struct line){.client = client, .open = true};
    line->behind_end = &line->behind;
    MUST(server.lines_count < LINES_MAX, "too many connections");
    server.lines[server.lines_count++] = line;
    return line;
}

/* What has left may still be executed, or be lost with the connection. */
void server_close(struct line *line)
{
    line->closed = true;
    if (chance(500))
        line->open = false;
}

/* ---- trouble ---- */

void server_break(void)
{
    TRACE("the connections to Redis break");
    for (unsigned i = 0; i < server.lines_count; i++)
        hang_up(server.lines[i]);
}

void server_stall(msec for_ms)
{
    TRACE("Redis stalls for %lld ms", (long long)for_ms);
    server.stalled_until = MAX(server.stalled_until, sim.now + for_ms);
    later(for_ms, go_on, NULL, 0);
}

void server_slow_disk(msec for_ms)
{
    disk_goes_on();
    if (sim.now < server.slow_until)
        return;
    TRACE("an fsync takes %lld ms", (long long)for_ms);
    server.slow_until = sim.now + MIN(for_ms, ALWAYS_MS);
}

static void come_back(void *a, uint64_t load_ms)
{
    TRACE("Redis is back, loading for %llu ms", (unsigned long long)load_ms);
    server.down = false;
    server.loading_until = sim.now + (msec)load_ms;
    server.loaded_count = 0;
}

void server_kill(msec down_ms, msec load_ms)
{
    if (server.down)
        return;
    disk_goes_on();
    server.queue = NULL;
    server.queue_end = &server.queue;
    server.stalled_until = server.slow_until = 0;
    bool lost = server.written < data_position();
    TRACE("Redis dies%s", lost ? " with what was not written" : "");
    if (lost)
        note(TROUBLE_TAIL_LOST);
    data_undo(server.written);
    server.down = true;
    for (unsigned i = 0; i < server.lines_count; i++)
        hang_up(server.lines[i]);
    later(down_ms, come_back, NULL, (uint64_t)load_ms);
}

void server_older(unsigned commands)
{
    if (server.down)
        return;
    uint64_t position = data_position();
    TRACE("Redis comes back as it was %u commands ago", commands);
    data_undo(position > commands ? position - commands : 0);
    server.queue = NULL;
    server.queue_end = &server.queue;
    for (unsigned i = 0; i < server.lines_count; i++)
        hang_up(server.lines[i]);
    server.loaded_count = 0;
    disk_goes_on();
}

void server_cut_replica(msec for_ms)
{
    disk_goes_on();
    server.replica_cut_until = MAX(server.replica_cut_until, sim.now + for_ms);
}

void server_fail_over(void)
{
    if (server.down)
        return;
    disk_goes_on();
    uint64_t lead = server.replicated - server.vouched, to = server.vouched + draw(lead + 1);
    TRACE("Redis is lost, its replica has all but the last %llu commands", (unsigned long long)(data_position() - to));
    server_older((unsigned)(data_position() - to));
    server.replica_cut_until = 0;
    server.vouched = server.replicated = data_position();
}

void server_refuse(enum refusal refusal, msec for_ms)
{
    TRACE("Redis refuses for %lld ms: %s", (long long)for_ms, refusals[refusal]);
    server.refusal = refusal;
    server.refused_until = sim.now + for_ms;
}

void server_forget_scripts(void)
{
    TRACE("Redis forgets its scripts");
    server.loaded_count = 0;
}

void server_clock(msec jump_ms)
{
    TRACE("Redis's clock jumps by %lld ms", (long long)jump_ms);
    data_clock(jump_ms);
    sim.unsure = true;
}

void server_fill(unsigned percent)
{
    TRACE("Redis's memory is %u %% full", percent);
    server.percent = percent;
}

void server_heal(void)
{
    if (server.down)
        come_back(NULL, 0);
    server.loading_until = server.stalled_until = server.slow_until = server.refused_until = server.replica_cut_until = 0;
    server.percent = 10;
    go_on(NULL, 0);
}

/* ---- looking at it ---- */

struct span server_get(const char *key)
{
    return data_get(key);
}
size_t server_members(const char *key)
{
    return data_members(key);
}
