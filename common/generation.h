/* The settings of a prefork role over its generations: read at the start, read again by the parent before it forks a new
 * generation, and checked by a child when the broker asks for a reload, which has the parent start one. */
#pragma once

#include "common/conf.h"

struct generation {
    int argc;
    char **argv;
    const char *program; /* "quern-api" */
    struct conf *conf;   /* in force; owned; a child has that of its generation */
    unsigned index;      /* in a child: its own */
};

/* At the start. false: exit with *ret_status, all is said. */
bool generation_start(struct generation *g, int *ret_status);
void generation_done(struct generation *g);

/* In the parent, before a new generation. ERR_SETTINGS: logged, and the old ones stay. */
MUST_USE enum err generation_reload(struct generation *g);
/* In a child: checks the settings and has the parent start a new generation. All children are asked; one tells it.
 * ERR_SETTINGS: logged, nothing changes. */
MUST_USE enum err generation_ask_reload(const struct generation *g);
