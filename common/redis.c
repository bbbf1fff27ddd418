#include "common/redis.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "common/dial.h"
#include "common/log.h"
#include "common/resolve.h"
#include "common/sentinel.h"

#define CONNECT_TIMEOUT_MS 2000
#define REPLY_MAX_BYTES    (64u << 20)
#define ELEMENTS_MAX       (1 << 20) /* of one reply, nested ones counted: an announcement costs memory before its bytes come */
#define BACKOFF_FIRST_MS   50
#define BACKOFF_MAX_MS     2000
#define STEADY_MS          2000 /* a connection that held this long starts the backoff anew */
#define READ_BYTES         (64u << 10)
#define READS_PER_WAKE     16
#define COMMAND_OVERHEAD   24 /* "*", "$", up to 20 digits and the line end */

/*   DOWN ─► SEEKING ─► OPENING ─► GREETING ─► UP       any break ─► DOWN, and after the backoff again; without Sentinels there
 * is no SEEKING */
enum state {
    DOWN,    /* the timer holds the next attempt */
    SEEKING, /* the Sentinels are asked where the master is; the timer holds the end of patience, as in the next two */
    OPENING,
    GREETING, /* HELLO and SELECT are on their way; they are the pending commands */
    UP,       /* the timer holds the oldest command's deadline */
};

struct pending {
    redis_on_reply *on_reply;
    void *arg;
    msec sent_at;
};

struct redis {
    struct loop *loop;
    struct redis_options options; /* its strings are ours */
    struct redis_hooks hooks;
    char address[300];         /* for logs */
    struct sentinel *sentinel; /* NULL: without */
    char master[256];          /* as the Sentinels named it last … */
    unsigned master_port;      /* … 0: not yet */
    enum state state;
    struct dial *dial;
    struct timer *timer;
    struct loop_end end; /* flushes what this turn gathered */

    /* Ring of commands waiting for their reply, oldest at `first`; size is a power of two. */
    struct pending *ring;
    size_t ring_size, first, count;

    redisReader *reader;
    redisReplyObjectFunctions functions; /* hiredis's own, with arrays counted */
    void *(*make_array)(const redisReadTask *, int);
    int elements;       /* announced by the reply being read */
    size_t reply_bytes; /* read of it */
    uint8_t *read_buffer;

    unsigned attempts; /* since it was last steady */
    msec up_at;
    bool calling;     /* inside a callback of the owner */
    bool must_break;  /* when that callback returns */
    char reason[160]; /* "" while up */
    char logged[160]; /* the reason last logged, "" after redis.up */
};

/* ---- RESP ---- */

static size_t command_size(const struct span *argv, size_t argc)
{
    size_t size = COMMAND_OVERHEAD;
    for (size_t i = 0; i < argc; i++)
        size += COMMAND_OVERHEAD + argv[i].len + 2;
    return size;
}

static uint8_t *put_number(uint8_t *to, char kind, size_t number)
{
    char digits[20];
    size_t count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    *to++ = (uint8_t)kind;
    while (count)
        *to++ = (uint8_t)digits[--count];
    *to++ = '\r';
    *to++ = '\n';
    return to;
}

/* `to` has command_size bytes of room. Returns how many were used. */
static size_t put_command(uint8_t *to, const struct span *argv, size_t argc)
{
    uint8_t *at = put_number(to, '*', argc);
    for (size_t i = 0; i < argc; i++) {
        at = put_number(at, '$', argv[i].len);
        if (argv[i].len)
            memcpy(at, argv[i].data, argv[i].len);
        at += argv[i].len;
        *at++ = '\r';
        *at++ = '\n';
    }
    return (size_t)(at - to);
}

/* ---- commands that wait ---- */

static struct pending *oldest(const struct redis *redis)
{
    return &redis->ring[redis->first];
}

/* Room for one more. */
static bool ring_reserve(struct redis *redis)
{
    if (redis->count < redis->ring_size)
        return true;
    size_t size = redis->ring_size ? redis->ring_size * 2 : 16;
    struct pending *ring = malloc(size * sizeof *ring);
    if (!ring)
        return false;
    for (size_t i = 0; i < redis->count; i++)
        ring[i] = redis->ring[(redis->first + i) & (redis->ring_size - 1)];
    free(redis->ring);
    redis->ring = ring;
    redis->ring_size = size;
    redis->first = 0;
    return true;
}

static void ring_push(struct redis *redis, redis_on_reply *on_reply, void *arg)
{
    redis->ring[(redis->first + redis->count++) & (redis->ring_size - 1)] =
        (struct pending){.on_reply = on_reply, .arg = arg, .sent_at = loop_now(redis->loop)};
}

static struct pending ring_pop(struct redis *redis)
{
    struct pending pending = *oldest(redis);
    redis->first = (redis->first + 1) & (redis->ring_size - 1);
    redis->count--;
    return pending;
}

static void set_reply_deadline(struct redis *redis)
{
    bool waits = redis->count && redis->options.reply_timeout_ms;
    timer_set(redis->timer, waits ? oldest(redis)->sent_at + redis->options.reply_timeout_ms : MSEC_NEVER);
}

/* ---- breaks ---- */

static void answer(struct redis *redis, const struct pending *pending, const redisReply *reply)
{
    if (!pending->on_reply)
        return;
    redis->calling = true;
    pending->on_reply(pending->arg, reply);
    redis->calling = false;
}

/* Half of the step at least, the whole at most: a thousand clients of one Redis do not come back in one moment. */
static msec backoff_ms(unsigned attempts)
{
    msec step = attempts < 6 ? BACKOFF_FIRST_MS << attempts : BACKOFF_MAX_MS;
    uint32_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
        random = 0;
    return step / 2 + random % (step / 2 + 1);
}

static void forget_reply(struct redis *redis)
{
    redisReaderFree(redis->reader);
    redis->reader = NULL;
    redis->elements = 0;
    redis->reply_bytes = 0;
}

/* An error reply may be empty, or begin with a NUL; a break has a reason that can be told. */
static void set_reason(struct redis *redis, const char *reason)
{
    if (reason != redis->reason)
        snprintf(redis->reason, sizeof redis->reason, "%s", reason[0] ? reason : "an error without words");
}

/* `reason` may be redis->reason itself. */
static void break_now(struct redis *redis, const char *reason)
{
    bool was_up = redis->state == UP;
    set_reason(redis, reason);
    dial_close(redis->dial);
    forget_reply(redis);
    redis->must_break = false;
    redis->state = DOWN;
    if (was_up && loop_now(redis->loop) - redis->up_at >= STEADY_MS)
        redis->attempts = 0;
    msec wait_ms = backoff_ms(redis->attempts++);
    timer_set(redis->timer, loop_now(redis->loop) + wait_ms);
    if (!redis->options.quiet && strcmp(redis->logged, redis->reason) != 0) {
        memcpy(redis->logged, redis->reason, sizeof redis->logged);
        log_event(LOG_REDIS_DOWN, "address=%s reason=%s pending=%zu again_ms=%lld", redis->address,
                  log_str(span_str(redis->reason)), was_up ? redis->count : 0, (long long)wait_ms);
    }
    while (redis->count) {
        struct pending pending = ring_pop(redis);
        if (was_up)
            answer(redis, &pending, NULL);
    }
    if (was_up && redis->hooks.down) {
        redis->calling = true;
        redis->hooks.down(redis->hooks.arg, redis->reason);
        redis->calling = false;
    }
}

void redis_reset(struct redis *redis, const char *reason)
{
    if (redis->state == DOWN || redis->must_break)
        return;
    if (!redis->calling) {
        break_now(redis, reason);
        return;
    }
    set_reason(redis, reason);
    redis->must_break = true;
}

/* ---- replies ---- */

static void *make_array(const redisReadTask *task, int elements)
{
    struct redis *redis = task->privdata;
    if (elements > ELEMENTS_MAX - redis->elements) {
        redis->elements = INT32_MAX; /* tells this refusal from want of memory */
        return NULL;
    }
    redis->elements += elements;
    return redis->make_array(task, elements);
}

static bool new_reader(struct redis *redis)
{
    redis->reader = redisReaderCreate();
    if (!redis->reader)
        return false;
    redis->functions = *redis->reader->fn;
    redis->make_array = redis->functions.createArray;
    redis->functions.createArray = make_array;
    redis->reader->fn = &redis->functions;
    redis->reader->privdata = redis;
    redis->reader->maxbuf = 2 * READ_BYTES;
    return true;
}

/* Gives every complete reply to its command. False after a break. */
static bool take_replies(struct redis *redis)
{
    for (;;) {
        redisReply *reply = NULL;
        if (redisReaderGetReply(redis->reader, (void **)&reply) != REDIS_OK) {
            break_now(redis, redis->elements == INT32_MAX ? "a reply has too many elements" : redis->reader->errstr);
            return false;
        }
        if (!reply)
            return true;
        redis->elements = 0;
        redis->reply_bytes = redis->reader->len - redis->reader->pos;
        if (!redis->count) {
            freeReplyObject(reply);
            break_now(redis, "a reply came that nothing asked for");
            return false;
        }
        struct pending pending = ring_pop(redis);
        answer(redis, &pending, reply);
        freeReplyObject(reply);
        if (redis->must_break) {
            break_now(redis, redis->reason);
            return false;
        }
    }
}

/* One read and what it completed. False when there is nothing more for now, or no connection any more. */
static bool read_once(struct redis *redis)
{
    size_t len;
    enum err e = dial_read(redis->dial, redis->read_buffer, READ_BYTES, &len);
    if (e == ERR_WOULD_BLOCK)
        return false;
    if (e != ERR_OK) {
        break_now(redis, dial_reason(redis->dial));
        return false;
    }
    redis->reply_bytes += len;
    if (redisReaderFeed(redis->reader, (const char *)redis->read_buffer, len) != REDIS_OK) {
        break_now(redis, redis->reader->errstr);
        return false;
    }
    if (!take_replies(redis))
        return false;
    if (redis->reply_bytes > redis->options.reply_max_bytes) {
        break_now(redis, "a reply is larger than the limit");
        return false;
    }
    return true;
}

/* What is left after this many reads wakes the loop again: other sockets have their turn. */
static void readable(void *arg)
{
    struct redis *redis = arg;
    for (int reads = 0; reads < READS_PER_WAKE; reads++)
        if (!read_once(redis))
            break;
    if (redis->state == UP)
        set_reply_deadline(redis);
}

/* ---- coming up ---- */

static void become_up(struct redis *redis)
{
    redis->state = UP;
    redis->up_at = loop_now(redis->loop);
    redis->reason[0] = redis->logged[0] = '\0';
    timer_set(redis->timer, MSEC_NEVER);
    if (!redis->options.quiet)
        log_event(LOG_REDIS_UP, "address=%s", redis->address);
    if (!redis->hooks.up)
        return;
    redis->calling = true;
    redis->hooks.up(redis->hooks.arg);
    redis->calling = false;
}

/* HELLO's answer names the role, which every user may hear, as ROLE may not be; SELECT's says nothing of it. */
static bool says_master(const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY)
        return true;
    for (size_t i = 0; i + 1 < reply->elements; i += 2)
        if (reply->element[i]->str && strcmp(reply->element[i]->str, "role") == 0)
            return reply->element[i + 1]->str && strcmp(reply->element[i + 1]->str, "master") == 0;
    return false;
}

/* Called as an owner's callback is, so that redis_reset does the right thing. */
static void greeted(void *arg, const redisReply *reply)
{
    struct redis *redis = arg;
    if (reply->type == REDIS_REPLY_ERROR)
        redis_reset(redis, reply->str);
    else if (redis->sentinel && !says_master(reply))
        redis_reset(redis, "it is no master any more, or not yet");
    else if (redis->count == 0)
        become_up(redis);
}

static void wipe_greeting(const void *data, size_t len, void *extra)
{
    OPENSSL_cleanse(extra, len);
    free(extra);
}

/* The password passes through a buffer of its own, which is wiped when it was sent. */
static bool greet_with(struct redis *redis, const struct span *argv, size_t argc)
{
    size_t size = command_size(argv, argc);
    uint8_t *bytes = ring_reserve(redis) ? malloc(size) : NULL;
    if (!bytes)
        return false;
    size_t len = put_command(bytes, argv, argc);
    if (evbuffer_add_reference(dial_out(redis->dial), bytes, len, wipe_greeting, bytes) != 0) {
        wipe_greeting(bytes, len, bytes);
        return false;
    }
    ring_push(redis, greeted, redis);
    return true;
}

static bool greet(struct redis *redis)
{
    const struct redis_options *o = &redis->options;
    struct span hello[5] = {span_str("HELLO"), span_str("2")};
    size_t count = 2;
    if (o->password) {
        hello[count++] = span_str("AUTH");
        hello[count++] = span_str(o->user ? o->user : "default");
        hello[count++] = span_str(o->password);
    }
    if (!greet_with(redis, hello, count))
        return false;
    char db[12];
    snprintf(db, sizeof db, "%u", o->db);
    return o->db == 0 || greet_with(redis, (struct span[]){span_str("SELECT"), span_str(db)}, 2);
}

static void opened(void *arg)
{
    struct redis *redis = arg;
    redis->state = GREETING;
    if (!new_reader(redis) || !greet(redis))
        break_now(redis, err_sentence(ERR_NOMEM));
    else
        dial_flush(redis->dial);
}

static void failed(void *arg)
{
    struct redis *redis = arg;
    break_now(redis, dial_reason(redis->dial));
}

static void open_dial(struct redis *redis)
{
    redis->state = OPENING;
    timer_set(redis->timer, loop_now(redis->loop) + redis->options.connect_timeout_ms);
    dial_open(redis->dial);
}

static void start_attempt(struct redis *redis)
{
    if (!redis->sentinel) {
        open_dial(redis);
        return;
    }
    redis->state = SEEKING;
    timer_set(redis->timer, loop_now(redis->loop) + redis->options.connect_timeout_ms);
    sentinel_ask(redis->sentinel);
}

/* The Sentinels have answered: to whoever asked before an attempt, or as every second. */
static void on_master(void *arg, const char *host, unsigned port)
{
    struct redis *redis = arg;
    bool same = redis->master_port == port && strcmp(redis->master, host) == 0;
    if (!same) {
        snprintf(redis->master, sizeof redis->master, "%s", host);
        redis->master_port = port;
        if (redis->state != DOWN && redis->state != SEEKING)
            break_now(redis, "the Sentinels name another master");
        redis->attempts = 0;
        if (redis->state == DOWN) {
            timer_set(redis->timer, loop_now(redis->loop)); /* asks once more, and finds it named */
            return;
        }
    }
    if (redis->state != SEEKING)
        return;
    if (!redis->options.tls && !resolve_is_loopback(host)) {
        break_now(redis, "the master is off loopback and TLS is off");
        return;
    }
    snprintf(redis->address, sizeof redis->address, "%s:%u", redis->master, port);
    dial_aim(redis->dial, redis->master, port);
    open_dial(redis);
}

static void timer_came(void *arg)
{
    struct redis *redis = arg;
    switch (redis->state) {
    case DOWN:
        start_attempt(redis);
        break;
    case SEEKING:
        break_now(redis, "no Sentinel says where the master is");
        break;
    case OPENING:
        break_now(redis, "the connection could not be made in time");
        break;
    case GREETING:
        break_now(redis, "Redis did not answer HELLO in time");
        break;
    case UP:
        break_now(redis, "Redis did not answer in time");
        break;
    }
}

/* ---- commands ---- */

enum err redis_command(struct redis *redis, redis_on_reply *on_reply, void *arg, const struct span *argv, size_t argc)
{
    assert(argc > 0);
    if (redis->state != UP || redis->must_break)
        return ERR_CLOSED;
    struct evbuffer_iovec room;
    if (!ring_reserve(redis) ||
        evbuffer_reserve_space(dial_out(redis->dial), (ev_ssize_t)command_size(argv, argc), &room, 1) != 1)
        return ERR_NOMEM;
    room.iov_len = put_command(room.iov_base, argv, argc);
    if (evbuffer_commit_space(dial_out(redis->dial), &room, 1) != 0)
        return ERR_NOMEM;
    ring_push(redis, on_reply, arg);
    if (redis->count == 1)
        set_reply_deadline(redis);
    loop_at_end(redis->loop, &redis->end);
    return ERR_OK;
}

static void flush_at_end(void *arg)
{
    redis_flush(arg);
}

void redis_flush(struct redis *redis)
{
    if (redis->state == UP)
        dial_flush(redis->dial);
}

bool redis_is_up(const struct redis *redis)
{
    return redis->state == UP && !redis->must_break;
}

const char *redis_reason(const struct redis *redis)
{
    return redis->reason;
}

size_t redis_pending(const struct redis *redis)
{
    return redis->state == UP ? redis->count : 0;
}

msec redis_waiting_ms(const struct redis *redis)
{
    return redis_pending(redis) ? loop_now(redis->loop) - oldest(redis)->sent_at : 0;
}

/* ---- life ---- */

/* NULL stays NULL. */
static bool copy_text(const char *from, const char **to)
{
    *to = from ? strdup(from) : NULL;
    return *to || !from;
}

/* On failure too every string of ours is either a copy or NULL. */
static bool copy_options(struct redis_options *to, const struct redis_options *from)
{
    *to = *from;
    bool done = copy_text(from->socket, &to->socket);
    done &= copy_text(from->host, &to->host);
    done &= copy_text(from->tls_ca_file, &to->tls_ca_file);
    done &= copy_text(from->user, &to->user);
    done &= copy_text(from->password, &to->password);
    done &= copy_text(from->sentinels, &to->sentinels);
    done &= copy_text(from->master, &to->master);
    done &= copy_text(from->sentinel_user, &to->sentinel_user);
    done &= copy_text(from->sentinel_password, &to->sentinel_password);
    to->connect_timeout_ms = from->connect_timeout_ms ? from->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    to->reply_max_bytes = from->reply_max_bytes ? from->reply_max_bytes : REPLY_MAX_BYTES;
    return done;
}

static void free_secret(const char *text)
{
    if (text)
        OPENSSL_cleanse((char *)text, strlen(text));
    free((char *)text);
}

static void free_options(struct redis_options *options)
{
    free((char *)options->socket);
    free((char *)options->host);
    free((char *)options->tls_ca_file);
    free((char *)options->user);
    free((char *)options->sentinels);
    free((char *)options->master);
    free((char *)options->sentinel_user);
    free_secret(options->password);
    free_secret(options->sentinel_password);
}

static struct dial *new_dial(struct redis *redis)
{
    const struct redis_options *o = &redis->options;
    const struct dial_options options = {
        .socket = o->socket, .host = o->host, .port = o->port, .tls = o->tls, .tls_ca_file = o->tls_ca_file};
    return dial_new(redis->loop, &options, (struct dial_hooks){opened, failed, readable, redis});
}

struct redis *redis_new(struct loop *loop, const struct redis_options *options, struct redis_hooks hooks)
{
    assert(options->socket || options->host || (options->sentinels && options->master));
    struct redis *redis = calloc(1, sizeof *redis);
    if (!redis)
        return NULL;
    redis->loop = loop;
    redis->hooks = hooks;
    loop_end_init(&redis->end, flush_at_end, redis);
    if (!copy_options(&redis->options, options) || !(redis->read_buffer = malloc(READ_BYTES)) ||
        !(redis->timer = timer_new(loop, timer_came, redis)) || !(redis->dial = new_dial(redis))) {
        redis_free(&redis);
        return NULL;
    }
    if (options->sentinels && !(redis->sentinel = sentinel_new(loop, &redis->options, on_master, redis))) {
        redis_free(&redis);
        return NULL;
    }
    if (options->socket)
        snprintf(redis->address, sizeof redis->address, "%s", options->socket);
    else if (options->sentinels)
        snprintf(redis->address, sizeof redis->address, "%s", options->master);
    else
        snprintf(redis->address, sizeof redis->address, "%s:%u", options->host, options->port);
    start_attempt(redis);
    return redis;
}

void redis_free(struct redis **redis_ptr)
{
    struct redis *redis = TAKE(*redis_ptr);
    if (!redis)
        return;
    assert(!redis->calling);
    loop_end_cancel(&redis->end);
    sentinel_free(&redis->sentinel);
    timer_free(&redis->timer);
    dial_free(&redis->dial);
    redisReaderFree(redis->reader);
    free_options(&redis->options);
    free(redis->read_buffer);
    free(redis->ring);
    free(redis);
}
