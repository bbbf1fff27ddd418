/* UTF-8 by RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
#pragma once

#include "common/base.h"

/* An empty text is valid. */
bool utf8_valid(struct span text);

/* Bytes of the multi-byte character at `p`, before `end`; 0 if there is no valid one. `p` is at a byte of 0x80 or above. */
size_t utf8_step(const uint8_t *p, const uint8_t *end);

/* The character of the `len` bytes at `p`, which utf8_step or a plain byte's 1 gave. */
uint32_t utf8_code(const uint8_t *p, size_t len);

/* Whether a character ends a line, steers a terminal or reorders what a reader sees: what a text from outside may not do in a
 * log or on a screen. */
bool utf8_is_unsafe(uint32_t code);

/* The first byte from `p` on that is not plain: one that is itself in a JSON string, in its text and after any escape. Eight at
 * a time while they all are, since most of a prompt is. */
const uint8_t *utf8_skip_plain(const uint8_t *p, const uint8_t *end);
