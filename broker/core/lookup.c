#include "broker/core/lookup.h"

#include <stdlib.h>

struct lookup_key lookup_key_id(enum lookup_kind kind, const struct id *id)
{
    struct lookup_key key;
    memset(&key, 0, sizeof key);
    key.kind = (uint8_t)kind;
    key.id = *id;
    return key;
}

struct lookup_key lookup_key_hash(const uint8_t hash[32])
{
    struct lookup_key key;
    memset(&key, 0, sizeof key);
    key.kind = LOOKUP_IDEM;
    memcpy(key.hash, hash, sizeof key.hash);
    return key;
}

struct lookup *lookup_find(struct lookups *lookups, const struct lookup_key *key)
{
    struct lookup *lookup;
    HASH_FIND(hh, lookups->all, key, sizeof *key, lookup);
    return lookup;
}

enum err lookup_add(struct lookups *lookups, const struct lookup_key *key, struct request *request, bool *ret_ask)
{
    struct lookup *lookup = lookup_find(lookups, key);
    *ret_ask = !lookup;
    if (!lookup) {
        lookup = calloc(1, sizeof *lookup);
        if (!lookup)
            return ERR_NOMEM;
        lookup->key = *key;
        list_init(&lookup->requests);
        HASH_ADD(hh, lookups->all, key, sizeof lookup->key, lookup);
        if (!lookup->hh.tbl) {
            free(lookup);
            return ERR_NOMEM;
        }
    }
    list_push_back(&lookup->requests, &request->node);
    request->lookup = lookup;
    lookup->count++;
    lookups->waiting++;
    return ERR_OK;
}

void lookup_touch(struct lookups *lookups, const struct lookup_key *key)
{
    struct lookup *lookup = lookup_find(lookups, key);
    if (lookup)
        lookup->touched = true;
}

void lookup_answered(struct lookups *lookups, struct lookup *lookup, struct list *ret_requests)
{
    struct list *node;
    LIST_EACH (node, &lookup->requests)
        CONTAINER_OF(node, struct request, node)->lookup = NULL;
    lookups->waiting -= lookup->count;
    list_append(ret_requests, &lookup->requests);
    HASH_DELETE(hh, lookups->all, lookup);
    free(lookup);
}

void lookup_leave(struct lookups *lookups, struct request *request)
{
    list_remove(&request->node);
    TAKE(request->lookup)->count--;
    lookups->waiting--;
}
