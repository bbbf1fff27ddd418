#include "common/pulse.h"

#include <stdlib.h>

#include "common/prefork.h"

struct pulse {
    struct loop *loop;
    struct timer *timer;
};

static void beat(void *arg)
{
    struct pulse *pulse = arg;
    prefork_alive();
    timer_set(pulse->timer, loop_now(pulse->loop) + prefork_alive_every_ms());
}

enum err pulse_new(struct loop *loop, struct pulse **ret_pulse)
{
    if (!prefork_alive_every_ms()) {
        *ret_pulse = NULL;
        return ERR_OK;
    }
    AUTO(pulse_free) struct pulse *pulse = calloc(1, sizeof *pulse);
    if (!pulse)
        return ERR_NOMEM;
    pulse->loop = loop;
    pulse->timer = timer_new(loop, beat, pulse);
    if (!pulse->timer)
        return ERR_NOMEM;
    beat(pulse);
    *ret_pulse = TAKE(pulse);
    return ERR_OK;
}

void pulse_free(struct pulse **pulse_ptr)
{
    struct pulse *pulse = TAKE(*pulse_ptr);
    if (!pulse)
        return;
    timer_free(&pulse->timer);
    free(pulse);
}
