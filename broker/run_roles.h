/* The supervisor of `quernctl run`: starts Redis, broker, worker and api, starts again what dies, keeps their logs, stops them
 * in order (run.h says how long each may take). */
#pragma once

#include "common/conf.h"

struct run_plan {
    const char *state;       /* absolute; locked, prepared, nothing left running in it */
    const struct conf *conf; /* as the roles will read it: the environment is set already */
    const char *const *settings;
    size_t settings_count;
    /* Called once, when users are served: url is http://HOST:PORT. */
    void (*ready)(void *arg, const char *url);
    void *arg;
};

/* Runs until asked to stop; returns the exit status. */
int run_roles(const struct run_plan *plan);
