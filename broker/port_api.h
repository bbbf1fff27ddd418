/* The socket facing api children: their frames as inputs, effects as ACK, ANSWER and, gathered per child and turn, EVENTS and
 * ACKS.
 *
 * A `ref` is the child's and comes back as it was; its highest bit is ours (REF_BULK): a SUBMIT that sets it is a bad frame. */
#pragma once

#include "broker/parcel.h"

#define REF_BULK (1ull << 63)

struct port_api;

MUST_USE enum err port_api_new(struct broker *broker, struct port_stats *stats, struct port_api **ret_port);
void port_api_free(struct port_api **port);
struct port *port_api_port(struct port_api *port);

/* Takes a parcel for an api child. */
void port_api_deliver(struct port_api *port, struct peer *peer, struct parcel **parcel);
/* Sends what was gathered, as far as each child's unacknowledged bytes allow. */
void port_api_flush(struct port_api *port);
