/* Pure: one walk over msgpack bytes before msgpack-c sees them. msgpack-c reserves whatever a count claims: five bytes make
 * it ask for 256 GB. Here every claim is held against the bytes that are left, and what no header has (maps, ext, 0xc1) is
 * refused. */
#pragma once

#include "common/base.h"

/* NULL if `bytes` are exactly one array that msgpack-c may unpack within PROTO_NODES nodes and PROTO_DEPTH levels; else a
 * clause for the log, lent for ever. */
const char *scan_header(struct span bytes);
/* The same for one value of any kind, maps included: the body of a monitor's REPLY. */
const char *scan_answer(struct span bytes);
