#include "proto/zap.h"

#include <czmq.h>

#define ENDPOINT  "inproc://zeromq.zap.01"
#define KEY_BYTES 32

/* A request: version, request id, domain, address, routing id, mechanism, credentials. Other mechanisms have none or two. */
enum { VERSION, REQUEST_ID, DOMAIN, ADDRESS, ROUTING_ID, MECHANISM, CREDENTIALS, REQUEST_PARTS };

static struct {
    struct loop *loop;
    zsock_t *socket;
    struct event *event;
    struct list members;
    unsigned made; /* members so far; names the next domain */
} zap;

static struct zap_member *find(const char *domain)
{
    struct list *node;
    LIST_EACH (node, &zap.members) {
        struct zap_member *member = CONTAINER_OF(node, struct zap_member, node);
        if (strcmp(member->domain, domain) == 0)
            return member;
    }
    return NULL;
}

/* key: gets the client's public key if it is let in. */
static bool is_allowed(zmsg_t *request, char key[41])
{
    zframe_t *part[REQUEST_PARTS] = {zmsg_first(request)};
    for (unsigned i = 1; i < REQUEST_PARTS; i++)
        part[i] = zmsg_next(request);
    if (zmsg_size(request) != REQUEST_PARTS || !zframe_streq(part[VERSION], "1.0") || !zframe_streq(part[MECHANISM], "CURVE") ||
        zframe_size(part[CREDENTIALS]) != KEY_BYTES)
        return false;
    char domain[sizeof((struct zap_member *)0)->domain] = "";
    if (zframe_size(part[DOMAIN]) >= sizeof domain)
        return false;
    memcpy(domain, zframe_data(part[DOMAIN]), zframe_size(part[DOMAIN]));
    zmq_z85_encode(key, zframe_data(part[CREDENTIALS]), KEY_BYTES);
    const struct zap_member *member = find(domain);
    return member && member->allows(member->arg, key);
}

static void answer(zmsg_t *request)
{
    char key[41] = "";
    bool allowed = is_allowed(request, key);
    zframe_t *version = zmsg_first(request);
    zframe_t *request_id = zmsg_next(request);
    if (!request_id)
        return; /* ZeroMQ itself asks: this does not happen */
    zframe_send(&version, zap.socket, ZFRAME_REUSE | ZFRAME_MORE);
    zframe_send(&request_id, zap.socket, ZFRAME_REUSE | ZFRAME_MORE);
    zstr_sendm(zap.socket, allowed ? "200" : "400");
    zstr_sendm(zap.socket, allowed ? "OK" : "this key is not allowed here");
    zstr_sendm(zap.socket, allowed ? key : ""); /* User-Id of every message from there */
    zstr_send(zap.socket, "");
}

/* The descriptor is edge-triggered: ZMQ_EVENTS says when nothing is left. */
static void take_questions(evutil_socket_t fd, short what, void *arg)
{
    while (zsock_events(zap.socket) & ZMQ_POLLIN) {
        zmsg_t *request = zmsg_recv(zap.socket);
        if (request)
            answer(request);
        zmsg_destroy(&request);
    }
}

static void stop(void)
{
    if (zap.event)
        event_free(zap.event);
    zap.event = NULL;
    if (zap.socket)
        zsock_unbind(zap.socket, ENDPOINT); /* at once: closing gives the name free only later, in another thread */
    zsock_destroy(&zap.socket);
    zap.loop = NULL;
}

static enum err start(struct loop *loop)
{
    list_init(&zap.members);
    zap.loop = loop;
    zap.socket = zsock_new(ZMQ_REP);
    if (!zap.socket || zsock_bind(zap.socket, ENDPOINT) < 0)
        goto fail;
    zap.event = event_new(loop_base(loop), zsock_fd(zap.socket), EV_READ | EV_PERSIST, take_questions, NULL);
    if (!zap.event || event_add(zap.event, NULL) != 0)
        goto fail;
    return ERR_OK;
fail:
    stop();
    return ERR_SYSTEM;
}

enum err zap_join(struct loop *loop, struct zap_member *member, bool (*allows)(void *arg, const char *key), void *arg)
{
    assert(!zap.socket || zap.loop == loop);
    if (!zap.socket) {
        enum err e = start(loop);
        if (e)
            return e;
    }
    *member = (struct zap_member){.allows = allows, .arg = arg};
    snprintf(member->domain, sizeof member->domain, "quern-%u", zap.made++);
    list_init(&member->node);
    list_push_back(&zap.members, &member->node);
    return ERR_OK;
}

void zap_leave(struct zap_member *member)
{
    if (!member->allows)
        return;
    list_remove(&member->node);
    *member = (struct zap_member){0};
    if (list_empty(&zap.members))
        stop();
}
