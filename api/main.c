/* quern-api: HTTP in, messages out. The parent reads the settings and opens the listener; children serve (child.c). */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/child.h"
#include "api/server.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/prefork.h"

#define STOP_SLACK_MS 2000 /* a child ends by itself at api.stop_ms; only then is it killed */

struct parent {
    int argc;
    char **argv;
    struct conf *conf;
    int listener;
    unsigned index; /* in a child */
};

/* As at the start; logs what it refuses. */
static enum err read_settings(struct parent *parent, struct conf **ret_conf)
{
    int status;
    optind = 0; /* getopt begins anew */
    return conf_main(parent->argc, parent->argv, "quern-api", ret_conf, &status) ? ERR_OK : ERR_SETTINGS;
}

/* In the parent, before a new generation. The listener stays: its address changes with a restart only. */
static enum err reload(void *arg)
{
    struct parent *parent = arg;
    struct conf *conf = NULL;
    enum err e = read_settings(parent, &conf);
    if (e)
        return e;
    conf_free(&parent->conf);
    parent->conf = conf;
    return ERR_OK;
}

/* In a child, when the broker asks: check the settings, and have the parent start a new generation. One child is enough to tell
 * it. */
static enum err ask_reload(void *arg)
{
    struct parent *parent = arg;
    AUTO(conf_free) struct conf *conf = NULL;
    enum err e = read_settings(parent, &conf);
    if (!e && parent->index == 0)
        kill(getppid(), SIGHUP);
    return e;
}

static int run_child(void *arg, unsigned index)
{
    struct parent *parent = arg;
    parent->index = index;
    struct child_options options = {
        .conf = parent->conf, .listener = parent->listener, .index = index, .reload = ask_reload, .arg = parent};
    return child_run(&options);
}

/* systemd's socket if there is one, else our own. */
static enum err open_listener(struct parent *parent)
{
    const struct conf *conf = parent->conf;
    unsigned port = 0;
    parent->listener = notify_listener();
    if (parent->listener >= 0)
        return ERR_OK;
    enum err e = server_listen(conf->api.host, (unsigned)conf->api.port, &parent->listener, &port);
    if (!e)
        e = server_write_port(conf->api.port_file, port);
    if (e)
        log_event(LOG_FATAL, "what=listen host=%s port=%u why=%s", log_str(span_str(conf->api.host)), (unsigned)conf->api.port,
                  log_str(span_str(strerror(errno))));
    else
        log_event(LOG_API_LISTENS, "host=%s port=%u", log_str(span_str(conf->api.host)), port);
    return e;
}

int main(int argc, char **argv)
{
    struct parent parent = {.argc = argc, .argv = argv, .listener = -1};
    int status = EXIT_FAILURE;
    log_start("api");
    if (!conf_main(argc, argv, "quern-api", &parent.conf, &status))
        return status;
    log_event(LOG_START, "version=%s", QUERN_VERSION);
    if (open_listener(&parent))
        return EXIT_FAILURE;
    const char *pid_file = parent.conf->quern.pid_file;
    struct prefork_options options = {
        .role = "api",
        .children = (unsigned)parent.conf->api.children,
        .stop_ms = (msec)parent.conf->api.stop_ms + STOP_SLACK_MS,
        .pid_file = pid_file[0] ? strdup(pid_file) : NULL, /* outlives the settings it came from */
        .child = run_child,
        .reload = reload,
        .arg = &parent,
    };
    status = prefork_run(&options);
    free((char *)options.pid_file);
    close(parent.listener);
    conf_free(&parent.conf);
    return status;
}
