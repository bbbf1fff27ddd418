/* The monitor's two sockets: a ROUTER for questions and acts (README.md has the schema of the answers) and a PUB feed of
 * changes. Nothing here can slow the broker: questions are bounded per peer, answers to one that does not read are dropped with
 * its session, and the feed is only made while some monitor has a session. */
#pragma once

#include "broker/parcel.h"

struct port_monitor;

MUST_USE enum err port_monitor_new(struct broker *broker, struct port_stats *stats, struct port_monitor **ret_port);
void port_monitor_free(struct port_monitor **port);
struct port *port_monitor_port(struct port_monitor *port);
/* Whose keys may connect to either socket, after a reload. */
MUST_USE enum err port_monitor_allow(struct port_monitor *port, const struct conf *conf);

/* The core's ANSWER to a question that a monitor's session put to it, as a REPLY to be delivered when it may leave. ERR_NOMEM.
 */
MUST_USE enum err port_monitor_parcel(struct port_monitor *port, struct peer *peer, const struct effect *effect,
                                      struct parcel **ret_parcel);
void port_monitor_deliver(struct port_monitor *port, struct peer *peer, struct parcel **parcel);

/* Numbers the change and puts it on the feed. NULL: one that is lost; its number is missing, so that readers know. */
void port_monitor_change(struct port_monitor *port, const struct msg_change *change);
/* Once per turn: lets the feed see who subscribes. Without it its descriptor stays readable and the loop never sleeps. */
void port_monitor_turn(struct port_monitor *port);
/* Every second. */
void port_monitor_snapshot(struct port_monitor *port);
