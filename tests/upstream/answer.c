/* The words of an answer: see answer.h. */
#include "tests/upstream/answer.h"

#include <string.h>

#define ARGUMENT_BYTES 200

/* The first character that begins at or after `at`.  Text that is not UTF-8 is cut anywhere. */
static size_t boundary(const char *text, size_t len, size_t at)
{
    for (int i = 0; i < 3 && at < len && ((unsigned char)text[at] & 0xc0) == 0x80; i++)
        at++;
    return at < len ? at : len;
}

size_t utf8_head(const char *text, size_t len, size_t max)
{
    if (len <= max)
        return len;
    for (int i = 0; i < 3 && max && ((unsigned char)text[max] & 0xc0) == 0x80; i++)
        max--;
    return max;
}

static size_t token_at(const struct words *w, int64_t i)
{
    return boundary(bytes_at(&w->text), bytes_left(&w->text), (size_t)i * ANSWER_TOKEN_BYTES);
}

void words_done(struct words *w)
{
    bytes_done(&w->text);
}

static void cut(struct words *w, int64_t count)
{
    w->text_tokens = (int64_t)((bytes_left(&w->text) + ANSWER_TOKEN_BYTES - 1) / ANSWER_TOKEN_BYTES);
    w->count = count < 0 ? w->text_tokens : count;
}

void words_echo(struct words *w, uint64_t number, const char *prompt, size_t len, int64_t count)
{
    bytes_room(&w->text, len + 6);
    bytes_puts(&w->text, "echo");
    if (number) {
        bytes_puts(&w->text, " ");
        bytes_number(&w->text, (int64_t)number);
    }
    bytes_puts(&w->text, ": ");
    bytes_add(&w->text, prompt, len);
    cut(w, count);
}

void words_arguments(struct words *w, const char *prompt, size_t len)
{
    bytes_puts(&w->text, "{\"text\":\"");
    bytes_escape(&w->text, prompt, utf8_head(prompt, len, ARGUMENT_BYTES));
    bytes_puts(&w->text, "\"}");
    cut(w, -1);
}

void words_add(const struct words *w, int64_t i, struct bytes *out)
{
    if (i >= w->text_tokens) {
        words_add_filler(out, ANSWER_TOKEN_BYTES);
        return;
    }
    size_t from = token_at(w, i), to = token_at(w, i + 1);
    bytes_escape(out, bytes_at(&w->text) + from, to - from);
}

void words_add_all(const struct words *w, struct bytes *out)
{
    int64_t of_text = w->count < w->text_tokens ? w->count : w->text_tokens;
    bytes_escape(out, bytes_at(&w->text), token_at(w, of_text));
    words_add_filler(out, (size_t)(w->count - of_text) * ANSWER_TOKEN_BYTES);
}

void words_add_filler(struct bytes *out, size_t n)
{
    static const char filler[] = " tok tok tok tok tok tok tok tok tok tok tok tok tok tok tok tok";
    while (n) {
        size_t piece = n < sizeof filler - 1 ? n : sizeof filler - 1;
        bytes_add(out, filler, piece);
        n -= piece;
    }
}
