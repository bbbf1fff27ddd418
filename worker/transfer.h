/* HTTP requests to providers: curl_multi on the loop. Knows no provider and no job.
 *
 * One request is sent once: no redirects, no proxy, no retries of curl's own (a reused connection that breaks is a failure that
 * the broker hears of, never a silent second call). TLS 1.2 or later with verification; HTTP/1.1 only, so that closing a call
 * closes its socket. A connection is used again only after a complete answer.
 *
 * Names are resolved in curl's own threads. A resolver that hangs holds nothing up: the connect clock ends the call, its thread
 * is left to finish by itself. So up to (calls per second to such a name × the resolver's own timeout) threads may be waiting.
 */
#pragma once

#include "common/loop.h"
#include "worker/call.h"

#define TRANSFER_HEAD_MAX  (64 * 1024)  /* the head of one reply */
#define TRANSFER_HEADS_MAX (256 * 1024) /* with all interim replies (1xx) before it; curl has a limit of its own at 300 KiB */
#define TRANSFER_HEADERS   16

struct transfers; /* the connections of one process */
struct transfer;  /* one request and its answer */

struct transfers_options {
    bool http;           /* allow http: as well as https: */
    size_t connections;  /* kept open for use again; at least as many as there are calls at once */
    const char *ca_file; /* certificates to trust; NULL: the system's */
};

/* After fork and curl_global_init. ERR_NOMEM, ERR_SYSTEM. */
MUST_USE enum err transfers_new(struct loop *loop, const struct transfers_options *options, struct transfers **ret_transfers);
/* Every transfer has been freed. Closes what is open. */
void transfers_free(struct transfers **transfers);

/* Lent until the transfer is freed. */
struct transfer_request {
    const char *url;
    const char *headers[TRANSFER_HEADERS]; /* "Name: value"; NULL ends them */
    struct span body;                      /* POSTed */
    msec connect_ms;                       /* divided among a name's addresses */
    size_t answer_max;                     /* bytes of the body; beyond: FAULT_TOO_LARGE */
};

/* All but `ended` are called from inside curl: they must neither free nor start a transfer. */
struct transfer_hooks {
    /* The connection stands (TLS included) and the request leaves. */
    void (*connected)(void *arg);
    /* The first line of a reply came. */
    void (*answered)(void *arg);
    /* A piece of the body, or, with no bytes, the end of the head: status and headers are known. false: no more is wanted;
     * `ended` follows with FAULT_STOPPED. */
    bool (*bytes)(void *arg, struct span bytes);
    /* The last call; FAULT_NONE: the answer is complete by HTTP's rules. The transfer may be freed here. detail: a clause for
     * people,
     * "" if none, lent for the call. */
    void (*ended)(void *arg, enum fault fault, const char *detail);
    void *arg;
};

/* Starts at once; hooks are called from the loop, never from here. ERR_NOMEM. ERR_SETTINGS: the URL is not one we may call. */
MUST_USE enum err transfer_start(struct transfers *transfers, const struct transfer_request *request,
                                 const struct transfer_hooks *hooks, struct transfer **ret_transfer);

/* Closes the connection at once if the answer is not complete. No hook is called any more. */
void transfer_free(struct transfer **transfer);

/* Once `bytes` was called: the status, and a header's value by name ("" if absent; the last if there are several). Lent until
 * the next call. */
unsigned transfer_status(const struct transfer *transfer);
struct span transfer_header(const struct transfer *transfer, const char *name);

/* For the peer's numbers: sockets open now. */
size_t transfers_open(const struct transfers *transfers);
