/* The socket facing workers: their frames as inputs, effects as JOB, CANCEL_RUN, WATCH_RUN and, gathered per turn, OUTCOME_ACK.
 */
#pragma once

#include "broker/parcel.h"

struct port_worker;

MUST_USE enum err port_worker_new(struct broker *broker, struct port_stats *stats, struct port_worker **ret_port);
void port_worker_free(struct port_worker **port);
struct port *port_worker_port(struct port_worker *port);

/* Takes a parcel for a worker. A JOB that cannot be sent comes back to the core as UNSENT. */
void port_worker_deliver(struct port_worker *port, struct peer *peer, struct parcel **parcel);
/* Sends what was gathered in this turn. */
void port_worker_flush(struct port_worker *port);
