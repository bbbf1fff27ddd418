/* cJSON behind limits. cJSON checks neither depth by our rule, nor UTF-8, nor double keys, and turns integers into doubles; one
 * linear scan before it does all four, so that nothing it builds can surprise (LIMITS decision 3).
 * Integers beyond 2^53 are kept as text: they come back as raw numbers (cJSON_Raw), so ask json_int or json_number for a
 * number, and print with json_tree: cJSON's own printing loses digits of numbers (common/json.c, put_number). */
#pragma once

#include <cjson/cJSON.h>

#include "common/base.h"
#include "common/utf8.h"

#define JSON_DEPTH_MAX 32
#define JSON_NODES_MAX 100000
#define JSON_EXACT_MAX 9007199254740992.0 /* 2^53: whole numbers beyond do not all fit a double */

struct json_fault {
    size_t at;        /* byte offset of the first fault */
    const char *what; /* one clause: "the nesting is deeper than 32", "the key is given twice", … */
};

/* Whole text, one value, nothing behind it but white space. fault may be NULL. ERR_BAD_JSON, ERR_NOMEM.
 * The tree is the caller's (json_free). RFC 8259; names within one object are unique; strings are valid UTF-8 without lone
 * surrogates and without U+0000; numbers follow the grammar, fit a double and have at most 1024 characters.
 * A key given twice among more than 16 is found when its object ends, so a fault behind it may be named first. */
MUST_USE enum err json_parse(struct span text, cJSON **ret_tree, struct json_fault *fault);

/* The scan alone, without building a tree. */
MUST_USE enum err json_check(struct span text, struct json_fault *fault);

/* Accepts NULL, clears the pointer. For AUTO. */
void json_free(cJSON **tree);

/* A member by exact name, or NULL. */
const cJSON *json_get(const cJSON *object, const char *name);
/* Member's string, or NULL if absent or of another type. Lent by the tree. */
const char *json_text(const cJSON *object, const char *name);
/* true and the value if the member is a whole number that fits an int64 exactly. */
bool json_int(const cJSON *item, int64_t *ret_value);
/* true and the nearest double if the item is a number, kept as text or not. */
bool json_number(const cJSON *item, double *ret_value);

/* Growing output, for building replies without a tree. Starts as {0}. Once it fails it stays failed; look at the end. */
struct json_out {
    char *data; /* NULL until something was written; a NUL follows the `len` bytes */
    size_t len, size;
    size_t max; /* never grows beyond; 0: 64 MiB */
    bool failed;
};
void json_out_done(struct json_out *out);
void json_raw(struct json_out *out, struct span bytes);
void json_lit(struct json_out *out, const char *text);
void json_printf(struct json_out *out, const char *format, ...) PRINTF(2, 3);
/* A quoted, escaped string. Input must be UTF-8; a byte that is not becomes U+FFFD. */
void json_str(struct json_out *out, struct span text);
/* The tree, unformatted. */
void json_tree(struct json_out *out, const cJSON *tree);
