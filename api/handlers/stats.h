/* The tenant's numbers, for whichever front end asks. */
#pragma once

#include "api/api.h"

typedef void stats_writer(struct json_out *out, const struct msg_stats_answer *stats);

/* Answers x with what `write` makes of them. */
void stats_ask(struct api *api, struct exchange *x, struct span tenant, stats_writer *write);

/* One of them by its name in broker/stats.def; 0 when the broker did not say it. */
uint64_t stats_number(const struct msg_stats_answer *stats, const char *name);
