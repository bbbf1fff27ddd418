/* Each field of the root has a row in `fields`; a row's reader checks one value and keeps it. What depends on several fields is
 * checked after all were read; then the body is written. */
#include "api/spec.h"

#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"

#define MAX_WAIT_MS 2592000000 /* as the settings bound what the broker keeps */
#define TIMEOUT_MS 86400000
#define BACKOFF_BASE_MS 3600000
#define BACKOFF_CAP_MS 86400000
#define ATTEMPTS 100
#define RESULT_TTL_S 604800
#define USER_BYTES 128

struct reader {
    const struct spec_caller *caller;
    struct spec_fault *fault;
    struct rec_spec spec;
    const char *field; /* of the root, being read: at fault unless look_at says more */
    const char *type, *model, *scenario, *queue, *user_id, *key;
    const cJSON *input, *system, *params, *tags, *metadata; /* input: a string or an array of messages */
    const char *input_name; /* the field it came from */
    bool has_attempts, has_start;
    uint64_t input_tokens;
};

/* --- faults --- */

static enum err refuse(struct reader *r, enum err e, const char *format, ...) PRINTF(3, 4);
static enum err refuse(struct reader *r, enum err e, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->fault->message, sizeof r->fault->message, format, args);
    va_end(args);
    if (!r->fault->param[0] && r->field)
        snprintf(r->fault->param, sizeof r->fault->param, "%.100s", r->field);
    return e;
}
#define BAD(r, ...) refuse(r, ERR_INVALID, __VA_ARGS__)

/* Names the place of the fault that follows, where it is not the field itself. */
static void look_at(struct reader *r, const char *format, ...) PRINTF(2, 3);
static void look_at(struct reader *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->fault->param, sizeof r->fault->param, format, args);
    va_end(args);
}

/* --- values --- */

static enum err read_number(struct reader *r, const cJSON *v, int64_t min, int64_t max, uint64_t *ret)
{
    int64_t n;
    if (!json_int(v, &n) || n < min || n > max)
        return BAD(r, "must be a whole number from %lld to %lld", (long long)min, (long long)max);
    *ret = (uint64_t)n;
    return ERR_OK;
}

static bool has_control(const char *text)
{
    for (; *text; text++)
        if ((uint8_t)*text < 0x20 || *text == 0x7f)
            return true;
    return false;
}

/* One line of 1 to `max` bytes. */
static enum err read_text(struct reader *r, const cJSON *v, size_t max, const char **ret)
{
    if (!cJSON_IsString(v) || !v->valuestring[0] || strlen(v->valuestring) > max || has_control(v->valuestring))
        return BAD(r, "must be a string of 1 to %zu bytes without control characters", max);
    *ret = v->valuestring;
    return ERR_OK;
}

static enum err read_flag(struct reader *r, const cJSON *v, bool *ret)
{
    if (!cJSON_IsBool(v))
        return BAD(r, "must be true or false");
    *ret = cJSON_IsTrue(v);
    return ERR_OK;
}

static enum err read_instant(struct reader *r, const cJSON *v, int64_t *ret)
{
    msec at;
    if (!cJSON_IsString(v) || clock_parse(span_str(v->valuestring), &at))
        return BAD(r, "must be an RFC 3339 time such as 2026-01-02T03:04:05Z");
    if (at <= 0 || at > r->caller->wall_ms + SPEC_FAR_MS)
        return BAD(r, "must not lie more than 366 days ahead");
    *ret = at;
    return ERR_OK;
}

static enum err read_word(struct reader *r, const cJSON *v, const char *set, const char *words, uint8_t *ret)
{
    int n = cJSON_IsString(v) ? word_number(set, span_str(v->valuestring)) : -1;
    if (n <= 0)
        return BAD(r, "must be %s", words);
    *ret = (uint8_t)n;
    return ERR_OK;
}

/* --- fields --- */

/* Types that need a template, which the settings can not define yet. */
static bool needs_template(const char *type)
{
    static const char *const names[] = {"content_summary", "translation", "sentiment", "tool_call", "cluster_operation"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (strcmp(type, names[i]) == 0)
            return true;
    return false;
}

static enum err field_type(struct reader *r, const cJSON *v)
{
    if (!cJSON_IsString(v))
        return BAD(r, "must be a string");
    const char *type = v->valuestring;
    if (strcmp(type, "chat") == 0 || strcmp(type, "chat_completion") == 0)
        r->type = "chat";
    else if (strcmp(type, "completion") == 0)
        r->type = "completion";
    else if (needs_template(type))
        return BAD(r, "the type %s needs a template, and this version serves none", type);
    else
        return BAD(r, "must be chat, chat_completion or completion");
    return ERR_OK;
}

static enum err field_model(struct reader *r, const cJSON *v) { return read_text(r, v, PROTO_ROUTE_BYTES, &r->model); }
static enum err field_scenario(struct reader *r, const cJSON *v) { return read_text(r, v, PROTO_ROUTE_BYTES, &r->scenario); }
static enum err field_user(struct reader *r, const cJSON *v) { return read_text(r, v, USER_BYTES, &r->user_id); }

static enum err field_queue(struct reader *r, const cJSON *v)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    size_t len = strlen(s);
    if (len == 0 || len > PROTO_QUEUE_BYTES || strspn(s, allowed) != len)
        return BAD(r, "must be 1 to %d of A-Z a-z 0-9 . _ -", PROTO_QUEUE_BYTES);
    r->queue = s;
    return ERR_OK;
}

static enum err take_input(struct reader *r, const cJSON *v)
{
    if (r->input)
        return BAD(r, "give one of prompt, input and messages; %s is there already", r->input_name);
    r->input = v;
    r->input_name = v->string;
    return ERR_OK;
}

static enum err field_prompt(struct reader *r, const cJSON *v)
{
    if (!cJSON_IsString(v) || !v->valuestring[0])
        return BAD(r, "must be a string that is not empty");
    return take_input(r, v);
}

static enum err field_messages(struct reader *r, const cJSON *v)
{
    if (!cJSON_IsArray(v) || !v->child)
        return BAD(r, "must be an array with at least one message");
    return take_input(r, v);
}

static enum err field_input(struct reader *r, const cJSON *v)
{
    return cJSON_IsArray(v) ? field_messages(r, v) : field_prompt(r, v);
}

static enum err field_system(struct reader *r, const cJSON *v)
{
    if (!cJSON_IsString(v))
        return BAD(r, "must be a string");
    r->system = v;
    return ERR_OK;
}

static enum err field_priority(struct reader *r, const cJSON *v)
{
    static const struct {
        const char *name;
        uint8_t priority;
    } names[] = {{"low", 3}, {"normal", 5}, {"high", 8}, {"urgent", 10}};
    int64_t n = 0;
    for (size_t i = 0; cJSON_IsString(v) && i < ARRAY_COUNT(names); i++)
        if (strcmp(v->valuestring, names[i].name) == 0)
            n = names[i].priority;
    if (n == 0 && (!json_int(v, &n) || n < 1 || n > 10))
        return BAD(r, "must be 1 to 10, or low, normal, high or urgent");
    r->spec.priority = (uint8_t)n;
    return ERR_OK;
}

static enum err field_class(struct reader *r, const cJSON *v)
{
    return read_word(r, v, "class", "interactive, standard or background", &r->spec.class);
}

static enum err field_ack(struct reader *r, const cJSON *v)
{
    return read_word(r, v, "ack", "stored or synced", &r->spec.ack);
}

static enum err field_stream(struct reader *r, const cJSON *v) { return read_flag(r, v, &r->spec.stream); }
static enum err field_timeout(struct reader *r, const cJSON *v) { return read_number(r, v, 100, TIMEOUT_MS, &r->spec.timeout_ms); }
static enum err field_max_wait(struct reader *r, const cJSON *v) { return read_number(r, v, 1, MAX_WAIT_MS, &r->spec.max_wait_ms); }

static enum err field_deadline(struct reader *r, const cJSON *v)
{
    enum err e = read_instant(r, v, &r->spec.deadline);
    if (!e && r->spec.deadline <= r->caller->wall_ms)
        e = BAD(r, "has passed already");
    return e;
}

static enum err only_start(struct reader *r)
{
    if (r->has_start)
        return BAD(r, "give delay_ms or run_at, not both");
    r->has_start = true;
    return ERR_OK;
}

static enum err field_delay(struct reader *r, const cJSON *v)
{
    enum err e = read_number(r, v, 0, MAX_WAIT_MS, &r->spec.delay_ms);
    return e ? e : only_start(r);
}

static enum err field_run_at(struct reader *r, const cJSON *v)
{
    enum err e = read_instant(r, v, &r->spec.run_at);
    return e ? e : only_start(r);
}

/* extra: calls beyond the number given */
static enum err read_attempts(struct reader *r, const cJSON *v, int extra)
{
    uint64_t n = 0;
    enum err e = read_number(r, v, 1 - extra, ATTEMPTS - extra, &n);
    if (!e && r->has_attempts)
        e = BAD(r, "give max_attempts or max_retries, not both");
    if (e)
        return e;
    r->has_attempts = true;
    r->spec.max_attempts = (uint16_t)(n + (unsigned)extra);
    return ERR_OK;
}

static enum err field_max_attempts(struct reader *r, const cJSON *v) { return read_attempts(r, v, 0); }
static enum err field_max_retries(struct reader *r, const cJSON *v) { return read_attempts(r, v, 1); }

static enum err field_backoff(struct reader *r, const cJSON *v)
{
    if (!cJSON_IsObject(v))
        return BAD(r, "must be an object with base_ms, cap_ms or jitter");
    for (const cJSON *part = v->child; part; part = part->next) {
        bool jitter = true;
        enum err e;
        if (strcmp(part->string, "base_ms") == 0)
            e = read_number(r, part, 1, BACKOFF_BASE_MS, &r->spec.backoff_base_ms);
        else if (strcmp(part->string, "cap_ms") == 0)
            e = read_number(r, part, 1, BACKOFF_CAP_MS, &r->spec.backoff_cap_ms);
        else if (strcmp(part->string, "jitter") == 0)
            e = read_flag(r, part, &jitter);
        else
            e = refuse(r, ERR_UNKNOWN_FIELD, "there is no such field");
        if (e) {
            look_at(r, "backoff.%.100s", part->string);
            return e;
        }
        r->spec.backoff_exact = r->spec.backoff_exact || !jitter;
    }
    return ERR_OK;
}

static enum err field_key(struct reader *r, const cJSON *v) { return read_text(r, v, SPEC_KEY_BYTES, &r->key); }

static enum err field_ttl(struct reader *r, const cJSON *v)
{
    uint64_t seconds = 0;
    enum err e = read_number(r, v, 1, RESULT_TTL_S, &seconds);
    r->spec.result_ttl_ms = seconds * 1000;
    return e;
}

static enum err field_tags(struct reader *r, const cJSON *v)
{
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) > SPEC_TAGS_MAX)
        return BAD(r, "must be an array of at most %d strings", SPEC_TAGS_MAX);
    unsigned i = 0;
    for (const cJSON *tag = v->child; tag; tag = tag->next, i++) {
        const char *text;
        enum err e = read_text(r, tag, SPEC_TAG_BYTES, &text);
        if (e) {
            look_at(r, "tags[%u]", i);
            return e;
        }
    }
    r->tags = v;
    return ERR_OK;
}

static enum err field_metadata(struct reader *r, const cJSON *v)
{
    if (!cJSON_IsObject(v))
        return BAD(r, "must be an object");
    r->metadata = v;
    return ERR_OK;
}

/* What the worker writes itself can not be smuggled in as a parameter. */
static enum err field_params(struct reader *r, const cJSON *v)
{
    static const char *const ours[] = {"model", "messages", "prompt", "input", "stream", "stream_options"};
    if (!cJSON_IsObject(v))
        return BAD(r, "must be an object");
    for (size_t i = 0; i < ARRAY_COUNT(ours); i++) {
        if (!json_get(v, ours[i]))
            continue;
        look_at(r, "params.%s", ours[i]);
        return BAD(r, "is a field of the job, not a parameter");
    }
    r->params = v;
    return ERR_OK;
}

static enum err field_on_disconnect(struct reader *r, const cJSON *v)
{
    const char *s = cJSON_IsString(v) ? v->valuestring : "";
    r->spec.cancel_on_leave = strcmp(s, "cancel") == 0;
    if (!r->spec.cancel_on_leave && strcmp(s, "continue") != 0)
        return BAD(r, "must be continue or cancel");
    return ERR_OK;
}

static enum err field_later(struct reader *r, const cJSON *v)
{
    return BAD(r, "%s is not available in this version", v->string);
}

static const struct field {
    const char *name;
    enum err (*read)(struct reader *r, const cJSON *v);
} fields[] = {
    {"prompt", field_prompt},
    {"messages", field_messages},
    {"input", field_input},
    {"model", field_model},
    {"type", field_type},
    {"params", field_params},
    {"stream", field_stream},
    {"system", field_system},
    {"scenario", field_scenario},
    {"user_id", field_user},
    {"priority", field_priority},
    {"class", field_class},
    {"queue", field_queue},
    {"timeout_ms", field_timeout},
    {"max_wait_ms", field_max_wait},
    {"deadline", field_deadline},
    {"delay_ms", field_delay},
    {"run_at", field_run_at},
    {"max_attempts", field_max_attempts},
    {"max_retries", field_max_retries},
    {"backoff", field_backoff},
    {"idempotency_key", field_key},
    {"result_ttl_s", field_ttl},
    {"tags", field_tags},
    {"metadata", field_metadata},
    {"ack", field_ack},
    {"on_disconnect", field_on_disconnect},
    {"after", field_later},
    {"on_fail", field_later},
    {"unique", field_later},
    {"callback", field_later},
    {"cache", field_later},
    {"conversation_id", field_later},
};

static enum err read_field(struct reader *r, const cJSON *v)
{
    r->field = v->string;
    for (size_t i = 0; i < ARRAY_COUNT(fields); i++)
        if (strcmp(v->string, fields[i].name) == 0)
            return fields[i].read(r, v);
    return refuse(r, ERR_UNKNOWN_FIELD, "there is no such field");
}

/* --- messages --- */

uint64_t spec_tokens(struct span text)
{
    uint64_t bytes = 0, characters = 0;
    for (size_t i = 0; i < text.len;) {
        uint8_t c = text.data[i];
        size_t len = c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        /* by first bytes: U+2E80 to U+DFFF save a few, and the planes of rarer Han */
        bool dense = (c == 0xe2 && i + 1 < text.len && text.data[i + 1] >= 0xba) || (c >= 0xe3 && c <= 0xed) ||
                     (c == 0xef && i + 1 < text.len && text.data[i + 1] >= 0xa4 && text.data[i + 1] <= 0xab) ||
                     (c == 0xf0 && i + 1 < text.len && text.data[i + 1] >= 0xa0);
        if (dense)
            characters++;
        else
            bytes += len;
        i += len;
    }
    return characters + (bytes + 3) / 4;
}

static bool is_role(const char *role)
{
    static const char *const roles[] = {"user", "assistant", "system", "tool", "developer", "function"};
    for (size_t i = 0; i < ARRAY_COUNT(roles); i++)
        if (strcmp(role, roles[i]) == 0)
            return true;
    return false;
}

static enum err read_part(struct reader *r, const cJSON *part, unsigned i, unsigned j)
{
    const char *type = cJSON_IsObject(part) ? json_text(part, "type") : NULL;
    if (!type) {
        look_at(r, "%s[%u].content[%u].type", r->input_name, i, j);
        return BAD(r, "a part of a message must be an object with a type");
    }
    const cJSON *text = json_get(part, "text");
    if (strcmp(type, "text") == 0 && !cJSON_IsString(text)) {
        look_at(r, "%s[%u].content[%u].text", r->input_name, i, j);
        return BAD(r, "must be a string");
    }
    if (cJSON_IsString(text))
        r->input_tokens += spec_tokens(span_str(text->valuestring));
    else if (strstr(type, "image"))
        r->input_tokens += SPEC_IMAGE_TOKENS;
    return ERR_OK;
}

static enum err read_content(struct reader *r, const cJSON *message, const cJSON *content, unsigned i)
{
    if (cJSON_IsString(content)) {
        r->input_tokens += spec_tokens(span_str(content->valuestring));
        return ERR_OK;
    }
    if ((!content || cJSON_IsNull(content)) && json_get(message, "tool_calls"))
        return ERR_OK;
    if (!cJSON_IsArray(content) || !content->child) {
        look_at(r, "%s[%u].content", r->input_name, i);
        return BAD(r, "must be a string or an array of parts");
    }
    unsigned j = 0;
    for (const cJSON *part = content->child; part; part = part->next, j++) {
        enum err e = read_part(r, part, i, j);
        if (e)
            return e;
    }
    return ERR_OK;
}

static enum err read_message(struct reader *r, const cJSON *message, unsigned i)
{
    static const char *const known[] = {"role", "content", "name", "tool_calls", "tool_call_id"};
    if (!cJSON_IsObject(message)) {
        look_at(r, "%s[%u]", r->input_name, i);
        return BAD(r, "must be an object");
    }
    for (const cJSON *v = message->child; v; v = v->next) {
        size_t k = 0;
        while (k < ARRAY_COUNT(known) && strcmp(v->string, known[k]) != 0)
            k++;
        if (k < ARRAY_COUNT(known))
            continue;
        look_at(r, "%s[%u].%.100s", r->input_name, i, v->string);
        return refuse(r, ERR_UNKNOWN_FIELD, "there is no such field");
    }
    const char *role = json_text(message, "role");
    if (!role || !is_role(role)) {
        look_at(r, "%s[%u].role", r->input_name, i);
        return BAD(r, "must be user, assistant, system, developer, tool or function");
    }
    r->input_tokens += 4; /* what frames a message */
    return read_content(r, message, json_get(message, "content"), i);
}

static enum err read_messages(struct reader *r)
{
    unsigned i = 0;
    if (cJSON_IsString(r->input)) {
        r->input_tokens += spec_tokens(span_str(r->input->valuestring));
        return ERR_OK;
    }
    for (const cJSON *message = r->input->child; message; message = message->next, i++) {
        enum err e = read_message(r, message, i);
        if (e)
            return e;
    }
    r->field = r->input_name;
    return i > SPEC_MESSAGES_MAX ? BAD(r, "must have at most %d messages", SPEC_MESSAGES_MAX) : ERR_OK;
}

/* --- the whole --- */

static uint32_t output_estimate(const cJSON *params)
{
    static const char *const names[] = {"max_completion_tokens", "max_tokens", "max_output_tokens", "num_predict"};
    int64_t n;
    for (size_t i = 0; params && i < ARRAY_COUNT(names); i++) {
        const cJSON *v = json_get(params, names[i]);
        if (v && json_int(v, &n) && n > 0)
            return (uint32_t)MIN(n, UINT32_MAX);
    }
    return SPEC_OUTPUT_TOKENS;
}

static enum err read_header_key(struct reader *r)
{
    struct span header = r->caller->idempotency_key;
    if (!header.data)
        return ERR_OK;
    r->field = "Idempotency-Key";
    if (header.len == 0 || header.len > SPEC_KEY_BYTES || !utf8_valid(header))
        return BAD(r, "must be 1 to %d bytes of UTF-8", SPEC_KEY_BYTES);
    r->field = "idempotency_key";
    return r->key && !span_is(header, r->key) ? BAD(r, "differs from the Idempotency-Key header") : ERR_OK;
}

static enum err check_together(struct reader *r)
{
    if (!r->input) {
        r->field = "prompt";
        return BAD(r, "one of prompt, input and messages is needed");
    }
    if (r->model && r->scenario) {
        r->field = "scenario";
        return BAD(r, "give model or scenario, not both");
    }
    if (r->spec.deadline && r->spec.run_at && r->spec.deadline <= r->spec.run_at) {
        r->field = "deadline";
        return BAD(r, "must be later than run_at");
    }
    enum err e = read_messages(r);
    if (e)
        return e;
    if (r->system)
        r->input_tokens += 4 + spec_tokens(span_str(r->system->valuestring));
    r->spec.input_estimate = (uint32_t)MIN(r->input_tokens + 4, UINT32_MAX);
    r->spec.output_estimate = output_estimate(r->params);
    return read_header_key(r);
}

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

/* *ret_metadata: how much of it is metadata */
static void write_display(const struct reader *r, struct json_out *out, size_t *ret_metadata)
{
    size_t before = 0;
    open_object(r, out);
    put_member(out, "model", r->model);
    put_member(out, "scenario", r->scenario);
    put_member(out, "user_id", r->user_id);
    if (r->tags) {
        json_lit(out, ",\"tags\":");
        json_tree(out, r->tags);
    }
    if (r->metadata) {
        before = out->len;
        json_lit(out, ",\"metadata\":");
        json_tree(out, r->metadata);
    }
    *ret_metadata = before ? out->len - before : 0;
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

static enum err write_submission(struct reader *r, struct submission **ret_submission)
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

enum err spec_read(struct span body, const struct spec_caller *caller, struct submission **ret_submission, struct spec_fault *fault)
{
    struct reader r = {.caller = caller, .fault = fault, .type = "chat", .queue = "default"};
    AUTO(json_free) cJSON *root = NULL;
    struct json_fault json = {0};
    fault->param[0] = fault->message[0] = '\0';
    enum err e = json_parse(body, &root, &json);
    if (e == ERR_BAD_JSON)
        return refuse(&r, e, "at byte %zu: %s", json.at, json.what);
    if (e)
        return e;
    if (!cJSON_IsObject(root))
        return BAD(&r, "the body must be an object");
    for (const cJSON *v = root->child; v && !e; v = v->next)
        e = read_field(&r, v);
    if (!e)
        e = check_together(&r);
    return e ? e : write_submission(&r, ret_submission);
}

void submission_free(struct submission **submission)
{
    struct submission *s = TAKE(*submission);
    if (!s)
        return;
    blob_free(&s->body);
    free(s);
}

bool spec_duration(struct span text, msec *ret_ms)
{
    size_t i = 0;
    int64_t n = 0;
    for (; i < text.len && text.data[i] >= '0' && text.data[i] <= '9'; i++) {
        if (i == 12)
            return false;
        n = n * 10 + (text.data[i] - '0');
    }
    struct span unit = span_of(text.data + i, text.len - i);
    int64_t factor = unit.len == 0 || span_is(unit, "s") ? 1000 : span_is(unit, "ms") ? 1 : span_is(unit, "m") ? 60000 : 0;
    if (i == 0 || factor == 0)
        return false;
    *ret_ms = n * factor;
    return true;
}
