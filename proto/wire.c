#include "proto/wire.h"

#include <czmq.h>
#include <errno.h>
#include <fcntl.h>

#include "proto/ipc.h"
#include "proto/zap.h"

#define TURN_MESSAGES    256
#define COPIED_BYTES     4096  /* a smaller body is copied, a larger one referenced */
#define SEND_MESSAGES    16384 /* queued per peer: what a turn can have to say at once; its bytes are the sender's to bound */
#define RECEIVE_MESSAGES 512   /* waiting per peer: beyond, nothing is read from it */
#define CURVE_BYTES      64    /* more than what CURVE adds to a part */
#define HEARD_BYTES      1024  /* a PUB hears subscriptions, and keeps a node for every byte of each; a handshake fits */
#define HANDSHAKE_MS     2000
#define HEARTBEAT_MS     1000 /* ZMTP's own, over TCP: finds a dead host; a wedged process is the session's matter */
#define HEARTBEAT_OUT_MS 3000
#define BRISK_MS         500
#define BRISK_OUT_MS     1500
#define RECONNECT_MS     20
#define RECONNECT_MAX_MS 60
#define BACKLOG          1024
#define HANDSHAKE_FAILED                                                                                                       \
    (ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
#define MONITOR_EVENTS (ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED | HANDSHAKE_FAILED)
#define MONITOR_MESSAGES                                                                                                       \
    (1 << 20) /* ZeroMQ's thread would wait for room among events: a loop that is busy must not stop it                        \
               */

struct wire {
    struct loop *loop;
    struct wire_hooks hooks;
    enum wire_kind kind;
    bool bound;
    bool tcp;
    size_t frame_max_bytes;
    void *handle; /* the ZeroMQ socket */
    struct event *readable;
    bool due; /* its descriptor fired, or ZMQ_EVENTS said so, and nothing was drained since */
    bool in_turn;
    struct loop_end after_sends;
    void *monitor;
    struct event *monitor_readable;
    bool monitor_due;
    bool connected;
    uint64_t accepted, greeted, strangers; /* connections; those whose handshake succeeded, and those that ended without */
    struct zap_member zap;
    struct wire_key *allowed; /* sorted */
    size_t allowed_count;
    struct ipc_listener listener;
    char *path; /* of an ipc socket we bound */
    char *endpoint;
};

/* --- ZeroMQ's context ----------------------------------------------------------------------------------------------------- */

/* Once per process, a forked one again: before its first socket. */
static void start_zeromq(void)
{
    static pid_t started;
    if (started == getpid())
        return;
    zsys_handler_set(NULL);
    zsys_init();
    zsys_set_logstream(NULL);
    zsys_set_io_threads(1);
    started = getpid();
}

/* --- keys ----------------------------------------------------------------------------------------------------------------- */

static bool is_key(const struct wire_key *key)
{
    uint8_t bytes[32];
    bool good = memchr(key->text, 0, sizeof key->text) == key->text + 40 && zmq_z85_decode(bytes, key->text);
    explicit_bzero(bytes, sizeof bytes);
    return good;
}

static int compare_keys(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct wire_key));
}

static bool is_allowed(void *arg, const char *text)
{
    const struct wire *wire = arg;
    struct wire_key key = {""};
    if (strlen(text) >= sizeof key.text)
        return false;
    memcpy(key.text, text, strlen(text));
    return wire->allowed_count && bsearch(&key, wire->allowed, wire->allowed_count, sizeof key, compare_keys);
}

enum err wire_allow(struct wire *wire, const struct wire_key *allowed, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!is_key(&allowed[i]))
            return ERR_SETTINGS;
    struct wire_key *copy = calloc(count + 1, sizeof *copy);
    if (!copy)
        return ERR_NOMEM;
    if (count) {
        memcpy(copy, allowed, count * sizeof *copy);
        qsort(copy, count, sizeof *copy, compare_keys);
    }
    free(wire->allowed);
    wire->allowed = copy;
    wire->allowed_count = count;
    return ERR_OK;
}

/* --- making one ----------------------------------------------------------------------------------------------------------- */

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static int type_of(enum wire_kind kind)
{
    switch (kind) {
    case WIRE_ROUTER:
        return ZMQ_ROUTER;
    case WIRE_DEALER:
        return ZMQ_DEALER;
    case WIRE_PUB:
        return ZMQ_PUB;
    case WIRE_SUB:
        return ZMQ_SUB;
    }
    assert(false);
    return -1;
}

/* What can be refused is looked at before anything is made. */
static enum err check(const struct wire_options *options)
{
    const char *endpoint = options->endpoint;
    if (!endpoint)
        return ERR_SETTINGS;
    if (starts_with(endpoint, "ipc://"))
        return strlen(endpoint) - 6 < sizeof((struct sockaddr_un *)0)->sun_path && endpoint[6] ? ERR_OK : ERR_SETTINGS;
    if (!starts_with(endpoint, "tcp://"))
        return ERR_SETTINGS;
    if (!is_key(&options->public_key) || !is_key(&options->secret_key))
        return ERR_SETTINGS;
    return options->bind || is_key(&options->server_key) ? ERR_OK : ERR_SETTINGS;
}

static bool set(struct wire *wire, int option, int value)
{
    return zmq_setsockopt(wire->handle, option, &value, sizeof value) == 0;
}

static bool set_text(struct wire *wire, int option, const char *text)
{
    return zmq_setsockopt(wire->handle, option, text, strlen(text)) == 0;
}

static bool set_limits(struct wire *wire)
{
    int64_t max = (wire->kind == WIRE_PUB ? HEARD_BYTES : (int64_t)wire->frame_max_bytes) + (wire->tcp ? CURVE_BYTES : 0);
    return zmq_setsockopt(wire->handle, ZMQ_MAXMSGSIZE, &max, sizeof max) == 0 && set(wire, ZMQ_SNDHWM, SEND_MESSAGES) &&
           set(wire, ZMQ_RCVHWM, RECEIVE_MESSAGES) && set(wire, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) && set(wire, ZMQ_LINGER, 0) &&
           set(wire, ZMQ_BACKLOG, BACKLOG);
}

static bool set_kind(struct wire *wire)
{
    if (wire->kind == WIRE_ROUTER && !set(wire, ZMQ_ROUTER_MANDATORY, 1))
        return false;
    if (wire->kind == WIRE_SUB && !set_text(wire, ZMQ_SUBSCRIBE, ""))
        return false;
    return wire->bound || (set(wire, ZMQ_IMMEDIATE, 1) && set(wire, ZMQ_RECONNECT_IVL, RECONNECT_MS) &&
                           set(wire, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS));
}

static enum err set_tcp(struct wire *wire, const struct wire_options *options)
{
    bool good = set(wire, ZMQ_HEARTBEAT_IVL, options->brisk ? BRISK_MS : HEARTBEAT_MS) &&
                set(wire, ZMQ_HEARTBEAT_TIMEOUT, options->brisk ? BRISK_OUT_MS : HEARTBEAT_OUT_MS) &&
                set(wire, ZMQ_HEARTBEAT_TTL, HEARTBEAT_OUT_MS) && set(wire, ZMQ_IPV6, strchr(options->endpoint, '[') != NULL) &&
                set_text(wire, ZMQ_CURVE_PUBLICKEY, options->public_key.text) &&
                set_text(wire, ZMQ_CURVE_SECRETKEY, options->secret_key.text);
    if (!good)
        return ERR_SYSTEM;
    if (!wire->bound)
        return set_text(wire, ZMQ_CURVE_SERVERKEY, options->server_key.text) ? ERR_OK : ERR_SYSTEM;
    enum err e = wire_allow(wire, options->allowed, options->allowed_count);
    if (!e)
        e = zap_join(wire->loop, &wire->zap, is_allowed, wire);
    if (e)
        return e;
    return set(wire, ZMQ_CURVE_SERVER, 1) && set_text(wire, ZMQ_ZAP_DOMAIN, wire->zap.domain) ? ERR_OK : ERR_SYSTEM;
}

static void monitor_fired(evutil_socket_t fd, short what, void *arg)
{
    ((struct wire *)arg)->monitor_due = true;
}
static void fired(evutil_socket_t fd, short what, void *arg)
{
    ((struct wire *)arg)->due = true;
}

/* zsock_new would assert where no descriptor is left. */
static void *new_socket(int type)
{
    return zsys_socket(type, __FILE__, __LINE__);
}

static void close_socket(void **socket)
{
    void *handle = TAKE(*socket);
    if (handle)
        zsys_close(handle, __FILE__, __LINE__);
}

static struct event *watch(struct wire *wire, void *socket, event_callback_fn callback)
{
    evutil_socket_t fd;
    size_t len = sizeof fd;
    if (zmq_getsockopt(socket, ZMQ_FD, &fd, &len) != 0)
        return NULL;
    struct event *event = event_new(loop_base(wire->loop), fd, EV_READ | EV_PERSIST, callback, wire);
    if (event && event_add(event, NULL) != 0) {
        event_free(event);
        return NULL;
    }
    return event;
}

/* The monitor tells in a socket of its own when the transport is connected and when it broke. */
static bool start_monitor(struct wire *wire)
{
    static unsigned made; /* names must differ: a closed monitor's stays taken for a moment */
    char name[48];
    snprintf(name, sizeof name, "inproc://quern-monitor-%u", made++);
    int events =
        MONITOR_EVENTS | (wire->hooks.refused ? ZMQ_EVENT_CONNECT_RETRIED : 0) | (wire->bound ? ZMQ_EVENT_ACCEPTED : 0);
    int messages = MONITOR_MESSAGES;
    if (zmq_socket_monitor(wire->handle, name, events) != 0)
        return false;
    wire->monitor = new_socket(ZMQ_PAIR);
    if (!wire->monitor || zmq_setsockopt(wire->monitor, ZMQ_RCVHWM, &messages, sizeof messages) != 0 ||
        zmq_connect(wire->monitor, name) != 0)
        return false;
    wire->monitor_readable = watch(wire, wire->monitor, monitor_fired);
    wire->monitor_due = true;
    return wire->monitor_readable;
}

static bool keep_endpoint(struct wire *wire, const char *given)
{
    char text[256];
    size_t len = sizeof text;
    if (wire->tcp && wire->bound && zmq_getsockopt(wire->handle, ZMQ_LAST_ENDPOINT, text, &len) == 0)
        given = text;
    wire->endpoint = strdup(given);
    return wire->endpoint;
}

static enum err bind_ipc(struct wire *wire, const char *endpoint)
{
    wire->path = strdup(endpoint + strlen("ipc://"));
    if (!wire->path)
        return ERR_NOMEM;
    enum err e = ipc_listen(wire->path, &wire->listener);
    if (e)
        return e;
    if (set(wire, ZMQ_USE_FD, wire->listener.fd) && zmq_bind(wire->handle, endpoint) == 0)
        return ERR_OK;
    int error = errno;
    close(wire->listener.fd);
    ipc_remove(wire->path, &wire->listener);
    errno = error;
    return ERR_SYSTEM;
}

static enum err attach(struct wire *wire, const char *endpoint)
{
    if (wire->bound && !wire->tcp)
        return bind_ipc(wire, endpoint);
    int rc = wire->bound ? zmq_bind(wire->handle, endpoint) : zmq_connect(wire->handle, endpoint);
    if (rc == 0)
        return ERR_OK;
    return errno == EINVAL || errno == ENODEV || errno == EPROTONOSUPPORT ? ERR_SETTINGS : ERR_SYSTEM;
}

static enum err open_socket(struct wire *wire, const struct wire_options *options)
{
    wire->handle = new_socket(type_of(wire->kind));
    if (!wire->handle)
        return ERR_SYSTEM;
    if (!set_limits(wire) || !set_kind(wire))
        return ERR_SYSTEM;
    enum err e = wire->tcp ? set_tcp(wire, options) : ERR_OK;
    if (e)
        return e;
    wire->readable = watch(wire, wire->handle, fired);
    if (!wire->readable)
        return ERR_NOMEM;
    if ((!wire->bound || wire->hooks.stranger) && !start_monitor(wire)) /* before it can connect or accept */
        return ERR_SYSTEM;
    e = attach(wire, options->endpoint);
    if (e)
        return e;
    wire->due = true;
    return keep_endpoint(wire, options->endpoint) ? ERR_OK : ERR_NOMEM;
}

static void check_after_sends(void *arg);

enum err wire_new(struct loop *loop, const struct wire_options *options, struct wire_hooks hooks, struct wire **ret_wire)
{
    enum err e = check(options);
    if (e)
        return e;
    AUTO(wire_free) struct wire *wire = calloc(1, sizeof *wire);
    if (!wire)
        return ERR_NOMEM;
    start_zeromq();
    wire->loop = loop;
    wire->hooks = hooks;
    wire->kind = options->kind;
    wire->bound = options->bind;
    wire->tcp = starts_with(options->endpoint, "tcp://");
    wire->frame_max_bytes = options->frame_max_bytes ? options->frame_max_bytes : PROTO_FRAME_BYTES;
    wire->listener.fd = -1;
    loop_end_init(&wire->after_sends, check_after_sends, wire);
    e = open_socket(wire, options);
    if (e) {
        int error = errno;
        wire_free(&wire);
        errno = error;
        return e;
    }
    *ret_wire = TAKE(wire);
    return ERR_OK;
}

void wire_free(struct wire **wire_ptr)
{
    struct wire *wire = TAKE(*wire_ptr);
    if (!wire)
        return;
    assert(!wire->in_turn);
    loop_end_cancel(&wire->after_sends);
    if (wire->readable)
        event_free(wire->readable);
    if (wire->monitor_readable)
        event_free(wire->monitor_readable);
    if (wire->handle) /* first: ZeroMQ's thread waits for ever to tell a monitor that has gone */
        zmq_socket_monitor(wire->handle, NULL, 0);
    close_socket(&wire->monitor);
    if (wire->path && wire->listener.fd >= 0)
        ipc_remove(wire->path, &wire->listener);
    close_socket(&wire->handle); /* the listening descriptor is closed with it */
    zap_leave(&wire->zap);
    free(wire->allowed);
    free(wire->path);
    free(wire->endpoint);
    free(wire);
}

void wire_linger(struct wire *wire, msec linger_ms)
{
    set(wire, ZMQ_LINGER, (int)linger_ms);
}

const char *wire_endpoint(const struct wire *wire)
{
    return wire->endpoint;
}

/* --- receiving ------------------------------------------------------------------------------------------------------------ */

enum { ROUTE, HEADER, BODY, PARTS };

static struct span span_of_part(zmq_msg_t *part)
{
    return span_of(zmq_msg_data(part), zmq_msg_size(part));
}

static void drop_rest(struct wire *wire)
{
    zmq_msg_t part;
    bool more = true;
    while (more) {
        zmq_msg_init(&part);
        more = zmq_msg_recv(&part, wire->handle, ZMQ_DONTWAIT) >= 0 && zmq_msg_more(&part);
        zmq_msg_close(&part);
    }
}

/* Receives the parts from `first` on. False when no message is there; *ret_why: NULL, or why it is not one of ours. Parts of
 * one message arrive together. */
static bool receive_parts(struct wire *wire, zmq_msg_t parts[PARTS], unsigned first, const char **ret_why)
{
    *ret_why = NULL;
    for (unsigned i = first; i < PARTS; i++) {
        if (zmq_msg_recv(&parts[i], wire->handle, ZMQ_DONTWAIT) < 0)
            return false;
        bool more = zmq_msg_more(&parts[i]);
        if (!more && i < BODY) {
            *ret_why = "fewer than two parts";
            return true;
        }
        if (more && i == BODY) {
            drop_rest(wire);
            *ret_why = "more than two parts";
        }
    }
    return true;
}

static bool get_route(zmq_msg_t *part, struct wire_route *ret_route)
{
    size_t len = zmq_msg_size(part);
    if (len > WIRE_ROUTE_BYTES)
        return false;
    ret_route->len = (uint8_t)len;
    memcpy(ret_route->bytes, zmq_msg_data(part), len);
    return true;
}

/* What is wrong with a message of two parts, or NULL. key: gets the sender's. */
static const char *inspect(struct wire *wire, zmq_msg_t parts[PARTS], const char **key)
{
    if (zmq_msg_size(&parts[HEADER]) > PROTO_HEADER_BYTES)
        return "the header is too long";
    if (zmq_msg_size(&parts[BODY]) > wire->frame_max_bytes)
        return "the body is too long";
    *key = "";
    if (!wire->tcp || !wire->bound)
        return NULL;
    *key = zmq_msg_gets(&parts[HEADER], "User-Id");
    if (!*key || !is_allowed(wire, *key)) /* a connection made before its key was revoked stays open: libzmq cannot close one */
        return "its key is not allowed";
    return NULL;
}

static bool receive_one(struct wire *wire)
{
    zmq_msg_t parts[PARTS];
    for (unsigned i = 0; i < PARTS; i++)
        zmq_msg_init(&parts[i]);
    const char *why, *key = "";
    bool routed = wire->kind == WIRE_ROUTER;
    struct wire_route route = {0};
    bool received = receive_parts(wire, parts, routed ? ROUTE : HEADER, &why);
    if (received) {
        if (routed && !get_route(&parts[ROUTE], &route) && !why)
            why = "the routing id is too long";
        if (!why)
            why = inspect(wire, parts, &key);
        const struct wire_route *from = routed ? &route : NULL;
        if (!why)
            wire->hooks.message(wire->hooks.arg, from, key, span_of_part(&parts[HEADER]), span_of_part(&parts[BODY]));
        else if (wire->hooks.bad)
            wire->hooks.bad(wire->hooks.arg, from, why);
    }
    for (unsigned i = 0; i < PARTS; i++)
        zmq_msg_close(&parts[i]);
    return received;
}

/* Whether a message can be received. Reading it also empties the signal that makes the descriptor readable. */
static bool has_input(struct wire *wire)
{
    int events = 0;
    size_t len = sizeof events;
    return zmq_getsockopt(wire->handle, ZMQ_EVENTS, &events, &len) == 0 && events & ZMQ_POLLIN;
}

static void drain(struct wire *wire)
{
    if (wire->kind == WIRE_PUB) {
        has_input(wire);
        wire->due = false;
        return;
    }
    for (unsigned i = 0; i < TURN_MESSAGES; i++) {
        if (!receive_one(wire)) {
            wire->due = false;
            return;
        }
    }
    loop_again(wire->loop);
}

/* The first part of an event: its number and a value, in the machine's order. The second, the endpoint, is dropped. */
static bool receive_event(struct wire *wire, uint16_t *ret_event)
{
    zmq_msg_t part;
    zmq_msg_init(&part);
    bool received = zmq_msg_recv(&part, wire->monitor, ZMQ_DONTWAIT) >= 0;
    if (received)
        memcpy(ret_event, zmq_msg_data(&part), sizeof *ret_event);
    while (received && zmq_msg_more(&part) && zmq_msg_recv(&part, wire->monitor, ZMQ_DONTWAIT) >= 0)
        ;
    zmq_msg_close(&part);
    return received;
}

/* ZeroMQ does not say whose connection has ended. If more were accepted than have come through a handshake or were told, it
 * was, with rare exceptions that the next one evens out, one of those. */
static void count_strangers(struct wire *wire, uint16_t event)
{
    wire->accepted += event == ZMQ_EVENT_ACCEPTED;
    wire->greeted += event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
    if (event != ZMQ_EVENT_DISCONNECTED || wire->accepted - wire->greeted <= wire->strangers)
        return;
    wire->strangers++;
    wire->hooks.stranger(wire->hooks.arg);
}

static void drain_monitor(struct wire *wire)
{
    uint16_t event;
    wire->monitor_due = false;
    while (receive_event(wire, &event)) {
        if (wire->bound) {
            count_strangers(wire, event);
            continue;
        }
        if (event == ZMQ_EVENT_CONNECT_RETRIED) {
            if (!wire->connected)
                wire->hooks.refused(wire->hooks.arg);
            continue;
        }
        bool connected = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
        if (connected == wire->connected && !(event & HANDSHAKE_FAILED))
            continue;
        wire->connected = connected;
        if (wire->hooks.connected)
            wire->hooks.connected(wire->hooks.arg, connected);
    }
}

void wire_turn(struct wire *wire)
{
    wire->in_turn = true;
    if (wire->due)
        drain(wire);
    if (wire->monitor_due) /* after the messages: those of a connection that broke came before it did */
        drain_monitor(wire);
    wire->in_turn = false;
}

/* --- sending -------------------------------------------------------------------------------------------------------------- */

/* Sending may read the signal of an arrived message, which then fires no more. */
static void check_after_sends(void *arg)
{
    struct wire *wire = arg;
    if (!has_input(wire))
        return;
    wire->due = true;
    loop_again(wire->loop);
}

static void let_go(void *data, void *hint)
{
    struct blob *blob = hint;
    blob_free(&blob);
}

static bool make_part(zmq_msg_t *part, struct span bytes)
{
    if (zmq_msg_init_size(part, bytes.len) != 0)
        return false;
    if (bytes.len)
        memcpy(zmq_msg_data(part), bytes.data, bytes.len);
    return true;
}

static bool make_body(zmq_msg_t *part, struct blob *body)
{
    if (!body || body->len <= COPIED_BYTES)
        return make_part(part, blob_span(body));
    if (zmq_msg_init_data(part, (void *)body->data, body->len, let_go, blob_ref(body)) == 0)
        return true;
    blob_free(&body);
    return false;
}

static bool send_parts(struct wire *wire, const struct wire_route *route, zmq_msg_t *header, zmq_msg_t *body)
{
    if (route && zmq_send(wire->handle, route->bytes, route->len, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return false;
    return zmq_msg_send(header, wire->handle, ZMQ_DONTWAIT | ZMQ_SNDMORE) >= 0 &&
           zmq_msg_send(body, wire->handle, ZMQ_DONTWAIT) >= 0;
}

enum err wire_send(struct wire *wire, const struct wire_route *route, struct span header, struct blob *body)
{
    assert(!route == (wire->kind != WIRE_ROUTER) && wire->kind != WIRE_SUB);
    if (blob_span(body).len > wire->frame_max_bytes || header.len > PROTO_HEADER_BYTES)
        return ERR_LIMIT;
    zmq_msg_t parts[2];
    if (!make_part(&parts[0], header))
        return ERR_NOMEM;
    if (!make_body(&parts[1], body)) {
        zmq_msg_close(&parts[0]);
        return ERR_NOMEM;
    }
    loop_at_end(wire->loop, &wire->after_sends);
    if (send_parts(wire, route, &parts[0], &parts[1]))
        return ERR_OK;
    int error = errno;
    zmq_msg_close(&parts[0]);
    zmq_msg_close(&parts[1]);
    return error == EHOSTUNREACH ? ERR_UNREACHABLE : error == EAGAIN ? ERR_WOULD_BLOCK : ERR_SYSTEM;
}
