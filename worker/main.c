/* quern-worker: a parent that holds nothing, its children, and one child more of one slot for jobs that crashed another. */
#include "common/generation.h"
#include "common/log.h"
#include "common/prefork.h"
#include "common/role.h"
#include "worker/worker.h"

#include <curl/curl.h>
#include <czmq.h>
#include <signal.h>
#include <stdlib.h>

#define STOP_SLACK_MS 4000 /* a child reports what is left when its own time is over; only then is it killed */

struct role {
    struct generation settings;
    unsigned solo; /* the index of the one-slot child; children are counted once, at the start */
};

static enum err reload(void *arg)
{
    struct role *role = arg;
    return generation_reload(&role->settings);
}

static enum err ask_reload(void *arg, struct conf_fault *fault)
{
    struct role *role = arg;
    enum err e = generation_ask_reload(&role->settings);
    if (e)
        snprintf(fault->text, sizeof fault->text, "the settings on this host are refused; its log says why");
    return e;
}

static int child(void *arg, unsigned index)
{
    struct role *role = arg;
    role->settings.index = index;
    zsys_handler_set(NULL);
    signal(SIGINT, SIG_IGN); /* from a terminal it reaches every process: the parent decides */
    signal(SIGHUP, SIG_IGN);
    role_descriptors(); /* one per call, and some */
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return EXIT_FAILURE;
    struct worker_options options = {
        .conf = role->settings.conf, .solo = index == role->solo, .reload = ask_reload, .arg = role};
    struct conf_fault fault = {0};
    AUTO(worker_free) struct worker *worker = NULL;
    enum err e = worker_new(&options, &worker, &fault);
    if (e) {
        log_event(LOG_FATAL, "error=%s why=%s", err_name(e), log_str(span_str(fault.text)));
        return EXIT_FAILURE;
    }
    log_event(LOG_READY, "child=%u", index);
    worker_run(worker);
    log_event(LOG_STOP, "child=%u", index);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct role role = {.settings = {.argc = argc, .argv = argv, .program = "quern-worker"}};
    int status = EXIT_FAILURE;
    log_start("worker");
    if (!generation_start(&role.settings, &status))
        return status;
    const struct conf *conf = role.settings.conf;
    role.solo = (unsigned)conf->worker.children;
    const char *pid_file = conf->quern.pid_file;
    struct prefork_options options = {
        .role = "worker",
        .children = role.solo + 1,
        .stop_ms = (msec)conf->worker.stop_ms + STOP_SLACK_MS,
        .pid_file = pid_file[0] ? strdup(pid_file) : NULL, /* outlives the settings it came from */
        .child = child,
        .reload = reload,
        .arg = &role,
    };
    log_event(LOG_START, "children=%u", options.children);
    status = prefork_run(&options);
    free((char *)options.pid_file);
    generation_done(&role.settings);
    return status;
}
