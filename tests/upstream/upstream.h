/* What one quern-upstream process is made of; built in main. */
#pragma once

#include "tests/upstream/calls.h"
#include "tests/upstream/firsts.h"
#include "tests/upstream/script.h"
#include "tests/upstream/server.h"

struct controls;

struct upstream {
    struct event_base *base;
    struct server *server;
    struct calls *calls;
    struct firsts *firsts;
    struct controls *controls;
    struct script script; /* the process-wide default */
    struct bytes piece;   /* scratch: one body or event while it is being made */
    uint64_t draws;       /* state of the jitter's random numbers */
    bool stopping;
};
