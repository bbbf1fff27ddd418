/* The protocols by path: see protocol.h. */
#include "tests/upstream/protocol.h"

#include <stdlib.h>
#include <string.h>

static const struct protocol *const protocols[] = {&openai_chat, &openai_models, &ollama_chat, &ollama_tags};

const struct protocol *protocol_at(const char *path, size_t len)
{
    for (size_t i = 0; i < ARRAY_COUNT(protocols); i++)
        if (strlen(protocols[i]->path) == len && memcmp(protocols[i]->path, path, len) == 0)
            return protocols[i];
    return NULL;
}

void ask_done(struct ask *a)
{
    cJSON_Delete(a->doc);
    free(a->joined);
    *a = (struct ask){0};
}
