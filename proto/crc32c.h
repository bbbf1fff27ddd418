/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), by the processor's instruction where there is one. */
#pragma once

#include "common/base.h"

/* seed: 0, or the result for the bytes before these. */
uint32_t crc32c(uint32_t seed, struct span bytes);
/* The way for processors without the instruction; for tests. */
uint32_t crc32c_portable(uint32_t seed, struct span bytes);
