/* A host's name to its addresses without blocking the loop: getaddrinfo in a short-lived thread, so that /etc/hosts, search
 * domains and every NSS module mean here what they mean to other programs. A numeric address is answered without a thread. */
#pragma once

#include <netdb.h>

#include "common/base.h"
#include "common/loop.h"

struct resolve;

/* found: lent for the call, stream addresses in getaddrinfo's order. NULL with `reason` when there are none. Within it the
 * resolve may be freed. */
typedef void resolve_on_done(void *arg, const struct addrinfo *found, const char *reason);

/* host is copied. on_done is called once, in a later wake-up. NULL when there is no memory or no thread to be had. */
MUST_USE struct resolve *resolve_new(struct loop *loop, const char *host, unsigned port, resolve_on_done *on_done, void *arg);

/* Before the answer too: the thread then ends unheard, whenever the name servers let it. */
void resolve_free(struct resolve **resolve);

/* Whether what is sent there stays on this machine, by its name alone: localhost, 127.0.0.0/8, ::1. */
bool resolve_is_loopback(const char *host);
