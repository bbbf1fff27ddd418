/* The jobs that anybody in this child waits for or follows: the broker is told once per job and child, by whoever asks first,
 * and once more when the last one here has gone. */
#pragma once

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "api/api.h"

struct follow;

struct watch {
    UT_hash_handle hh;
    struct id id;
    struct list errands;   /* errand.c's: they wait for the end */
    struct follow *follow; /* stream.c's, for those who want every event; NULL: nobody does */
};

/* Why one of them is gone. */
enum watch_end {
    WATCH_OVER,     /* the job has ended: nothing to say */
    WATCH_UNWANTED, /* it has heard enough */
    WATCH_LEFT,     /* its caller left: a job that asked for it is cancelled, unless somebody else waits for it or follows it */
};

/* NULL: nobody here watches it. */
struct watch *watch_find(struct api *api, const struct id *id);
/* The same, made where there is none: without anybody in it, so fill it or settle it. NULL: no memory. */
struct watch *watch_of(struct api *api, const struct id *id);
/* Somebody was taken out of it: with the last one it is gone, and the broker is told. */
void watch_settle(struct api *api, struct watch *watch, enum watch_end why);
