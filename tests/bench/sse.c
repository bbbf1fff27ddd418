/* Readers of event streams, many of them: one epoll, arrival times kept exactly.
 *
 *   bench-sse --port P --paths FILE --readers N
 *
 * FILE has one path per line; reader i asks for line i modulo their number. Prints "ready <ms to connect all>" once every
 * reader has had a first event, then reads until every stream has ended, and prints one JSON object: for each token (by its
 * index) and for `done`, how many readers got it and when: least, median, 99th percentile and greatest, in ms of
 * CLOCK_MONOTONIC. Anything but status 200 ends the run with exit 1. SIGTERM ends it without figures. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TOKENS_MAX 4096
#define KEPT       64 /* bytes of one read that the next may complete */

struct reader {
    int fd;
    bool begun;
    uint8_t kept;
    char tail[KEPT];
};

/* When each reader got one event. */
struct arrivals {
    uint64_t *ns;
    unsigned count;
};

static struct reader *readers;
static unsigned readers_count, begun, ended;
static struct arrivals tokens[TOKENS_MAX], dones;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what, const char *detail)
{
    fprintf(stderr, "bench-sse: %s: %.300s\n", what, detail);
    exit(1);
}

static void arrived(struct arrivals *a, uint64_t at_ns)
{
    if (!a->ns && !(a->ns = calloc(readers_count, sizeof *a->ns)))
        fail("memory", "");
    if (a->count == readers_count)
        fail("an event came twice", "");
    a->ns[a->count++] = at_ns;
}

/* ---- reading ---- */

static void begin(struct reader *r, const char *data)
{
    if (strncmp(data, "HTTP/1.1 200", 12) != 0)
        fail("refused", data);
    if (strstr(data, "\nevent: ")) {
        r->begun = true;
        begun++;
    }
}

/* Every mark that is whole in data[0, len). Returns where the next read looks on from. */
static size_t scan(const char *data, size_t len, uint64_t at_ns)
{
    static const char index[] = "\"index\":", done[] = "event: done\n";
    const char *p = data, *const end = data + len;
    size_t used = 0;
    while ((p = memmem(p, (size_t)(end - p), index, sizeof index - 1))) {
        p += sizeof index - 1;
        if (!memchr(p, '}', (size_t)(end - p)))
            break; /* its number is not all there */
        unsigned long k = strtoul(p, NULL, 10);
        if (k < TOKENS_MAX)
            arrived(&tokens[k], at_ns);
        used = (size_t)(p - data);
    }
    const char *last = memmem(data + used, len - used, done, sizeof done - 1);
    if (last) {
        arrived(&dones, at_ns);
        used = (size_t)(last - data) + sizeof done - 1;
    }
    return used;
}

static void take(struct reader *r)
{
    char data[KEPT + 65536 + 1];
    memcpy(data, r->tail, r->kept);
    ssize_t got = recv(r->fd, data + r->kept, sizeof data - 1 - r->kept, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        close(r->fd);
        ended++;
        return;
    }
    size_t len = r->kept + (size_t)got;
    data[len] = '\0';
    if (!r->begun)
        begin(r, data);
    size_t used = scan(data, len, now_ns());
    if (len >= 5 && memcmp(data + len - 5, "0\r\n\r\n", 5) == 0) {
        close(r->fd);
        ended++;
        return;
    }
    r->kept = (uint8_t)(len - used < KEPT ? len - used : KEPT);
    if (r->begun)
        memcpy(r->tail, data + len - r->kept, r->kept);
    else
        r->kept = 0;
}

static void turn(int poll)
{
    struct epoll_event events[512];
    int n = epoll_wait(poll, events, 512, 100);
    for (int i = 0; i < n; i++)
        take(events[i].data.ptr);
}

/* ---- beginning ---- */

static char **read_paths(const char *file, unsigned *ret_count)
{
    FILE *f = fopen(file, "r");
    char **paths = NULL, line[512];
    unsigned count = 0;
    if (!f)
        fail(file, strerror(errno));
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (!(count & (count - 1)) && !(paths = realloc(paths, (count ? count * 2 : 1) * sizeof *paths)))
            fail("memory", "");
        paths[count++] = strdup(line);
    }
    fclose(f);
    if (!count)
        fail(file, "has no paths");
    *ret_count = count;
    return paths;
}

static void dial(struct reader *r, int poll, int port, const char *path)
{
    char request[768];
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    r->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (r->fd < 0 || connect(r->fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("connect", strerror(errno));
    int len = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n", path);
    if (send(r->fd, request, (size_t)len, MSG_NOSIGNAL) != len)
        fail("send", strerror(errno));
    fcntl(r->fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(poll, EPOLL_CTL_ADD, r->fd, &(struct epoll_event){.events = EPOLLIN | EPOLLET, .data.ptr = r});
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void print(struct arrivals *a, const char *before)
{
    qsort(a->ns, a->count, sizeof *a->ns, by_value);
    const double at[] = {0, 0.5, 0.99, 1};
    printf("%s[%u", before, a->count);
    for (int i = 0; i < 4; i++)
        printf(",%.3f", (double)a->ns[(size_t)(at[i] * (a->count - 1))] / 1e6);
    printf("]");
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"port", 1, 0, 'p'}, {"paths", 1, 0, 'f'}, {"readers", 1, 0, 'n'}, {0}};
    int port = 0;
    const char *file = NULL;
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;)
        if (o == 'p')
            port = atoi(optarg);
        else if (o == 'f')
            file = optarg;
        else if (o == 'n')
            readers_count = (unsigned)atoi(optarg);
        else
            exit(2);
    if (!port || !file || !readers_count)
        exit(2);
    unsigned paths_count;
    char **paths = read_paths(file, &paths_count);
    int poll = epoll_create1(EPOLL_CLOEXEC);
    readers = calloc(readers_count, sizeof *readers);
    if (!readers)
        fail("memory", "");
    uint64_t from = now_ns();
    for (unsigned i = 0; i < readers_count; i++) {
        dial(&readers[i], poll, port, paths[i % paths_count]);
        if (i % 64 == 63)
            turn(poll);
    }
    while (begun < readers_count)
        turn(poll);
    printf("ready %.0f\n", (double)(now_ns() - from) / 1e6);
    fflush(stdout);
    while (ended < readers_count)
        turn(poll);
    printf("{\"readers\":%u,\"tokens\":[", readers_count);
    for (unsigned k = 0; k < TOKENS_MAX && tokens[k].count; k++)
        print(&tokens[k], k ? "," : "");
    printf("],\"done\":");
    if (dones.count)
        print(&dones, "");
    else
        printf("null");
    printf("}\n");
    return 0;
}
