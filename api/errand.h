/* One exchange on its way to its answer about one job: to the broker, to Redis, or waiting for the job's end.
 *
 *   submit ─► ACK ─┬─ no wait ─────────────────────────────────────────────► 202
 *                  └─ wait ─► waiting ─┬─ ENDED ─────────────────────────────► 200
 *   show ─► Redis ─┬─ found ─► 200     └─ time up, or the caller closes ─► ASK ─► 202 or 200 with what it is now
 *                  └─ absent ─► ASK ─┬─ live ─► 200, or waiting as above
 *                                    └─ not live ─► Redis once more ─┬─ found ─► 200
 *                                                                    └─ absent ─► 404 or 410
 *   cancel, forget ─► CANCEL, FORGET ─┬─ done ─► 200 with the job as Redis has it, 204
 *                                     └─ not live ─► Redis as above ─► 409, or 404, or 410
 *   patch, retry ─► PATCH, RETRY ─┬─ done ─► 200 with the job as it is now
 *                                 ├─ conflict ─► 409: it runs; it has not failed
 *                                 └─ not live ─► patch: Redis as above; retry: 404 or 410
 *
 * Redis first, because it holds all ended jobs and the broker's time is the scarcer; Redis again, because the job may have
 * ended between the two looks. An id whose tag does not verify for the tenant was never one of its jobs: 404 without a look, so
 * that another tenant's id and a made-up one are the same in body and in time. */
#pragma once

#include "api/api.h"
#include "api/job.h"

enum errand_goal { ERRAND_SUBMIT, ERRAND_SHOW, ERRAND_CANCEL, ERRAND_FORGET, ERRAND_RETRY, ERRAND_PATCH };

/* Each answers x, now or later, in `style`, which lives as long as the process. tenant is copied. wait_ms 0: no waiting. */

/* An id for a new job of the tenant. ERR_BROKER: no broker has told its keys yet. ERR_SYSTEM. */
MUST_USE enum err errand_name_job(struct api *api, struct span tenant, struct id *ret_id);

/* submission is taken. */
void errand_submit(struct api *api, struct exchange *x, struct span tenant, struct submission **submission, msec wait_ms,
                   const struct job_style *style);
/* goal: all but SUBMIT and PATCH. id_text: as in the path. */
void errand_start(struct api *api, struct exchange *x, struct span tenant, enum errand_goal goal, struct span id_text,
                  msec wait_ms, const struct job_style *style);

/* Changes a waiting job; 0 leaves as it is. deadline: wall time. */
void errand_patch(struct api *api, struct exchange *x, struct span tenant, struct span id_text, unsigned priority,
                  msec deadline, const struct job_style *style);

/* A watched job's event. */
void errand_event(struct api *api, const struct rec_event *event, struct span body);
/* A new session with the broker: watches are asked for again. */
void errand_session(struct api *api);
/* The child is about to stop: every wait ends now, with what is known. */
void errand_end_waits(struct api *api);
