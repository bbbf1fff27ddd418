#include "worker/providers.h"

#include <stdarg.h>
#include <stdio.h>

#define EVIDENCE_MAX 512 /* of a line that is not what it should be */

static const struct provider *const all[] = {&provider_echo, &provider_ollama, &provider_openai};

const struct provider *provider_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(all); i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

/* Length of the valid UTF-8 character at the start, 0 if there is none. */
static size_t character(struct span text)
{
    for (size_t len = 1; len <= 4 && len <= text.len; len++)
        if (utf8_valid(span_of(text.data, len)))
            return len;
    return 0;
}

static bool harmless(uint8_t byte)
{
    return byte >= 0x20 ? byte != 0x7f : byte == '\n' || byte == '\t';
}

size_t provider_text(char *out, size_t size, struct span text)
{
    size_t len = 0;
    while (text.len) {
        size_t step = character(text);
        const char *from = (const char *)text.data;
        if (step == 0)
            from = "\xef\xbf\xbd"; /* U+FFFD stands for a byte that is no UTF-8 */
        else if (step == 1 && !harmless(text.data[0]))
            from = " ";
        size_t add = step ? step : 3;
        if (len + add >= size)
            break;
        memcpy(out + len, from, add);
        len += add;
        step = MAX(step, 1);
        text = span_of(text.data + step, text.len - step);
    }
    out[len] = '\0';
    return len;
}

bool provider_fail(struct provider_failure *failure, enum kind kind, struct span evidence, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(failure->text, sizeof failure->text, format, args);
    va_end(args);
    failure->kind = kind;
    size_t used = MIN((size_t)MAX(len, 0), sizeof failure->text - 1);
    if (evidence.len && used + 3 < sizeof failure->text) {
        memcpy(failure->text + used, ": ", 2);
        provider_text(failure->text + used + 2, sizeof failure->text - used - 2, evidence);
    }
    return false;
}

enum kind provider_kind_of_status(unsigned status, bool retry_after)
{
    switch (status) {
    case 401:
    case 403:
        return KIND_AUTH;
    case 402: /* OpenRouter sends 402 with Retry-After while money is only reserved by other calls */
        return retry_after ? KIND_THROTTLED : KIND_QUOTA;
    case 408:
    case 425:
        return KIND_OVERLOAD;
    case 429:
        return KIND_THROTTLED;
    }
    if (status >= 500)
        return KIND_OVERLOAD;
    return KIND_CLIENT; /* a redirect too: the base URL is wrong, and no call follows one */
}

bool provider_bad_frame(struct provider_failure *failure, struct span evidence, const char *what)
{
    evidence.len = MIN(evidence.len, (size_t)EVIDENCE_MAX);
    return provider_fail(failure, KIND_BAD_FRAME, evidence, "%s", what);
}

static bool space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

bool provider_cut_short(struct span body, size_t fault_at)
{
    size_t from = 0, to = body.len;
    while (from < to && space(body.data[from]))
        from++;
    while (to > from && space(body.data[to - 1]))
        to--;
    return from == to || (body.data[from] == '{' && (fault_at >= body.len || body.data[to - 1] != '}'));
}

bool provider_keep(struct json_out *out, struct span text, size_t *held, size_t max)
{
    if (text.len > max - *held)
        return false;
    *held += text.len;
    json_raw(out, text);
    return !out->failed;
}

bool provider_fits(const struct json_out *result, size_t max, struct provider_failure *failure)
{
    if (result->failed) /* escapes make text six times as long at most, which is within json_out's own bound */
        return provider_fail(failure, KIND_WORKER, (struct span){0}, "no memory for the result");
    if (result->len > max)
        return provider_fail(failure, KIND_ANSWER_TOO_LARGE, (struct span){0}, "the result is larger than %zu bytes", max);
    return true;
}

void provider_content(struct json_out *out, const cJSON *content)
{
    if (cJSON_IsString(content)) {
        json_lit(out, content->valuestring);
        return;
    }
    const cJSON *part;
    if (cJSON_IsArray(content))
        cJSON_ArrayForEach(part, content)
        {
            const char *text = cJSON_IsObject(part) ? json_text(part, "text") : NULL;
            if (text)
                json_lit(out, text);
        }
}
