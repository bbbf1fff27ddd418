/* quern-api: HTTP in, messages out. The parent reads the settings and opens the listener; children serve (child.c). */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/child.h"
#include "api/server.h"
#include "common/generation.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/prefork.h"
#include "common/role.h"

#define STOP_SLACK_MS 2000 /* a child ends by itself at api.stop_ms; only then is it killed */

struct parent {
    struct generation settings;
    int listener; /* stays over generations: its address changes with a restart only */
};

static enum err reload(void *arg)
{
    struct parent *parent = arg;
    return generation_reload(&parent->settings);
}

static enum err ask_reload(void *arg)
{
    struct parent *parent = arg;
    return generation_ask_reload(&parent->settings);
}

static int run_child(void *arg, unsigned index)
{
    struct parent *parent = arg;
    parent->settings.index = index;
    struct child_options options = {
        .conf = parent->settings.conf, .listener = parent->listener, .index = index, .reload = ask_reload, .arg = parent};
    return child_run(&options);
}

/* systemd's socket if there is one, else our own. */
static enum err open_listener(struct parent *parent)
{
    const struct conf *conf = parent->settings.conf;
    unsigned port = 0;
    parent->listener = notify_listener();
    if (parent->listener >= 0)
        return ERR_OK;
    enum err e = server_listen(conf->api.host, (unsigned)conf->api.port, &parent->listener, &port);
    if (!e && conf->api.port_file[0])
        e = role_write_number(conf->api.port_file, port);
    if (e)
        log_event(LOG_FATAL, "what=listen host=%s port=%u why=%s", log_str(span_str(conf->api.host)), (unsigned)conf->api.port,
                  log_str(span_str(strerror(errno))));
    else
        log_event(LOG_API_LISTENS, "host=%s port=%u", log_str(span_str(conf->api.host)), port);
    return e;
}

int main(int argc, char **argv)
{
    struct parent parent = {.settings = {.argc = argc, .argv = argv, .program = "quern-api"}, .listener = -1};
    int status = EXIT_FAILURE;
    log_start("api");
    if (!generation_start(&parent.settings, &status))
        return status;
    log_event(LOG_START, "version=%s", QUERN_VERSION);
    if (open_listener(&parent))
        return EXIT_FAILURE;
    const struct conf *conf = parent.settings.conf;
    const char *pid_file = conf->quern.pid_file;
    struct prefork_options options = {
        .role = "api",
        .children = (unsigned)conf->api.children,
        .stop_ms = (msec)conf->api.stop_ms + STOP_SLACK_MS,
        .pid_file = pid_file[0] ? strdup(pid_file) : NULL, /* outlives the settings it came from */
        .child = run_child,
        .reload = reload,
        .arg = &parent,
    };
    status = prefork_run(&options);
    free((char *)options.pid_file);
    close(parent.listener);
    generation_done(&parent.settings);
    return status;
}
