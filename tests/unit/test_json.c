/* The JSON scan and what it lets through: grammar, limits, places of faults, numbers kept whole, output. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/json.h"

static cJSON *parsed(const char *text)
{
    cJSON *tree = NULL;
    struct json_fault fault = {0, ""};
    enum err e = json_parse(span_str(text), &tree, &fault);
    if (e)
        fail_msg("%s: %s at %zu", text, fault.what, fault.at);
    return tree;
}

static void expect_fault(struct span text, size_t at, const char *what)
{
    cJSON *tree = NULL;
    struct json_fault fault = {SIZE_MAX, ""};
    assert_int_equal(json_parse(text, &tree, &fault), ERR_BAD_JSON);
    assert_null(tree);
    if (strcmp(fault.what, what) != 0)
        fail_msg("%.*s: \"%s\" instead of \"%s\"", SPAN_ARG(text), fault.what, what);
    if (fault.at != at)
        fail_msg("%.*s: at %zu instead of %zu", SPAN_ARG(text), fault.at, at);
    assert_int_equal(json_check(text, NULL), ERR_BAD_JSON);
}

static void refuses(const char *text, size_t at, const char *what)
{
    expect_fault(span_str(text), at, what);
}

/* What json_tree makes of it. */
static void prints(const char *text, const char *printed)
{
    AUTO(json_free) cJSON *tree = parsed(text);
    struct json_out out = {0};
    json_tree(&out, tree);
    assert_false(out.failed);
    assert_string_equal(out.data, printed);
    assert_int_equal(out.len, strlen(printed));
    json_out_done(&out);
}

static void survives(const char *text)
{
    prints(text, text);
}

static void test_every_kind_of_value(void **state)
{
    survives("{}");
    survives("[]");
    survives("[null,true,false,0,-1,\"\",{\"a\":[]},[[]]]");
    prints(" \t\r\n{ \"a\" : [ 1 , 2 ] } \n", "{\"a\":[1,2]}");
    survives("\"text\"");
    survives("1");
}

static void test_grammar(void **state)
{
    refuses("", 0, "a value is expected");
    refuses(" ", 1, "a value is expected");
    refuses("[1,]", 3, "a value is expected");
    refuses("[,1]", 1, "a value is expected");
    refuses("[1 2]", 3, "',' or ']' is expected");
    refuses("[1", 2, "',' or ']' is expected");
    refuses("{\"a\":1", 6, "',' or '}' is expected");
    refuses("{\"a\" 1}", 5, "':' is expected");
    refuses("{\"a\":1,}", 7, "a key is expected");
    refuses("{a:1}", 1, "a key is expected");
    refuses("{'a':1}", 1, "a key is expected");
    refuses("1 1", 2, "something follows the value");
    refuses("{}x", 2, "something follows the value");
    refuses("nul", 0, "a value is expected");
    refuses("True", 0, "a value is expected");
    refuses("NaN", 0, "a value is expected");
    refuses("/**/1", 0, "a value is expected");
    refuses("\xEF\xBB\xBF{}", 0, "a value is expected");
    refuses("\v1", 0, "a value is expected");
    expect_fault(span_of("1\0", 2), 1, "something follows the value");
    expect_fault(span_of(NULL, 0), 0, "a value is expected");
}

static void test_numbers(void **state)
{
    survives("[0,-0,1,-1,10,0.5,-0.5,0.1,1e+21]");
    prints("[1E2,1e2,1.0e+2,100.00,1e-7]", "[100,100,100,100,1e-07]");
    refuses("01", 0, "the number starts with a zero too many");
    refuses("-01", 0, "the number starts with a zero too many");
    refuses("-", 1, "a digit is expected");
    refuses("-a", 1, "a digit is expected");
    refuses("1.", 2, "a digit is expected");
    refuses("1.e1", 2, "a digit is expected");
    refuses("1e", 2, "a digit is expected");
    refuses("1e+", 3, "a digit is expected");
    refuses(".5", 0, "a value is expected");
    refuses("+1", 0, "a value is expected");
    refuses("0x10", 1, "something follows the value");
    refuses("1e400", 0, "the number is larger than a double can hold");
    refuses("[0,-1e400]", 3, "the number is larger than a double can hold");
    prints("1e-400", "0");
}

static void test_doubles_survive_printing(void **state)
{
    survives("0.30000000000000004");
    survives("1.7976931348623157e+308");
    survives("2.2250738585072014e-308");
    survives("9007199254740991");
    survives("-9007199254740991");
    survives("123456789012345.67");
    srand(1);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = (uint64_t)rand() << 42 ^ (uint64_t)rand() << 21 ^ (uint64_t)rand();
        double value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        struct json_out out = {0};
        AUTO(json_free) cJSON *item = cJSON_CreateNumber(value);
        json_tree(&out, item);
        assert_true(strtod(out.data, NULL) == value);
        json_out_done(&out);
    }
}

static void test_integers_beyond_2_53_keep_their_digits(void **state)
{
    survives("9007199254740992");
    survives("9007199254740993");
    survives("-9007199254740993");
    survives("18446744073709551616");
    survives("{\"a\":[1,9007199254740993,{\"b\":2}],\"c\":123456789012345678901234567890,\"d\":3}");
    survives("[1,2,3,9223372036854775807,-9223372036854775808]");

    AUTO(json_free) cJSON *tree = parsed("{\"id\":9007199254740993,\"n\":7}");
    int64_t value = 0;
    double number = 0;
    assert_true(cJSON_IsRaw(json_get(tree, "id")));
    assert_true(json_int(json_get(tree, "id"), &value));
    assert_int_equal(value, 9007199254740993);
    assert_true(json_number(json_get(tree, "id"), &number));
    assert_true(number == 9007199254740992.0);
    assert_true(cJSON_IsNumber(json_get(tree, "n")));
}

/* cJSON 1.7.15 as released reads 63 characters of a number and takes the rest for something else; Debian has mended it. */
static void test_long_numbers(void **state)
{
    char text[1200];
    for (size_t len = 60; len < 70; len++) {
        memset(text, '1', sizeof text);
        memcpy(text, "[0.", 3);
        memcpy(text + 1 + len, ",7]", 4);
        AUTO(json_free) cJSON *tree = parsed(text);
        assert_int_equal(cJSON_GetArraySize(tree), 2);
        assert_true(cJSON_GetArrayItem(tree, 0)->valuedouble == strtod(text + 1, NULL));
        assert_true(cJSON_GetArrayItem(tree, 1)->valuedouble == 7);
    }

    memset(text, '1', sizeof text);
    text[309] = '\0';
    survives(text); /* 1.1e308 */
    text[309] = '1';
    text[310] = '\0';
    refuses(text, 0, "the number is larger than a double can hold");
    memset(text, '1', sizeof text);
    memcpy(text, "0.", 2);
    text[1024] = '\0';
    AUTO(json_free) cJSON *longest = parsed(text);
    text[1024] = '1';
    text[1025] = '\0';
    refuses(text, 0, "the number is longer than 1024 characters");
}

static void test_strings(void **state)
{
    prints("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\\"\\\\/\\b\\f\\n\\r\\t\"");
    prints("\"\\u0041\\u00e9\\u20AC\\uD83D\\uDE00\"", "\"A\u00e9\u20ac\U0001F600\"");
    survives("\"\\u0001\\u001f\x7f\"");
    survives("\"\u00e9\u20ac\U0001F600\"");
    refuses("\"abc", 0, "the string is not closed");
    refuses("\"abc\\", 4, "the string is not closed");
    refuses("\"a\\x\"", 2, "there is no such escape");
    refuses("\"a\nb\"", 2, "a control character must be escaped");
    refuses("\"\\u12g4\"", 1, "\\u needs four hexadecimal digits");
    refuses("\"\\u123", 1, "\\u needs four hexadecimal digits");
    refuses("\"a\\u0000\"", 2, "U+0000 is not allowed");
    refuses("\"\\ud800\"", 1, "the surrogate has no partner");
    refuses("\"\\udc00\"", 1, "the surrogate has no partner");
    refuses("\"\\ud800\\u0041\"", 1, "the surrogate has no partner");
    refuses("\"\\ud800\\ud800\"", 1, "the surrogate has no partner");
    refuses("\"\\ud800x\"", 1, "the surrogate has no partner");
    refuses("\"\\ud83d\\ude", 1, "the surrogate has no partner");
    refuses("{\"\\ud800\":1}", 2, "the surrogate has no partner");
    expect_fault(span_of("\"a\0b\"", 5), 2, "a control character must be escaped");
}

static void test_utf8(void **state)
{
    static const char *const good[] = {"",
                                       "plain",
                                       "\xC2\x80",
                                       "\u07ff",
                                       "\u0800",
                                       "\ud7ff",
                                       "\ue000",
                                       "\uffff",
                                       "\U00010000",
                                       "\U0010ffff",
                                       "longer than eight bytes \u00e9 and more"};
    static const char *const bad[] = {"\x80",     "\xC0\x80",         "\xC1\xBF",         "\xC2",
                                      "\xC2x",    "\xE0\x9F\xBF",     "\xED\xA0\x80",     "\xED\xBF\xBF",
                                      "\xE2\x82", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                                      "\xFF",     "\xF0\x9F\x98",     "eight by\xFFtes"};
    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        char text[64];
        snprintf(text, sizeof text, "\"%s\"", good[i]);
        assert_true(utf8_valid(span_str(good[i])));
        survives(text);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        char text[64];
        snprintf(text, sizeof text, "\"%s\"", bad[i]);
        assert_false(utf8_valid(span_str(bad[i])));
        refuses(text, strspn(text, "\"eight by"), "the text is not valid UTF-8");
    }
    assert_true(utf8_valid(span_of("a\0b", 3)));
}

static void test_keys_are_unique(void **state)
{
    refuses("{\"a\":1,\"a\":2}", 7, "the key is given twice");
    refuses("{\"a\":1,\"\\u0061\":2}", 7, "the key is given twice");
    refuses("{\"\\ud83d\\ude00\":1,\"\U0001F600\":2}", 18, "the key is given twice");
    refuses("{\"\":1,\"\":2}", 6, "the key is given twice");
    refuses("[{\"x\":{\"a\":1,\"b\":{},\"a\":2}}]", 20, "the key is given twice");
    survives("{\"a\":{\"a\":{\"a\":1}},\"b\":{\"a\":2}}");
    survives("{\"a\":{\"b\":1},\"b\":2}");
    survives("{\"a\":1,\"A\":2,\"a \":3,\"\":4}");
    survives("[{\"a\":1},{\"a\":2}]");
}

/* An object of `count` members k0, k1 …, with the last one's name replaced by `last`. */
static char *wide_object(unsigned count, const char *last, size_t *ret_last_at)
{
    struct json_out out = {0};
    json_lit(&out, "{");
    for (unsigned i = 0; i + 1 < count; i++)
        json_printf(&out, "\"k%u\":%u,", i, i);
    *ret_last_at = out.len;
    json_printf(&out, "\"%s\":0}", last);
    assert_false(out.failed);
    return out.data;
}

static void test_keys_of_large_objects(void **state)
{
    for (unsigned count = 2; count < 400; count++) {
        size_t at;
        char *text = wide_object(count, "k0", &at);
        refuses(text, at, "the key is given twice");
        free(text);
        text = wide_object(count, "\\u006b0", &at);
        refuses(text, at, "the key is given twice");
        free(text);
        text = wide_object(count, "other", &at);
        AUTO(json_free) cJSON *tree = parsed(text);
        assert_int_equal(cJSON_GetArraySize(tree), count);
        free(text);
    }
}

/* A quadratic search over these would take minutes of CPU. */
static void test_hostile_objects_are_scanned_in_time(void **state)
{
    size_t at;
    char *text = wide_object(JSON_NODES_MAX - 1, "last", &at);
    clock_t start = clock();
    assert_int_equal(json_check(span_str(text), NULL), ERR_OK);
    free(text);

    struct json_out same = {0}; /* one long name, equal but for its end */
    json_lit(&same, "{");
    for (unsigned i = 0; i < 20000; i++)
        json_printf(&same, "%s\"%0200u\":0", i ? "," : "", i);
    json_lit(&same, "}");
    assert_int_equal(json_check(span_of(same.data, same.len), NULL), ERR_OK);
    json_out_done(&same);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 5);
}

static void nest(struct json_out *out, unsigned depth, const char *open, const char *inner, char close)
{
    for (unsigned i = 0; i < depth; i++)
        json_lit(out, open);
    json_lit(out, inner);
    for (unsigned i = 0; i < depth; i++)
        json_raw(out, span_of(&close, 1));
}

static void test_depth(void **state)
{
    struct json_out arrays = {0}, deeper = {0}, objects = {0};
    nest(&arrays, JSON_DEPTH_MAX, "[", "", ']');
    survives(arrays.data);
    nest(&deeper, JSON_DEPTH_MAX + 1, "[", "", ']');
    refuses(deeper.data, JSON_DEPTH_MAX, "the nesting is deeper than 32");
    nest(&objects, JSON_DEPTH_MAX, "{\"a\":", "[]", '}');
    refuses(objects.data, JSON_DEPTH_MAX * 5, "the nesting is deeper than 32");
    prints("[[],[[]],{\"a\":[]},[]]", "[[],[[]],{\"a\":[]},[]]");
    json_out_done(&arrays);
    json_out_done(&deeper);
    json_out_done(&objects);

    static char flood[1 << 20];
    memset(flood, '[', sizeof flood);
    expect_fault(span_of(flood, sizeof flood), JSON_DEPTH_MAX, "the nesting is deeper than 32");
}

static void test_count_of_values(void **state)
{
    struct json_out out = {0};
    json_lit(&out, "[0");
    for (unsigned i = 2; i < JSON_NODES_MAX; i++)
        json_lit(&out, ",0");
    size_t len = out.len;
    json_lit(&out, "]");
    assert_int_equal(json_check(span_of(out.data, out.len), NULL), ERR_OK);
    out.len = len;
    json_lit(&out, ",0]");
    expect_fault(span_of(out.data, out.len), len + 1, "there are more than 100000 values");
    json_out_done(&out);
}

static void test_members(void **state)
{
    AUTO(json_free)
    cJSON *tree =
        parsed("{\"a\":\"text\",\"A\":1,\"n\":12,\"f\":1.5,\"big\":1e18,\"huge\":9.223372036854775808e18,\"s\":\"7\"}");
    int64_t value = 99;
    double number;
    assert_string_equal(json_text(tree, "a"), "text");
    assert_null(json_text(tree, "A"));
    assert_null(json_text(tree, "none"));
    assert_null(json_text(NULL, "a"));
    assert_true(json_int(json_get(tree, "n"), &value));
    assert_int_equal(value, 12);
    assert_true(json_int(json_get(tree, "big"), &value));
    assert_int_equal(value, 1000000000000000000);
    value = 99;
    assert_false(json_int(json_get(tree, "f"), &value));
    assert_false(json_int(json_get(tree, "huge"), &value));
    assert_false(json_int(json_get(tree, "s"), &value));
    assert_false(json_int(NULL, &value));
    assert_int_equal(value, 99);
    assert_true(json_number(json_get(tree, "f"), &number));
    assert_true(number == 1.5);
    assert_false(json_number(json_get(tree, "s"), &number));

    AUTO(json_free) cJSON *ends = parsed("[9223372036854775807,-9223372036854775808,9223372036854775808]");
    assert_true(json_int(cJSON_GetArrayItem(ends, 0), &value));
    assert_true(value == INT64_MAX);
    assert_true(json_int(cJSON_GetArrayItem(ends, 1), &value));
    assert_true(value == INT64_MIN);
    assert_false(json_int(cJSON_GetArrayItem(ends, 2), &value));
}

static void test_output(void **state)
{
    struct json_out out = {0};
    json_lit(&out, "{");
    json_str(&out, span_str("a\"b\\c\n\x01\u00e9"));
    json_printf(&out, ":%d,", 7);
    json_str(&out, span_of("x\0y\xFFz\xE2\x82", 7));
    json_str(&out, span_of(NULL, 0));
    json_lit(&out, "}");
    assert_string_equal(out.data, "{\"a\\\"b\\\\c\\n\\u0001\u00e9\":7,\"x\\u0000y\uFFFDz\uFFFD\uFFFD\"\"\"}");
    assert_int_equal(out.len, strlen(out.data));
    json_out_done(&out);
    assert_null(out.data);
}

static void test_output_stops_at_its_cap(void **state)
{
    struct json_out out = {.max = 10};
    json_lit(&out, "0123456789");
    assert_false(out.failed);
    assert_int_equal(out.len, 10);
    json_lit(&out, "x");
    assert_true(out.failed);
    assert_int_equal(out.len, 10);
    json_lit(&out, "");
    assert_true(out.failed);
    json_out_done(&out);

    out = (struct json_out){.max = 1000};
    for (int i = 0; i < 700; i++)
        json_printf(&out, "%d", 7);
    assert_false(out.failed);
    assert_true(out.size <= 1001);
    json_printf(&out, "%301d", 7);
    assert_true(out.failed);
    json_out_done(&out);

    AUTO(json_free) cJSON *tree = parsed("[1,2,3,[4,5,6]]");
    out = (struct json_out){.max = 8};
    json_tree(&out, tree);
    assert_true(out.failed);
    json_out_done(&out);
    json_tree(&out, NULL);
    assert_true(out.failed);
    json_out_done(&out);
}

static void test_trees_made_here(void **state)
{
    AUTO(json_free) cJSON *tree = cJSON_CreateObject();
    cJSON_AddStringToObject(tree, "s", "a\tb");
    cJSON_AddNumberToObject(tree, "inf", INFINITY);
    cJSON_AddRawToObject(tree, "raw", "[1]");
    cJSON_AddItemToObjectCS(tree, "cs", cJSON_CreateNull());
    struct json_out out = {0};
    json_tree(&out, tree);
    assert_string_equal(out.data, "{\"s\":\"a\\tb\",\"inf\":null,\"raw\":[1],\"cs\":null}");
    json_out_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_of_value),
        cmocka_unit_test(test_grammar),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_doubles_survive_printing),
        cmocka_unit_test(test_integers_beyond_2_53_keep_their_digits),
        cmocka_unit_test(test_long_numbers),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_keys_are_unique),
        cmocka_unit_test(test_keys_of_large_objects),
        cmocka_unit_test(test_hostile_objects_are_scanned_in_time),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_count_of_values),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_output),
        cmocka_unit_test(test_output_stops_at_its_cap),
        cmocka_unit_test(test_trees_made_here),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
