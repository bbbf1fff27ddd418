#include "worker/providers.h"

#include <stdarg.h>
#include <stdio.h>

static const struct provider *const all[] = {&provider_echo, &provider_openai};

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
