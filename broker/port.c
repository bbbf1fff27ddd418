#include "broker/port.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"
#include "common/role.h"

#define LOG_EVERY_MS 1000

/* What a peer can bring about at will is logged once a second, with how often it was. */
struct seldom {
    msec logged_at;
    uint64_t count; /* since then */
};

struct port {
    struct broker *broker;
    struct port_hooks hooks;
    struct port_stats *stats;
    struct wire *wire;
    struct list peers, dead; /* of struct peer; owned */
    struct peer *by_route, *by_instance;
    size_t count;
    struct frame frame;
    struct frame_buffer buffer;
    struct seldom bad, refused, strangers;
};

static void on_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body);
static void on_bad(void *arg, const struct wire_route *route, const char *why);

/* Whether to log now; *ret_count: for how many. */
static bool is_due(struct port *port, struct seldom *seldom, uint64_t *ret_count)
{
    msec now = loop_now(broker_loop(port->broker));
    seldom->count++;
    if (seldom->logged_at && now - seldom->logged_at < LOG_EVERY_MS)
        return false;
    *ret_count = seldom->count;
    *seldom = (struct seldom){.logged_at = now};
    return true;
}

/* ---- life ---- */

static void release_text(char **text)
{
    free(TAKE(*text));
}

enum err port_keys(const struct conf *conf, enum role role, struct wire_key **ret_keys, size_t *ret_count)
{
    struct wire_key *keys = calloc(conf->peers_count + 1, sizeof *keys);
    size_t count = 0;
    if (!keys)
        return ERR_NOMEM;
    for (unsigned i = 0; i < conf->peers_count; i++)
        if (strcmp(conf->peers[i].role, role_name(role)) == 0)
            snprintf(keys[count++].text, sizeof keys->text, "%s", conf->peers[i].public_key);
    *ret_keys = keys;
    *ret_count = count;
    return ERR_OK;
}

enum err port_allow(struct port *port, const struct conf *conf)
{
    struct wire_key *keys = NULL;
    size_t count;
    enum err e = port_keys(conf, port->hooks.role, &keys, &count);
    if (e == ERR_OK)
        e = wire_allow(port->wire, keys, count);
    free(keys);
    return e;
}

static enum err bind_wire(struct port *port, const char *endpoint)
{
    const struct conf *conf = broker_conf(port->broker);
    struct wire_options options = {.kind = WIRE_ROUTER, .endpoint = endpoint, .bind = true};
    struct wire_key *keys = NULL;
    enum err e = port_keys(conf, port->hooks.role, &keys, &options.allowed_count);
    options.allowed = keys;
    if (e == ERR_OK && strncmp(endpoint, "tcp://", 6) == 0)
        e = wire_key_read(conf->broker.key_file, &options.public_key, &options.secret_key);
    if (e == ERR_OK)
        e = wire_new(broker_loop(port->broker), &options,
                     (struct wire_hooks){.message = on_message, .bad = on_bad, .stranger = port_stranger, .arg = port},
                     &port->wire);
    explicit_bzero(&options.secret_key, sizeof options.secret_key);
    free(keys);
    return e;
}

enum err port_new(struct broker *broker, const char *setting, const char *name, struct port_hooks hooks,
                  struct port_stats *stats, struct port **ret_port)
{
    AUTO(release_text) char *endpoint = role_endpoint(broker_conf(broker), setting, name);
    AUTO(port_free) struct port *port = calloc(1, sizeof *port);
    if (!endpoint || !port)
        return ERR_NOMEM;
    port->broker = broker;
    port->hooks = hooks;
    port->stats = stats;
    list_init(&port->peers);
    list_init(&port->dead);
    enum err e = bind_wire(port, endpoint);
    if (e != ERR_OK) {
        log_event(LOG_FATAL, "what=bind endpoint=%s error=%s errno=%s", log_str(span_str(endpoint)), err_name(e),
                  log_str(span_str(e == ERR_SYSTEM ? strerror(errno) : "")));
        return e;
    }
    *ret_port = TAKE(port);
    return ERR_OK;
}

static void free_peer(struct peer *peer)
{
    list_remove(&peer->node);
    frame_buffer_done(&peer->welcome);
    free(peer);
}

/* Out of every table. */
static void take_out(struct peer *peer)
{
    struct port *port = peer->port;
    HASH_DELETE(by_route, port->by_route, peer);
    HASH_DELETE(by_instance, port->by_instance, peer);
    broker_remove_peer(port->broker, peer);
    list_remove(&peer->node);
    list_push_back(&port->dead, &peer->node);
    peer->closed = true;
    port->count--;
}

static struct peer *first(struct list *list)
{
    struct list *node = list_first(list);
    return node ? CONTAINER_OF(node, struct peer, node) : NULL;
}

void port_bury(struct port *port)
{
    for (struct peer *peer; (peer = first(&port->dead));)
        free_peer(peer);
}

void port_free(struct port **port_ptr)
{
    struct port *port = TAKE(*port_ptr);
    if (!port)
        return;
    for (struct peer *peer; (peer = first(&port->peers));) {
        take_out(peer);
        port->hooks.closed(port->hooks.arg, peer, false, true);
    }
    port_bury(port);
    wire_free(&port->wire);
    frame_done(&port->frame);
    frame_buffer_done(&port->buffer);
    free(port);
}

size_t port_peers(const struct port *port)
{
    return port->count;
}
struct list *port_list(struct port *port)
{
    return &port->peers;
}

/* ---- sending ---- */

static const struct broker_facts *facts(const struct port *port)
{
    return broker_facts(port->broker);
}

enum err port_encode(const struct peer *peer, enum message message, const void *fields, struct frame_buffer *out)
{
    return frame_encode(message, fields, facts(peer->port)->epoch, peer->received, out);
}

/* A refusal by the transport ends the session: frames of a session are all there or it is over. */
static enum err cut(struct peer *peer, enum err e)
{
    struct port_stats *stats = peer->port->stats;
    if (e == ERR_UNREACHABLE || e == ERR_WOULD_BLOCK) {
        stats->unreachable += e == ERR_UNREACHABLE;
        stats->would_block += e == ERR_WOULD_BLOCK;
        port_close(peer, false, err_name(e));
    }
    return e;
}

static enum err try_send(struct peer *peer, enum message message, struct span header, struct blob *body)
{
    struct port *port = peer->port;
    enum err e = peer->closed ? ERR_UNREACHABLE : wire_send(port->wire, &peer->route, header, body);
    if (e != ERR_OK)
        return e;
    port->stats->frames_sent++;
    port->stats->bytes_sent += header.len + blob_span(body).len;
    if (message != MESSAGE_WELCOME)
        peer->sent += header.len + blob_span(body).len;
    return ERR_OK;
}

enum err port_send_encoded(struct peer *peer, enum message message, struct span header, struct blob *body)
{
    return cut(peer, try_send(peer, message, header, body));
}

enum err port_try_encoded(struct peer *peer, enum message message, struct span header, struct blob *body)
{
    enum err e = try_send(peer, message, header, body);
    return e == ERR_WOULD_BLOCK ? e : cut(peer, e);
}

enum err port_send(struct peer *peer, enum message message, const void *fields, struct blob *body)
{
    struct frame_buffer *buffer = &peer->port->buffer;
    enum err e = port_encode(peer, message, fields, buffer);
    return e != ERR_OK ? e : port_send_encoded(peer, message, span_of(buffer->data, buffer->len), body);
}

void port_send_all(struct port *port, enum message message, const void *fields)
{
    struct list *node, *after;
    LIST_EACH_SAFE (node, after, &port->peers)
        (void)port_send(CONTAINER_OF(node, struct peer, node), message, fields, NULL);
}

/* To a route without a session. Whether it arrives is its sender's matter: it will ask again. */
static void reply_to(struct port *port, const struct wire_route *route, enum message message, const void *fields)
{
    if (frame_encode(message, fields, facts(port)->epoch, 0, &port->buffer) != ERR_OK ||
        wire_send(port->wire, route, span_of(port->buffer.data, port->buffer.len), NULL) != ERR_OK)
        return;
    port->stats->frames_sent++;
}

void port_fill_welcome(const struct port *port, struct msg_welcome *welcome)
{
    const struct broker_facts *f = facts(port);
    welcome->minor = PROTO_MINOR;
    welcome->shard = (uint16_t)f->shard;
    memcpy(welcome->tag_key, f->tag_key, sizeof welcome->tag_key);
    if (f->has_tag_key_before)
        welcome->tag_key_before = span_of(f->tag_key_before, sizeof f->tag_key_before);
    welcome->now = broker_now(port->broker);
    welcome->heartbeat_ms = (uint32_t)f->heartbeat_ms;
    welcome->lease_ms = (uint32_t)f->lease_ms;
}

/* Kept until the peer has it. Without memory for it, a HELLO said again begins another session, which is only dearer. */
static void keep_welcome(struct peer *peer, struct span header)
{
    struct frame_buffer *kept = &peer->welcome;
    if (peer->settled || kept->data)
        return;
    kept->data = malloc(header.len);
    if (!kept->data)
        return;
    memcpy(kept->data, header.data, header.len);
    kept->len = kept->size = header.len;
}

enum err port_send_welcome(struct peer *peer, struct span header)
{
    keep_welcome(peer, header);
    return port_send_encoded(peer, MESSAGE_WELCOME, header, NULL);
}

/* ---- sessions ---- */

void port_close(struct peer *peer, bool bye, const char *why)
{
    struct port *port = peer->port;
    if (peer->closed)
        return;
    if (port->hooks.role != ROLE_MONITOR) /* every quernctl is one */
        log_event(LOG_PEER_GONE, "peer=%s as=%s number=%u reason=%s", log_str(span_str(peer->name)),
                  role_name(port->hooks.role), peer->number, why);
    take_out(peer);
    port->hooks.closed(port->hooks.arg, peer, bye, false);
}

static void refuse(struct port *port, const struct wire_route *route, enum err error, const char *name)
{
    struct msg_refused refused = {.error = (uint16_t)error, .detail = span_str(err_sentence(error))};
    uint64_t count;
    port->stats->sessions_refused++;
    if (is_due(port, &port->refused, &count))
        log_event(LOG_PEER_REFUSED, "peer=%s as=%s error=%s count=%" PRIu64, log_str(span_str(name)),
                  role_name(port->hooks.role), err_name(error), count);
    reply_to(port, route, MESSAGE_REFUSED, &refused);
}

static struct peer *peer_at(struct port *port, const struct wire_route *route)
{
    struct peer *peer;
    HASH_FIND(by_route, port->by_route, route, sizeof *route, peer);
    return peer;
}

static struct peer *peer_of(struct port *port, const uint8_t instance[16])
{
    struct peer *peer;
    HASH_FIND(by_instance, port->by_instance, instance, 16, peer);
    return peer;
}

/* The peer's own name with nothing in it that a log or a table could not take. */
static void copy_name(char out[PROTO_NAME_BYTES + 1], struct span name)
{
    size_t len = MIN(name.len, PROTO_NAME_BYTES);
    for (size_t i = 0; i < len; i++)
        out[i] = (char)(name.data[i] < 0x20 || name.data[i] == 0x7f ? '_' : name.data[i]);
    out[len] = '\0';
}

static struct peer *new_peer(struct port *port, const struct wire_route *route, const char *key, const struct msg_hello *hello)
{
    struct peer *peer = calloc(1, port->hooks.peer_size);
    if (!peer)
        return NULL;
    peer->port = port;
    peer->route = *route;
    memcpy(peer->instance, hello->instance, sizeof peer->instance);
    snprintf(peer->key, sizeof peer->key, "%s", key);
    copy_name(peer->name, hello->name);
    peer->minor = hello->minor;
    peer->heard_at = loop_now(broker_loop(port->broker));
    list_init(&peer->node);
    return peer;
}

static void put_in(struct port *port, struct peer *peer)
{
    HASH_ADD(by_route, port->by_route, route, sizeof peer->route, peer);
    HASH_ADD(by_instance, port->by_instance, instance, sizeof peer->instance, peer);
    list_push_back(&port->peers, &peer->node);
    port->count++;
    peer->number = broker_add_peer(port->broker, peer);
}

/* A newer session takes the place of this one; the core learns of it by the HELLO alone. */
static void replace(struct peer *old)
{
    take_out(old);
    old->port->hooks.closed(old->port->hooks.arg, old, false, true);
}

static enum err why_not(struct port *port, const struct msg_hello *hello, const char *key, const struct peer *same)
{
    if (hello->role != port->hooks.role)
        return ERR_FORBIDDEN;
    if ((int)hello->minor + 1 < PROTO_MINOR)
        return ERR_INCOMPATIBLE;
    if (same && strcmp(same->key, key) != 0)
        return ERR_FORBIDDEN;
    return !same && port->count >= PORT_PEERS_MAX ? ERR_LIMIT : ERR_OK;
}

static void open_session(struct port *port, const struct wire_route *route, const char *key, const struct msg_hello *hello)
{
    char name[PROTO_NAME_BYTES + 1];
    struct peer *here = peer_at(port, route), *same = peer_of(port, hello->instance);
    if (here && here == same && !here->settled && here->welcome.len) {
        here->sent = here->acked = 0;
        (void)port_send_encoded(here, MESSAGE_WELCOME, span_of(here->welcome.data, here->welcome.len), NULL);
        return;
    }
    copy_name(name, hello->name);
    enum err e = why_not(port, hello, key, same);
    if (e != ERR_OK) {
        refuse(port, route, e, name);
        return;
    }
    if (here && here != same)
        port_close(here, false, "another instance speaks on its route");
    struct peer *peer = new_peer(port, route, key, hello);
    if (!peer) {
        log_event(LOG_NOMEM, "what=session");
        return;
    }
    if (same)
        replace(same);
    put_in(port, peer);
    port->stats->sessions++;
    if (port->hooks.role != ROLE_MONITOR)
        log_event(LOG_PEER_UP, "peer=%s as=%s number=%u slots=%u held=%u version=%s", log_str(span_str(name)),
                  role_name(port->hooks.role), peer->number, hello->slots, hello->held_count, log_str(hello->version));
    e = port->hooks.opened(port->hooks.arg, peer, hello);
    if (e != ERR_OK && !peer->closed) {
        log_event(LOG_NOMEM, "what=session error=%s", err_name(e));
        port_close(peer, false, "refused");
    }
}

/* ---- receiving ---- */

static void bad(struct port *port, const char *from, const char *why)
{
    uint64_t count;
    port->stats->frames_bad++;
    if (is_due(port, &port->bad, &count))
        log_event(LOG_FRAME_BAD, "from=%s as=%s count=%" PRIu64 " why=%s", log_str(span_str(from)), role_name(port->hooks.role),
                  count, log_str(span_str(why)));
}

void port_stranger(void *arg)
{
    struct port *port = arg;
    uint64_t count;
    port->stats->strangers++;
    if (is_due(port, &port->strangers, &count))
        log_event(LOG_PEER_STRANGER, "as=%s count=%" PRIu64, role_name(port->hooks.role), count);
}

static void on_bad(void *arg, const struct wire_route *route, const char *why)
{
    struct port *port = arg;
    struct peer *peer = route ? peer_at(port, route) : NULL;
    bad(port, peer ? peer->name : "", why);
}

void port_bad(struct peer *peer, const char *why)
{
    bad(peer->port, peer->name, why);
}

static void want_hello(struct port *port, const struct wire_route *route)
{
    port->stats->hello_wanted++;
    reply_to(port, route, MESSAGE_HELLO_WANTED, &(struct msg_hello_wanted){});
}

static void hear(struct port *port, struct peer *peer, const struct frame *frame, size_t bytes)
{
    port->stats->frames_received++;
    port->stats->bytes_received += bytes;
    peer->heard_at = loop_now(broker_loop(port->broker));
    peer->received += bytes;
    peer->acked = MAX(peer->acked, MIN(frame->received, peer->sent));
    if (!peer->settled) {
        peer->settled = true;
        frame_buffer_done(&peer->welcome);
    }
    if (frame->message == MESSAGE_BYE)
        port_close(peer, true, "bye");
    else
        port->hooks.frame(port->hooks.arg, peer, frame);
}

static void on_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body)
{
    struct port *port = arg;
    struct peer *peer = peer_at(port, route);
    const char *why = "";
    if (peer && strcmp(peer->key, key) != 0)
        peer = NULL;
    enum err e = frame_decode(&port->frame, header, body, port->hooks.role, ROLE_BROKER, peer ? peer->minor : 0, &why);
    if (e == ERR_INCOMPATIBLE)
        refuse(port, route, e, peer ? peer->name : "");
    else if (e != ERR_OK)
        bad(port, peer ? peer->name : "", why);
    else if (port->frame.message == MESSAGE_HELLO)
        open_session(port, route, key, &port->frame.hello);
    else if (!peer)
        want_hello(port, route);
    else if (port->frame.epoch != facts(port)->epoch)
        port->stats->frames_stale++;
    else
        hear(port, peer, &port->frame, header.len + body.len);
}

/* HELLO_WANTED makes a peer say HELLO at once, well within the time its leases have. */
void port_restart(struct peer *peer, const char *why)
{
    if (peer->closed)
        return;
    want_hello(peer->port, &peer->route);
    port_close(peer, false, why);
}

void port_forget(struct port *port)
{
    for (struct peer *peer; (peer = first(&port->peers));)
        port_restart(peer, "new epoch");
}

void port_linger(struct port *port, msec linger_ms)
{
    wire_linger(port->wire, linger_ms);
}

void port_turn(struct port *port)
{
    wire_turn(port->wire);
}

void port_excuse(struct port *port, msec ms)
{
    struct list *node;
    LIST_EACH (node, &port->peers)
        CONTAINER_OF(node, struct peer, node)->heard_at += ms;
}

void port_watch(struct port *port, bool probe)
{
    struct list *node, *after;
    msec now = loop_now(broker_loop(port->broker)), silence = PORT_SILENCE * facts(port)->heartbeat_ms;
    LIST_EACH_SAFE (node, after, &port->peers) {
        struct peer *peer = CONTAINER_OF(node, struct peer, node);
        if (now - peer->heard_at >= silence) {
            port->stats->silent++;
            port_close(peer, false, "silence");
        } else if (probe) {
            (void)port_send(peer, MESSAGE_PROBE, &(struct msg_probe){}, NULL);
        }
    }
}
