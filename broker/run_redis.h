/* A private Redis, as `quernctl run` and the units start it: reached by a unix socket only, AOF on (every second), no eviction,
 * two users. */
#pragma once

#include "common/base.h"

/* Writes redis.conf, redis.acl and both passwords, new ones, into `state`. All are 0600; passwords reach Redis as hashes in the
 * ACL file, never by a command line. ERR_SYSTEM (said on standard error), ERR_NOMEM. */
MUST_USE enum err run_redis_prepare(const char *state);

/* Whether Redis would find what it stored: its data without the manifest that lists it is ignored by Redis 7.0, which then
 * starts empty. */
bool run_redis_data_listed(const char *state);

/* The same once, for a Redis that outlives who starts it: what is there stays, an operator's changes to redis.conf too. `dir`
 * is an absolute path of a directory; redis/ is made in it. ERR_SYSTEM (said on standard error; also for data without its
 * manifest), ERR_NOMEM. */
MUST_USE enum err run_redis_setup(const char *dir);

/* Whether something accepts connections on the socket. */
bool run_redis_answers(const char *state);
