/* Each field of the root has a row in `fields`; a row's reader checks one value and keeps it. What depends on several fields is
 * checked after all were read; then the submission is written. */
#include "api/spec_reader.h"

#include <stdarg.h>
#include <stdio.h>

#include "common/clock.h"

#define MAX_WAIT_MS     2592000000 /* as the settings bound what the broker keeps */
#define TIMEOUT_MS      86400000
#define BACKOFF_BASE_MS 3600000
#define BACKOFF_CAP_MS  86400000
#define ATTEMPTS        100
#define RESULT_TTL_S    604800
#define USER_BYTES      128

/* --- faults --- */

enum err spec_refuse(struct reader *r, enum err e, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->fault->message, sizeof r->fault->message, format, args);
    va_end(args);
    if (!r->fault->param[0] && r->field)
        snprintf(r->fault->param, sizeof r->fault->param, "%.100s", r->field);
    return e;
}

void spec_at(struct reader *r, const char *format, ...)
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

static enum err field_model(struct reader *r, const cJSON *v)
{
    return read_text(r, v, PROTO_ROUTE_BYTES, &r->model);
}

static enum err field_scenario(struct reader *r, const cJSON *v)
{
    return read_text(r, v, PROTO_ROUTE_BYTES, &r->scenario);
}

static enum err field_user(struct reader *r, const cJSON *v)
{
    return read_text(r, v, USER_BYTES, &r->user_id);
}

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

static enum err field_stream(struct reader *r, const cJSON *v)
{
    return read_flag(r, v, &r->spec.stream);
}

static enum err field_timeout(struct reader *r, const cJSON *v)
{
    return read_number(r, v, 100, TIMEOUT_MS, &r->spec.timeout_ms);
}

static enum err field_max_wait(struct reader *r, const cJSON *v)
{
    return read_number(r, v, 1, MAX_WAIT_MS, &r->spec.max_wait_ms);
}

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

static enum err field_max_attempts(struct reader *r, const cJSON *v)
{
    return read_attempts(r, v, 0);
}

static enum err field_max_retries(struct reader *r, const cJSON *v)
{
    return read_attempts(r, v, 1);
}

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
            e = spec_refuse(r, ERR_UNKNOWN_FIELD, "there is no such field");
        if (e) {
            spec_at(r, "backoff.%.100s", part->string);
            return e;
        }
        r->spec.backoff_exact = r->spec.backoff_exact || !jitter;
    }
    return ERR_OK;
}

static enum err field_key(struct reader *r, const cJSON *v)
{
    return read_text(r, v, SPEC_KEY_BYTES, &r->key);
}

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
            spec_at(r, "tags[%u]", i);
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
        spec_at(r, "params.%s", ours[i]);
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
    return spec_refuse(r, ERR_UNKNOWN_FIELD, "there is no such field");
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
    enum err e = spec_read_messages(r);
    if (e)
        return e;
    if (r->system)
        r->input_tokens += 4 + spec_tokens(span_str(r->system->valuestring));
    r->spec.input_estimate = (uint32_t)MIN(r->input_tokens + 4, UINT32_MAX);
    r->spec.output_estimate = output_estimate(r->params);
    return read_header_key(r);
}

void spec_say_json(struct spec_fault *fault, const struct json_fault *json)
{
    fault->param[0] = '\0';
    snprintf(fault->message, sizeof fault->message, "at byte %zu: %s", json->at, json->what);
}

/* The root object, each of its fields read by `read`. */
static enum err read_root(struct reader *r, struct span body, enum err (*read)(struct reader *r, const cJSON *v),
                          cJSON **ret_root)
{
    struct json_fault json = {0};
    r->fault->param[0] = r->fault->message[0] = '\0';
    enum err e = json_parse(body, ret_root, &json);
    if (e == ERR_BAD_JSON)
        spec_say_json(r->fault, &json);
    if (e)
        return e;
    if (!cJSON_IsObject(*ret_root))
        return BAD(r, "the body must be an object");
    for (const cJSON *v = (*ret_root)->child; v && !e; v = v->next)
        e = read(r, v);
    return e;
}

enum err spec_read(struct span body, const struct spec_caller *caller, struct submission **ret_submission,
                   struct spec_fault *fault)
{
    struct reader r = {.caller = caller, .fault = fault, .type = "chat", .queue = "default"};
    AUTO(json_free) cJSON *root = NULL;
    enum err e = read_root(&r, body, read_field, &root);
    if (!e)
        e = check_together(&r);
    return e ? e : spec_write(&r, ret_submission);
}

static enum err read_changed_field(struct reader *r, const cJSON *v)
{
    r->field = v->string;
    if (strcmp(v->string, "priority") == 0)
        return field_priority(r, v);
    if (strcmp(v->string, "deadline") == 0)
        return field_deadline(r, v);
    return spec_refuse(r, ERR_UNKNOWN_FIELD, "only priority and deadline can be changed");
}

enum err spec_read_change(struct span body, const struct spec_caller *caller, struct spec_change *ret_change,
                          struct spec_fault *fault)
{
    struct reader r = {.caller = caller, .fault = fault};
    AUTO(json_free) cJSON *root = NULL;
    enum err e = read_root(&r, body, read_changed_field, &root);
    if (!e && !root->child)
        e = BAD(&r, "priority or deadline is needed");
    if (!e)
        *ret_change = (struct spec_change){.priority = r.spec.priority, .deadline = r.spec.deadline};
    return e;
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
