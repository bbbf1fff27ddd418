/* Replies are written as they grow, without a tree; trees are printed so that every number comes back as it was. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/json.h"
#include "common/utf8.h"

#define OUT_DEFAULT_MAX ((size_t)64 << 20)
#define PRINT_DEPTH_MAX CJSON_NESTING_LIMIT

void json_out_done(struct json_out *out)
{
    free(out->data);
    *out = (struct json_out){.max = out->max};
}

/* Room for `more` bytes and the NUL behind them. */
static bool reserve(struct json_out *out, size_t more)
{
    size_t max = out->max ? out->max : OUT_DEFAULT_MAX;
    if (out->failed || more > max || out->len > max - more) {
        out->failed = true;
        return false;
    }
    size_t need = out->len + more + 1;
    if (need <= out->size)
        return true;
    size_t size = MAX(MIN(out->size * 2, max + 1), MAX(need, (size_t)256));
    char *grown = realloc(out->data, size);
    if (!grown) {
        out->failed = true;
        return false;
    }
    out->data = grown;
    out->size = size;
    return true;
}

void json_raw(struct json_out *out, struct span bytes)
{
    if (!reserve(out, bytes.len))
        return;
    if (bytes.len)
        memcpy(out->data + out->len, bytes.data, bytes.len);
    out->len += bytes.len;
    out->data[out->len] = '\0';
}

void json_lit(struct json_out *out, const char *text)
{
    json_raw(out, span_str(text));
}

void json_printf(struct json_out *out, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    if (len < 0)
        out->failed = true;
    else if (reserve(out, (size_t)len)) {
        vsnprintf(out->data + out->len, (size_t)len + 1, format, again);
        out->len += (size_t)len;
    }
    va_end(again);
    va_end(args);
}

static void put_escape(struct json_out *out, uint8_t c)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *found = c ? strchr(from, c) : NULL;
    if (found)
        json_raw(out, span_of((const char[]){'\\', to[found - from]}, 2));
    else
        json_printf(out, "\\u%04x", c);
}

void json_str(struct json_out *out, struct span text)
{
    const uint8_t *p = text.data, *end = text.len ? p + text.len : p;
    json_lit(out, "\"");
    while (p < end && !out->failed) {
        const uint8_t *from = p;
        size_t step = 0;
        do {
            p = utf8_skip_plain(p + step, end);
            step = p < end && *p >= 0x80 ? utf8_step(p, end) : 0;
        } while (step);
        json_raw(out, span_of(from, (size_t)(p - from)));
        if (p == end)
            break;
        if (*p < 0x80)
            put_escape(out, *p);
        else
            json_lit(out, "\xEF\xBF\xBD"); /* U+FFFD: what is not UTF-8 must not spoil the whole reply */
        p++;
    }
    json_lit(out, "\"");
}

/* The shortest of 15 to 17 digits that reads back as the same double. cJSON 1.7.15 accepts the first that is merely close: it
 * prints 0.30000000000000004 as 0.3 and 9007199254740991 as 9.00719925474099e+15. */
static void put_number(struct json_out *out, double value)
{
    if (!isfinite(value)) {
        json_lit(out, "null");
        return;
    }
    if (value == floor(value) && fabs(value) < JSON_EXACT_MAX && !(value == 0 && signbit(value))) {
        json_printf(out, "%lld", (long long)value);
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    json_lit(out, text);
}

static void put_tree(struct json_out *out, const cJSON *item, unsigned depth);

static void put_children(struct json_out *out, const cJSON *item, unsigned depth, bool named)
{
    json_lit(out, named ? "{" : "[");
    for (const cJSON *child = item->child; child && !out->failed; child = child->next) {
        if (named) {
            json_str(out, span_str(child->string));
            json_lit(out, ":");
        }
        put_tree(out, child, depth + 1);
        if (child->next)
            json_lit(out, ",");
    }
    json_lit(out, named ? "}" : "]");
}

static void put_tree(struct json_out *out, const cJSON *item, unsigned depth)
{
    if (depth > PRINT_DEPTH_MAX) {
        out->failed = true;
        return;
    }
    switch (item->type & 0xFF) {
    case cJSON_NULL:
        json_lit(out, "null");
        break;
    case cJSON_False:
        json_lit(out, "false");
        break;
    case cJSON_True:
        json_lit(out, "true");
        break;
    case cJSON_Number:
        put_number(out, item->valuedouble);
        break;
    case cJSON_Raw:
        json_lit(out, item->valuestring);
        break;
    case cJSON_String:
        json_str(out, span_str(item->valuestring));
        break;
    case cJSON_Array:
        put_children(out, item, depth, false);
        break;
    case cJSON_Object:
        put_children(out, item, depth, true);
        break;
    default:
        out->failed = true;
    }
}

void json_tree(struct json_out *out, const cJSON *tree)
{
    if (tree)
        put_tree(out, tree, 0);
    else
        out->failed = true;
}
