/* The scan walks the text once and refuses whatever breaks a rule; only then does cJSON see it.
 *
 * Numbers that cJSON would damage, whole ones beyond 2^53, are noted by the scan with their place among all numbers of the
 * text. cJSON is then given a copy with "0" and blanks in those places, and the walk over the finished tree, which meets
 * numbers in the same order, puts the real ones back. A text without such
 * numbers, almost every text, is parsed where it lies. */
#include "common/json.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/utf8.h"

#define NUMBER_CHARS_MAX 1024 /* of one number; keeps its copy on the stack */
#define EXACT_DIGITS     15   /* any whole number this short is below 2^53 */
#define NAMES_SEARCHED   16   /* so many names of one object are compared as they come, the rest by sorting */

/* --- the scan ----------------------------------------------------------------------------------------------------- */

/* A name inside an object, between its quotes. */
struct name {
    uint64_t hash; /* over its decoded bytes */
    const uint8_t *text;
    uint32_t len;
    bool escaped;
};

/* A number that cJSON may not see. */
struct kept {
    size_t ordinal; /* among all numbers of the text */
    size_t at;
    uint32_t len;
};

struct scan {
    const uint8_t *begin, *at, *end;
    const char *what; /* the fault, once there is one; `at` is then its place */
    bool no_memory;
    unsigned depth, nodes;
    size_t numbers;
    /* Names of every object being read, the innermost last. */
    struct name *names;
    size_t names_len, names_size;
    struct name names_few[64];
    struct kept *kept;
    size_t kept_len, kept_size;
};

static bool fault(struct scan *s, const char *what)
{
    s->what = what;
    return false;
}

static bool fault_at(struct scan *s, const uint8_t *at, const char *what)
{
    s->at = at;
    return fault(s, what);
}

static bool no_memory(struct scan *s)
{
    s->no_memory = true;
    return fault(s, "no memory");
}

static int peek(const struct scan *s)
{
    return s->at < s->end ? *s->at : -1;
}

static void skip_blank(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static int hex_value(uint8_t c)
{
    if (is_digit(c))
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* Four hex digits at `p`, or −1. */
static int hex4(const uint8_t *p, const uint8_t *end)
{
    if (end - p < 4)
        return -1;
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(p[i]);
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

static bool is_high(int unit)
{
    return unit >= 0xD800 && unit <= 0xDBFF;
}
static bool is_low(int unit)
{
    return unit >= 0xDC00 && unit <= 0xDFFF;
}

/* `at` is on the backslash. */
static bool scan_escape(struct scan *s)
{
    const uint8_t *p = s->at + 1;
    if (p == s->end)
        return fault(s, "the string is not closed");
    if (*p != 'u') {
        if (!memchr("\"\\/bfnrt", *p, 8))
            return fault(s, "there is no such escape");
        s->at = p + 1;
        return true;
    }
    int unit = hex4(p + 1, s->end);
    if (unit < 0)
        return fault(s, "\\u needs four hexadecimal digits");
    if (unit == 0)
        return fault(s, "U+0000 is not allowed");
    if (is_low(unit))
        return fault(s, "the surrogate has no partner");
    p += 5;
    if (is_high(unit)) {
        if (s->end - p < 6 || p[0] != '\\' || p[1] != 'u' || !is_low(hex4(p + 2, s->end)))
            return fault(s, "the surrogate has no partner");
        p += 6;
    }
    s->at = p;
    return true;
}

/* `at` is on the opening quote. ret_escaped: whether the text differs from what it means. */
static bool scan_string(struct scan *s, bool *ret_escaped)
{
    const uint8_t *open = s->at++;
    *ret_escaped = false;
    for (;;) {
        s->at = utf8_skip_plain(s->at, s->end);
        if (s->at == s->end)
            return fault_at(s, open, "the string is not closed");
        if (*s->at == '"') {
            s->at++;
            return true;
        }
        if (*s->at == '\\') {
            *ret_escaped = true;
            if (!scan_escape(s))
                return false;
        } else if (*s->at < 0x20) {
            return fault(s, "a control character must be escaped");
        } else {
            size_t step = utf8_step(s->at, s->end);
            if (!step)
                return fault(s, "the text is not valid UTF-8");
            s->at += step;
        }
    }
}

static void skip_digits(struct scan *s)
{
    while (is_digit(peek(s)))
        s->at++;
}

static double number_value(const uint8_t *text, size_t len)
{
    char copy[NUMBER_CHARS_MAX + 1];
    assert(len <= NUMBER_CHARS_MAX);
    memcpy(copy, text, len);
    copy[len] = '\0';
    return strtod(copy, NULL);
}

static bool keep_number(struct scan *s, const uint8_t *start, size_t len)
{
    if (s->kept_len == s->kept_size) {
        size_t size = s->kept_size ? s->kept_size * 2 : 16;
        struct kept *grown = reallocarray(s->kept, size, sizeof *grown);
        if (!grown)
            return no_memory(s);
        s->kept = grown;
        s->kept_size = size;
    }
    s->kept[s->kept_len++] = (struct kept){s->numbers, (size_t)(start - s->begin), (uint32_t)len};
    return true;
}

/* What the grammar allows may still be more than a double can hold. */
static bool weigh_number(struct scan *s, const uint8_t *start, bool whole)
{
    size_t len = (size_t)(s->at - start);
    if (whole && len <= EXACT_DIGITS)
        return true;
    if (len > NUMBER_CHARS_MAX)
        return fault_at(s, start, "the number is longer than 1024 characters");
    double value = number_value(start, len);
    if (!isfinite(value))
        return fault_at(s, start, "the number is larger than a double can hold");
    /* 2^53 + 1 reads as 2^53, so the bound itself is kept as text too. */
    return whole && fabs(value) >= JSON_EXACT_MAX ? keep_number(s, start, len) : true;
}

static bool scan_number(struct scan *s)
{
    const uint8_t *start = s->at;
    bool whole = true;
    if (peek(s) == '-')
        s->at++;
    if (!is_digit(peek(s)))
        return fault(s, "a digit is expected");
    if (*s->at++ != '0')
        skip_digits(s);
    else if (is_digit(peek(s)))
        return fault_at(s, start, "the number starts with a zero too many");
    if (peek(s) == '.') {
        whole = false;
        s->at++;
        if (!is_digit(peek(s)))
            return fault(s, "a digit is expected");
        skip_digits(s);
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        whole = false;
        s->at++;
        if (peek(s) == '+' || peek(s) == '-')
            s->at++;
        if (!is_digit(peek(s)))
            return fault(s, "a digit is expected");
        skip_digits(s);
    }
    if (!weigh_number(s, start, whole))
        return false;
    s->numbers++;
    return true;
}

static bool scan_word(struct scan *s, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(s->end - s->at) < len || memcmp(s->at, word, len) != 0)
        return fault(s, "a value is expected");
    s->at += len;
    return true;
}

/* --- names of one object are unique ------------------------------------------------------------------------------- */

/* A name's decoded bytes, one after the other; the scan has proved the escapes. */
struct decoder {
    const uint8_t *p, *end;
    uint8_t out[4];
    unsigned out_at, out_len;
};

static struct decoder decode(const struct name *n)
{
    return (struct decoder){.p = n->text, .end = n->text + n->len};
}

static void put_utf8(struct decoder *d, unsigned c)
{
    d->out_at = d->out_len = 0;
    if (c < 0x80) {
        d->out[d->out_len++] = (uint8_t)c;
        return;
    }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
    d->out[d->out_len++] = (uint8_t)(lead[more] | c >> (6 * more));
    while (more-- > 0)
        d->out[d->out_len++] = (uint8_t)(0x80 | (c >> (6 * more) & 0x3F));
}

static void decode_escape(struct decoder *d)
{
    uint8_t c = d->p[1];
    d->p += 2;
    if (c != 'u') {
        static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
        const char *found = strchr(from, c);
        put_utf8(d, found ? (uint8_t)to[found - from] : c);
        return;
    }
    int unit = hex4(d->p, d->end);
    d->p += 4;
    if (is_high(unit)) {
        unit = 0x10000 + ((unit - 0xD800) << 10) + (hex4(d->p + 2, d->end) - 0xDC00);
        d->p += 6;
    }
    put_utf8(d, (unsigned)unit);
}

/* −1 at the end. */
static int next_byte(struct decoder *d)
{
    if (d->out_at == d->out_len) {
        if (d->p == d->end)
            return -1;
        if (*d->p != '\\')
            return *d->p++;
        decode_escape(d);
    }
    return d->out[d->out_at++];
}

static uint64_t hash_name(const struct name *n)
{
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a: equal names meet; a hostile collision only costs a comparison */
    struct decoder d = decode(n);
    for (int c; (c = next_byte(&d)) >= 0;)
        hash = (hash ^ (uint8_t)c) * 0x100000001B3u;
    return hash;
}

static int compare_bytes(const struct name *a, const struct name *b)
{
    if (!a->escaped && !b->escaped) {
        int order = memcmp(a->text, b->text, MIN(a->len, b->len));
        return order ? order : (a->len > b->len) - (a->len < b->len);
    }
    struct decoder da = decode(a), db = decode(b);
    for (;;) {
        int ca = next_byte(&da), cb = next_byte(&db);
        if (ca != cb)
            return ca < cb ? -1 : 1;
        if (ca < 0)
            return 0;
    }
}

/* By hash, then bytes, so that names made to share a hash cannot make the sort quadratic; then by place. */
static int compare_names(const void *left, const void *right)
{
    const struct name *a = left, *b = right;
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    int order = compare_bytes(a, b);
    return order ? order : (a->text > b->text) - (a->text < b->text);
}

static bool same_name(const struct name *a, const struct name *b)
{
    return a->hash == b->hash && compare_bytes(a, b) == 0;
}

static bool twice(struct scan *s, const struct name *n)
{
    return fault_at(s, n->text - 1, "the key is given twice");
}

/* `base` is the innermost object's first name. */
static bool add_name(struct scan *s, size_t base, struct name name)
{
    name.hash = hash_name(&name);
    size_t earlier = s->names_len - base;
    if (earlier < NAMES_SEARCHED)
        for (size_t i = 0; i < earlier; i++)
            if (same_name(&s->names[base + i], &name))
                return twice(s, &name);
    if (s->names_len == s->names_size) {
        size_t size = s->names_size * 2;
        struct name *old = s->names == s->names_few ? NULL : s->names;
        struct name *grown = reallocarray(old, size, sizeof *grown);
        if (!grown)
            return no_memory(s);
        if (!old)
            memcpy(grown, s->names_few, sizeof s->names_few);
        s->names = grown;
        s->names_size = size;
    }
    s->names[s->names_len++] = name;
    return true;
}

/* The object ends: what was not searched name by name is sorted. Then forgets its names. */
static bool close_names(struct scan *s, size_t base)
{
    struct name *names = s->names + base;
    size_t count = s->names_len - base;
    s->names_len = base;
    if (count <= NAMES_SEARCHED)
        return true;
    qsort(names, count, sizeof *names, compare_names);
    const struct name *first = NULL;
    for (size_t i = 1; i < count; i++)
        if (same_name(&names[i - 1], &names[i]) && (!first || names[i].text < first->text))
            first = &names[i];
    return first ? twice(s, first) : true;
}

/* --- values ------------------------------------------------------------------------------------------------------- */

static bool scan_value(struct scan *s);

static bool enter(struct scan *s)
{
    if (s->depth == JSON_DEPTH_MAX)
        return fault(s, "the nesting is deeper than 32");
    s->depth++;
    s->at++;
    skip_blank(s);
    return true;
}

/* After an element: true with *ret_more when a comma follows, false with it at the closing bracket. */
static bool scan_separator(struct scan *s, char close, bool *ret_more)
{
    skip_blank(s);
    int c = peek(s);
    if (c != ',' && c != close)
        return fault(s, close == ']' ? "',' or ']' is expected" : "',' or '}' is expected");
    s->at++;
    *ret_more = c == ',';
    if (*ret_more)
        skip_blank(s);
    else
        s->depth--;
    return true;
}

static bool scan_array(struct scan *s)
{
    if (!enter(s))
        return false;
    if (peek(s) == ']') {
        s->at++;
        s->depth--;
        return true;
    }
    for (bool more = true; more;)
        if (!scan_value(s) || !scan_separator(s, ']', &more))
            return false;
    return true;
}

static bool scan_member(struct scan *s, size_t base)
{
    if (peek(s) != '"')
        return fault(s, "a key is expected");
    struct name name = {.text = s->at + 1};
    if (!scan_string(s, &name.escaped))
        return false;
    name.len = (uint32_t)(s->at - 1 - name.text);
    if (!add_name(s, base, name))
        return false;
    skip_blank(s);
    if (peek(s) != ':')
        return fault(s, "':' is expected");
    s->at++;
    skip_blank(s);
    return scan_value(s);
}

static bool scan_object(struct scan *s)
{
    if (!enter(s))
        return false;
    if (peek(s) == '}') {
        s->at++;
        s->depth--;
        return true;
    }
    size_t base = s->names_len;
    for (bool more = true; more;)
        if (!scan_member(s, base) || !scan_separator(s, '}', &more))
            return false;
    return close_names(s, base);
}

static bool scan_value(struct scan *s)
{
    if (s->nodes == JSON_NODES_MAX)
        return fault(s, "there are more than 100000 values");
    s->nodes++;
    int c = peek(s);
    bool escaped;
    switch (c) {
    case '{':
        return scan_object(s);
    case '[':
        return scan_array(s);
    case '"':
        return scan_string(s, &escaped);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        return c == '-' || is_digit(c) ? scan_number(s) : fault(s, "a value is expected");
    }
}

static void scan_init(struct scan *s, struct span text)
{
    s->begin = s->at = text.data ? text.data : (const uint8_t *)"";
    s->end = s->begin + text.len;
    s->what = NULL;
    s->no_memory = false;
    s->depth = s->nodes = 0;
    s->numbers = 0;
    s->names = s->names_few;
    s->names_len = 0;
    s->names_size = ARRAY_COUNT(s->names_few);
    s->kept = NULL;
    s->kept_len = s->kept_size = 0;
}

static void scan_done(struct scan *s)
{
    if (s->names != s->names_few)
        free(s->names);
    free(s->kept);
}

static enum err scan_text(struct scan *s, struct json_fault *ret_fault)
{
    if ((size_t)(s->end - s->begin) > UINT32_MAX)
        fault(s, "the text is longer than 4 GiB");
    else {
        skip_blank(s);
        if (scan_value(s)) {
            skip_blank(s);
            if (s->at != s->end)
                fault(s, "something follows the value");
        }
    }
    if (!s->what)
        return ERR_OK;
    if (ret_fault)
        *ret_fault = (struct json_fault){(size_t)(s->at - s->begin), s->what};
    return s->no_memory ? ERR_NOMEM : ERR_BAD_JSON;
}

enum err json_check(struct span text, struct json_fault *ret_fault)
{
    AUTO(scan_done) struct scan s;
    scan_init(&s, text);
    return scan_text(&s, ret_fault);
}

/* --- the tree ----------------------------------------------------------------------------------------------------- */

static void release_text(char **text)
{
    free(TAKE(*text));
}

/* The text with "0" in place of every number kept. */
static char *without_kept(const struct scan *s)
{
    size_t len = (size_t)(s->end - s->begin);
    char *copy = malloc(len);
    if (!copy)
        return NULL;
    memcpy(copy, s->begin, len);
    for (size_t i = 0; i < s->kept_len; i++) {
        memset(copy + s->kept[i].at, ' ', s->kept[i].len);
        copy[s->kept[i].at] = '0';
    }
    return copy;
}

struct restore {
    const struct scan *scan;
    size_t next;    /* of scan->kept */
    size_t numbers; /* met so far */
};

static bool restore_number(struct restore *r, cJSON *item)
{
    if (r->next == r->scan->kept_len || r->scan->kept[r->next].ordinal != r->numbers++)
        return true;
    const struct kept *k = &r->scan->kept[r->next++];
    char *copy = cJSON_malloc(k->len + 1);
    if (!copy)
        return false;
    memcpy(copy, r->scan->begin + k->at, k->len);
    copy[k->len] = '\0';
    item->type = cJSON_Raw;
    item->valuestring = copy;
    return true;
}

/* In the order of the text, which is the order of cJSON's lists. No deeper than the scan allowed. */
static bool restore_numbers(struct restore *r, cJSON *item)
{
    if (cJSON_IsNumber(item))
        return restore_number(r, item);
    for (cJSON *child = item->child; child; child = child->next)
        if (!restore_numbers(r, child))
            return false;
    return true;
}

enum err json_parse(struct span text, cJSON **ret_tree, struct json_fault *ret_fault)
{
    AUTO(scan_done) struct scan s;
    scan_init(&s, text);
    enum err e = scan_text(&s, ret_fault);
    if (e)
        return e;
    AUTO(release_text) char *copy = NULL;
    if (s.kept_len && !(copy = without_kept(&s)))
        return ERR_NOMEM;
    AUTO(json_free) cJSON *tree = cJSON_ParseWithLength(copy ? copy : (const char *)s.begin, text.len);
    if (!tree)
        return ERR_NOMEM; /* the scan allows nothing that cJSON refuses (tests/fuzz/fuzz_json.c) */
    struct restore r = {.scan = &s};
    if (copy && !restore_numbers(&r, tree))
        return ERR_NOMEM;
    *ret_tree = TAKE(tree);
    return ERR_OK;
}

void json_free(cJSON **tree)
{
    cJSON_Delete(TAKE(*tree));
}

const cJSON *json_get(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

const char *json_text(const cJSON *object, const char *name)
{
    const cJSON *item = json_get(object, name);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

bool json_int(const cJSON *item, int64_t *ret_value)
{
    if (cJSON_IsNumber(item)) {
        double value = item->valuedouble;
        if (!(value >= -9223372036854775808.0 && value < 9223372036854775808.0) || value != floor(value))
            return false;
        *ret_value = (int64_t)value;
        return true;
    }
    if (!cJSON_IsRaw(item) || !item->valuestring)
        return false;
    char *end;
    errno = 0;
    long long value = strtoll(item->valuestring, &end, 10);
    if (errno || *end != '\0' || end == item->valuestring)
        return false;
    *ret_value = value;
    return true;
}

bool json_number(const cJSON *item, double *ret_value)
{
    if (cJSON_IsNumber(item)) {
        *ret_value = item->valuedouble;
        return true;
    }
    if (!cJSON_IsRaw(item) || !item->valuestring)
        return false;
    char *end;
    double value = strtod(item->valuestring, &end);
    if (*end != '\0' || end == item->valuestring || !isfinite(value))
        return false;
    *ret_value = value;
    return true;
}
