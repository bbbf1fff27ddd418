/* Bytes of a Redis: however they are cut, the same replies go to the same commands; every command that was accepted is answered
 * exactly once, by a reply or by NULL when the connection breaks; nothing is answered after a break.
 * Covers: common/redis.c */
#include "common/redis.c"

#define PIECES_CUTS 16 /* a reply of a million elements takes 8 MB each time */
#include "tests/fuzz/pieces.h"

#define COMMANDS 64 /* given in all; four wait at any time */

/* ---- a connection that is made of the input ---- */

struct dial {
    struct dial_hooks hooks;
    struct evbuffer *out;
    struct span piece;
    bool open;
} dialled;

struct dial *dial_new(struct loop *loop, const struct dial_options *options, struct dial_hooks hooks)
{
    dialled = (struct dial){.hooks = hooks, .out = evbuffer_new()};
    return &dialled;
}
void dial_free(struct dial **dial)
{
    evbuffer_free(TAKE(dialled.out));
    *dial = NULL;
}
void dial_aim(struct dial *dial, const char *host, unsigned port) {}
void dial_open(struct dial *dial)
{
    dial->open = true;
}
void dial_close(struct dial *dial)
{
    dial->open = false;
}
enum err dial_read(struct dial *dial, void *buffer, size_t size, size_t *ret_len)
{
    assert(dial->open);
    if (!dial->piece.len)
        return ERR_WOULD_BLOCK;
    size_t len = MIN(size, dial->piece.len);
    memcpy(buffer, dial->piece.data, len);
    dial->piece = span_of(dial->piece.data + len, dial->piece.len - len);
    *ret_len = len;
    return ERR_OK;
}
struct evbuffer *dial_out(struct dial *dial)
{
    return dial->out;
}
void dial_flush(struct dial *dial)
{
    evbuffer_drain(dial->out, evbuffer_get_length(dial->out));
}
const char *dial_reason(const struct dial *dial)
{
    return "the input says so";
}

/* ---- who asks ---- */

static struct {
    struct loop *loop;
    struct redis *redis;
    struct json_out *heard;
    unsigned given, answered, ups, downs;
} user;

static void print(const redisReply *r, unsigned depth)
{
    assert(depth <= 9);
    json_printf(user.heard, "%d", r->type);
    if (r->str)
        json_raw(user.heard, span_of(r->str, r->len));
    else
        json_printf(user.heard, " %lld ", r->type == REDIS_REPLY_INTEGER ? r->integer : 0);
    for (size_t i = 0; i < r->elements; i++)
        print(r->element[i], depth + 1);
}

static void ask(void);

static void on_reply(void *arg, const redisReply *reply)
{
    uintptr_t number = (uintptr_t)arg;
    assert(number == user.answered++ && user.ups == user.downs + 1);
    json_printf(user.heard, "%zu:", (size_t)number);
    if (!reply)
        return;
    print(reply, 0);
    json_lit(user.heard, "\n");
    ask();
}

static void ask(void)
{
    struct span ping = span_str("PING");
    while (user.given < COMMANDS && user.given - user.answered < 4) {
        if (redis_command(user.redis, on_reply, (void *)(uintptr_t)user.given, &ping, 1) != ERR_OK)
            return;
        user.given++;
    }
}

static void up(void *arg)
{
    user.ups++;
    assert(user.ups == 1);
    ask();
}
static void down(void *arg, const char *reason)
{
    user.downs++;
    assert(user.downs == user.ups && user.answered == user.given);
    json_raw(user.heard, span_str(reason));
}

static void turn(void *arg) {}

static void start(void *parser)
{
    const struct redis_options options = {.socket = "/nowhere", .user = "u", .password = "p", .db = 1};
    struct loop *loop = user.loop ? user.loop : loop_new(turn, NULL);
    memset(&user, 0, sizeof user);
    user.loop = loop;
    log_level(-1);
    user.redis = redis_new(loop, &options, (struct redis_hooks){up, down, NULL});
    dialled.hooks.opened(dialled.hooks.arg);
}

static enum err feed(void *parser, struct span piece, struct json_out *heard)
{
    user.heard = heard;
    if (!dialled.open)
        return ERR_OK;
    dialled.piece = piece;
    while (dialled.open && dialled.piece.len)
        dialled.hooks.readable(dialled.hooks.arg);
    if (!dialled.open) {
        unsigned answered = user.answered;
        struct span ping = span_str("PING");
        assert(redis_command(user.redis, NULL, NULL, &ping, 1) == ERR_CLOSED && redis_pending(user.redis) == 0);
        assert(redis_reason(user.redis)[0] && answered == user.given);
    }
    return ERR_OK;
}

static enum err end(void *parser, struct json_out *heard)
{
    user.heard = heard;
    redis_reset(user.redis, "the end");
    assert(user.answered == user.given && user.ups == user.downs);
    return ERR_OK;
}

static void done(void *parser)
{
    redis_free(&user.redis);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    pieces_check(&(struct pieces_parser){start, feed, end, done, NULL}, span_of(data, size));
    return 0;
}
