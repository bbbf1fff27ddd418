/* What was read, as display JSON and request JSON, with the hashes of an idempotency key and its request. */
#include "api/spec_reader.h"

#include <openssl/sha.h>
#include <stdlib.h>

static void put_member(struct json_out *out, const char *name, const char *text)
{
    if (!text)
        return;
    json_lit(out, ",\"");
    json_lit(out, name);
    json_lit(out, "\":");
    json_str(out, span_str(text));
}

static void put_message(struct json_out *out, const char *role, const cJSON *text)
{
    json_lit(out, "{\"role\":\"");
    json_lit(out, role);
    json_lit(out, "\",\"content\":");
    json_str(out, span_str(text->valuestring));
    json_lit(out, "}");
}

static void open_object(const struct reader *r, struct json_out *out)
{
    json_lit(out, "{\"type\":\"");
    json_lit(out, r->type);
    json_lit(out, "\"");
}

static void put_tree(struct json_out *out, const char *name, const cJSON *tree, const char *absent)
{
    json_lit(out, ",\"");
    json_lit(out, name);
    json_lit(out, "\":");
    if (tree)
        json_tree(out, tree);
    else
        json_lit(out, absent);
}

/* *ret_metadata: how much of it is metadata */
static void write_display(const struct reader *r, struct json_out *out, size_t *ret_metadata)
{
    open_object(r, out);
    put_member(out, "model", r->model);
    put_member(out, "scenario", r->scenario);
    put_member(out, "user_id", r->user_id);
    put_tree(out, "tags", r->tags, "[]"); /* these two every job object has */
    size_t before = out->len;
    put_tree(out, "metadata", r->metadata, "{}");
    *ret_metadata = out->len - before;
    json_lit(out, "}");
}

static void write_request(const struct reader *r, struct json_out *out)
{
    open_object(r, out);
    put_member(out, "model", r->model);
    json_lit(out, ",\"messages\":[");
    if (r->system) {
        put_message(out, "system", r->system);
        json_lit(out, ",");
    }
    if (cJSON_IsString(r->input))
        put_message(out, "user", r->input);
    for (const cJSON *m = cJSON_IsArray(r->input) ? r->input->child : NULL; m; m = m->next) {
        json_tree(out, m);
        json_lit(out, m->next ? "," : "");
    }
    json_lit(out, "],\"params\":");
    if (r->params)
        json_tree(out, r->params);
    else
        json_lit(out, "{}");
    json_lit(out, r->spec.stream ? ",\"stream\":true" : ",\"stream\":false");
    put_member(out, "user_id", r->user_id);
    json_lit(out, "}");
}

static void hash_key(struct submission *s, struct span key)
{
    uint8_t text[PROTO_TENANT_BYTES + PROTO_QUEUE_BYTES + SPEC_KEY_BYTES + 2];
    const struct span parts[] = {s->spec.tenant, s->spec.queue, key};
    size_t len = 0;
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        if (i)
            text[len++] = 0;
        memcpy(text + len, parts[i].data, parts[i].len);
        len += parts[i].len;
    }
    SHA256(text, len, s->idem);
}

/* The choices that are not in the body, in a line behind it. */
static void write_choices(const struct rec_spec *p, struct json_out *out)
{
    json_printf(out, "\n%u %u %lld %lld %llu %llu %llu %u %llu %llu %d %llu %u %d", p->class, p->priority, (long long)p->run_at,
                (long long)p->deadline, (unsigned long long)p->delay_ms, (unsigned long long)p->max_wait_ms,
                (unsigned long long)p->timeout_ms, p->max_attempts, (unsigned long long)p->backoff_base_ms,
                (unsigned long long)p->backoff_cap_ms, p->backoff_exact, (unsigned long long)p->result_ttl_ms, p->ack,
                p->cancel_on_leave);
}

static struct span keep_text(char **at, struct span text)
{
    char *copy = *at;
    memcpy(copy, text.data, text.len);
    *at += text.len;
    return span_of(copy, text.len);
}

/* A submission with the spec's texts, and no body yet. NULL: no memory. */
static struct submission *keep_spec(const struct reader *r)
{
    const struct spec_caller *c = r->caller;
    struct span queue = span_str(r->queue), route = span_str(r->scenario ? r->scenario : r->model ? r->model : "default");
    size_t bytes = c->tenant.len + queue.len + route.len + c->request_id.len + c->trace.len;
    struct submission *s = calloc(1, sizeof *s + bytes);
    if (!s)
        return NULL;
    char *at = s->texts;
    s->spec = r->spec;
    s->spec.tenant = keep_text(&at, c->tenant);
    s->spec.queue = keep_text(&at, queue);
    s->spec.route = keep_text(&at, route);
    s->spec.request_id = keep_text(&at, c->request_id);
    s->spec.trace = c->trace.len ? keep_text(&at, c->trace) : (struct span){0};
    return s;
}

static enum err write_body(struct reader *r, struct submission *s, struct json_out *out)
{
    size_t metadata;
    write_display(r, out, &metadata);
    if (metadata > SPEC_METADATA_BYTES + strlen(",\"metadata\":")) {
        r->field = "metadata";
        return BAD(r, "must not be longer than %d bytes", SPEC_METADATA_BYTES);
    }
    s->spec.display_bytes = (uint32_t)out->len;
    write_request(r, out);
    if (!out->failed && out->len > PROTO_BODY_BYTES)
        return ERR_TOO_LARGE;
    s->body = out->failed ? NULL : blob_copy(span_of(out->data, out->len));
    return s->body ? ERR_OK : ERR_NOMEM;
}

enum err spec_write(struct reader *r, struct submission **ret_submission)
{
    AUTO(submission_free) struct submission *s = keep_spec(r);
    AUTO(json_out_done) struct json_out out = {.max = 2 * PROTO_BODY_BYTES};
    if (!s)
        return ERR_NOMEM;
    enum err e = write_body(r, s, &out);
    if (e)
        return e;
    struct span key = r->key ? span_str(r->key) : r->caller->idempotency_key;
    if (key.len) {
        write_choices(&s->spec, &out);
        if (out.failed)
            return ERR_NOMEM;
        s->keyed = true;
        hash_key(s, key);
        SHA256((const uint8_t *)out.data, out.len, s->body_hash);
    }
    *ret_submission = TAKE(s);
    return ERR_OK;
}

void submission_free(struct submission **submission)
{
    struct submission *s = TAKE(*submission);
    if (!s)
        return;
    blob_free(&s->body);
    free(s);
}
