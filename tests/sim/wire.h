/* proto/wire.h over a virtual network. Between a peer and its broker is one connection at a time, which loses nothing and keeps
 * the order until it is cut; in a rough world messages are lost, doubled and reordered all the same. */
#pragma once

#include "proto/wire.h"
#include "tests/sim/sim.h"

void network_begin(void);
/* The connection of this process is cut, if it has one, and it can make no other for so long. */
void network_cut(struct proc *proc, msec for_ms);
/* The same as when a cable is pulled: both ends notice after seconds. */
void network_cut_silently(struct proc *proc);
/* Nothing connects and nothing arrives between peers and brokers for so long. */
void network_part(msec for_ms);
/* Everything in flight is left alone, and what was cut silently is cut. */
void network_heal(void);
/* The sockets of a process that has died. */
void network_dead(struct proc *proc);
/* Whether anything is still on its way. */
