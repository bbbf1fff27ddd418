/* The paths that begin with "/_": how a test sets the script and reads what happened.
 *
 *   GET  /_script                 the default script
 *   POST /_script  {…}            a new one; {} resets
 *   GET  /_calls?since=N          ended calls from position N on
 *           &limit=K  &open=1     at most K; with those still open
 *           &wait_ms=T &min=K     answer as soon as K of them have ended (default 1), or after T ms
 *           &wait_ms=T &arrived=K answer as soon as K calls have arrived, or after T ms
 *   GET  /_stats                  counters
 *   POST /_reset                  as after start: calls, counters, fail_first, script */
#pragma once

#include "tests/upstream/conn.h"
#include "tests/upstream/upstream.h"

struct controls *controls_new(struct upstream *u);
void controls_free(struct controls **c);

/* Answer a request whose path begins with "/_". */
void control_start(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in);

/* Once per turn of the loop: answer those who waited for what has happened in it. */
void controls_turn(struct controls *c);
