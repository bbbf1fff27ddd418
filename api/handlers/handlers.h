/* The handlers, by file. Each checks, asks, answers. */
#pragma once

#include "api/routes.h"

/* submit.c */
handler handle_submit;

/* bulk.c */
handler handle_bulk;

/* jobs.c */
handler handle_show;
handler handle_cancel;
handler handle_delete;
handler handle_patch;
handler handle_retry;

/* events.c */
handler handle_events;

/* health.c */
handler handle_livez;
handler handle_readyz;
handler handle_health;

/* list.c */
handler handle_list;
handler handle_history;

/* stats.c */
handler handle_stats;

/* query.c: what a query may hold. Each parameter at most once, none but those named. */
#define QUERY_VALUE_BYTES 64
struct query_param {
    const char *name;
    char value[QUERY_VALUE_BYTES]; /* decoded; "" when absent */
    bool given;
};
/* params: NULL for a route without any. false: x was answered with what is wrong. */
bool query_read(struct exchange *x, struct span query, struct query_param *params, size_t count);
/* `wait`: its length, at most api.wait_max_ms; 0 when absent. false: x was answered. */
bool query_wait(struct api *api, struct exchange *x, const struct query_param *param, msec *ret_wait_ms);
