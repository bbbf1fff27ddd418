/* Which Redis is the master, as its Sentinels say. All of them are asked, whenever the owner wants to connect and once a second
 * besides: a client that still talks to an old master must hear of the new one although its connection is in order, and one
 * Sentinel may be cut off together with the old master and know no better. So the answer of the latest configuration counts
 * (`config-epoch`); an older one is heard only when the latest has not been confirmed for ten seconds, since Sentinels that
 * were set up anew count from the beginning.
 *
 * That none of them answers, and that one does again, is logged here, once each. */
#pragma once

#include "common/redis.h"

struct sentinel;

/* Called with every answer that counts, from the loop, never within sentinel_new or sentinel_ask. host is lent. */
typedef void sentinel_on_master(void *arg, const char *host, unsigned port);

/* options: of the connection to the master, lent for the sentinel's life; their `sentinels`, `master`, `sentinel_…` and TLS are
 * used. NULL when there is no memory. */
MUST_USE struct sentinel *sentinel_new(struct loop *loop, const struct redis_options *options, sentinel_on_master *on_master,
                                       void *arg);
void sentinel_free(struct sentinel **sentinel);

/* Asks now rather than within the second. */
void sentinel_ask(struct sentinel *sentinel);
