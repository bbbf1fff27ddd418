/* Questions about live jobs, and who watches them. */
#include "broker/core/state.h"

#include <stdlib.h>

/* ---- watches ---- */

void watch_free(struct sched *s, struct watch *watch)
{
    struct watch **link = &watch->job->watches;
    while (*link != watch)
        link = &(*link)->next;
    *link = watch->next;
    list_remove(&watch->of_api);
    s->watches--;
    free(watch);
}

void watches_drop(struct sched *s, struct job *job)
{
    while (job->watches)
        watch_free(s, job->watches);
}

bool watch_tokens(const struct job *job)
{
    for (const struct watch *watch = job->watches; watch; watch = watch->next)
        if (watch->tokens)
            return true;
    return false;
}

static struct watch *watch_of(peer_number peer, const struct job *job)
{
    struct watch *watch = job->watches;
    while (watch && watch->api->peer != peer)
        watch = watch->next;
    return watch;
}

enum err watch_add(struct sched *s, peer_number peer, struct job *job, bool all, bool tokens)
{
    struct api *api;
    HASH_FIND(hh, s->apis, &peer, sizeof peer, api);
    if (!api)
        return ERR_OK; /* gone meanwhile, or a monitor: nobody to tell */
    struct watch *watch = watch_of(peer, job);
    if (!watch) {
        watch = calloc(1, sizeof *watch);
        if (!watch)
            return ERR_NOMEM;
        watch->job = job;
        watch->api = api;
        list_init(&watch->of_api);
        list_push_back(&api->watches, &watch->of_api);
        watch->next = job->watches;
        job->watches = watch;
        s->watches++;
    }
    watch->all |= all;
    watch->tokens |= tokens;
    return ERR_OK;
}

static void watch_run(struct sched *s, struct job *job, bool on, uint64_t from)
{
    struct lease *lease = job->lease;
    if (!lease || !lease->worker || !lease->worker->peer || !lease->sent)
        return;
    lease->token_watch = on;
    struct effect *effect = effects_add(s->out, EFFECT_WATCH_RUN);
    effect->peer = lease->worker->peer;
    effect->after = job->written; /* behind the JOB it is about */
    effect->watch_run = (struct msg_watch_run){.id = job->id, .fence = job->past->fence, .on = on, .from = from};
}

/* ---- from api ---- */

static bool answer_absent(struct sched *s, peer_number peer, uint64_t ref, const struct id *id, const struct job *job)
{
    if (job)
        return false;
    answer(s, peer, ref, id, s->stalled ? ERR_STORE : ERR_NOT_LIVE, 0);
    return true;
}

void on_ask(struct sched *s, const struct input *in)
{
    const struct msg_ask *ask = in->ask;
    struct job *job = sched_find(s, &ask->id, ask->tenant);
    if (answer_absent(s, in->peer, ask->ref, &ask->id, job))
        return;
    if (ask->watch && !job_is_over(job) && watch_add(s, in->peer, job, false, false)) {
        answer(s, in->peer, ask->ref, &ask->id, ERR_NOMEM, 0);
        return;
    }
    answer_job(s, in->peer, ask->ref, job);
}

enum err on_watch(struct sched *s, const struct input *in)
{
    const struct msg_watch *watch = in->watch;
    struct job *job = sched_find(s, &watch->id, watch->tenant);
    if (answer_absent(s, in->peer, watch->ref, &watch->id, job))
        return ERR_OK;
    if (!job_is_over(job)) {
        enum err e = watch_add(s, in->peer, job, true, watch->tokens);
        if (e)
            return e;
        if (watch->tokens)
            watch_run(s, job, true, watch->run == job->past->run ? watch->offset : 0);
    }
    answer_job(s, in->peer, watch->ref, job);
    return ERR_OK;
}

void on_unwatch(struct sched *s, const struct input *in)
{
    struct job *job = job_table_find(&s->jobs, &in->unwatch->id);
    struct watch *watch = job && job->state ? watch_of(in->peer, job) : NULL;
    if (watch)
        watch_free(s, watch);
    else if (!job || !job->state || !in->unwatch->left)
        return; /* a caller that left while no broker was there is told of in the next session, which watches nothing yet */
    if (in->unwatch->left && job->cancel_on_leave && !job->watches && !job->ending) {
        if (job_end(s, job, STATE_CANCELLED, KIND_CANCELLED, "its caller left"))
            return; /* no memory: it runs on */
    } else if (job->lease && job->lease->token_watch && !watch_tokens(job))
        watch_run(s, job, false, 0);
}

/* ---- from workers: only the current run counts ---- */

static struct job *running(struct sched *s, peer_number peer, const struct id *id, struct fence fence)
{
    struct job *job = job_table_find(&s->jobs, id);
    if (!job || !job->lease || job->ending || fence_compare(job->past->fence, fence) != 0)
        return NULL;
    return job->lease->worker && job->lease->worker->peer == peer ? job : NULL;
}

void on_progress(struct sched *s, const struct input *in)
{
    struct job *job = running(s, in->peer, &in->progress->id, in->progress->fence);
    uint8_t percent = MIN(in->progress->progress, 99);
    if (!job || job->lease->progress >= percent)
        return;
    job->lease->progress = percent;
    show(s, job, EVENT_PROGRESS);
}

void on_run_event(struct sched *s, const struct input *in)
{
    struct job *job = running(s, in->peer, &in->run_event->id, in->run_event->fence);
    if (!job)
        return;
    job->tokens_shown = true;
    for (struct watch *watch = job->watches; watch; watch = watch->next) {
        if (!watch->tokens)
            continue;
        struct effect *effect = effects_add(s->out, EFFECT_EVENT);
        effect->peer = watch->api->peer;
        effect->body = in->body;
        effect->event = (struct rec_event){.id = job->id,
                                           .event = EVENT_TOKEN,
                                           .run = job->past->run,
                                           .offset = in->run_event->offset,
                                           .state = job->state,
                                           .progress = job->lease->progress,
                                           .attempt = job->past->calls,
                                           .bytes = in->run_event->bytes};
    }
}
