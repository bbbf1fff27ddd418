/* Every path this api serves, in one table. */
#pragma once

#include "api/api.h"

/* What a handler is told beside the exchange. Lent for the call. */
struct visit {
    const struct request *request;
    struct caller caller;
    struct span id; /* the {id} of the path, as sent; empty without one */
};

/* Answers x, now or later. */
typedef void handler(struct api *api, struct exchange *x, const struct visit *visit);

/* Finds the handler: 404 for a path that is nowhere in the table, 405 with Allow for another method, 401 and 403 by auth. */
void routes_serve(struct api *api, struct exchange *x, const struct request *request);
