/* One child: takes work up to its credit, makes the calls, reports, drains. It keeps every outcome until the broker has
 * acknowledged exactly that (id, fence), and a call goes on when the broker is away. */
#pragma once

#include "common/conf.h"

struct worker;

struct worker_options {
    const struct conf *conf; /* lent for the worker's life */
    bool solo;               /* the one-slot child for jobs that crashed another */
    /* The broker asks for the settings to be read again. ERR_SETTINGS with `fault` filled: nothing changed. */
    enum err (*reload)(void *arg, struct conf_fault *fault);
    void *arg;
};

/* After fork. ERR_SETTINGS with `fault` filled; ERR_NOMEM, ERR_SYSTEM. */
MUST_USE enum err worker_new(const struct worker_options *options, struct worker **ret_worker, struct conf_fault *fault);
void worker_free(struct worker **worker);

/* Until it has drained (SIGTERM). */
void worker_run(struct worker *worker);
