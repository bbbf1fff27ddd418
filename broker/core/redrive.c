/* A failed job lives again, under its id: its record is looked up, then its body, and both become a live job with fresh
 * budgets. Until then a draft holds the id's place. What it was keeps: the attempts made, and the number of its runs, so that
 * positions in its log only grow. */
#include "broker/core/state.h"

#include <stdlib.h>

static void refuse(struct sched *s, const struct request *request, enum err error)
{
    struct effect *effect = answer(s, request->peer, request->ref, &request->id, ERR_OK, 0);
    effect->answer.error = (uint16_t)error;
    effect->answer.retry_after_ms = retry_after(s, request->draft ? request->draft->tenant : NULL, error);
}

enum err on_retry(struct sched *s, const struct input *in)
{
    const struct msg_retry *retry = in->retry;
    struct job *job = sched_find(s, &retry->id, retry->tenant);
    if (!job && !s->draining)
        return ended_ask(s, in, REQUEST_RETRY, retry->ref, &retry->id, retry->tenant);
    answer(s, in->peer, retry->ref, &retry->id, job ? ERR_CONFLICT : ERR_DRAINING, job ? job->written : 0);
    return ERR_OK;
}

/* When it was to begin is over, and so may be when it was to have ended. */
static struct rec_spec fresh(const struct sched *s, const struct rec_spec *spec)
{
    struct rec_spec copy = *spec;
    copy.run_at = 0;
    copy.delay_ms = 0;
    copy.deadline = spec->deadline > s->now ? spec->deadline : 0;
    return copy;
}

static enum err draft_of(struct sched *s, struct request *request, const struct rec_ended *ended)
{
    struct rec_spec spec = fresh(s, &ended->spec);
    /* its key lives by when it came first, and may be another job's by now: it leads here as long as it lasts, but is not its
     * own */
    enum err e = draft_new(s, &request->id, &spec, (struct span){0}, NULL, &request->draft);
    if (e)
        return e;
    struct job *draft = request->draft;
    draft->request = request;
    request->ended_at = ended->completed_at;
    if (job_past_reserve(draft, &s->dead_histories) || recover_history(s, draft, ended->attempts, ended->attempts_count))
        return ERR_NOMEM;
    draft->past->run = ended->run;
    return ERR_OK;
}

void redrive_found(struct sched *s, struct request **request_ptr, const struct rec_ended *ended)
{
    struct request *request = *request_ptr;
    struct lookup_key key = lookup_key_id(LOOKUP_BODY, &request->id);
    bool ask;
    enum err e = !ended                                   ? ERR_NOT_LIVE
                 : ended->state != STATE_FAILED           ? ERR_CONFLICT
                 : job_table_find(&s->jobs, &request->id) ? ERR_CONFLICT /* another has begun with it */
                                                          : draft_of(s, request, ended);
    if (!e)
        e = lookup_add(&s->lookups, &key, request, &ask);
    if (e) {
        refuse(s, request, e);
        return;
    }
    *request_ptr = NULL; /* the table has it now */
    if (ask)
        ask_store(s, &key);
}

/* Its draft becomes the job. */
static void revive(struct sched *s, struct request *request, struct blob *body)
{
    struct job *job = request->draft;
    s->draft_bytes -= job_bytes(job);
    job->body = blob_ref(body);
    job->body_bytes = (uint32_t)body->len;
    s->draft_bytes += job_bytes(job);
    enum err e = job_admit(s, job);
    if (e) {
        refuse(s, request, e);
        return;
    }
    request->draft = NULL;
    job_enter(s, job);
    save_redriven(s, job, request->ended_at);
    job_cache(s, job);
    s->stats.redriven++;
    answer_job(s, request->peer, request->ref, job);
    show(s, job, EVENT_STATUS);
}

/* The draft may be gone at the end; whoever forgot the job meanwhile has taken its body too. */
enum err redrive_answered(struct sched *s, const struct lookup_key *key, const struct input *in)
{
    struct list requests;
    bool touched = false, found = in->type == INPUT_FOUND && in->body;
    enum err e = lookup_take(s, key, &requests, &touched);
    for (struct list *node; !e && (node = list_first(&requests));) {
        struct request *request = CONTAINER_OF(node, struct request, node);
        list_remove(node);
        if (in->type == INPUT_UNKNOWN)
            refuse(s, request, ERR_STORE);
        else if (touched || !found || in->body->len < request->draft->display_bytes)
            refuse(s, request, ERR_NOT_LIVE);
        else
            revive(s, request, in->body);
        request_free(s, &request);
    }
    return e;
}
