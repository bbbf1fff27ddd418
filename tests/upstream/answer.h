/* The words of an answer, cut into tokens.  Pure.
 *
 * A token is four bytes of text, more or less, so that none ends inside a UTF-8 character.  An
 * answer longer than its text goes on with filler, so its length costs no memory. */
#pragma once

#include "tests/upstream/bytes.h"

#define ANSWER_TOKEN_BYTES 4

struct words {
    struct bytes text;
    int64_t text_tokens; /* how many the text is cut into */
    int64_t count;       /* how many are said: fewer than that, or more with filler */
};

void words_done(struct words *w);

/* "echo: " and the prompt, or "echo 7: " of a numbered call; number 0: none; count -1: all of it. */
void words_echo(struct words *w, uint64_t number, const char *prompt, size_t len, int64_t count);

/* A tool call's arguments: a JSON object with the prompt's first bytes in it. */
void words_arguments(struct words *w, const char *prompt, size_t len);

/* Token i, 0 <= i < count, ready for the inside of a JSON string. */
void words_add(const struct words *w, int64_t i, struct bytes *out);

/* All of them. */
void words_add_all(const struct words *w, struct bytes *out);

/* n bytes of filler. */
void words_add_filler(struct bytes *out, size_t n);

/* At most `max` bytes of the text, without half a character at the end. */
size_t utf8_head(const char *text, size_t len, size_t max);
