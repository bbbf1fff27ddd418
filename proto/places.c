#include "proto/places.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/commas.h"
#include "common/resolve.h"

#define PLACES_MAX    16
#define ADDRESSES_MAX 16 /* of one name; more are not tried */
#define ADDRESS_BYTES 64 /* "tcp://[" 45 "]:" 5 */

/* One endpoint of the settings. */
struct spot {
    struct places *places;
    char *given;
    struct wire_key key;
    char *host; /* a name to be looked up; NULL: `given` can be connected to as it is */
    unsigned port;
    struct resolve *resolve;
    char addresses[ADDRESSES_MAX][ADDRESS_BYTES];
    unsigned count; /* of them; what was looked up last */
    bool fresh;     /* they came after the spot was last tried */
};

struct places {
    struct loop *loop;
    places_on_found *on_found;
    void *arg;
    struct spot spots[PLACES_MAX];
    unsigned count;
    unsigned turn;    /* the spot … */
    unsigned address; /* … and which of its addresses */
    bool wanted;      /* places_find waits for its name */
};

static struct spot *current(struct places *places)
{
    return &places->spots[places->turn];
}

static void tell(struct places *places, const char *reason)
{
    struct spot *spot = current(places);
    struct place place = {.endpoint = spot->given, .given = spot->given, .key = &spot->key};
    if (spot->host && spot->count)
        place.endpoint = spot->addresses[places->address % spot->count];
    places->wanted = spot->fresh = false;
    places->on_found(places->arg, reason ? NULL : &place, reason);
}

static bool write_address(char out[ADDRESS_BYTES], const struct addrinfo *info, unsigned port)
{
    char host[INET6_ADDRSTRLEN];
    if (getnameinfo(info->ai_addr, info->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0)
        return false;
    bool six = info->ai_family == AF_INET6;
    snprintf(out, ADDRESS_BYTES, six ? "tcp://[%s]:%u" : "tcp://%s:%u", host, port);
    return true;
}

static void resolved(void *arg, const struct addrinfo *found, const char *reason)
{
    struct spot *spot = arg;
    struct places *places = spot->places;
    spot->count = 0;
    for (; found && spot->count < ADDRESSES_MAX; found = found->ai_next)
        spot->count += write_address(spot->addresses[spot->count], found, spot->port);
    spot->fresh = spot->count > 0;
    char why[128];
    snprintf(why, sizeof why, "resolve: %s", reason ? reason : "no address that can be used");
    resolve_free(&spot->resolve);
    if (places->wanted && spot == current(places))
        tell(places, spot->count ? NULL : why);
}

void places_find(struct places *places)
{
    struct spot *spot = current(places);
    if (!spot->host || spot->fresh) {
        tell(places, NULL);
        return;
    }
    places->wanted = true;
    if (!spot->resolve)
        spot->resolve = resolve_new(places->loop, spot->host, spot->port, resolved, spot);
    if (!spot->resolve)
        tell(places, "resolve: no memory or no thread");
}

void places_move_on(struct places *places)
{
    places->wanted = false;
    if (++places->address < current(places)->count)
        return;
    places->address = 0;
    places->turn = (places->turn + 1) % places->count;
}

void places_forget(struct places *places)
{
    places->wanted = false;
}

void places_follow(struct places *places, const struct places *other)
{
    const struct spot *from = &other->spots[other->turn];
    assert(places->count == other->count);
    places->wanted = false;
    places->turn = other->turn;
    places->address = other->address;
    struct spot *to = current(places);
    memcpy(to->addresses, from->addresses, sizeof to->addresses);
    to->count = from->count;
    to->fresh = from->count > 0; /* looked up a moment ago */
}

bool places_same(const struct places *a, const struct places *b)
{
    return a->turn == b->turn && a->address == b->address;
}

bool places_several(const struct places *places)
{
    return places->count > 1 || places->spots[0].count > 1;
}

/* ---- making ---- */

static bool is_tcp(const char *endpoint)
{
    return strncmp(endpoint, "tcp://", 6) == 0;
}

static bool is_numeric(const char *host)
{
    uint8_t address[16];
    return host[0] == '[' || inet_pton(AF_INET, host, address) == 1;
}

/* The host of tcp://HOST:PORT, if it is a name. */
static enum err find_name(struct spot *spot)
{
    const char *host = spot->given + strlen("tcp://"), *colon = strrchr(host, ':');
    if (!colon || colon == host)
        return ERR_SETTINGS;
    char *copy = strndup(host, (size_t)(colon - host));
    if (!copy)
        return ERR_NOMEM;
    if (is_numeric(copy)) {
        free(copy);
        return ERR_OK;
    }
    spot->host = copy;
    spot->port = (unsigned)atoi(colon + 1);
    return ERR_OK;
}

static enum err add(struct places *places, struct span endpoint)
{
    if (places->count == PLACES_MAX || !endpoint.len)
        return ERR_SETTINGS;
    struct spot *spot = &places->spots[places->count++];
    spot->places = places;
    spot->given = strndup((const char *)endpoint.data, endpoint.len);
    if (!spot->given)
        return ERR_NOMEM;
    return is_tcp(spot->given) ? find_name(spot) : ERR_OK;
}

/* One key for all, or one for each in turn. */
static enum err give_keys(struct places *places, const char *keys)
{
    struct span rest = span_str(keys), key = {0};
    bool one = commas_count(keys) == 1;
    unsigned tcp = 0;
    for (unsigned i = 0; i < places->count; i++) {
        struct spot *spot = &places->spots[i];
        if (!is_tcp(spot->given))
            continue;
        if ((tcp++ == 0 || !one) && !commas_next(&rest, &key))
            return ERR_SETTINGS;
        if (key.len >= sizeof spot->key.text)
            return ERR_SETTINGS;
        memcpy(spot->key.text, key.data, key.len);
    }
    return tcp && rest.data ? ERR_SETTINGS : ERR_OK;
}

enum err places_new(struct loop *loop, const char *endpoints, const char *keys, places_on_found *on_found, void *arg,
                    struct places **ret_places)
{
    AUTO(places_free) struct places *places = calloc(1, sizeof *places);
    if (!places)
        return ERR_NOMEM;
    places->loop = loop;
    places->on_found = on_found;
    places->arg = arg;
    struct span rest = span_str(endpoints), endpoint;
    enum err e = ERR_OK;
    while (!e && commas_next(&rest, &endpoint))
        e = add(places, endpoint);
    if (!e)
        e = give_keys(places, keys ? keys : "");
    if (!e)
        *ret_places = TAKE(places);
    return e;
}

void places_free(struct places **places_ptr)
{
    struct places *places = TAKE(*places_ptr);
    if (!places)
        return;
    for (unsigned i = 0; i < places->count; i++) {
        resolve_free(&places->spots[i].resolve);
        free(places->spots[i].given);
        free(places->spots[i].host);
    }
    free(places);
}
