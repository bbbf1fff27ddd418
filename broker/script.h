/* The Lua scripts, as they are in store.lua and leader.lua, inside the program. */
#pragma once

#include "common/base.h"

struct script {
    struct span text;
    char sha[41]; /* SHA-1 in hex: how EVALSHA names it */
};

/* ERR_SYSTEM: no SHA-1. */
MUST_USE enum err script_load(struct script *ret_store, struct script *ret_leader);
