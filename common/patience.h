/* How long to ask for patience when nothing is known but how long it has lasted already: as long again. Whoever obeys comes in
 * vain a few times at most, however long it lasts, and is back within as much again as it lasted. */
#pragma once

#include "common/base.h"

#define PATIENCE_MIN_MS 1000
#define PATIENCE_MAX_MS 60000

static inline msec patience(msec lasted)
{
    return MAX(PATIENCE_MIN_MS, MIN(lasted, PATIENCE_MAX_MS));
}
