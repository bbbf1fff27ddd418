/* The job object that users see (API.md, section 1), written from what the broker says of a live job or from the stored record
 * of an ended one; pure. */
#pragma once

#include "common/json.h"
#include "proto/messages.h"

/* display: the job's display JSON, an object of ours; its members become members of the job object. */
void job_from_view(struct json_out *out, const struct id *id, const struct rec_view *view, struct span display);

/* body: display JSON, result, event log, as the record says. ERR_CORRUPT: the parts do not fit the body, or the result is not
 * JSON; then `out` is of no use. */
MUST_USE enum err job_from_ended(struct json_out *out, const struct id *id, const struct rec_ended *ended, struct span body);

/* An ended job as a list shows it: the job object without its result and attempts. display_bytes lies within the body. */
void job_summary(struct json_out *out, const struct id *id, const struct rec_ended *ended, struct span body);

/* 100 is for what completed; what ended otherwise got as far as it got: to a worker, or not. */
unsigned job_ended_progress(const struct rec_ended *ended);

/* {"id","status":"cancelled"}: all that is known of a job just cancelled whose record cannot be read. */
void job_cancelled(struct json_out *out, const struct id *id);

/* {"id","status","ack","urls":{"self","events","cancel"}}, the reply to a submit. */
void job_accepted(struct json_out *out, const struct id *id, unsigned state, unsigned ack);

/* How what is known of a job is written: one table per front end, each function as the one above that is named like it. */
struct job_style {
    int accepted_status;
    void (*accepted)(struct json_out *out, const struct id *id, unsigned state, unsigned ack);
    void (*view)(struct json_out *out, const struct id *id, const struct rec_view *view, struct span display);
    enum err (*ended)(struct json_out *out, const struct id *id, const struct rec_ended *ended, struct span body);
    void (*cancelled)(struct json_out *out, const struct id *id);
};
extern const struct job_style job_native;
