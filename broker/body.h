/* b:<id> as Redis holds it: | 'Q' | 'B' | minor (2) | CRC-32C over the rest and the first four (4) | the body |, little endian.
 * It has no fields, so it is no row of messages.def; the checksum is there for the same reason as a record's. */
#pragma once

#include "common/blob.h"

/* ERR_NOMEM. */
MUST_USE enum err body_pack(struct span body, struct blob **ret_packed);

/* A copy of the body. ERR_CORRUPT; ERR_INCOMPATIBLE: a newer minor than N+1; ERR_NOMEM. */
MUST_USE enum err body_unpack(struct span packed, struct blob **ret_body);
