/* The monitor's answers, for people and as JSON. */
#pragma once

#include "common/blob.h"
#include "common/json.h"

/* A msgpack value as JSON. ERR_MALFORMED; ERR_NOMEM. */
MUST_USE enum err show_json(struct span msgpack, struct json_out *out);

/* A map as lines "key  value", lists of maps indented below their key; keys that end in _at as times. Text is printed so that
 * it cannot move a terminal's cursor. */
MUST_USE enum err show_text(struct span msgpack, struct json_out *out);
