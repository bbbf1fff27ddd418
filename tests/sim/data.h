/* The data set of a Redis: strings with a life, and sets. Every change can be undone, so that what was not yet on the disk can
 * be lost. Only the commands that the broker and its scripts use. */
#pragma once

#include <hiredis/hiredis.h>

#include "tests/sim/sim.h"

void data_begin(void);
/* Redis's own clock, which its lives are measured by. */
void data_clock(msec jump_ms);
msec data_now(void);

/* One command, whole. NULL: it is none of ours. */
redisReply *data_run(const struct span *argv, size_t argc);

/* Commands so far; a script is one, whatever it calls. */
uint64_t data_position(void);
/* Another begins. */
void data_next(void);
/* As it was at that position. */
void data_undo(uint64_t position);

struct span data_get(const char *key); /* data NULL: not there */
size_t data_members(const char *key);
void data_each(void (*each)(const char *key, struct span value));

/* ---- replies ---- */

redisReply *reply_text(int type, struct span text);
redisReply *reply_error(const char *text);
redisReply *reply_number(long long number);
redisReply *reply_list(size_t count);
