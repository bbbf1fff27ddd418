/* curl tells us which sockets to watch and when to wake it; we tell it what happened and collect what is finished. Its timer is
 * a timer of the loop, never a timerfd (LIMITS.md: worth 2.2 times). */
#include "worker/transfer.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define IDLE_CONNECTION_S 60L /* an idle connection older than this is not used again: its server may be about to close it */

struct transfers {
    struct loop *loop;
    CURLM *multi;
    CURLSH *share; /* TLS sessions, so that a new connection resumes an old one's */
    struct timer *timer;
    struct transfers_options options;
    size_t transfers_count;
    size_t open_count;
    bool inside; /* in a call into curl: transfers must not be freed */
};

struct transfer {
    struct transfers *transfers;
    CURL *easy;
    struct transfer_hooks hooks;
    size_t answer_max, answer_bytes, head_bytes, heads_bytes;
    bool added, sent, answered, again, head_told;
    bool starved;       /* no descriptor or no memory for a socket: ours, not the provider's */
    enum fault stopped; /* why we made curl stop */
    struct curl_slist headers[TRANSFER_HEADERS + 1];
    char error[CURL_ERROR_SIZE];
};

/* ---- the loop's side ---- */

static void collect(struct transfers *transfers);

static void act(struct transfers *transfers, curl_socket_t fd, int what)
{
    int running;
    transfers->inside = true;
    curl_multi_socket_action(transfers->multi, fd, what,
                             &running); /* what it could not do for want of memory, the clocks end */
    transfers->inside = false;
    collect(transfers);
}

static void socket_ready(evutil_socket_t fd, short what, void *arg)
{
    act(arg, fd, (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0));
}

static void timer_due(void *arg)
{
    act(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int want_timer(CURLM *multi, long timeout_ms, void *arg)
{
    struct transfers *transfers = arg;
    timer_set(transfers->timer, timeout_ms < 0 ? MSEC_NEVER : loop_now(transfers->loop) + timeout_ms);
    return 0;
}

/* The event of a socket is kept with the socket in curl (curl_multi_assign) and lives until curl forgets it. A socket that
 * cannot be watched for want of memory is left to the call's clocks: an error here would end every transfer there is. */
static int want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct transfers *transfers = arg;
    struct event *event = socket_arg;
    if (what == CURL_POLL_REMOVE) {
        if (event)
            event_free(event);
        curl_multi_assign(transfers->multi, fd, NULL);
        return 0;
    }
    short events = EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);
    if (event) {
        event_del(event);
        if (event_assign(event, loop_base(transfers->loop), fd, events, socket_ready, transfers) != 0)
            return 0;
    } else {
        event = event_new(loop_base(transfers->loop), fd, events, socket_ready, transfers);
        if (!event)
            return 0;
        curl_multi_assign(transfers->multi, fd, event);
    }
    event_add(event, NULL);
    return 0;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct transfer *transfer = arg;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    transfer->transfers->open_count += fd >= 0;
    transfer->starved |= fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM);
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

static int close_socket(void *arg, curl_socket_t fd)
{
    struct transfers *transfers = arg;
    transfers->open_count--;
    return close(fd);
}

enum err transfers_new(struct loop *loop, const struct transfers_options *options, struct transfers **ret_transfers)
{
    AUTO(transfers_free) struct transfers *transfers = calloc(1, sizeof *transfers);
    if (!transfers)
        return ERR_NOMEM;
    transfers->loop = loop;
    transfers->options = *options;
    transfers->timer = timer_new(loop, timer_due, transfers);
    transfers->multi = curl_multi_init();
    transfers->share = curl_share_init();
    if (!transfers->timer || !transfers->multi || !transfers->share)
        return ERR_NOMEM;
    CURLM *multi = transfers->multi;
    if (curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, want_socket) ||
        curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, transfers) ||
        curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, want_timer) ||
        curl_multi_setopt(multi, CURLMOPT_TIMERDATA, transfers) ||
        curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)options->connections) ||
        curl_multi_setopt(multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING) ||
        curl_share_setopt(transfers->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION))
        return ERR_SYSTEM;
    *ret_transfers = TAKE(transfers);
    return ERR_OK;
}

void transfers_free(struct transfers **transfers_ptr)
{
    struct transfers *transfers = TAKE(*transfers_ptr);
    if (!transfers)
        return;
    assert(transfers->transfers_count == 0);
    if (transfers->multi)
        curl_multi_cleanup(transfers->multi);
    if (transfers->share)
        curl_share_cleanup(transfers->share);
    timer_free(&transfers->timer);
    free(transfers);
}

size_t transfers_open(const struct transfers *transfers)
{
    return transfers->open_count;
}

/* ---- one transfer: curl's callbacks ---- */

/* Called when the connection stands, before anything is sent. A second call for one transfer is curl trying the request again
 * by itself on a new connection, because a reused one broke: that is refused. */
static int before_request(void *arg, char *ip, char *local_ip, int port, int local_port)
{
    struct transfer *transfer = arg;
    if (transfer->sent) {
        transfer->again = true;
        return CURL_PREREQFUNC_ABORT;
    }
    transfer->sent = true;
    transfer->hooks.connected(transfer->hooks.arg);
    return CURL_PREREQFUNC_OK;
}

static size_t stop(struct transfer *transfer, enum fault fault)
{
    transfer->stopped = fault;
    return 0; /* fewer bytes taken than given: curl ends the transfer with a write error and closes the connection */
}

static bool tell_head(struct transfer *transfer)
{
    if (transfer->head_told)
        return true;
    transfer->head_told = true;
    return transfer->hooks.bytes(transfer->hooks.arg, (struct span){0});
}

/* One line. The empty one ends a head, unless that head was an interim reply's. */
static size_t take_head(char *line, size_t size, size_t count, void *arg)
{
    struct transfer *transfer = arg;
    size_t len = size * count;
    if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
        transfer->head_bytes = 0; /* another reply begins: the one before was interim */
    transfer->head_bytes += len;
    transfer->heads_bytes += len;
    if (transfer->head_bytes > TRANSFER_HEAD_MAX || transfer->heads_bytes > TRANSFER_HEADS_MAX)
        return stop(transfer, FAULT_HEAD);
    if (!transfer->answered) {
        transfer->answered = true;
        transfer->hooks.answered(transfer->hooks.arg);
    }
    bool last = len <= 2 && (line[0] == '\r' || line[0] == '\n');
    if (last && transfer_status(transfer) >= 200 && !tell_head(transfer))
        return stop(transfer, FAULT_STOPPED);
    return len;
}

static size_t take_body(char *data, size_t size, size_t count, void *arg)
{
    struct transfer *transfer = arg;
    size_t len = size * count;
    if (!tell_head(transfer))
        return stop(transfer, FAULT_STOPPED);
    if (len > transfer->answer_max - transfer->answer_bytes)
        return stop(transfer, FAULT_TOO_LARGE);
    transfer->answer_bytes += len;
    if (len && !transfer->hooks.bytes(transfer->hooks.arg, span_of(data, len)))
        return stop(transfer, FAULT_STOPPED);
    return len;
}

/* ---- how it ended ---- */

static bool says(const struct transfer *transfer, const char *words)
{
    return strstr(transfer->error, words) != NULL;
}

/* A resolver that cannot open a socket only says that it found nothing. */
static bool no_descriptor(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0)
        close(fd);
    return fd < 0 && (errno == EMFILE || errno == ENFILE);
}

static enum fault fault_of(const struct transfer *transfer, CURLcode code)
{
    if (transfer->stopped)
        return transfer->stopped;
    if (transfer->again)
        return FAULT_RESET;
    switch (code) {
    case CURLE_OK:
        return FAULT_NONE;
    case CURLE_COULDNT_RESOLVE_HOST:
        return no_descriptor() ? FAULT_STARVED : FAULT_RESOLVE;
    case CURLE_COULDNT_CONNECT:
        return transfer->starved ? FAULT_STARVED : FAULT_CONNECT;
    case CURLE_OPERATION_TIMEDOUT: /* only the connect clock is set in curl */
        return FAULT_CONNECT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
        return transfer->sent ? FAULT_RESET : FAULT_TLS;
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
        return FAULT_RESET;
    case CURLE_RECV_ERROR:
        return says(transfer, "chunked-encoding") ? FAULT_FRAMING : FAULT_RESET;
    case CURLE_PARTIAL_FILE:
        return FAULT_CUT;
    case CURLE_OUT_OF_MEMORY:
        return transfer->sent && !transfer->head_told ? FAULT_HEAD
                                                      : FAULT_NOMEM; /* a head line above curl's own limit is this too */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_FILESIZE_EXCEEDED:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_WRITE_ERROR:
        return transfer->sent ? FAULT_FRAMING : FAULT_INTERNAL;
    default:
        return FAULT_INTERNAL;
    }
}

static void finish(struct transfer *transfer, CURLcode code)
{
    enum fault fault = fault_of(transfer, code);
    if (!fault && !tell_head(transfer)) /* an answer without a body */
        fault = FAULT_STOPPED;
    bool ours = !fault || transfer->stopped || transfer->again || fault == FAULT_HEAD; /* curl's words would mislead */
    const char *detail = ours ? "" : transfer->error[0] ? transfer->error : curl_easy_strerror(code);
    transfer->hooks.ended(transfer->hooks.arg, fault, detail);
}

static void collect(struct transfers *transfers)
{
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(transfers->multi, &left))) {
        struct transfer *transfer = NULL;
        CURLcode code = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
        finish(transfer, code);
    }
}

/* ---- starting and freeing ---- */

static enum err prepare(struct transfer *transfer, const struct transfer_request *request)
{
    struct transfers *transfers = transfer->transfers;
    CURL *easy = transfer->easy;
    const char *schemes = transfers->options.http ? "http,https" : "https";
    CURLcode bad = CURLE_OK;
#define SET(option, value)                                                                                                     \
    if (!bad)                                                                                                                  \
    bad = curl_easy_setopt(easy, CURLOPT_##option, value)
    SET(PROTOCOLS_STR, schemes);
    SET(URL, request->url);
    SET(PROXY, "");
    SET(FOLLOWLOCATION, 0L);
    SET(NOSIGNAL, 1L);
    SET(QUICK_EXIT, 1L); /* a thread that resolves a name is left behind, not waited for */
    SET(HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(SHARE, transfers->share);
    SET(MAXAGE_CONN, IDLE_CONNECTION_S);
    SET(TCP_KEEPALIVE, 1L);
    SET(CONNECTTIMEOUT_MS, (long)MIN(request->connect_ms, (msec)INT32_MAX));
    SET(USERAGENT, "quern/" QUERN_VERSION);
    SET(HTTPHEADER, transfer->headers);
    SET(POSTFIELDSIZE_LARGE, (curl_off_t)request->body.len);
    SET(POSTFIELDS, request->body.len ? (const char *)request->body.data : "");
    SET(ERRORBUFFER, transfer->error);
    SET(PRIVATE, transfer);
    SET(PREREQFUNCTION, before_request);
    SET(PREREQDATA, transfer);
    SET(HEADERFUNCTION, take_head);
    SET(HEADERDATA, transfer);
    SET(WRITEFUNCTION, take_body);
    SET(WRITEDATA, transfer);
    SET(OPENSOCKETFUNCTION, open_socket);
    SET(OPENSOCKETDATA, transfer);
    SET(CLOSESOCKETFUNCTION, close_socket);
    SET(CLOSESOCKETDATA, transfers);
    if (transfers->options.ca_file)
        SET(CAINFO, transfers->options.ca_file);
#undef SET
    return bad == CURLE_OK ? ERR_OK : bad == CURLE_OUT_OF_MEMORY ? ERR_NOMEM : ERR_SETTINGS;
}

/* curl reads the list and never writes or frees it, so its nodes can lie here and point to lent text (a key in locked memory).
 */
static void list_headers(struct transfer *transfer, const struct transfer_request *request)
{
    size_t count = 0;
    transfer->headers[count++].data = "Expect:"; /* no 100-continue: it costs a round trip or a second */
    for (size_t i = 0; i < TRANSFER_HEADERS && request->headers[i]; i++)
        transfer->headers[count++].data = (char *)request->headers[i];
    for (size_t i = 0; i + 1 < count; i++)
        transfer->headers[i].next = &transfer->headers[i + 1];
}

enum err transfer_start(struct transfers *transfers, const struct transfer_request *request, const struct transfer_hooks *hooks,
                        struct transfer **ret_transfer)
{
    AUTO(transfer_free) struct transfer *transfer = calloc(1, sizeof *transfer);
    if (!transfer)
        return ERR_NOMEM;
    transfer->transfers = transfers;
    transfers->transfers_count++;
    transfer->hooks = *hooks;
    transfer->answer_max = request->answer_max;
    list_headers(transfer, request);
    transfer->easy = curl_easy_init();
    if (!transfer->easy)
        return ERR_NOMEM;
    enum err e = prepare(transfer, request);
    if (e)
        return e;
    if (curl_multi_add_handle(transfers->multi, transfer->easy) != CURLM_OK)
        return ERR_NOMEM;
    transfer->added = true;
    *ret_transfer = TAKE(transfer);
    return ERR_OK;
}

void transfer_free(struct transfer **transfer_ptr)
{
    struct transfer *transfer = TAKE(*transfer_ptr);
    if (!transfer)
        return;
    assert(!transfer->transfers->inside);
    if (transfer->added)
        curl_multi_remove_handle(transfer->transfers->multi, transfer->easy);
    if (transfer->easy)
        curl_easy_cleanup(transfer->easy);
    transfer->transfers->transfers_count--;
    free(transfer);
}

unsigned transfer_status(const struct transfer *transfer)
{
    long status = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    return (unsigned)status;
}

struct span transfer_header(const struct transfer *transfer, const char *name)
{
    struct curl_header *header;
    CURLHcode code = curl_easy_header(transfer->easy, name, 0, CURLH_HEADER, -1, &header);
    if (code == CURLHE_OK && header->amount > 1)
        code = curl_easy_header(transfer->easy, name, header->amount - 1, CURLH_HEADER, -1, &header);
    return code == CURLHE_OK ? span_str(header->value) : (struct span){0};
}
