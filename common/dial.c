#include "common/dial.h"

#include <errno.h>
#include <event2/event_struct.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/resolve.h"

/*   CLOSED ─► RESOLVING ─► CONNECTING ─► SECURING ─► OPEN        a unix socket and a numeric host skip RESOLVING,
 *     ▲           │             │            │          │        plain streams skip SECURING
 *     └───────────┴── FAILED ◄──┴────────────┘          │
 *     └────────────── dial_close ◄──────────────────────┘ */
enum state {
    CLOSED,
    RESOLVING,
    CONNECTING,
    SECURING,
    OPEN,
    FAILED, /* before it was open, and `failed` has not been called yet */
};

struct dial {
    struct loop *loop;
    struct dial_options options;
    struct dial_hooks hooks;
    enum state state;
    int fd; /* −1: none */
    SSL *ssl;
    struct evbuffer *out;
    struct event incoming; /* fd is readable */
    struct event room;     /* fd takes more; armed only while there is something for it */
    struct event wake;     /* no descriptor: says later, from the loop, what was found out in a call */
    struct resolve *resolve;
    unsigned failures; /* to open: picks the address */
    bool write_failed;
    bool read_wants_room;   /* TLS must write before it can read on */
    bool write_wants_bytes; /* and the other way round */
    char reason[160];
};

static void set_reason(struct dial *dial, const char *format, ...) PRINTF(2, 3);
static void set_reason(struct dial *dial, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(dial->reason, sizeof dial->reason, format, args);
    va_end(args);
}

/* Opening has failed for the reason set. The hook is called from the loop. */
static void fail(struct dial *dial)
{
    dial->state = FAILED;
    dial->failures++;
    event_active(&dial->wake, 0, 0);
}

static void fail_errno(struct dial *dial, const char *what)
{
    set_reason(dial, "%s: %s", what, strerror(errno));
    fail(dial);
}

/* OpenSSL's newest complaint, or the system's, or `otherwise`. */
static void set_tls_reason(struct dial *dial, const char *what, int saved_errno, const char *otherwise)
{
    unsigned long code = ERR_peek_last_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;
    long verdict = dial->ssl ? SSL_get_verify_result(dial->ssl) : X509_V_OK;
    if (verdict != X509_V_OK)
        text = X509_verify_cert_error_string(verdict);
    set_reason(dial, "%s: %s", what, text ? text : saved_errno ? strerror(saved_errno) : otherwise);
    ERR_clear_error();
}

static void arm(struct dial *dial, struct event *event)
{
    if (event_add(event, NULL) == 0)
        return;
    set_reason(dial, "no memory");
    if (dial->state == OPEN) {
        dial->write_failed = true;
        event_active(&dial->wake, 0, 0);
    } else {
        fail(dial);
    }
}

static void become_open(struct dial *dial)
{
    arm(dial, &dial->incoming);
    if (dial->state == FAILED)
        return;
    dial->state = OPEN;
    dial->failures = 0;
    dial->hooks.opened(dial->hooks.arg);
}

/* ---- TLS ---- */

static bool is_numeric(const char *host)
{
    uint8_t address[16];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

/* NULL with the reason set. */
static SSL_CTX *tls_context(struct dial *dial)
{
    const char *file = dial->options.tls_ca_file;
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION)) {
        set_reason(dial, "TLS: no memory");
    } else if (!(file ? SSL_CTX_load_verify_file(context, file) : SSL_CTX_set_default_verify_paths(context))) {
        set_reason(dial, "TLS: no certificates in %s", file ? file : "the system's place");
    } else {
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        return context;
    }
    SSL_CTX_free(context);
    return NULL;
}

static bool tls_expect(SSL *ssl, const char *host)
{
    if (is_numeric(host))
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, host) && SSL_set_tlsext_host_name(ssl, host);
}

static void tls_step(struct dial *dial)
{
    ERR_clear_error();
    errno = 0;
    int done = SSL_connect(dial->ssl), saved_errno = errno;
    if (done == 1) {
        become_open(dial);
        return;
    }
    switch (SSL_get_error(dial->ssl, done)) {
    case SSL_ERROR_WANT_READ:
        break; /* `incoming` stays armed */
    case SSL_ERROR_WANT_WRITE:
        arm(dial, &dial->room);
        break;
    default:
        set_tls_reason(dial, "TLS", saved_errno, "the peer closed the connection");
        fail(dial);
    }
}

static void tls_start(struct dial *dial)
{
    SSL_CTX *context = tls_context(dial);
    if (!context) {
        ERR_clear_error();
        fail(dial);
        return;
    }
    dial->ssl = SSL_new(context);
    SSL_CTX_free(context); /* the connection holds its own reference */
    if (!dial->ssl || !tls_expect(dial->ssl, dial->options.host) || !SSL_set_fd(dial->ssl, dial->fd)) {
        set_tls_reason(dial, "TLS", 0, "no memory");
        fail(dial);
        return;
    }
    dial->state = SECURING;
    arm(dial, &dial->incoming);
    if (dial->state == SECURING)
        tls_step(dial);
}

/* ---- connecting ---- */

/* The last two values notice a peer that is gone while nothing is asked of it; what is asked has deadlines of its own. */
static void set_tcp_options(int fd)
{
    int on = 1, idle_s = 15, every_s = 5, tries = 3;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof tries);
}

static void connected(struct dial *dial)
{
    if (dial->options.tls && !dial->options.socket)
        tls_start(dial);
    else
        become_open(dial);
}

static void came_in(evutil_socket_t fd, short what, void *arg);
static void has_room(evutil_socket_t fd, short what, void *arg);

static void start_connect(struct dial *dial, const struct sockaddr *address, socklen_t len)
{
    dial->fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (dial->fd < 0) {
        fail_errno(dial, "socket");
        return;
    }
    if (address->sa_family != AF_UNIX)
        set_tcp_options(dial->fd);
    struct event_base *base = loop_base(dial->loop);
    event_assign(&dial->incoming, base, dial->fd, EV_READ | EV_PERSIST, came_in, dial);
    event_assign(&dial->room, base, dial->fd, EV_WRITE, has_room, dial);
    /* A unix socket connects at once, or says EAGAIN when its backlog is full, which is a refusal like any other. Its socket is
     * writable all the same, so that both kinds go on in has_room. */
    if (connect(dial->fd, address, len) != 0 && errno != EINPROGRESS) {
        fail_errno(dial, "connect");
        return;
    }
    dial->state = CONNECTING;
    arm(dial, &dial->room);
}

static void connect_unix(struct dial *dial)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t len = strlen(dial->options.socket);
    if (len >= sizeof address.sun_path) {
        set_reason(dial, "the socket's path is longer than %zu bytes", sizeof address.sun_path - 1);
        fail(dial);
        return;
    }
    memcpy(address.sun_path, dial->options.socket, len);
    start_connect(dial, (struct sockaddr *)&address, sizeof address);
}

static void resolved(void *arg, const struct addrinfo *found, const char *reason)
{
    struct dial *dial = arg;
    /* Closed meanwhile: the resolve was kept, so that a slow name server is not asked twice at once. Its answer is old by now.
     */
    if (dial->state != RESOLVING) {
        resolve_free(&dial->resolve);
        return;
    }
    if (!found) {
        set_reason(dial, "resolve: %s", reason);
        fail(dial);
    } else {
        unsigned count = 0;
        for (const struct addrinfo *at = found; at; at = at->ai_next)
            count++;
        for (unsigned skip = dial->failures % count; skip; skip--)
            found = found->ai_next;
        start_connect(dial, found->ai_addr, found->ai_addrlen);
    }
    resolve_free(&dial->resolve);
}

static void connect_tcp(struct dial *dial)
{
    dial->state = RESOLVING;
    if (!dial->resolve)
        dial->resolve = resolve_new(dial->loop, dial->options.host, dial->options.port, resolved, dial);
    if (!dial->resolve) {
        set_reason(dial, "resolve: no memory or no thread");
        fail(dial);
    }
}

void dial_aim(struct dial *dial, const char *host, unsigned port)
{
    assert(dial->state == CLOSED);
    dial->options.host = host;
    dial->options.port = port;
    dial->failures = 0;
    resolve_free(&dial->resolve); /* it may still look up the one before */
}

void dial_open(struct dial *dial)
{
    assert(dial->state == CLOSED);
    dial->reason[0] = '\0';
    if (dial->options.socket)
        connect_unix(dial);
    else
        connect_tcp(dial);
}

void dial_close(struct dial *dial)
{
    if (dial->state == CLOSED)
        return;
    event_del(&dial->wake);
    if (dial->fd >= 0) {
        event_del(&dial->incoming);
        event_del(&dial->room);
    }
    if (dial->ssl && dial->state == OPEN && !dial->write_failed)
        SSL_shutdown(dial->ssl); /* says goodbye if there is room; no answer is waited for */
    SSL_free(dial->ssl);
    dial->ssl = NULL;
    ERR_clear_error();
    if (dial->fd >= 0)
        close(dial->fd);
    dial->fd = -1;
    evbuffer_drain(dial->out, evbuffer_get_length(dial->out));
    dial->write_failed = dial->read_wants_room = dial->write_wants_bytes = false;
    dial->state = CLOSED;
}

/* ---- events ---- */

static void readable(struct dial *dial)
{
    dial->hooks.readable(dial->hooks.arg);
    if (dial->write_wants_bytes) {
        dial->write_wants_bytes = false;
        dial_flush(dial);
    }
    /* What TLS has decrypted already, epoll does not know of. */
    if (dial->state == OPEN && dial->ssl && SSL_pending(dial->ssl) > 0)
        event_active(&dial->wake, 0, 0);
}

static void came_in(evutil_socket_t fd, short what, void *arg)
{
    struct dial *dial = arg;
    if (dial->state == SECURING)
        tls_step(dial);
    else if (dial->state == OPEN)
        readable(dial);
}

static void finish_connect(struct dial *dial)
{
    int failed = 0;
    socklen_t len = sizeof failed;
    if (getsockopt(dial->fd, SOL_SOCKET, SO_ERROR, &failed, &len) != 0)
        failed = errno;
    errno = failed;
    if (failed)
        fail_errno(dial, "connect");
    else
        connected(dial);
}

static void has_room(evutil_socket_t fd, short what, void *arg)
{
    struct dial *dial = arg;
    switch (dial->state) {
    case CONNECTING:
        finish_connect(dial);
        break;
    case SECURING:
        tls_step(dial);
        break;
    case OPEN:
        dial_flush(dial);
        if (dial->read_wants_room) {
            dial->read_wants_room = false;
            readable(dial);
        }
        break;
    default:
        break;
    }
}

static void woken(evutil_socket_t fd, short what, void *arg)
{
    struct dial *dial = arg;
    if (dial->state == OPEN) {
        readable(dial);
    } else if (dial->state == FAILED) {
        dial_close(dial);
        dial->hooks.failed(dial->hooks.arg);
    }
}

/* ---- reading and writing ---- */

static enum err ended(struct dial *dial, const char *what, int saved_errno)
{
    if (saved_errno)
        set_reason(dial, "%s: %s", what, strerror(saved_errno));
    else
        set_reason(dial, "the peer closed the connection");
    return ERR_CLOSED;
}

/* Nothing more for now; but a stream that cannot be written any more has ended, once everything that came was read. */
static enum err no_more(struct dial *dial)
{
    return dial->write_failed ? ERR_CLOSED : ERR_WOULD_BLOCK;
}

static enum err read_plain(struct dial *dial, void *buffer, size_t size, size_t *ret_len)
{
    ssize_t len;
    do
        len = read(dial->fd, buffer, size);
    while (len < 0 && errno == EINTR);
    if (len > 0) {
        *ret_len = (size_t)len;
        return ERR_OK;
    }
    if (len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return no_more(dial);
    return ended(dial, "read", len < 0 ? errno : 0);
}

static enum err read_tls(struct dial *dial, void *buffer, size_t size, size_t *ret_len)
{
    if (dial->write_failed)
        return ERR_CLOSED; /* OpenSSL allows no call after a fatal one */
    ERR_clear_error();
    errno = 0;
    int done = SSL_read_ex(dial->ssl, buffer, size, ret_len), saved_errno = errno;
    if (done == 1)
        return ERR_OK;
    int why = SSL_get_error(dial->ssl, done);
    if (why == SSL_ERROR_WANT_READ)
        return no_more(dial);
    if (why == SSL_ERROR_WANT_WRITE) {
        dial->read_wants_room = true;
        arm(dial, &dial->room);
        return no_more(dial);
    }
    if (why == SSL_ERROR_ZERO_RETURN)
        return ended(dial, "read", 0);
    set_tls_reason(dial, "TLS read", saved_errno, "the peer closed the connection");
    dial->write_failed = true; /* no goodbye either */
    return ERR_CLOSED;
}

enum err dial_read(struct dial *dial, void *buffer, size_t size, size_t *ret_len)
{
    assert(dial->state == OPEN);
    return dial->ssl ? read_tls(dial, buffer, size, ret_len) : read_plain(dial, buffer, size, ret_len);
}

struct evbuffer *dial_out(struct dial *dial)
{
    return dial->out;
}

/* True when all was written or the rest waits for room; false when the stream takes nothing any more, with the reason set. */
static bool write_plain(struct dial *dial)
{
    if (evbuffer_write(dial->out, dial->fd) < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
        set_reason(dial, "write: %s", strerror(errno));
        return false;
    }
    if (evbuffer_get_length(dial->out))
        arm(dial, &dial->room);
    return true;
}

static bool write_tls(struct dial *dial)
{
    struct evbuffer_iovec piece;
    while (evbuffer_peek(dial->out, -1, NULL, &piece, 1) > 0) {
        ERR_clear_error();
        errno = 0;
        size_t len = 0;
        int done = SSL_write_ex(dial->ssl, piece.iov_base, piece.iov_len, &len), saved_errno = errno;
        if (done == 1) {
            evbuffer_drain(dial->out, len);
            continue;
        }
        int why = SSL_get_error(dial->ssl, done);
        if (why == SSL_ERROR_WANT_READ) {
            dial->write_wants_bytes = true;
            return true;
        }
        if (why == SSL_ERROR_WANT_WRITE) {
            arm(dial, &dial->room);
            return true;
        }
        set_tls_reason(dial, "TLS write", saved_errno, "the peer closed the connection");
        return false;
    }
    return true;
}

void dial_flush(struct dial *dial)
{
    if (dial->state != OPEN || dial->write_failed || !evbuffer_get_length(dial->out) ||
        event_pending(&dial->room, EV_WRITE, NULL))
        return;
    if (dial->ssl ? write_tls(dial) : write_plain(dial))
        return;
    dial->write_failed = true;
    event_active(&dial->wake, 0, 0);
}

const char *dial_reason(const struct dial *dial)
{
    return dial->reason;
}

/* ---- life ---- */

struct dial *dial_new(struct loop *loop, const struct dial_options *options, struct dial_hooks hooks)
{
    struct dial *dial = calloc(1, sizeof *dial);
    if (!dial)
        return NULL;
    *dial = (struct dial){.loop = loop, .options = *options, .hooks = hooks, .fd = -1, .out = evbuffer_new()};
    if (!dial->out || event_assign(&dial->wake, loop_base(loop), -1, 0, woken, dial) != 0)
        dial_free(&dial);
    return dial;
}

void dial_free(struct dial **dial_ptr)
{
    struct dial *dial = TAKE(*dial_ptr);
    if (!dial)
        return;
    dial_close(dial);
    resolve_free(&dial->resolve);
    if (dial->out)
        evbuffer_free(dial->out);
    free(dial);
}
