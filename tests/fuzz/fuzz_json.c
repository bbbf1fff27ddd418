/* The scan and cJSON agree on what is JSON, and what is parsed prints, parses and prints the same again.
 * Covers: common/json.c common/utf8.c */
#include <stdlib.h>

#include "common/json.h"

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void print(const cJSON *tree, struct json_out *out)
{
    json_tree(out, tree);
    must(!out->failed);
    must(utf8_valid(span_of(out->data, out->len)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span text = span_of(data, size);
    struct json_fault fault = {SIZE_MAX, NULL};
    AUTO(json_free) cJSON *tree = NULL;
    enum err e = json_check(text, &fault);
    must(json_parse(text, &tree, NULL) == e);
    if (e) {
        must(e == ERR_BAD_JSON && !tree && fault.what && fault.at <= size);
        return 0;
    }
    must(utf8_valid(text));
    AUTO(json_free) cJSON *again = NULL;
    struct json_out first = {0}, second = {0};
    print(tree, &first);
    must(json_parse(span_of(first.data, first.len), &again, NULL) == ERR_OK);
    print(again, &second);
    must(span_equal(span_of(first.data, first.len), span_of(second.data, second.len)));
    json_out_done(&first);
    json_out_done(&second);
    return 0;
}
