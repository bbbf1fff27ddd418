/* One child of the api: what its handlers share. Made after the fork, by child.c. */
#pragma once

#include "api/ask.h"
#include "api/auth.h"
#include "api/server.h"
#include "common/redis.h"
#include "proto/record.h"

struct watch;
struct streams;

struct api {
    const struct conf *conf; /* lent */
    struct loop *loop;
    struct server *server;
    struct ask *ask;
    struct redis *redis;     /* read-only */
    struct record record;    /* scratch of the one reply being looked at */
    struct watch *watches;   /* jobs that somebody here waits for or follows, by id: watch.c's */
    struct list waiting;     /* errands that wait for a job's end */
    struct streams *streams; /* those who follow: stream.c's */
    msec started_at;         /* loop time */
    uint8_t random[512];     /* unused random bytes, from the end */
    size_t random_left;
    bool stopping; /* no more waiting: answer with what is known */
};

/* Unguessable; for job ids. ERR_SYSTEM. */
MUST_USE enum err api_random(struct api *api, uint64_t *ret_random);
