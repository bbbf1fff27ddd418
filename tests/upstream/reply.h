/* The answer to one call, acted out over time as its script says.
 *
 *   request ─► begin ─(latency)─► speak ─► whole answer                        ─► ended
 *                                   │ └──► stream: open, tokens … strike, end  ─► ended
 *                                   └────► the fault's own act                 ─► ended, or rests until the caller leaves
 *
 * A reply is a chain of small steps: each appends some bytes and names the next.  Steps run while
 * little is waiting to be sent, so an answer of any length takes little memory; between steps a
 * reply may sleep.  When it has ended and all is sent, the call is recorded and the connection
 * given back. */
#pragma once

#include "tests/upstream/conn.h"
#include "tests/upstream/upstream.h"

/* Answer a request; `in` is lent for this call.  From here on the reply owns itself. */
void reply_start(struct upstream *u, struct conn *c, const struct http_request *q, const struct bytes *in);
