/* Which job an id in a path names, and what is left of it: what every question about a job begins and ends with. */
#pragma once

#include "api/api.h"

/* The id, if it is one of the tenant's. An id whose tag does not verify was never one: ERR_NOT_FOUND without a look anywhere,
 * so that another tenant's id and a made-up one are the same in answer and in time. ERR_BROKER: no broker has told its keys
 * yet. */
MUST_USE enum err find_id(struct api *api, struct span text, struct span tenant, struct id *ret_id);

/* Reads r:<id>, what is stored of an ended job. ERR_NOMEM, ERR_STORE; then on_reply is not called. */
MUST_USE enum err find_record(struct api *api, const struct id *id, redis_on_reply *on_reply, void *arg);
/* Likewise j:<id>, a live job's state: there although the broker holds no such job, it is one that the broker could not read.
 */
MUST_USE enum err find_state(struct api *api, const struct id *id, redis_on_reply *on_reply, void *arg);

/* What to say of one of the tenant's ids that is found nowhere. */
enum err find_absent(const struct id *id);

/* An error of the broker's as users may read it: one of the table in README.md. */
enum err find_told(unsigned error);
/* The field at fault when the broker refuses a submit with that error. NULL: none. */
const char *find_told_param(unsigned error);
