/* The load generator: keep-alive HTTP/1.1 connections in a closed loop, one epoll, latencies kept exactly.
 *
 *   load --port P --mode jobs|static --connections N --seconds S [--warm S] [--prompt TEXT]
 *
 * jobs:   each connection submits a job, reads it with ?wait until it has ended, checks the answer, and goes on.
 * static: each connection posts the same bytes to any path and takes any 2xx: what a bare HTTP server costs.
 * Prints one JSON object. Anything but the expected status ends the run with exit 1. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum step { SUBMITTING, READING };

struct client {
    int fd;
    enum step step;
    uint64_t began_ns, submitted_ns;
    unsigned number;
    size_t len;
    char in[16384];
};

struct samples {
    uint32_t *us;
    size_t count, size;
};

static struct options {
    int port, connections;
    double seconds, warm;
    bool jobs;
    const char *prompt;
} options = {.connections = 64, .seconds = 5, .warm = 1, .jobs = true, .prompt = "hello, how are you today?"};

static struct samples submits, ends;
static uint64_t done, from_ns, until_ns;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what, const char *detail)
{
    fprintf(stderr, "load: %s: %.600s\n", what, detail);
    exit(1);
}

static void keep(struct samples *s, uint64_t at_ns, uint64_t ns)
{
    if (at_ns < from_ns || at_ns > until_ns)
        return;
    if (s->count == s->size) {
        s->size = s->size ? s->size * 2 : 65536;
        s->us = realloc(s->us, s->size * sizeof *s->us);
        if (!s->us)
            fail("memory", "");
    }
    s->us[s->count++] = (uint32_t)(ns / 1000);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double quantile(struct samples *s, double q)
{
    if (!s->count)
        return 0;
    return s->us[(size_t)(q * (double)(s->count - 1))] / 1000.0;
}

static void send_all(struct client *c, const char *data, size_t len)
{
    ssize_t sent = send(c->fd, data, len, MSG_NOSIGNAL);
    if (sent != (ssize_t)len)
        fail("send", strerror(errno));
}

static void submit(struct client *c)
{
    char body[4096], out[8192];
    int len = snprintf(body, sizeof body, "{\"prompt\":\"%s %u-%d\"}", options.prompt, c->number++, c->fd);
    int total = snprintf(
        out, sizeof out,
        "POST /v1/jobs HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len, body);
    c->step = SUBMITTING;
    c->began_ns = now_ns();
    send_all(c, out, (size_t)total);
}

static void read_job(struct client *c, const char *id)
{
    char out[256];
    int total = snprintf(out, sizeof out, "GET /v1/jobs/%.30s?wait=30s HTTP/1.1\r\nHost: load\r\n\r\n", id);
    c->step = READING;
    send_all(c, out, (size_t)total);
}

static void answered(struct client *c, int status, const char *body)
{
    uint64_t now = now_ns();
    if (c->step == SUBMITTING) {
        if (status / 100 != 2)
            fail("submit was refused", c->in);
        keep(&submits, now, now - c->began_ns);
        if (options.jobs) {
            const char *id = strstr(body, "\"job_");
            if (!id)
                fail("no id", body);
            read_job(c, id + 1);
            return;
        }
    } else {
        if (status != 200 || !strstr(body, "\"completed\"") || !strstr(body, "echo: "))
            fail("the job did not complete", c->in);
        keep(&ends, now, now - c->began_ns);
    }
    done += now >= from_ns && now <= until_ns;
    if (now < until_ns)
        submit(c);
}

/* One answer is in the buffer, or more is needed. */
static void take(struct client *c)
{
    ssize_t got = recv(c->fd, c->in + c->len, sizeof c->in - 1 - c->len, 0);
    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        fail("the connection closed", c->in);
    }
    c->len += (size_t)got;
    c->in[c->len] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return;
    const char *field = strcasestr(c->in, "\r\ncontent-length:");
    size_t length = field && field < end ? strtoul(field + 17, NULL, 10) : 0;
    size_t whole = (size_t)(end + 4 - c->in) + length;
    if (whole >= sizeof c->in)
        fail("the answer is too long for this tool", "");
    if (c->len < whole)
        return;
    c->len = 0;
    answered(c, atoi(c->in + 9), end + 4);
}

static void parse(int argc, char **argv)
{
    static const struct option names[] = {{"port", 1, 0, 'p'},
                                          {"mode", 1, 0, 'm'},
                                          {"connections", 1, 0, 'c'},
                                          {"seconds", 1, 0, 's'},
                                          {"warm", 1, 0, 'w'},
                                          {"prompt", 1, 0, 't'},
                                          {0}};
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (o) {
        case 'p':
            options.port = atoi(optarg);
            break;
        case 'm':
            options.jobs = strcmp(optarg, "static") != 0;
            break;
        case 'c':
            options.connections = atoi(optarg);
            break;
        case 's':
            options.seconds = atof(optarg);
            break;
        case 'w':
            options.warm = atof(optarg);
            break;
        case 't':
            options.prompt = optarg;
            break;
        default:
            exit(2);
        }
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    int poll = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc((size_t)options.connections, sizeof *clients);
    if (!clients)
        fail("memory", "");
    from_ns = now_ns() + (uint64_t)(options.warm * 1e9);
    until_ns = from_ns + (uint64_t)(options.seconds * 1e9);
    for (int i = 0; i < options.connections; i++) {
        struct client *c = &clients[i];
        struct sockaddr_in to = {
            .sin_family = AF_INET, .sin_port = htons((uint16_t)options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0)
            fail("connect", strerror(errno));
        int on = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
        submit(c);
    }
    while (now_ns() < until_ns) {
        struct epoll_event events[256];
        int n = epoll_wait(poll, events, 256, 100);
        for (int i = 0; i < n; i++)
            take(events[i].data.ptr);
    }
    qsort(submits.us, submits.count, sizeof *submits.us, by_value);
    qsort(ends.us, ends.count, sizeof *ends.us, by_value);
    printf("{\"done\":%lu,\"seconds\":%.3f,\"per_second\":%.0f,\"submit_p50_ms\":%.3f,\"submit_p99_ms\":%.3f,\"end_p50_ms\":%."
           "3f,\"end_p99_ms\":%.3f}\n",
           (unsigned long)done, options.seconds, (double)done / options.seconds, quantile(&submits, .5),
           quantile(&submits, .99), quantile(&ends, .5), quantile(&ends, .99));
    return 0;
}
