/* Runs the broker's scripts as Redis does: Lua 5.1, KEYS and ARGV, redis.call. */
#pragma once

#include "tests/sim/data.h"

/* Its name for EVALSHA, 40 characters. The text is kept for the run of the program. */
const char *script_add(struct span text);
/* NULL: there is no such script. */
redisReply *script_run(struct span sha, const struct span *keys, size_t keys_count, const struct span *args, size_t args_count);
