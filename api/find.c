#include "api/find.h"

#include "common/clock.h"

#define FUTURE_MS 60000 /* an id made later than this from now was not made by us */

enum err find_id(struct api *api, struct span text, struct span tenant, struct id *ret_id)
{
    const struct ask_broker *b = ask_broker(api->ask);
    struct id id;
    if (!b->known)
        return ERR_BROKER;
    if (id_parse(text, &id) || id_shard(&id) != b->shard || id_version(&id) != ID_STORED)
        return ERR_NOT_FOUND;
    if (!id_belongs(&id, &b->key, tenant) && !(b->has_key_before && id_belongs(&id, &b->key_before, tenant)))
        return ERR_NOT_FOUND;
    *ret_id = id;
    return ERR_OK;
}

static enum err get(struct api *api, const char *key, size_t len, redis_on_reply *on_reply, void *arg)
{
    const struct span argv[] = {span_str("GET"), span_of(key, len)};
    enum err e = redis_command(api->redis, on_reply, arg, argv, ARRAY_COUNT(argv));
    return e && e != ERR_NOMEM ? ERR_STORE : e;
}

enum err find_record(struct api *api, const struct id *id, redis_on_reply *on_reply, void *arg)
{
    char key[RECORD_KEY_BYTES + 1];
    return get(api, key, record_key_ended(key, id_shard(id), id), on_reply, arg);
}

enum err find_state(struct api *api, const struct id *id, redis_on_reply *on_reply, void *arg)
{
    char key[RECORD_KEY_BYTES + 1];
    return get(api, key, record_key_job(key, id_shard(id), id), on_reply, arg);
}

enum err find_absent(const struct id *id)
{
    return id_made_at(id) > clock_wall() + FUTURE_MS ? ERR_NOT_FOUND : ERR_FORGOTTEN;
}

enum err find_told(unsigned error)
{
    bool inside = error > ERR_NOMEM && error != ERR_LIMIT && error != ERR_SYSTEM && error != ERR_CORRUPT;
    return err_known(error) && !inside ? (enum err)error : ERR_BROKER;
}

const char *find_told_param(unsigned error)
{
    return error == ERR_ACK ? "ack" : NULL;
}
