/* What one call is told to do: see script.h. */
#include "tests/upstream/script.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS_MAX     (24LL * 3600 * 1000)
#define TOKENS_MAX (10LL * 1000 * 1000)
#define BYTES_MAX  (64LL * 1024 * 1024 * 1024)

/* One row per directive; `max` of a text is the size of its field. */
static const struct directive {
    const char *name;
    enum { NUMBER, TEXT, NAMED_FAULT } kind;
    size_t at;
    long long max;
} directives[] = {
    {"latency_ms", NUMBER, offsetof(struct script, latency_ms), MS_MAX},
    {"latency_jitter_ms", NUMBER, offsetof(struct script, latency_jitter_ms), MS_MAX},
    {"tokens_per_s", NUMBER, offsetof(struct script, tokens_per_s), 1000 * 1000},
    {"tokens", NUMBER, offsetof(struct script, tokens), TOKENS_MAX},
    {"fault", NAMED_FAULT, offsetof(struct script, fault), 0},
    {"fail_first", NUMBER, offsetof(struct script, fail_first), 1000 * 1000 * 1000},
    {"after_tokens", NUMBER, offsetof(struct script, after_tokens), TOKENS_MAX},
    {"bytes", NUMBER, offsetof(struct script, bytes), BYTES_MAX},
    {"drip_ms", NUMBER, offsetof(struct script, drip_ms), MS_MAX},
    {"numbered", NUMBER, offsetof(struct script, numbered), 1},
    {"key", TEXT, offsetof(struct script, key), sizeof((struct script *)0)->key},
    {"retry_after", TEXT, offsetof(struct script, retry_after), sizeof((struct script *)0)->retry_after},
    {"retry_after_ms", TEXT, offsetof(struct script, retry_after_ms), sizeof((struct script *)0)->retry_after_ms},
    {"ratelimit", TEXT, offsetof(struct script, ratelimit), sizeof((struct script *)0)->ratelimit},
};

void script_init(struct script *s)
{
    *s = (struct script){
        .tokens = -1, .fail_first = -1, .after_tokens = -1, .bytes = -1, .drip_ms = 100, .fault = fault_by_id(FAULT_NONE)};
}

static bool complain(struct complaint *why, const char *what, const char *name)
{
    snprintf(why->text, sizeof why->text, "script: %s: %.100s", what, name);
    return false;
}

static void *slot(const struct script *s, const struct directive *d)
{
    return (char *)s + d->at;
}

static bool set_number(int64_t *into, const struct directive *d, const char *value, struct complaint *why)
{
    char *end;
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (!isdigit((unsigned char)*value) || *end || errno || n > d->max)
        return complain(why, "not a number within its bounds", d->name);
    *into = n;
    return true;
}

/* Texts travel in headers, so they must not be able to end one. */
static bool set_text(char *into, const struct directive *d, const char *value, struct complaint *why)
{
    if (strlen(value) >= (size_t)d->max)
        return complain(why, "too long", d->name);
    for (const char *p = value; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return complain(why, "control character in", d->name);
    strcpy(into, value);
    return true;
}

static bool set_fault(const struct fault **into, const char *value, struct complaint *why)
{
    const struct fault *f = fault_by_name(value);
    if (!f)
        return complain(why, "unknown fault", value);
    *into = f;
    return true;
}

static bool set(struct script *s, const char *name, const char *value, struct complaint *why)
{
    for (const struct directive *d = directives; d < directives + ARRAY_COUNT(directives); d++) {
        if (strcmp(d->name, name) != 0)
            continue;
        switch (d->kind) {
        case NUMBER:
            return set_number(slot(s, d), d, value, why);
        case TEXT:
            return set_text(slot(s, d), d, value, why);
        case NAMED_FAULT:
            return set_fault(slot(s, d), value, why);
        }
    }
    return complain(why, "unknown directive", name);
}

/* --- in a prompt ------------------------------------------------------------------------------ */

struct pair {
    char name[32], value[128];
};

static bool is_name_char(char c)
{
    return islower((unsigned char)c) || isdigit((unsigned char)c) || c == '_';
}

static bool looks_like_script(const char *p, const char *end)
{
    while (p < end && isspace((unsigned char)*p))
        p++;
    const char *name = p;
    while (p < end && is_name_char(*p))
        p++;
    return p > name && p < end && *p == '=';
}

/* name=value or name="value with spaces"; returns where it ends, or NULL. */
static const char *take_pair(const char *p, const char *end, struct pair *ret)
{
    const char *equals = memchr(p, '=', (size_t)(end - p));
    if (!equals || (size_t)(equals - p) >= sizeof ret->name)
        return NULL;
    memcpy(ret->name, p, (size_t)(equals - p));
    ret->name[equals - p] = '\0';

    const char *value = equals + 1, *stop;
    bool quoted = value < end && *value == '"';
    value += quoted;
    for (stop = value; stop < end && (quoted ? *stop != '"' : !isspace((unsigned char)*stop)); stop++)
        ;
    if ((quoted && stop == end) || (size_t)(stop - value) >= sizeof ret->value)
        return NULL;
    memcpy(ret->value, value, (size_t)(stop - value));
    ret->value[stop - value] = '\0';
    return stop + quoted;
}

static bool read_block(struct script *s, const char *p, const char *end, struct complaint *why)
{
    for (;;) {
        while (p < end && isspace((unsigned char)*p))
            p++;
        if (p == end)
            return true;
        struct pair pair;
        const char *stop = take_pair(p, end, &pair);
        if (!stop) {
            char text[40];
            snprintf(text, sizeof text, "%.*s", (int)(end - p > 30 ? 30 : end - p), p);
            return complain(why, "cannot read", text);
        }
        if (!set(s, pair.name, pair.value, why))
            return false;
        p = stop;
    }
}

bool script_read_prompt(struct script *s, const char *prompt, size_t len, struct complaint *why)
{
    const char *p = prompt, *end = prompt + len, *close;
    while (p < end && (p = memmem(p, (size_t)(end - p), "[[", 2))) {
        p += 2;
        if (!(close = memmem(p, (size_t)(end - p), "]]", 2)))
            return true;
        if (!looks_like_script(p, close))
            continue;
        if (!read_block(s, p, close, why))
            return false;
        p = close + 2;
    }
    return true;
}

/* --- in a model name -------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : tolower((unsigned char)c) - 'a' + 10;
}

/* Decodes [p, end) into a field of `size`; false when it does not fit or is no valid escape. */
static bool decode(const char *p, const char *end, char *into, size_t size)
{
    size_t n = 0;
    for (; p < end; p++) {
        char c = *p;
        if (c == '+')
            c = ' ';
        if (c == '%') {
            if (end - p < 3 || !isxdigit((unsigned char)p[1]) || !isxdigit((unsigned char)p[2]))
                return false;
            c = (char)(hex_digit(p[1]) * 16 + hex_digit(p[2]));
            p += 2;
        }
        if (n + 1 >= size || !c)
            return false;
        into[n++] = c;
    }
    into[n] = '\0';
    return true;
}

bool script_read_model(struct script *s, const char *model, struct complaint *why)
{
    const char *p = strchr(model, '?');
    while (p && *++p) {
        const char *end = strchrnul(p, '&'), *equals = memchr(p, '=', (size_t)(end - p));
        struct pair pair;
        if (!equals || !decode(p, equals, pair.name, sizeof pair.name) ||
            !decode(equals + 1, end, pair.value, sizeof pair.value))
            return complain(why, "cannot read", p);
        if (!set(s, pair.name, pair.value, why))
            return false;
        p = *end ? end : NULL;
    }
    return true;
}

/* --- as JSON ---------------------------------------------------------------------------------- */

static bool is_whole(double n)
{
    return n >= 0 && n < 1e15 && n == (double)(int64_t)n;
}

static bool set_json(struct script *s, const cJSON *item, struct complaint *why)
{
    char number[32];
    if (cJSON_IsString(item))
        return set(s, item->string, item->valuestring, why);
    if (!cJSON_IsNumber(item) || !is_whole(item->valuedouble))
        return complain(why, "neither a whole number nor a string", item->string);
    snprintf(number, sizeof number, "%.0f", item->valuedouble);
    return set(s, item->string, number, why);
}

bool script_read_json(struct script *s, const char *body, size_t len, struct complaint *why)
{
    cJSON *doc = cJSON_ParseWithLength(body, len), *item;
    bool ok = cJSON_IsObject(doc) || complain(why, "not a JSON object", "body");
    cJSON_ArrayForEach(item, doc) if (ok) ok = set_json(s, item, why);
    cJSON_Delete(doc);
    return ok;
}

static void print_value(const struct script *s, const struct directive *d, struct bytes *out)
{
    switch (d->kind) {
    case NUMBER:
        bytes_number(out, *(int64_t *)slot(s, d));
        break;
    case TEXT:
        bytes_string(out, slot(s, d));
        break;
    case NAMED_FAULT:
        bytes_string(out, s->fault->name);
        break;
    }
}

/* Only what differs from an empty script: -1 is a default that cannot be written. */
void script_print(const struct script *s, struct bytes *out)
{
    struct script empty;
    script_init(&empty);
    const char *comma = "";
    bytes_puts(out, "{");
    for (const struct directive *d = directives; d < directives + ARRAY_COUNT(directives); d++) {
        size_t size = d->kind == TEXT ? (size_t)d->max : sizeof(int64_t);
        if (memcmp(slot(s, d), slot(&empty, d), size) == 0)
            continue;
        bytes_printf(out, "%s\"%s\":", comma, d->name);
        print_value(s, d, out);
        comma = ",";
    }
    bytes_puts(out, "}\n");
}
