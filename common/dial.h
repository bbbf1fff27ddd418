/* One outgoing stream of bytes, made again as often as asked: unix socket, TCP, or TLS over TCP. Never blocks; knows nothing of
 * what is said over it, of deadlines or of when to try again: that is its user's.
 *
 * Not a bufferevent: libevent 2.1 reads at most 4 KiB per wake-up, so that a result of 4 MiB would cost a thousand turns. */
#pragma once

#include <event2/buffer.h>

#include "common/base.h"
#include "common/loop.h"

struct dial;

/* Strings are lent for the life of the dial. */
struct dial_options {
    const char *socket; /* a unix socket's path, or NULL for TCP */
    const char *host;   /* numeric, or a name (common/resolve) */
    unsigned port;
    bool tls;                /* with TCP: the certificate must be good for `host`; TLS 1.2 at least */
    const char *tls_ca_file; /* NULL: the system's roots. Read anew for every connection */
};

/* Called from the loop, never within dial_open. In each of them the dial may be closed and opened again, but not freed. */
struct dial_hooks {
    void (*opened)(void *arg);
    /* It could not be opened; it is closed now. dial_reason says why. */
    void (*failed)(void *arg);
    /* Bytes have come or the stream has ended: dial_read until it gives no more, or as much as is fair. */
    void (*readable)(void *arg);
    void *arg;
};

/* NULL when there is no memory. */
MUST_USE struct dial *dial_new(struct loop *loop, const struct dial_options *options, struct dial_hooks hooks);
void dial_free(struct dial **dial);

/* From now on this host and port, lent like the options. The dial must be closed. */
void dial_aim(struct dial *dial, const char *host, unsigned port);

/* Starts connecting; exactly one of opened and failed follows, unless it is closed before. A host with several addresses is
 * tried at the next one after each failure. The dial must be closed. */
void dial_open(struct dial *dial);
/* At once; what was not yet written is dropped. Closing twice is harmless. */
void dial_close(struct dial *dial);

/* ERR_WOULD_BLOCK: no more for now. ERR_CLOSED: the stream has ended, dial_reason says why; only closing is left to do. */
MUST_USE enum err dial_read(struct dial *dial, void *buffer, size_t size, size_t *ret_len);

/* What is to be written: append to it while open, then flush. */
struct evbuffer *dial_out(struct dial *dial);
/* Writes what the kernel takes now and the rest as it takes more. A refusal shows at the next read. */
void dial_flush(struct dial *dial);

/* Why it failed or ended last. Lent until it is opened again. */
const char *dial_reason(const struct dial *dial);
