/* common/redis.h over the world's time: what is pipelined, when it leaves, who is told what when it breaks. */
#include "common/redis.h"

#include "common/log.h"
#include "tests/sim/server.h"

struct command {
    struct command *next;
    struct span *argv;
    size_t argc;
};
struct pending {
    struct pending *next;
    redis_on_reply *on_reply;
    void *arg;
    msec sent_at;
};
struct arrived {
    struct arrived *next;
    redisReply *reply; /* NULL: the connection broke */
    const char *why;
};

struct redis {
    struct loop *loop;
    struct redis_hooks hooks;
    struct timer *timer; /* the next try while down, the reply deadline while up */
    struct loop_end end;
    struct line *line; /* NULL: down */
    bool up, opening, calling, must_break, freed;
    const char *reason;
    msec reply_timeout_ms, wait_ms;
    size_t count;
    struct command *out, **out_end;
    struct pending *pending, **pending_end;
    struct arrived *in, **in_end;
};

static void clear(struct redis *redis)
{
    redis->out = NULL;
    redis->out_end = &redis->out;
    redis->in = NULL;
    redis->in_end = &redis->in;
}

static void try_again(struct redis *redis)
{
    redis->wait_ms = MIN(MAX(redis->wait_ms * 2, 50), 2000);
    timer_set(redis->timer, loop_now(redis->loop) + redis->wait_ms / 2 + (msec)draw((uint64_t)redis->wait_ms / 2 + 1));
}

static void break_now(struct redis *redis, const char *reason)
{
    bool was_up = redis->up;
    struct pending *owed = redis->pending;
    if (redis->line)
        server_close(redis->line);
    redis->line = NULL;
    redis->up = redis->must_break = false;
    redis->reason = reason;
    redis->pending = NULL;
    redis->pending_end = &redis->pending;
    redis->count = 0;
    clear(redis);
    redis->calling = true;
    for (; owed; owed = owed->next)
        if (owed->on_reply)
            owed->on_reply(owed->arg, NULL);
    if (was_up) {
        log_event(LOG_REDIS_DOWN, "reason=%s", reason);
        redis->hooks.down(redis->hooks.arg, reason);
    }
    redis->calling = false;
    redis->must_break = false;
    try_again(redis);
}

static void set_deadline(struct redis *redis)
{
    if (redis->up)
        timer_set(redis->timer,
                  redis->pending && redis->reply_timeout_ms ? redis->pending->sent_at + redis->reply_timeout_ms : MSEC_NEVER);
}

static void come_up(void *a, uint64_t b)
{
    struct redis *redis = a;
    if (redis->freed || !loop_proc(redis->loop)->alive || !redis->line)
        return;
    redis->opening = true;
    loop_wake(redis->loop);
}

static void try_now(struct redis *redis)
{
    redis->line = server_open(redis);
    if (redis->line)
        later((msec)draw(2), come_up, redis, 0);
    else
        try_again(redis);
}

static void on_timer(void *arg)
{
    struct redis *redis = arg;
    if (!redis->line)
        try_now(redis);
    else if (redis->up && redis->pending)
        break_now(redis, "Redis did not answer in time");
}

/* ---- arriving ---- */

static void deliver(void *arg)
{
    struct redis *redis = arg;
    if (redis->opening && redis->line) {
        redis->opening = false;
        redis->up = true;
        redis->wait_ms = 0;
        timer_set(redis->timer, MSEC_NEVER);
        log_event(LOG_REDIS_UP, "address=sim");
        redis->calling = true;
        redis->hooks.up(redis->hooks.arg);
        redis->calling = false;
        if (redis->must_break)
            break_now(redis, redis->reason);
    }
    while (redis->in) {
        struct arrived *a = redis->in;
        redis->in = a->next;
        if (!redis->in)
            redis->in_end = &redis->in;
        if (!a->reply) {
            break_now(redis, a->why);
            return;
        }
        struct pending *p = redis->pending;
        MUST(p, "a reply that nothing asked for");
        redis->pending = p->next;
        if (!redis->pending)
            redis->pending_end = &redis->pending;
        redis->count--;
        redis->calling = true;
        if (p->on_reply)
            p->on_reply(p->arg, a->reply);
        redis->calling = false;
        if (redis->must_break) {
            break_now(redis, redis->reason);
            return;
        }
    }
    set_deadline(redis);
}

static void put(struct redis *redis, struct line *line, redisReply *reply, const char *why)
{
    if (redis->freed || redis->line != line)
        return;
    struct arrived *a = keep(sizeof *a);
    *a = (struct arrived){.reply = reply, .why = why};
    *redis->in_end = a;
    redis->in_end = &a->next;
    loop_wake(redis->loop);
}
void redis_take_reply(struct redis *redis, struct line *line, redisReply *reply)
{
    put(redis, line, reply, NULL);
}
void redis_take_break(struct redis *redis, struct line *line, const char *why)
{
    put(redis, line, NULL, why);
}

/* ---- common/redis.h ---- */

static void flush_at_end(void *arg)
{
    redis_flush(arg);
}

struct redis *redis_new(struct loop *loop, const struct redis_options *options, struct redis_hooks hooks)
{
    struct redis *redis = keep(sizeof *redis);
    redis->loop = loop;
    redis->hooks = hooks;
    redis->reason = "";
    redis->reply_timeout_ms = options->reply_timeout_ms;
    redis->pending_end = &redis->pending;
    clear(redis);
    loop_end_init(&redis->end, flush_at_end, redis);
    redis->timer = timer_new(loop, on_timer, redis);
    loop_handler(loop, deliver, redis);
    timer_set(redis->timer, loop_now(loop));
    return redis;
}

void redis_free(struct redis **redis_ptr)
{
    struct redis *redis = TAKE(*redis_ptr);
    if (!redis)
        return;
    if (redis->line)
        server_close(redis->line);
    redis->line = NULL;
    redis->freed = true;
    loop_end_cancel(&redis->end);
    timer_free(&redis->timer);
}

bool redis_is_up(const struct redis *redis)
{
    return redis->up && !redis->must_break;
}
const char *redis_reason(const struct redis *redis)
{
    return redis->reason;
}
size_t redis_pending(const struct redis *redis)
{
    return redis->up ? redis->count : 0;
}
msec redis_waiting_ms(const struct redis *redis)
{
    return redis->up && redis->pending ? loop_now(redis->loop) - redis->pending->sent_at : 0;
}

enum err redis_command(struct redis *redis, redis_on_reply *on_reply, void *arg, const struct span *argv, size_t argc)
{
    if (!redis->up || redis->must_break)
        return ERR_CLOSED;
    struct command *command = keep(sizeof *command);
    command->argc = argc;
    command->argv = keep(argc * sizeof *argv);
    for (size_t i = 0; i < argc; i++)
        command->argv[i] = keep_span(argv[i]);
    *redis->out_end = command;
    redis->out_end = &command->next;
    struct pending *pending = keep(sizeof *pending);
    *pending = (struct pending){.on_reply = on_reply, .arg = arg, .sent_at = loop_now(redis->loop)};
    *redis->pending_end = pending;
    redis->pending_end = &pending->next;
    redis->count++;
    if (redis->count == 1)
        set_deadline(redis);
    loop_at_end(redis->loop, &redis->end);
    return ERR_OK;
}

void redis_flush(struct redis *redis)
{
    if (!redis->up || !loop_proc(redis->loop)->alive)
        return;
    for (struct command *c = redis->out; c; c = c->next)
        server_send(redis->line, c->argv, c->argc);
    redis->out = NULL;
    redis->out_end = &redis->out;
}

void redis_reset(struct redis *redis, const char *reason)
{
    if (!redis->up || redis->must_break)
        return;
    if (redis->calling) {
        redis->reason = (const char *)keep_span(span_str(reason)).data;
        redis->must_break = true;
    } else
        break_now(redis, (const char *)keep_span(span_str(reason)).data);
}
