/* Live jobs in the store that are none: the scan of a recovery, each job held against the owner's own. */
#include "broker/store_private.h"

#include <inttypes.h>

#include "common/log.h"

static void on_job(void *arg, const struct id *id, const struct rec_job *job)
{
    struct store *s = arg;
    if (s->is_live(s->live_arg, id, job))
        return;
    s->swept++;
    commits_repair(s, id, 1);
}

/* A member without a state may just be ending, so it is left for the next start to judge. */
static void on_done(void *arg, const struct store_recovered *counts)
{
    struct store *s = arg;
    s->sweep_done = true;
    log_event(LOG_STORE_SWEPT, "jobs=%" PRIu64 " removed=%" PRIu64 " took_ms=%lld", counts->jobs, s->swept,
              (long long)counts->took_ms);
}

static void on_failed(void *arg, const char *why)
{
    struct store *s = arg;
    redis_reset(s->redis, why);
}

enum err store_sweep(struct store *s, bool (*is_live)(void *arg, const struct id *id, const struct rec_job *job), void *arg)
{
    recover_free(&s->sweep);
    s->sweep = recover_new(s->loop, s->redis, s->options.shard, (struct recover_hooks){on_job, on_done, on_failed, s});
    if (!s->sweep)
        return ERR_NOMEM;
    s->is_live = is_live;
    s->live_arg = arg;
    s->swept = 0;
    s->sweep_done = false;
    if (s->link == LINK_READY)
        recover_go(s->sweep);
    return ERR_OK;
}

void sweep_go_on(struct store *s)
{
    if (s->sweep && !s->sweep_done)
        recover_go(s->sweep);
}

void sweep_end(struct store *s)
{
    if (s->sweep_done)
        recover_free(&s->sweep);
}
