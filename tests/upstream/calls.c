/* The memory of every call: see calls.h. */
#include "tests/upstream/calls.h"

#include "tests/upstream/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_MAX     1024
#define LOG_HELD_MAX (256 * 1024)

struct calls {
    struct call *ring[CALLS_KEPT]; /* ended call k is at k % CALLS_KEPT */
    struct list open;              /* calls not ended, oldest first; owned, like the ring's */
    struct calls_stats stats;
    uint64_t era;
    int log_fd;
    struct bytes log;
};

static const char *const text_names[CALL_TEXTS] = {
    [CALL_METHOD] = "method",
    [CALL_PATH] = "path",
    [CALL_MODEL] = "model",
    [CALL_KEY] = "key",
    [CALL_PROMPT_HEAD] = "prompt_head",
    [CALL_IDEMPOTENCY_KEY] = "idempotency_key",
    [CALL_REQUEST_ID] = "x_request_id",
    [CALL_TRACEPARENT] = "traceparent",
};

const char *ended_name(enum ended how)
{
    static const char *const names[ENDED_COUNT] = {"answered", "client_closed", "cut", "reset", "shutdown"};
    return names[how];
}

struct calls *calls_new(const char *log_path)
{
    int fd = log_path ? open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (log_path && fd < 0)
        return NULL;
    struct calls *c = must_alloc(sizeof *c);
    memset(c, 0, sizeof *c); /* no literal: the ring is too large for the stack */
    c->log_fd = fd;
    list_init(&c->open);
    return c;
}

static uint64_t oldest(const struct calls *c)
{
    return c->stats.ended > CALLS_KEPT ? c->stats.ended - CALLS_KEPT : 0;
}

static void empty_ring(struct calls *c)
{
    for (uint64_t k = oldest(c); k < c->stats.ended; k++)
        free(c->ring[k % CALLS_KEPT]);
}

void calls_free(struct calls **p)
{
    struct calls *c = *p;
    if (!c)
        return;
    calls_flush(c);
    empty_ring(c);
    bytes_done(&c->log);
    if (c->log_fd >= 0)
        close(c->log_fd);
    free(c);
    *p = NULL;
}

struct call *calls_begin(struct calls *c, const struct span text[CALL_TEXTS], const struct fault *fault)
{
    size_t len[CALL_TEXTS], size = 0;
    for (int i = 0; i < CALL_TEXTS; i++) {
        len[i] = text[i].len < TEXT_MAX ? text[i].len : TEXT_MAX;
        size += len[i] + 1;
    }
    struct call *call = must_alloc(sizeof *call + size);
    *call = (struct call){.n = ++c->stats.arrived,
                          .era = c->era,
                          .at_us = now_us(),
                          .wall_ms = wall_us() / 1000,
                          .first_byte_us = -1,
                          .closed_us = -1,
                          .fault = fault,
                          .authorization_bytes = -1};
    char *p = (char *)(call + 1);
    for (int i = 0; i < CALL_TEXTS; i++) {
        if (!text[i].data)
            continue;
        call->text[i] = p;
        p = mempcpy(p, text[i].data, len[i]);
        *p++ = '\0';
    }
    list_init(&call->node);
    list_push_back(&c->open, &call->node);
    if (++c->stats.in_flight > c->stats.peak_in_flight)
        c->stats.peak_in_flight = c->stats.in_flight;
    return call;
}

/* --- printing --------------------------------------------------------------------------------- */

/* Milliseconds with three decimals: 1234.567 */
static void print_ms(struct bytes *out, const char *name, int64_t us)
{
    if (us < 0)
        bytes_printf(out, ",\"%s\":null", name);
    else
        bytes_printf(out, ",\"%s\":%lld.%03d", name, (long long)(us / 1000), (int)(us % 1000));
}

static void print_call(struct bytes *out, const struct call *call)
{
    bytes_printf(out, "{\"n\":%llu", (unsigned long long)call->n);
    print_ms(out, "at_ms", call->at_us);
    bytes_printf(out, ",\"wall_ms\":%lld,\"peer_port\":%d", (long long)call->wall_ms, call->peer_port);
    for (int i = 0; i < CALL_TEXTS; i++) {
        bytes_printf(out, ",\"%s\":", text_names[i]);
        bytes_string(out, call->text[i]);
    }
    bytes_printf(out, ",\"authorization\":%s", call->authorization_bytes < 0 ? "null" : "");
    if (call->authorization_bytes >= 0)
        bytes_number(out, call->authorization_bytes);
    bytes_printf(out, ",\"stream\":%s,\"fault\":\"%s\",\"status\":", call->stream ? "true" : "false", call->fault->name);
    if (call->status)
        bytes_number(out, call->status);
    else
        bytes_puts(out, "null");
    print_ms(out, "first_byte_ms", call->first_byte_us);
    print_ms(out, "closed_ms", call->closed_us);
    if (call->closed_us < 0)
        bytes_puts(out, ",\"ended\":null");
    else
        bytes_printf(out, ",\"ended\":\"%s\"", ended_name(call->ended));
    bytes_printf(out, ",\"bytes_sent\":%llu,\"tokens_sent\":%lld}", (unsigned long long)call->bytes_sent,
                 (long long)call->tokens_sent);
}

void calls_print(const struct calls *c, struct bytes *out, uint64_t since, uint64_t limit, bool open)
{
    uint64_t end = c->stats.ended, first = oldest(c);
    if (since > end)
        since = end;
    uint64_t lost = since < first ? first - since : 0;
    since += lost;
    uint64_t next = end - since > limit ? since + limit : end;
    bytes_printf(out, "{\"next\":%llu,\"lost\":%llu,\"calls\":[", (unsigned long long)next, (unsigned long long)lost);
    for (uint64_t k = since; k < next; k++) {
        bytes_puts(out, k == since ? "\n" : ",\n");
        print_call(out, c->ring[k % CALLS_KEPT]);
    }
    bytes_puts(out, "]");
    if (open) {
        bytes_puts(out, ",\"open\":[");
        const char *comma = "\n";
        const struct list *node;
        LIST_EACH (node, &c->open) {
            const struct call *call = CONTAINER_OF(node, struct call, node);
            if (call->era != c->era)
                continue;
            bytes_puts(out, comma);
            print_call(out, call);
            comma = ",\n";
        }
        bytes_puts(out, "]");
    }
    bytes_puts(out, "}\n");
}

/* --- ending ----------------------------------------------------------------------------------- */

static void count(struct calls_stats *s, const struct call *call)
{
    s->by_status[call->status >= 0 && call->status < 600 ? call->status : 0]++;
    s->by_fault[call->fault->id]++;
    s->by_ended[call->ended]++;
    s->bytes_sent += call->bytes_sent;
    s->tokens_sent += call->tokens_sent;
}

static void keep(struct calls *c, struct call *call)
{
    struct call **slot = &c->ring[c->stats.ended % CALLS_KEPT];
    if (c->stats.ended >= CALLS_KEPT)
        free(*slot);
    *slot = call;
    c->stats.ended++;
}

void calls_end(struct calls *c, struct call *call, enum ended how)
{
    call->closed_us = now_us();
    call->ended = how;
    list_remove(&call->node);
    c->stats.in_flight--;
    if (call->era != c->era) {
        free(call);
        return;
    }
    count(&c->stats, call);
    keep(c, call);
    if (c->log_fd < 0)
        return;
    print_call(&c->log, call);
    bytes_puts(&c->log, "\n");
    if (bytes_left(&c->log) > LOG_HELD_MAX)
        calls_flush(c);
}

const struct calls_stats *calls_stats(const struct calls *c)
{
    return &c->stats;
}

/* A log that cannot be written ends the process: tests would read a silence as an absence. */
void calls_flush(struct calls *c)
{
    while (bytes_left(&c->log)) {
        ssize_t n = write(c->log_fd, bytes_at(&c->log), bytes_left(&c->log));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            perror("quern-upstream: log");
            exit(EXIT_FAILURE);
        }
        bytes_drop(&c->log, (size_t)n);
    }
}

void calls_reset(struct calls *c)
{
    empty_ring(c);
    uint64_t in_flight = c->stats.in_flight;
    c->stats = (struct calls_stats){.in_flight = in_flight, .peak_in_flight = in_flight};
    c->era++;
}
