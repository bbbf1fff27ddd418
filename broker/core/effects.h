/* Adding effects inside the core. Room is reserved before a move begins, so that adding cannot fail half-way through it. */
#pragma once

#include "broker/core/input.h"

MUST_USE enum err effects_reserve(struct effects *effects, size_t more);
/* All zero but the type. Room must have been reserved. */
struct effect *effects_add(struct effects *effects, enum effect_type type);
