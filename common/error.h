/* The closed set of failures. A function that can fail returns `enum err`; the same codes travel in frames (as their number)
 * and in HTTP replies (as their name), so a user, a log line and a source line speak of one thing. */
#pragma once

enum err {
#define ERROR(code, number, name, http_status, sentence) ERR_##code = number,
#include "common/error.def"
#undef ERROR
};

/* The wire name, e.g. "queue_full". A number outside the set gives "unknown_error". */
const char *err_name(enum err e);

/* One sentence for people. Never NULL. */
const char *err_sentence(enum err e);

/* The HTTP status the api answers with (200 for ERR_OK). */
int err_http_status(enum err e);

/* Whether `number`, as read from a frame, is in the set. */
_Bool err_known(unsigned number);
