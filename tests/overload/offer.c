/* Offers jobs at a rate, whatever becomes of them: an open loop, unlike bench/load.c, so that more can be offered than is
 * served.
 *
 *   offer --port P --phases 200x3,20000x5,200x10 [--connections N] [--mix 1:1:1] [--obey SHARE] [--seed N]
 *
 * A phase is jobs per second x seconds. Arrivals are a Poisson process; each takes a free connection, submits with ?wait, and
 * is done with the answer: 200 is a job that was accepted and has ended, 429 and 503 are sheds. Service classes are drawn as
 * --mix weighs them (interactive, standard, background), priorities evenly; queues take turns. Of those that were shed, SHARE
 * do as Retry-After says and come back once.
 *
 * Prints one JSON object: per phase, what was offered and what became of it; latencies from the send to the whole answer; per
 * class a series of windows by the time of arrival. `late` is the generator's own lag: the time an arrival was sent after it
 * was due, and `unsent` are arrivals without a free connection. Neither is hidden: with them large, less was offered than asked
 * for. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
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

#define PHASES_MAX 16
#define WINDOW_NS  500000000u
#define GRACE_NS   15000000000u /* after the last phase, for answers that are due */

static const char *const class_names[] = {"interactive", "standard", "background"};
#define CLASSES 3

struct arrival {
    uint64_t due_ns, told_s; /* told_s: it comes back after that long; 0: it is new */
    uint8_t class, phase;
};

struct client {
    int fd;
    struct client *next_free;
    struct arrival arrival;
    uint64_t sent_ns;
    size_t len;
    char in[8192];
};

struct sample {
    uint64_t at_ns; /* of the send */
    uint32_t us;
    uint8_t class;
};
struct samples {
    struct sample *list;
    size_t count, size;
};

struct phase {
    double rate, seconds;
    uint64_t from_ns, until_ns;
    uint64_t offered, shed, failed, unsent;
    uint64_t ended;           /* in this phase, whenever they were offered */
    uint64_t came_back, kept; /* due in this phase */
    struct samples done, shed_took, late, told;
};

static struct options {
    int port, connections;
    double obey, mix[CLASSES];
    uint64_t seed;
} options = {.connections = 2000, .seed = 1, .mix = {1, 1, 1}};

static struct phase phases[PHASES_MAX];
static int phases_count, epoll_fd;
static struct client *free_clients;
static struct arrival *heap; /* who comes back, by due_ns */
static size_t heap_count, heap_size;
static uint64_t told_beyond, outstanding, jobs;
static char first_failure[400];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "offer: %s: %.300s\n", what, detail);
    exit(1);
}

static void *grown(void *list, size_t *size, size_t each)
{
    *size = *size ? *size * 2 : 4096;
    list = realloc(list, *size * each);
    if (!list)
        die("memory", "");
    return list;
}

static double uniform(void)
{
    uint64_t z = options.seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.0;
}

static void keep(struct samples *s, uint64_t at_ns, uint64_t ns, uint8_t class)
{
    if (s->count == s->size)
        s->list = grown(s->list, &s->size, sizeof *s->list);
    s->list[s->count++] = (struct sample){at_ns, (uint32_t)(ns / 1000), class};
}

/* ---- who comes back ---- */

static void heap_swap(size_t a, size_t b)
{
    struct arrival t = heap[a];
    heap[a] = heap[b];
    heap[b] = t;
}

static void heap_put(struct arrival arrival)
{
    if (heap_count == heap_size)
        heap = grown(heap, &heap_size, sizeof *heap);
    size_t i = heap_count++;
    heap[i] = arrival;
    for (; i && heap[(i - 1) / 2].due_ns > heap[i].due_ns; i = (i - 1) / 2)
        heap_swap(i, (i - 1) / 2);
}

static struct arrival heap_take(void)
{
    struct arrival first = heap[0];
    heap[0] = heap[--heap_count];
    for (size_t i = 0, child; (child = 2 * i + 1) < heap_count; i = child) {
        child += child + 1 < heap_count && heap[child + 1].due_ns < heap[child].due_ns;
        if (heap[i].due_ns <= heap[child].due_ns)
            break;
        heap_swap(i, child);
    }
    return first;
}

static int phase_at(uint64_t ns)
{
    for (int i = 0; i < phases_count; i++)
        if (ns < phases[i].until_ns)
            return i;
    return -1;
}

/* ---- connections ---- */

static void dial(struct client *c)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
}

static void give_back(struct client *c)
{
    c->len = 0;
    c->next_free = free_clients;
    free_clients = c;
    outstanding--;
}

static uint8_t draw_class(void)
{
    double at = uniform() * (options.mix[0] + options.mix[1] + options.mix[2]);
    return at < options.mix[0] ? 0 : at < options.mix[0] + options.mix[1] ? 1 : 2;
}

static void offer(struct arrival arrival)
{
    struct phase *phase = &phases[arrival.phase];
    struct client *c = free_clients;
    uint64_t now = now_ns();
    if (!c) {
        phase->unsent++;
        return;
    }
    free_clients = c->next_free;
    outstanding++;
    char body[256], out[512];
    int len = snprintf(body, sizeof body, "{\"prompt\":\"offer %lu\",\"class\":\"%s\",\"queue\":\"q%lu\",\"priority\":%d}",
                       (unsigned long)jobs, class_names[arrival.class], (unsigned long)(jobs % 4), 1 + (int)(uniform() * 10));
    int total = snprintf(out, sizeof out,
                         "POST /v1/jobs?wait=60s HTTP/1.1\r\nHost: offer\r\nContent-Type: application/json\r\nContent-Length: "
                         "%d\r\n\r\n%s",
                         len, body);
    jobs++;
    c->arrival = arrival;
    c->sent_ns = now;
    phase->offered++;
    phase->came_back += arrival.told_s > 0;
    keep(&phase->late, now, now - arrival.due_ns, arrival.class);
    if (send(c->fd, out, (size_t)total, MSG_NOSIGNAL) != total)
        die("send", strerror(errno));
}

static void fail(struct phase *phase, const char *what)
{
    phase->failed++;
    if (!first_failure[0])
        snprintf(first_failure, sizeof first_failure, "%.390s", what);
}

static void comes_back(const struct arrival *arrival, uint64_t told_s, uint64_t now)
{
    uint64_t due = now + told_s * 1000000000u;
    int phase = phase_at(due);
    if (arrival->told_s || uniform() >= options.obey)
        return;
    if (phase < 0)
        told_beyond++;
    else
        heap_put((struct arrival){.due_ns = due, .told_s = told_s, .class = arrival->class, .phase = (uint8_t)phase});
}

static void answered(struct client *c, int status, const char *head)
{
    struct phase *phase = &phases[c->arrival.phase];
    uint64_t now = now_ns();
    if (status == 200 && strstr(head, "\"completed\"")) {
        int ended_in = phase_at(now);
        if (ended_in >= 0)
            phases[ended_in].ended++;
        phase->kept += c->arrival.told_s > 0;
        keep(&phase->done, c->sent_ns, now - c->sent_ns, c->arrival.class);
        return;
    }
    const char *after = strcasestr(head, "\r\nretry-after: ");
    unsigned long told_s = after ? strtoul(after + 15, NULL, 10) : 0;
    if ((status != 429 && status != 503) || !told_s) {
        fail(phase, head);
        return;
    }
    phase->shed++;
    keep(&phase->shed_took, c->sent_ns, now - c->sent_ns, c->arrival.class);
    keep(&phase->told, c->sent_ns, told_s * 1000000000, c->arrival.class);
    comes_back(&c->arrival, told_s, now);
}

/* One answer is in the buffer, or more is needed. */
static void take(struct client *c)
{
    ssize_t got = recv(c->fd, c->in + c->len, sizeof c->in - 1 - c->len, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        if (c->sent_ns)
            fail(&phases[c->arrival.phase], "the connection closed");
        close(c->fd);
        dial(c);
        if (c->sent_ns)
            give_back(c);
        c->sent_ns = 0;
        return;
    }
    c->len += (size_t)got;
    c->in[c->len] = 0;
    const char *end = strstr(c->in, "\r\n\r\n"), *field = strcasestr(c->in, "\r\ncontent-length:");
    if (!end)
        return;
    size_t whole = (size_t)(end + 4 - c->in) + (field && field < end ? strtoul(field + 17, NULL, 10) : 0);
    if (whole >= sizeof c->in)
        die("the answer is too long for this tool", "");
    if (c->len < whole)
        return;
    answered(c, atoi(c->in + 9), c->in);
    c->sent_ns = 0;
    give_back(c);
}

/* ---- the run ---- */

static void run(void)
{
    uint64_t next = phases[0].from_ns, until = phases[phases_count - 1].until_ns;
    for (uint64_t now; (now = now_ns()) < until || (outstanding && now < until + GRACE_NS);) {
        int phase;
        while (next <= now && (phase = phase_at(next)) >= 0) {
            offer((struct arrival){.due_ns = next, .class = draw_class(), .phase = (uint8_t)phase});
            next += (uint64_t)(-log(1 - uniform()) * 1e9 / phases[phase].rate);
        }
        while (heap_count && heap[0].due_ns <= now)
            offer(heap_take());
        uint64_t soonest = heap_count && heap[0].due_ns < next ? heap[0].due_ns : next;
        now = now_ns();
        struct timespec wait = {.tv_nsec = soonest > now && soonest < until
                                               ? (long)(soonest - now < 50000000 ? soonest - now : 50000000)
                                               : (now < until ? 0 : 50000000)};
        struct epoll_event events[512];
        int n = epoll_pwait2(epoll_fd, events, 512, &wait, NULL);
        for (int i = 0; i < n; i++)
            take(events[i].data.ptr);
    }
}

/* ---- what is told of it ---- */

static int by_us(const void *a, const void *b)
{
    const struct sample *x = a, *y = b;
    return x->us < y->us ? -1 : x->us > y->us;
}

/* "name": quantiles of those of `class` (−1: of all) sent in [from, until). */
static void print_quantiles(const char *name, const struct samples *s, int class, uint64_t from, uint64_t until)
{
    struct sample *some = malloc((s->count + 1) * sizeof *some);
    size_t count = 0;
    if (!some)
        die("memory", "");
    for (size_t i = 0; i < s->count; i++)
        if ((class < 0 || s->list[i].class == class) && s->list[i].at_ns >= from && s->list[i].at_ns < until)
            some[count++] = s->list[i];
    qsort(some, count, sizeof *some, by_us);
    printf("\"%s\":{\"count\":%zu", name, count);
    size_t middle = count / 2;
    if (count)
        printf(",\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f", some[middle].us / 1e3,
               some[(size_t)((double)(count - 1) * .99)].us / 1e3, some[count - 1].us / 1e3);
    printf("}");
    free(some);
}

static void print_series(const struct phase *p)
{
    printf("\"series\":[");
    for (uint64_t at = p->from_ns; at < p->until_ns; at += WINDOW_NS) {
        printf("%s{\"at\":%.2f", at == p->from_ns ? "" : ",", (double)(at - p->from_ns) / 1e9);
        for (int class = 0; class < CLASSES; class ++) {
            printf(",");
            print_quantiles(class_names[class], &p->done, class, at, at + WINDOW_NS);
        }
        printf("}");
    }
    printf("]");
}

static uint64_t of_class(const struct samples *s, int class)
{
    uint64_t count = 0;
    for (size_t i = 0; i < s->count; i++)
        count += s->list[i].class == class;
    return count;
}

static void print_phase(const struct phase *p)
{
    printf("{\"rate\":%g,\"seconds\":%g,\"offered\":%lu,\"ended\":%lu,\"shed\":%lu,\"failed\":%lu,\"unsent\":%lu,"
           "\"came_back\":%lu,\"kept\":%lu,\"shed_of\":{",
           p->rate, p->seconds, p->offered, p->ended, p->shed, p->failed, p->unsent, p->came_back, p->kept);
    for (int class = 0; class < CLASSES; class ++)
        printf("%s\"%s\":%lu", class ? "," : "", class_names[class], of_class(&p->shed_took, class));
    printf("},");
    for (int class = 0; class < CLASSES; class ++) {
        print_quantiles(class_names[class], &p->done, class, 0, UINT64_MAX);
        printf(",");
    }
    print_quantiles("shed_took", &p->shed_took, -1, 0, UINT64_MAX);
    printf(",");
    print_quantiles("late", &p->late, -1, 0, UINT64_MAX);
    printf(",");
    print_quantiles("told", &p->told, -1, 0, UINT64_MAX);
    printf(",");
    print_series(p);
    printf("}");
}

static void read_phases(char *text)
{
    for (char *save, *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        struct phase *p = &phases[phases_count];
        if (phases_count++ == PHASES_MAX || sscanf(item, "%lfx%lf", &p->rate, &p->seconds) != 2 || p->rate <= 0 ||
            p->seconds <= 0)
            die("--phases wants RATExSECONDS,…", item);
    }
}

static void parse(int argc, char **argv)
{
    static const struct option names[] = {{"port", 1, 0, 'p'},
                                          {"phases", 1, 0, 'f'},
                                          {"connections", 1, 0, 'c'},
                                          {"obey", 1, 0, 'o'},
                                          {"seed", 1, 0, 's'},
                                          {"mix", 1, 0, 'm'},
                                          {0}};
    for (int o; (o = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (o) {
        case 'p':
            options.port = atoi(optarg);
            break;
        case 'f':
            read_phases(optarg);
            break;
        case 'c':
            options.connections = atoi(optarg);
            break;
        case 'o':
            options.obey = atof(optarg);
            break;
        case 'm':
            if (sscanf(optarg, "%lf:%lf:%lf", &options.mix[0], &options.mix[1], &options.mix[2]) != 3)
                die("--mix wants three weights", optarg);
            break;
        case 's':
            options.seed = strtoull(optarg, NULL, 10);
            break;
        default:
            exit(2);
        }
    if (!phases_count)
        die("--phases is needed", "");
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc((size_t)options.connections, sizeof *clients);
    if (!clients)
        die("memory", "");
    for (int i = 0; i < options.connections; i++) {
        dial(&clients[i]);
        outstanding++;
        give_back(&clients[i]);
    }
    uint64_t at = now_ns();
    for (int i = 0; i < phases_count; i++) {
        phases[i].from_ns = at;
        phases[i].until_ns = at += (uint64_t)(phases[i].seconds * 1e9);
    }
    run();
    printf("{\"told_beyond\":%lu,\"unanswered\":%lu,\"failure\":%s,\"phases\":[", told_beyond, outstanding,
           first_failure[0] ? "true" : "false");
    for (int i = 0; i < phases_count; i++) {
        printf(i ? "," : "");
        print_phase(&phases[i]);
    }
    printf("]}\n");
    if (first_failure[0])
        fprintf(stderr, "offer: the first that failed: %s\n", first_failure);
    return 0;
}
