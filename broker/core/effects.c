#include <stdlib.h>

#include "broker/core/effects.h"

void effects_clear(struct effects *effects)
{
    effects->count = 0;
}

void effects_done(struct effects *effects)
{
    free(effects->list);
    *effects = (struct effects){0};
}

enum err effects_reserve(struct effects *effects, size_t more)
{
    if (effects->size - effects->count >= more)
        return ERR_OK;
    size_t size = MAX(effects->count + more, effects->size * 2);
    struct effect *list = realloc(effects->list, size * sizeof *list);
    if (!list)
        return ERR_NOMEM;
    effects->list = list;
    effects->size = size;
    return ERR_OK;
}

struct effect *effects_add(struct effects *effects, enum effect_type type)
{
    assert(effects->count < effects->size);
    struct effect *effect = &effects->list[effects->count++];
    memset(effect, 0, sizeof *effect);
    effect->type = type;
    return effect;
}
