#include "api/watch.h"

#include <stdlib.h>

struct watch *watch_find(struct api *api, const struct id *id)
{
    struct watch *w = NULL;
    HASH_FIND(hh, api->watches, id, sizeof *id, w);
    return w;
}

struct watch *watch_of(struct api *api, const struct id *id)
{
    struct watch *w = watch_find(api, id);
    if (w)
        return w;
    w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->id = *id;
    list_init(&w->errands);
    HASH_ADD(hh, api->watches, id, sizeof w->id, w);
    if (!w->hh.tbl) { /* no memory for the map */
        free(w);
        return NULL;
    }
    return w;
}

void watch_settle(struct api *api, struct watch *w, enum watch_end why)
{
    if (!list_empty(&w->errands) || w->follow)
        return;
    if (why != WATCH_OVER)
        ask_unwatch(api->ask, &w->id, why == WATCH_LEFT);
    HASH_DEL(api->watches, w);
    free(w);
}
