/* quern-upstream: a model provider that does what it is told, for tests and benchmarks.
 *
 * One process, one thread, one event loop.  README.md has every directive and fault. */
#include "tests/upstream/control.h"
#include "tests/upstream/reply.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define DESCRIPTORS_WANTED (64 * 1024)

struct options {
    const char *listen, *port_file, *log;
    bool quiet;
};

static int usage(FILE *to, int status)
{
    fputs("usage: quern-upstream [--listen ADDRESS:PORT] [--port-file FILE] [--log FILE] [--quiet] [--threads no]\n"
          "  --listen     default 127.0.0.1:0; port 0 is any free one\n"
          "  --port-file  the port is written there, whole, once connections are taken\n"
          "  --log        one JSON line per ended call\n"
          "  --quiet      no log, nothing on stderr; /_calls still has the last 100000\n"
          "  --threads    only \"no\": everything runs in one thread\n",
          to);
    return status;
}

static bool read_options(struct options *o, int argc, char **argv)
{
    static const struct option names[] = {
        {"listen", required_argument, NULL, 'l'},
        {"port-file", required_argument, NULL, 'p'},
        {"log", required_argument, NULL, 'o'},
        {"quiet", no_argument, NULL, 'q'},
        {"threads", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    *o = (struct options){.listen = "127.0.0.1:0"};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case 'l':
            o->listen = optarg;
            break;
        case 'p':
            o->port_file = optarg;
            break;
        case 'o':
            o->log = optarg;
            break;
        case 'q':
            o->quiet = true;
            break;
        case 't':
            if (strcmp(optarg, "no") != 0)
                return false;
            break;
        case 'h':
            exit(usage(stdout, EXIT_SUCCESS));
        default:
            return false;
        }
    }
    return optind == argc;
}

/* As many descriptors as we may have: ten thousand callers are an ordinary test. */
static void raise_descriptors(void)
{
    struct rlimit now, want = {DESCRIPTORS_WANTED, DESCRIPTORS_WANTED};
    getrlimit(RLIMIT_NOFILE, &now);
    if (now.rlim_cur >= want.rlim_cur || setrlimit(RLIMIT_NOFILE, &want) == 0)
        return;
    now.rlim_cur = now.rlim_max;
    setrlimit(RLIMIT_NOFILE, &now);
}

/* Written beside it and renamed, so that whoever sees the file sees all of it. */
static bool write_port(const char *path, int port)
{
    char beside[4096];
    if (snprintf(beside, sizeof beside, "%s.%d", path, (int)getpid()) >= (int)sizeof beside)
        return false;
    FILE *f = fopen(beside, "we");
    if (!f)
        return false;
    bool ok = fprintf(f, "%d\n", port) > 0;
    ok = fclose(f) == 0 && ok;
    return ok && rename(beside, path) == 0;
}

static void on_request(void *arg, struct conn *c, const struct http_request *q, const struct bytes *in)
{
    const char *path = http_text(in, q->path);
    if (q->path.len >= 2 && memcmp(path, "/_", 2) == 0)
        control_start(arg, c, q, in);
    else
        reply_start(arg, c, q, in);
}

static void on_stop(evutil_socket_t signal, short what, void *arg)
{
    ((struct upstream *)arg)->stopping = true;
}

static struct event_base *new_base(void)
{
    struct event_config *config = event_config_new();
    event_config_set_flag(config,
                          EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_EPOLL_USE_CHANGELIST | EVENT_BASE_FLAG_PRECISE_TIMER);
    event_config_require_features(config, EV_FEATURE_EARLY_CLOSE);
    struct event_base *base = event_base_new_with_config(config);
    event_config_free(config);
    return base;
}

static bool start(struct upstream *u, const struct options *o)
{
    u->draws = 0x9e3779b97f4a7c15u;
    script_init(&u->script);
    u->firsts = firsts_new();
    u->controls = controls_new(u);
    u->calls = calls_new(o->quiet ? NULL : o->log);
    if (!u->calls) {
        fprintf(stderr, "quern-upstream: %s: %s\n", o->log, strerror(errno));
        return false;
    }
    u->base = new_base();
    u->server = u->base ? server_new(u->base, o->listen, on_request, u) : NULL;
    if (!u->server)
        return false;
    if (o->port_file && !write_port(o->port_file, server_port(u->server))) {
        fprintf(stderr, "quern-upstream: %s: %s\n", o->port_file, strerror(errno));
        return false;
    }
    if (!o->quiet)
        fprintf(stderr, "quern-upstream: listening on port %d\n", server_port(u->server));
    return true;
}

static void run(struct upstream *u)
{
    struct event *term = evsignal_new(u->base, SIGTERM, on_stop, u), *interrupt = evsignal_new(u->base, SIGINT, on_stop, u);
    event_add(term, NULL);
    event_add(interrupt, NULL);
    while (!u->stopping && event_base_loop(u->base, EVLOOP_ONCE) == 0) {
        controls_turn(u->controls);
        server_turn(u->server);
        calls_flush(u->calls);
    }
    event_free(term);
    event_free(interrupt);
}

static void stop(struct upstream *u)
{
    server_free(&u->server);
    calls_free(&u->calls);
    firsts_free(&u->firsts);
    controls_free(&u->controls);
    bytes_done(&u->piece);
    if (u->base)
        event_base_free(u->base);
}

int main(int argc, char **argv)
{
    struct options options;
    struct upstream upstream = {0};
    if (!read_options(&options, argc, argv))
        return usage(stderr, EXIT_FAILURE);
    raise_descriptors();
    bool started = start(&upstream, &options);
    if (started)
        run(&upstream);
    stop(&upstream);
    return started ? EXIT_SUCCESS : EXIT_FAILURE;
}
