/* What every role does on its way up: endpoints and credentials as the settings mean them, descriptors, its pid and port. */
#pragma once

#include "common/conf.h"
#include "common/redis.h"

/* Which endpoint a role uses when its setting is empty: ipc://<state_dir>/<name>.sock. Caller frees. NULL: no memory. */
MUST_USE char *role_endpoint(const struct conf *conf, const char *setting, const char *name);

/* Redis as the broker (writer) or as the api (reader) reaches it. The password file is read here. The strings live in `store`,
 * which role_redis_done wipes. ERR_SETTINGS with `fault` filled. */
struct role_redis {
    char socket[256];
    char password[256];
    char sentinel_password[256];
};
MUST_USE enum err role_redis(const struct conf *conf, bool writer, struct redis_options *ret_options, struct role_redis *store,
                             struct conf_fault *fault);
void role_redis_done(struct role_redis *store);

/* Raises this process's limit of descriptors as far as it may. Returns the limit; 0: not known. */
uint64_t role_descriptors(void);

/* Writes a number and a newline into a file by rename: a reader sees all of it or no file. ERR_SYSTEM with errno. */
MUST_USE enum err role_write_number(const char *path, unsigned long number);
