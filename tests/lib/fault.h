/* Memory is refused to an operation, one allocation after another, until it completes untouched. Each time it must do what it
 * does untouched, or say ERR_NOMEM and have changed nothing. In one file of a program, as fault_malloc.h. */
#pragma once

#include <stdio.h>

#include "common/base.h"
#include "common/error.h"
#include "tests/lib/fault_malloc.h"

#define FAULT_MOST 100000 /* refusals of one operation: more means that it never ends */

/* An operation: everything it does is refused memory. */
typedef enum err fault_act(void *arg);
/* With memory again: what must hold after the operation ended so, and an end to what it left. */
typedef void fault_settle(void *arg, enum err e);

static UNUSED void fault_stop(const char *name, long nth, bool lasts, enum err e)
{
    fprintf(stderr, "%s: allocation %ld refused%s: %s\n", name, nth, lasts ? ", and all after it" : "",
            e ? err_name(e) : "ok, though it is not");
    abort();
}

/* The refusals it met, of one allocation alone and of all from one on. settle: may be NULL. */
static UNUSED unsigned long fault_sweep(const char *name, fault_act *act, fault_settle *settle, void *arg)
{
    unsigned long refusals = 0;
    enum err untouched = act(arg);
    if (settle)
        settle(arg, untouched);
    for (int lasts = 0; lasts < 2; lasts++) {
        bool fired = true;
        for (long nth = 1; fired; nth++) {
            fault_arm(nth, lasts);
            enum err e = act(arg);
            fired = fault_disarm();
            if ((e != untouched && !(fired && e == ERR_NOMEM)) || nth == FAULT_MOST)
                fault_stop(name, nth, lasts, e);
            if (settle)
                settle(arg, e);
            refusals += fired;
        }
    }
    return refusals;
}

/* A row of the table that `make check-fault` shows. */
static UNUSED void fault_tell(const char *name, unsigned long refusals)
{
    printf("  %-32s %6lu\n", name, refusals);
    fflush(stdout);
}
