/* The settings file's rows as the scheduler takes them. */
#pragma once

#include "broker/core/sched.h"
#include "common/conf.h"

struct settings {
    struct sched_settings sched; /* points into the rest and into the conf it was made of */
    struct sched_deployment *deployments;
    struct sched_route *routes;
    uint32_t *indexes;
};

/* ERR_SETTINGS with `fault` filled: a route names a deployment that there is not. ERR_NOMEM. */
MUST_USE enum err settings_make(const struct conf *conf, struct settings *ret_settings, struct conf_fault *fault);
void settings_done(struct settings *settings);
