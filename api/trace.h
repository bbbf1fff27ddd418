/* How one request is followed through logs and systems: X-Request-Id and W3C trace context (traceparent, level 1). Pure. */
#pragma once

#include "common/base.h"

#define TRACE_ID_MAX     128 /* characters of a request id taken from a caller */
#define TRACE_PARENT_LEN 55  /* 00-<32 hex>-<16 hex>-<2 hex> */

/* A caller's id is kept if it is 1 to TRACE_ID_MAX of [A-Za-z0-9._-]: it goes into headers, logs and frames as it is. */
bool trace_id_ok(struct span text);

/* An id of our own: "req-" and 16 hex digits of `random`. */
#define TRACE_OWN_LEN 20
void trace_id_make(uint64_t random, char out[TRACE_OWN_LEN + 1]);

/* Continues a traceparent: the caller's trace, with `random` as the span that its children name as parent. Versions above 00
 * are read as far as 00 goes. false (out untouched): not valid; then the request starts without a trace. */
bool trace_continue(struct span parent, uint64_t random, char out[TRACE_PARENT_LEN + 1]);
