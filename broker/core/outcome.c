/* A run has ended, says its worker: the job ends with it, or tries again. */
#include "broker/core/state.h"

#include <stdlib.h>

static void ack_outcome(struct sched *s, peer_number peer, const struct id *id, struct fence fence, uint64_t after)
{
    struct effect *effect = effects_add(s->out, EFFECT_OUTCOME_ACK);
    effect->peer = peer;
    effect->after = after;
    effect->outcome_ack = (struct rec_lease){.id = *id, .fence = fence};
}

/* Not the current run: superseded, or of a job that has ended. It is void, and its worker may forget it. */
static void refuse_late(struct sched *s, const struct input *in, struct worker *worker, struct job *job)
{
    struct lease *lease = lease_find(s, worker, &in->outcome->id, in->outcome->fence);
    uint64_t after = job && job->state ? job->written : s->written; /* of one that is gone, its removal may be on its way */
    worker->doubtful = false;
    roster_changed(&s->roster, worker);
    if (lease && !lease->job) { /* its job was cancelled or expired: as expected */
        after = lease->after;
        lease_free(s, lease);
    } else if (!job || fence_compare(job->past->fence, in->outcome->fence) != 0)
        s->stats.fenced++;
    if (job && job->ending && !job->ending->written && fence_compare(job->past->fence, in->outcome->fence) == 0) {
        job->ending->acks = true; /* the end waits for its display part: acknowledged with it */
        return;
    }
    ack_outcome(s, in->peer, &in->outcome->id, in->outcome->fence, after);
}

static void fill_attempt(struct sched *s, struct job *job, const struct msg_outcome *outcome)
{
    struct rec_attempt *row = job_history_last(job);
    if (!row)
        return;
    row->ended_at = s->now;
    row->kind = outcome->kind;
    row->http_status = outcome->http_status;
    row->first_token_ms = outcome->first_token_ms;
    job_history_say(job, outcome->message);
}

/* What the end keeps of the outcome. */
static void fill_ending(struct ending *end, const struct input *in)
{
    const struct msg_outcome *outcome = in->outcome;
    end->http_status = outcome->http_status;
    end->usage = outcome->usage;
    if (!outcome->kind) {
        end->answer = blob_ref(in->body);
        end->result_bytes = outcome->result_bytes;
        end->log_bytes = outcome->log_bytes;
        return;
    }
    if (outcome->message.len)
        end->message = malloc(outcome->message.len);
    if (end->message) {
        memcpy(end->message, outcome->message.data, outcome->message.len);
        end->message_len = outcome->message.len;
    }
}

static bool has_elsewhere(const struct sched *s, const struct job *job)
{
    uint32_t route = route_of(s, name_span(job->route));
    return route != UINT32_MAX && (s->routes[route].bits & ~job->past->excluded) != 0;
}

/* Whether the job gets another attempt, and when. Charges what the kind charges. */
static bool tries_again(struct sched *s, struct job *job, const struct msg_outcome *outcome, msec *ret_wait)
{
    struct retry_rule rule = retry_rule(outcome->kind);
    const struct spec *spec = job->spec;
    unsigned before = outcome->kind == KIND_THROTTLED ? job->past->throttles : job->past->failed_attempts;
    job->past->failed_attempts += rule.counted;
    job->past->throttles += outcome->kind == KIND_THROTTLED;
    s->stats.throttled += outcome->kind == KIND_THROTTLED;
    *ret_wait = 0;
    if (rule.elsewhere) {
        if (job->lease->deployment) /* else it is not in the settings any more */
            job->past->excluded |= 1ull << (job->lease->deployment - s->roster.deployments);
        return has_elsewhere(s, job);
    }
    if (!rule.again || job->past->failed_attempts >= job->max_attempts)
        return false;
    if (rule.at_once)
        return true;
    msec asked = (msec)MIN(outcome->retry_after_ms, (uint64_t)s->settings.retry_after_cap_ms);
    msec base = spec->backoff_base_ms ? (msec)spec->backoff_base_ms : s->settings.backoff_base_ms;
    msec cap = spec->backoff_cap_ms ? (msec)spec->backoff_cap_ms : s->settings.backoff_cap_ms;
    *ret_wait = retry_wait(base, MAX(cap, base), before, spec->backoff_exact, asked, sched_random(s));
    return s->now + *ret_wait < job->expires_at; /* beyond: the truth now is worth more than the same later */
}

static void try_again(struct sched *s, struct job *job, msec wait)
{
    lease_free(s, job->lease);
    job->again_at = wait ? s->now + wait : 0;
    job_move(s, job, wait ? STATE_RETRYING : STATE_PENDING);
    job_wait(s, job);
    save_job(s, job);
    s->stats.retried++;
    show(s, job, EVENT_STATUS);
}

static const char *said(const struct msg_outcome *outcome)
{
    return outcome->message.len ? NULL : kind_name(outcome->kind);
}

enum err on_outcome(struct sched *s, const struct input *in)
{
    const struct msg_outcome *outcome = in->outcome;
    struct worker *worker = roster_by_peer(&s->roster, in->peer);
    if (!worker)
        return ERR_OK;
    struct job *job = job_table_find(&s->jobs, &outcome->id);
    if (!job || !job->lease || job->ending || fence_compare(job->past->fence, outcome->fence) != 0 ||
        (job->lease->worker && job->lease->worker != worker)) {
        refuse_late(s, in, worker, job);
        return ERR_OK;
    }
    struct lease *lease = job->lease;
    if (!lease->worker) { /* recovered, and its HELLO did not claim it */
        list_remove(&lease->node);
        roster_take(&s->roster, worker, lease);
    }
    worker->doubtful = outcome->kind == KIND_STARVED; /* it fails faster than others work: nothing more until its heartbeat */
    roster_changed(&s->roster, worker);
    fill_attempt(s, job, outcome);
    msec wait;
    if (outcome->kind == KIND_UNSERVED && lease->deployment) { /* not to this worker again */
        roster_unserve(worker, lease->deployment);
        if (roster_place(&s->roster, worker))
            sched_again(s);
        s->reopen = true;
    }
    if (outcome->kind && tries_again(s, job, outcome, &wait)) {
        job->past->calls -= outcome->kind == KIND_UNSERVED || outcome->kind == KIND_STARVED; /* no call was made */
        try_again(s, job, wait);
        ack_outcome(s, in->peer, &outcome->id, outcome->fence, job->written);
        return ERR_OK;
    }
    fill_ending(lease->ending, in);
    lease->ending->acks = true;
    return job_end(s, job, outcome->kind ? STATE_FAILED : STATE_COMPLETED, outcome->kind, said(outcome));
}

void on_unsent(struct sched *s, const struct input *in)
{
    struct job *job = job_table_find(&s->jobs, &in->unsent->id);
    struct worker *worker = roster_by_peer(&s->roster, in->peer);
    if (worker) {
        worker->doubtful = true;
        roster_changed(&s->roster, worker);
    }
    if (job && job->lease && fence_compare(job->past->fence, in->unsent->fence) == 0) {
        if (job->ending)
            lease_lapse(s, job, false);
        else
            lease_undo(s, job);
        return;
    }
    struct lease *lease = worker ? lease_find(s, worker, &in->unsent->id, in->unsent->fence) : NULL;
    if (lease && !lease->job)
        lease_free(s, lease);
}
