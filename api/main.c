/* quern-api: HTTP in, messages out. The parent reads the settings and opens the listener; children serve (child.c). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/child.h"
#include "api/server.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/prefork.h"

struct parent {
    int argc;
    char **argv;
    struct conf *conf;
    int listener;
};

static int run_child(void *arg, unsigned index)
{
    struct parent *parent = arg;
    return child_run(parent->conf, parent->listener, index);
}

/* New settings for the next generation. The listener stays: its address changes with a restart only. */
static enum err reload(void *arg)
{
    struct parent *parent = arg;
    struct conf *conf = NULL;
    int status = 0;
    if (!conf_main(parent->argc, parent->argv, "api", &conf, &status))
        return ERR_SETTINGS;
    conf_free(&parent->conf);
    parent->conf = conf;
    return ERR_OK;
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
    int status = 0;
    if (!conf_main(argc, argv, "api", &parent.conf, &status))
        return status;
    log_start("api");
    log_event(LOG_START, "version=%s", QUERN_VERSION);
    if (open_listener(&parent))
        return 1;
    const struct conf *conf = parent.conf;
    struct prefork_options options = {
        .role = "api",
        .children = (unsigned)conf->api.children,
        .stop_ms = (msec)conf->api.stop_ms + 2000, /* a child ends by itself at stop_ms */
        .pid_file = conf->quern.pid_file[0] ? conf->quern.pid_file : NULL,
        .child = run_child,
        .reload = reload,
        .arg = &parent,
    };
    status = prefork_run(&options);
    close(parent.listener);
    conf_free(&parent.conf);
    return status;
}
