#include "api/exchange.h"

#include <event2/buffer.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "api/server.h"

#define COPY_MAX_BYTES 4096 /* a larger body is handed to the connection instead of copied */

/* Puts the head into the buffer that x's answer goes to. NULL: no memory; the connection is broken. */
static struct evbuffer *begin(struct exchange *x, const struct reply *r, size_t body_bytes, size_t *ret_bytes)
{
    struct server *s = x->conn->server;
    char head[HTTP_REPLY_HEAD_MAX];
    struct http_reply h = {
        .status = r->status,
        .date = server_date(s),
        .type = body_bytes ? (r->type ? r->type : "application/json") : NULL,
        .request_id = x->request_id,
        .traceparent = x->trace[0] ? x->trace : NULL,
        .allow = r->allow,
        .final = r->final,
        .close = x->close,
        .body_bytes = body_bytes,
    };
    if (r->retry_after_ms > 0 || r->status == 429 || r->status == 503)
        h.retry_after_s =
            (unsigned)((MIN(r->retry_after_ms > 0 ? r->retry_after_ms : server_patience(s), 86400000) + 999) / 1000);
    *ret_bytes = http_reply_head(&h, head);
    struct evbuffer *out = conn_answer_buffer(x);
    return out && evbuffer_add(out, head, *ret_bytes) == 0 ? out : NULL;
}

void exchange_reply(struct exchange *x, const struct reply *r)
{
    size_t bytes = 0;
    struct evbuffer *out = begin(x, r, r->body.len, &bytes);
    bool sent = out;
    if (sent && !x->head_only) {
        sent = evbuffer_add(out, r->body.data, r->body.len) == 0;
        bytes += r->body.len;
    }
    if (!sent)
        conn_break(x->conn);
    conn_answered(x, bytes);
}

static void free_body(const void *data, size_t len, void *arg)
{
    free(arg);
}

void exchange_reply_json(struct exchange *x, int status, struct json_out *body)
{
    if (body->failed) {
        json_out_done(body);
        exchange_fail_with(x, ERR_NOMEM);
        return;
    }
    struct reply r = {.status = status, .body = span_of(body->data, body->len)};
    if (body->len <= COPY_MAX_BYTES || x->head_only) {
        exchange_reply(x, &r);
        json_out_done(body);
        return;
    }
    size_t bytes = 0;
    struct evbuffer *out = begin(x, &r, body->len, &bytes);
    if (out && evbuffer_add_reference(out, body->data, body->len, free_body, body->data) == 0) {
        bytes += body->len;
        *body = (struct json_out){0};
    } else {
        json_out_done(body);
        conn_break(x->conn);
    }
    conn_answered(x, bytes);
}

/* Trying the same again can not help: said to clients that retry by themselves. */
static bool is_final(int status)
{
    return status < 500 ? status != 429 && status != 408 : status == 500 || status == 505;
}

void exchange_put_fault(struct json_out *out, const struct exchange *x, const struct fault *f)
{
    json_lit(out, ",\"param\":");
    if (f->param)
        json_str(out, span_str(f->param));
    else
        json_lit(out, "null");
    json_lit(out, ",\"request_id\":");
    json_str(out, span_str(x->request_id));
}

void exchange_error_body(const struct exchange *x, const struct fault *f, struct json_out *out)
{
    if (x->form) {
        x->form->fault(out, x, f);
        return;
    }
    json_lit(out, "{\"error\":{\"code\":");
    json_str(out, span_str(err_name(f->error)));
    json_lit(out, ",\"message\":");
    json_str(out, span_str(f->message ? f->message : err_sentence(f->error)));
    exchange_put_fault(out, x, f);
    json_lit(out, "}}");
}

void exchange_fail(struct exchange *x, const struct fault *f)
{
    struct json_out body = {0};
    int status = err_http_status(f->error);
    struct reply reply = {.status = status, .retry_after_ms = f->retry_after_ms, .final = is_final(status)};
    exchange_error_body(x, f, &body);
    if (!body.failed)
        reply.body = span_of(body.data, body.len);
    exchange_reply(x, &reply);
    json_out_done(&body);
}

void exchange_fail_with(struct exchange *x, enum err error)
{
    exchange_fail(x, &(struct fault){.error = error});
}

/* --- streams --- */

void exchange_stream(struct exchange *x, const char *type)
{
    struct server *s = x->conn->server;
    char head[HTTP_REPLY_HEAD_MAX];
    if (!x->chunked)
        conn_last(x); /* the body ends with the connection */
    struct http_reply h = {
        .status = 200,
        .date = server_date(s),
        .type = type,
        .request_id = x->request_id,
        .traceparent = x->trace[0] ? x->trace : NULL,
        .close = x->close,
        .streams = true,
        .chunked = x->chunked,
    };
    conn_hold(x);
    conn_stream(x, &(struct iovec){head, http_reply_head(&h, head)}, 1, false);
}

/* RFC 9112 7.1; the last chunk, which is empty, in the same write. */
static void write_chunk(struct exchange *x, struct span bytes, bool last)
{
    char size[20];
    struct iovec parts[4], *part = parts;
    if (bytes.len && x->chunked)
        *part++ = (struct iovec){size, (size_t)snprintf(size, sizeof size, "%zx\r\n", bytes.len)};
    if (bytes.len)
        *part++ = (struct iovec){(void *)bytes.data, bytes.len};
    if (bytes.len && x->chunked)
        *part++ = (struct iovec){(void *)"\r\n", 2};
    if (last && x->chunked)
        *part++ = (struct iovec){(void *)"0\r\n\r\n", 5};
    if (!x->head_only && part > parts)
        conn_stream(x, parts, (int)(part - parts), true);
}

void exchange_write(struct exchange *x, struct span bytes)
{
    write_chunk(x, bytes, false);
}

void exchange_end(struct exchange *x, struct span last)
{
    write_chunk(x, last, true);
    conn_answered(x, 0);
}

void exchange_cut(struct exchange *x)
{
    conn_break(x->conn);
}

size_t exchange_unsent(const struct exchange *x)
{
    return x->conn->out_bytes;
}
