/* The broker's answers as quernctl shows them: any bytes become valid JSON, or text without what steers a terminal, or a
 * refusal. Covers: broker/quernctl_show.c */
#include "broker/quernctl_show.h"

#include "common/utf8.h"

static void check_safe(struct span text)
{
    assert(utf8_valid(text));
    for (size_t i = 0, len; i < text.len; i += len) {
        const uint8_t *at = text.data + i;
        len = *at < 0x80 ? 1 : utf8_step(at, text.data + text.len);
        assert(*at == '\n' || *at == '\t' || !utf8_is_unsafe(utf8_code(at, len)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_out json = {0}, text = {0};
    struct span bytes = span_of(data, size);
    enum err e = show_json(bytes, &json), f = show_text(bytes, &text);
    if (!e) /* keys may be doubled and of any type: it is still one value on one line */
        assert(json.len && json.data[json.len - 1] == '\n' && !memchr(json.data, '\n', json.len - 1) &&
               utf8_valid(span_of(json.data, json.len)));
    if (!f)
        check_safe(span_of(text.data, text.len));
    json_out_done(&json);
    json_out_done(&text);
    return 0;
}
