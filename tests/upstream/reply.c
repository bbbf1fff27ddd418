/* The answer to one call: see reply.h. */
#include "tests/upstream/reply.h"

#include "tests/upstream/answer.h"
#include "tests/upstream/clock.h"
#include "tests/upstream/protocol.h"

#include <stdio.h>
#include <stdlib.h>

#define WINDOW             (64 * 1024) /* bytes waiting to be sent above which no step runs */
#define WINDOWS_PER_TURN   8
#define FILL_PIECE         (16 * 1024) /* filler appended per step */
#define PROMPT_HEAD_BYTES  200
#define WRONG_LENGTH_EXTRA 1000
#define HUGE_BODY_BYTES    (16 * 1024 * 1024)
#define HUGE_HEADER_BYTES  (256 * 1024)
#define FLOOD_BYTES        (64 * 1024)
#define UNKNOWN_LENGTH     1000000000 /* announced for a stream that will not keep to it */
#define SPLIT_GAP_US       200        /* long enough for a waiting reader to take each byte by itself */
#define NEVER              INT64_MAX

struct reply;
typedef void step(struct reply *r);

struct reply {
    struct upstream *upstream;
    struct conn *conn;
    struct call *call;
    const struct protocol *protocol;
    struct script script;
    struct ask ask;
    struct answer answer;
    struct words words;
    struct complaint complaint; /* replaces the fault's message when not empty */

    step *next;    /* NULL: nothing more to do until the caller leaves */
    bool asleep;   /* conn_wake_after was called */
    bool finished; /* all is appended; `ending` says what to do when it has left */
    enum ended ending;
    bool keep_alive;
    bool http_1_0;

    bool head_begun, head_sent;
    enum { BY_LENGTH, CHUNKED, BY_CLOSE } framing;
    int64_t due_us;    /* when the first byte was meant to leave */
    int64_t tokens_us; /* when the first token was said */
    int64_t said;      /* tokens */
    int64_t strike_at; /* tokens said when the fault strikes */
    int64_t fill_left; /* bytes of filler to append, then… */
    step *after_fill;
    struct bytes tail; /* what follows the filler */
};

/* --- ending ----------------------------------------------------------------------------------- */

static void reply_free(struct reply *r)
{
    ask_done(&r->ask);
    words_done(&r->words);
    bytes_done(&r->tail);
    free(r);
}

static void record(struct reply *r, enum ended how)
{
    r->call->bytes_sent = conn_sent(r->conn);
    r->call->first_byte_us = conn_first_byte_us(r->conn);
    r->call->tokens_sent = r->said;
    calls_end(r->upstream->calls, r->call, how);
}

static void settle(struct reply *r)
{
    struct conn *c = r->conn;
    enum ended how = r->ending;
    bool keep_alive = r->keep_alive && r->framing != BY_CLOSE;
    record(r, how);
    reply_free(r);
    if (how == ENDED_ANSWERED)
        conn_finish(c, keep_alive);
    else if (how == ENDED_RESET)
        conn_reset(c);
    else
        conn_close(c);
}

static void on_gone(void *arg)
{
    struct reply *r = arg;
    record(r, r->upstream->stopping ? ENDED_SHUTDOWN : ENDED_CLIENT_CLOSED);
    reply_free(r);
}

/* --- stepping --------------------------------------------------------------------------------- */

static bool runnable(const struct reply *r)
{
    return r->next && !r->asleep && !r->finished;
}

/* Come back in the next turn of the loop, so that a caller who reads fast does not keep it. */
static void yield(struct reply *r)
{
    r->asleep = true;
    conn_wake_after(r->conn, 0);
}

static void pump(struct reply *r)
{
    struct conn *c = r->conn;
    for (int windows = 1;; windows++) {
        while (runnable(r) && bytes_left(conn_out(c)) < WINDOW)
            r->next(r);
        if (!conn_flush(c)) {
            on_gone(r);
            return conn_close(c);
        }
        if (bytes_left(conn_out(c)))
            return; /* on_drained goes on */
        if (r->finished)
            return settle(r);
        if (!runnable(r))
            return;
        if (windows == WINDOWS_PER_TURN)
            return yield(r);
    }
}

static void on_drained(void *arg)
{
    pump(arg);
}

static void on_woken(void *arg)
{
    struct reply *r = arg;
    r->asleep = false;
    pump(r);
}

static const struct conn_user user = {.drained = on_drained, .woken = on_woken, .gone = on_gone};

static void sleep_for(struct reply *r, int64_t us)
{
    if (us <= 0)
        return;
    r->asleep = true;
    conn_wake_after(r->conn, us);
}

static void finish(struct reply *r, enum ended how)
{
    r->finished = true;
    r->ending = how;
}

/* Say nothing more and leave the connection open. */
static void rest(struct reply *r)
{
    r->next = NULL;
}

/* --- head and framing ------------------------------------------------------------------------- */

static bool faulty(const struct reply *r, enum fault_id id)
{
    return r->script.fault->id == id;
}

static struct bytes *fresh_piece(struct reply *r)
{
    bytes_clear(&r->upstream->piece);
    return &r->upstream->piece;
}

/* "500/499/120ms,30000/29000/6m0s" -> x-ratelimit-{limit,remaining,reset}-{requests,tokens} */
static void add_ratelimit(struct bytes *out, const char *spec)
{
    static const char *const what[] = {"limit", "remaining", "reset"};
    static const char *const of[] = {"requests", "tokens"};
    for (int i = 0, j = 0; *spec; spec++) {
        size_t n = strcspn(spec, "/,");
        if (n && i < 3 && j < 2)
            bytes_printf(out, "x-ratelimit-%s-%s: %.*s\r\n", what[i], of[j], (int)n, spec);
        spec += n;
        if (!*spec)
            break;
        i = *spec == ',' ? 0 : i + 1;
        j += *spec == ',';
    }
}

static void begin_head(struct reply *r, int status)
{
    struct bytes *out = conn_out(r->conn);
    http_head(out, status);
    http_add_number(out, "x-request-id", (int64_t)r->call->n);
    if (r->script.retry_after[0])
        http_add(out, "retry-after", r->script.retry_after);
    if (r->script.retry_after_ms[0])
        http_add(out, "retry-after-ms", r->script.retry_after_ms);
    add_ratelimit(out, r->script.ratelimit);
    r->call->status = status;
    r->head_begun = true;
}

/* length -1: chunked, or until close for HTTP/1.0. */
static void end_head(struct reply *r, const char *type, int64_t length)
{
    struct bytes *out = conn_out(r->conn);
    r->framing = length >= 0 ? BY_LENGTH : r->http_1_0 ? BY_CLOSE : CHUNKED;
    http_add(out, "content-type", type);
    if (r->framing == BY_LENGTH)
        http_add_number(out, "content-length", length);
    else if (r->framing == CHUNKED)
        http_add(out, "transfer-encoding", "chunked");
    if (!r->keep_alive || r->framing == BY_CLOSE)
        http_add(out, "connection", "close");
    else if (r->http_1_0)
        http_add(out, "connection", "keep-alive");
    http_head_end(out);
    r->head_sent = true;
}

/* A gone caller is noticed by the flush that ends every pump. */
static void start_dripping(struct reply *r)
{
    if (faulty(r, FAULT_SLOW_DRIP) && conn_flush(r->conn))
        conn_pace(r->conn, r->script.drip_ms * 1000);
}

static void head(struct reply *r, int status, const char *type, int64_t length)
{
    if (r->head_sent)
        return;
    if (!r->head_begun)
        begin_head(r, status);
    end_head(r, type, length);
    start_dripping(r);
}

/* Part of a body, as one chunk where the body is chunked. */
static void add(struct reply *r, const void *data, size_t n)
{
    struct bytes *out = conn_out(r->conn);
    if (!n)
        return;
    if (r->framing == CHUNKED)
        bytes_printf(out, "%zx\r\n", n);
    bytes_add(out, data, n);
    if (r->framing == CHUNKED)
        bytes_puts(out, "\r\n");
}

static void add_piece(struct reply *r, const struct bytes *piece)
{
    add(r, bytes_at(piece), bytes_left(piece));
}

/* The body is complete. */
static void complete(struct reply *r)
{
    if (r->framing == CHUNKED)
        bytes_puts(conn_out(r->conn), "0\r\n\r\n");
    finish(r, ENDED_ANSWERED);
}

/* --- status answers --------------------------------------------------------------------------- */

static const char html_502[] =
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n"
    "<hr><center>upstream</center>\r\n</body>\r\n</html>\r\n";

static void say_html(struct reply *r)
{
    head(r, 502, "text/html", sizeof html_502 - 1);
    add(r, html_502, sizeof html_502 - 1);
    complete(r);
}

static void say_error(struct reply *r)
{
    const struct fault *f = r->script.fault;
    struct bytes *piece = fresh_piece(r);
    r->protocol->error(piece, f->type, f->code, r->complaint.text[0] ? r->complaint.text : f->message);
    int status = f->status ? f->status : 200;
    begin_head(r, status);
    if (faulty(r, FAULT_REDIRECT))
        http_add(conn_out(r->conn), "location", "/redirected");
    head(r, status, "application/json", (int64_t)bytes_left(piece));
    add_piece(r, piece);
    complete(r);
}

/* --- filler: sizes that are not held in memory -------------------------------------------------- */

static void fill(struct reply *r)
{
    size_t n = (size_t)MIN(r->fill_left, FILL_PIECE);
    if (r->head_sent) {
        struct bytes *piece = fresh_piece(r);
        words_add_filler(piece, n);
        add_piece(r, piece);
    } else {
        words_add_filler(conn_out(r->conn), n); /* in the middle of a header */
    }
    r->fill_left -= (int64_t)n;
    if (!r->fill_left)
        r->next = r->after_fill;
}

static void fill_then(struct reply *r, int64_t n, step *after)
{
    r->fill_left = n;
    r->after_fill = after;
    r->next = n ? fill : after;
}

static void say_tail(struct reply *r)
{
    r->said = r->answer.completion_tokens;
    add_piece(r, &r->tail);
    complete(r);
}

/* A JSON string so long that the body has the asked size. */
static void huge_body(struct reply *r)
{
    const struct protocol *p = r->protocol;
    struct bytes *front = fresh_piece(r);
    int64_t size = r->script.bytes < 0 ? HUGE_BODY_BYTES : r->script.bytes;
    r->answer.completion_tokens = size / ANSWER_TOKEN_BYTES;
    if (r->ask.stream) {
        p->stream_open(front, &r->ask, &r->answer);
        p->token_open(front, &r->ask, &r->answer);
        p->token_close(&r->tail, &r->ask, &r->answer);
        p->stream_end(&r->tail, &r->ask, &r->answer);
    } else {
        p->whole_open(front, &r->ask, &r->answer);
        p->whole_close(&r->tail, &r->ask, &r->answer);
    }
    int64_t around = (int64_t)(bytes_left(front) + bytes_left(&r->tail)), filler = MAX(size - around, 0);
    head(r, 200, r->ask.stream ? p->stream_type : "application/json", r->ask.stream ? -1 : around + filler);
    add_piece(r, front);
    fill_then(r, filler, say_tail);
}

/* --- a whole answer --------------------------------------------------------------------------- */

static void make_whole(struct reply *r, struct bytes *piece)
{
    r->protocol->whole_open(piece, &r->ask, &r->answer);
    words_add_all(&r->words, piece);
    r->protocol->whole_close(piece, &r->ask, &r->answer);
}

/* The first half of a body whose whole length was promised; then the end, or silence. */
static void say_half(struct reply *r, const struct bytes *piece)
{
    head(r, 200, "application/json", (int64_t)bytes_left(piece));
    add(r, bytes_at(piece), bytes_left(piece) / 2);
    if (faulty(r, FAULT_STALL))
        rest(r);
    else
        finish(r, faulty(r, FAULT_RESET) ? ENDED_RESET : ENDED_CUT);
}

static void say_bad_chunk(struct reply *r)
{
    bytes_puts(conn_out(r->conn), "fffffffffffffffff\r\n{}");
    finish(r, ENDED_CUT);
}

static void say_whole(struct reply *r)
{
    struct bytes *piece = fresh_piece(r);
    make_whole(r, piece);
    size_t size = bytes_left(piece);
    switch (r->script.fault->id) {
    case FAULT_CUT:
    case FAULT_RESET:
    case FAULT_STALL:
        return say_half(r, piece);
    case FAULT_HANG_HEADERS:
        head(r, 200, "application/json", (int64_t)size);
        return rest(r);
    case FAULT_WRONG_LENGTH:
        head(r, 200, "application/json", (int64_t)size + WRONG_LENGTH_EXTRA);
        add_piece(r, piece);
        return finish(r, ENDED_CUT);
    case FAULT_CHUNK_OVERFLOW:
        head(r, 200, "application/json", -1);
        add(r, bytes_at(piece), size / 2);
        return say_bad_chunk(r);
    case FAULT_TRUNCATED_JSON:
    case FAULT_MALFORMED_LINE:
        size /= 2;
        break;
    default:
        break;
    }
    head(r, 200, "application/json", (int64_t)size);
    add(r, bytes_at(piece), size);
    r->said = r->words.count;
    complete(r);
}

/* --- a stream --------------------------------------------------------------------------------- */

static void say_token(struct reply *r)
{
    struct bytes *piece = fresh_piece(r);
    if (faulty(r, FAULT_KEEPALIVE_COMMENTS))
        r->protocol->stream_comment(piece, &r->answer);
    r->protocol->token_open(piece, &r->ask, &r->answer);
    words_add(&r->words, r->said, piece);
    r->protocol->token_close(piece, &r->ask, &r->answer);
    add_piece(r, piece);
    r->said++;
}

static void say_end(struct reply *r)
{
    struct bytes *piece = fresh_piece(r);
    r->protocol->stream_end(piece, &r->ask, &r->answer);
    add_piece(r, piece);
    if (faulty(r, FAULT_WRONG_LENGTH))
        finish(r, ENDED_CUT);
    else
        complete(r);
}

static void say_stream_error(struct reply *r)
{
    struct bytes *piece = fresh_piece(r);
    r->protocol->stream_error(piece, r->script.fault, &r->answer);
    add_piece(r, piece);
    complete(r);
}

static void say_malformed(struct reply *r)
{
    struct bytes *piece = fresh_piece(r);
    r->protocol->stream_malformed(piece, &r->answer);
    add_piece(r, piece);
}

/* The fault of a stream happens now; afterwards the stream may go on. */
static void strike(struct reply *r)
{
    r->strike_at = NEVER;
    switch (r->script.fault->id) {
    case FAULT_CUT:
        finish(r, ENDED_CUT);
        break;
    case FAULT_RESET:
        finish(r, ENDED_RESET);
        break;
    case FAULT_STALL:
        rest(r);
        break;
    case FAULT_CHUNK_OVERFLOW:
        say_bad_chunk(r);
        break;
    case FAULT_ERROR_MIDSTREAM:
        say_stream_error(r);
        break;
    case FAULT_MALFORMED_LINE:
        say_malformed(r);
        break;
    case FAULT_TRUNCATED_JSON:
        say_malformed(r);
        complete(r);
        break;
    default:
        break;
    }
}

/* How long until the next token is due; tokens are paced by the time since the first, so that a
 * late wake-up is made up for. */
static int64_t until_due(const struct reply *r)
{
    if (!r->script.tokens_per_s)
        return 0;
    return r->tokens_us + r->said * 1000000 / r->script.tokens_per_s - now_us();
}

static void say_tokens(struct reply *r)
{
    int64_t wait = r->said < r->words.count ? until_due(r) : 0;
    if (r->said == r->strike_at)
        strike(r);
    else if (r->said == r->words.count)
        say_end(r);
    else if (wait > 0)
        sleep_for(r, wait);
    else
        say_token(r);
}

static void open_stream(struct reply *r)
{
    head(r, 200, r->protocol->stream_type, faulty(r, FAULT_WRONG_LENGTH) ? UNKNOWN_LENGTH : -1);
    if (faulty(r, FAULT_HANG_HEADERS))
        return rest(r);
    struct bytes *piece = fresh_piece(r);
    r->protocol->stream_open(piece, &r->ask, &r->answer);
    add_piece(r, piece);
    r->tokens_us = now_us();
    r->next = say_tokens;
}

/* --- the other faults ------------------------------------------------------------------------- */

static void speak_plainly(struct reply *r)
{
    if (r->ask.stream)
        open_stream(r);
    else
        say_whole(r);
}

static void say_garbage(struct reply *r)
{
    static const char garbage[] = "\x89\xff\xfe<%not json, not an event%>\0\x01}{][,,\"\n\n\r\n:::\xc3";
    head(r, 200, r->ask.stream ? r->protocol->stream_type : "application/json", sizeof garbage - 1);
    add(r, garbage, sizeof garbage - 1);
    complete(r);
}

static void reset(struct reply *r)
{
    if (r->script.after_tokens < 0)
        finish(r, ENDED_RESET);
    else
        speak_plainly(r);
}

static void after_huge_header(struct reply *r)
{
    bytes_puts(conn_out(r->conn), "\r\n");
    r->next = speak_plainly;
}

static void huge_header(struct reply *r)
{
    begin_head(r, 200);
    bytes_puts(conn_out(r->conn), "x-filler:");
    fill_then(r, r->script.bytes < 0 ? HUGE_HEADER_BYTES : r->script.bytes, after_huge_header);
}

static void flood(struct reply *r)
{
    static const char early[] = "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n";
    bytes_add(conn_out(r->conn), early, sizeof early - 1);
    r->fill_left -= sizeof early - 1;
    if (r->fill_left <= 0)
        r->next = speak_plainly;
}

static void begin_flood(struct reply *r)
{
    r->fill_left = r->script.bytes < 0 ? FLOOD_BYTES : r->script.bytes;
    r->next = flood;
}

/* Comments, or blank lines before a whole answer, while the caller waits for the first token. */
static void keep_company(struct reply *r)
{
    int64_t left = r->due_us - now_us();
    struct bytes *piece = fresh_piece(r);
    if (r->ask.stream)
        r->protocol->stream_comment(piece, &r->answer);
    else
        bytes_puts(piece, "\n\n");
    add_piece(r, piece);
    if (left > 0)
        sleep_for(r, MIN(left, MAX(r->script.drip_ms, 1) * 1000));
    else
        r->next = speak_plainly;
}

static void begin_company(struct reply *r)
{
    head(r, 200, r->ask.stream ? r->protocol->stream_type : "application/json", -1);
    add(r, "\n\n", 2);
    r->next = keep_company;
}

/* The time for the first byte has come. */
static void speak(struct reply *r)
{
    if (r->script.fault->status)
        return faulty(r, FAULT_STATUS_502_HTML) ? say_html(r) : say_error(r);
    switch (r->script.fault->id) {
    case FAULT_HANG:
        return rest(r);
    case FAULT_RESET:
        return reset(r);
    case FAULT_GARBAGE:
        return say_garbage(r);
    case FAULT_ERROR_200:
        return say_error(r);
    case FAULT_ERROR_MIDSTREAM:
        return r->ask.stream ? open_stream(r) : say_error(r);
    case FAULT_HUGE_BODY:
        return huge_body(r);
    case FAULT_HUGE_HEADER:
        return huge_header(r);
    case FAULT_STATUS_1XX_FLOOD:
        return begin_flood(r);
    default:
        return speak_plainly(r);
    }
}

/* xorshift64*: the same draws in every run. */
static int64_t draw_below(struct upstream *u, int64_t n)
{
    u->draws ^= u->draws >> 12, u->draws ^= u->draws << 25, u->draws ^= u->draws >> 27;
    return n > 0 ? (int64_t)((u->draws * 0x2545f4914f6cdd1du >> 11) % (uint64_t)n) : 0;
}

static int64_t delay_us(struct reply *r)
{
    int64_t us = r->script.latency_ms * 1000 + draw_below(r->upstream, r->script.latency_jitter_ms * 1000);
    if (!r->ask.stream && r->script.tokens_per_s)
        us += r->words.count * 1000000 / r->script.tokens_per_s; /* nothing shows until all is made */
    return us;
}

static void begin(struct reply *r)
{
    int64_t delay = delay_us(r);
    r->due_us = r->call->at_us + delay;
    r->next = faulty(r, FAULT_KEEPALIVE_COMMENTS) ? begin_company : speak;
    if (faulty(r, FAULT_EARLY_CLOSE))
        finish(r, ENDED_CUT);
    else if (faulty(r, FAULT_SPLIT))
        conn_pace(r->conn, SPLIT_GAP_US);
    if (r->next == speak)
        sleep_for(r, delay);
}

/* --- planning --------------------------------------------------------------------------------- */

static void refuse(struct reply *r, enum fault_id id, const char *why)
{
    script_init(&r->script);
    r->script.fault = fault_by_id(id);
    if (why && why != r->complaint.text)
        snprintf(r->complaint.text, sizeof r->complaint.text, "%s", why);
}

/* Understand the request; false: refused. */
static bool understand(struct reply *r, const struct http_request *q, const struct bytes *in)
{
    const char *why;
    r->ask = (struct ask){.model = "", .prompt = ""};
    r->protocol = protocol_at(http_text(in, q->path), q->path.len);
    if (!r->protocol) {
        r->protocol = &openai_chat;
        return refuse(r, FAULT_NOT_FOUND, NULL), false;
    }
    if (!http_is(in, q->method, r->protocol->method))
        return refuse(r, FAULT_WRONG_METHOD, NULL), false;
    if ((why = r->protocol->read(&r->ask, bytes_at(in) + q->body_at, q->body_len)))
        return refuse(r, FAULT_BAD_REQUEST, why), false;
    return true;
}

/* The fault hits only the first calls of a key: later ones lose it and what goes with it. */
static void count_firsts(struct reply *r)
{
    struct script *s = &r->script;
    if (s->fail_first < 0)
        return;
    bool keyed = s->key[0];
    int64_t before =
        firsts_count(r->upstream->firsts, keyed ? s->key : r->ask.prompt, keyed ? strlen(s->key) : r->ask.prompt_len);
    if (before < 0)
        return refuse(r, FAULT_BAD_REQUEST, "script: fail_first: too many keys");
    if (before < s->fail_first)
        return;
    s->fault = fault_by_id(FAULT_NONE);
    s->retry_after[0] = s->retry_after_ms[0] = '\0';
}

static void read_script(struct reply *r)
{
    r->script = r->upstream->script;
    if (script_read_model(&r->script, r->ask.model, &r->complaint) &&
        script_read_prompt(&r->script, r->ask.prompt, r->ask.prompt_len, &r->complaint))
        count_firsts(r);
    else
        refuse(r, FAULT_BAD_REQUEST, r->complaint.text);
}

static struct span text_field(const struct bytes *in, struct http_field f)
{
    return span_of(http_text(in, f), f.len);
}

static void begin_call(struct reply *r, const struct http_request *q, const struct bytes *in)
{
    const struct span text[CALL_TEXTS] = {
        [CALL_METHOD] = text_field(in, q->method),
        [CALL_PATH] = text_field(in, q->path),
        [CALL_MODEL] = span_str(r->ask.model),
        [CALL_KEY] = r->script.key[0] ? span_str(r->script.key) : span_of(NULL, 0),
        [CALL_PROMPT_HEAD] = span_of(r->ask.prompt, utf8_head(r->ask.prompt, r->ask.prompt_len, PROMPT_HEAD_BYTES)),
        [CALL_IDEMPOTENCY_KEY] = text_field(in, q->idempotency_key),
        [CALL_REQUEST_ID] = text_field(in, q->request_id),
        [CALL_TRACEPARENT] = text_field(in, q->traceparent),
    };
    r->call = calls_begin(r->upstream->calls, text, r->script.fault);
    r->call->stream = r->ask.stream;
    r->call->peer_port = conn_peer_port(r->conn);
    if (q->authorization.present)
        r->call->authorization_bytes = q->authorization.len;
}

static void choose_words(struct reply *r)
{
    if (faulty(r, FAULT_TOOL_CALLS))
        words_arguments(&r->words, r->ask.prompt, r->ask.prompt_len);
    else
        words_echo(&r->words, r->script.numbered ? r->call->n : 0, r->ask.prompt, r->ask.prompt_len, r->script.tokens);
    r->strike_at = r->script.after_tokens < 0 ? (r->words.count + 1) / 2 : MIN(r->script.after_tokens, r->words.count);
    r->answer = (struct answer){
        .number = r->call->n,
        .created = r->call->wall_ms / 1000,
        .prompt_tokens = (int64_t)MAX(r->ask.input_bytes / ANSWER_TOKEN_BYTES, 1),
        .completion_tokens = r->words.count,
        .eol = faulty(r, FAULT_CRLF) ? "\r\n" : "\n",
        .tool_call = faulty(r, FAULT_TOOL_CALLS),
        .cut_short = faulty(r, FAULT_FINISH_LENGTH),
        .usage = !faulty(r, FAULT_NO_USAGE),
    };
}

void reply_start(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in)
{
    struct reply *r = must_alloc(sizeof *r);
    *r = (struct reply){.upstream = u, .conn = c, .next = begin, .keep_alive = q->keep_alive, .http_1_0 = q->http_1_0};
    if (understand(r, q, in))
        read_script(r);
    begin_call(r, q, in);
    choose_words(r);
    conn_take(c, &user, r);
    pump(r);
}
