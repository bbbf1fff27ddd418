/* quern-worker: a parent that holds nothing, its children, and one child more of one slot for jobs that crashed another. */
#include "common/log.h"
#include "common/prefork.h"
#include "worker/worker.h"

#include <curl/curl.h>
#include <czmq.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

#define STOP_SLACK_MS 4000 /* a child reports what is left when its own time is over; only then is it killed */

struct role {
    int argc;
    char **argv;
    struct conf *conf;
    unsigned solo;  /* the index of the one-slot child; children are counted once, at the start */
    unsigned index; /* in a child */
};

/* Reads the settings again, as at the start. */
static enum err read_settings(struct role *role, struct conf **ret_conf)
{
    int status;
    optind = 0; /* getopt begins anew */
    return conf_main(role->argc, role->argv, "quern-worker", ret_conf, &status) ? ERR_OK : ERR_SETTINGS;
}

/* In the parent, before a new generation. */
static enum err reload(void *arg)
{
    struct role *role = arg;
    struct conf *conf = NULL;
    enum err e = read_settings(role, &conf);
    if (e)
        return e;
    conf_free(&role->conf);
    role->conf = conf;
    return ERR_OK;
}

/* In a child, when the broker asks: check the settings, and have the parent start a new generation. One child is enough to tell
 * it. */
static enum err ask_reload(void *arg, struct conf_fault *fault)
{
    struct role *role = arg;
    struct conf *conf = NULL;
    enum err e = read_settings(role, &conf);
    conf_free(&conf);
    if (e)
        snprintf(fault->text, sizeof fault->text, "the settings on this host are refused; its log says why");
    else if (role->index == 0)
        kill(getppid(), SIGHUP);
    return e;
}

/* A descriptor per call, and some. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int child(void *arg, unsigned index)
{
    struct role *role = arg;
    role->index = index;
    zsys_handler_set(NULL);
    signal(SIGINT, SIG_IGN); /* from a terminal it reaches every process: the parent decides */
    signal(SIGHUP, SIG_IGN);
    raise_descriptor_limit();
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return EXIT_FAILURE;
    struct worker_options options = {.conf = role->conf, .solo = index == role->solo, .reload = ask_reload, .arg = role};
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
    struct role role = {.argc = argc, .argv = argv};
    int status = EXIT_FAILURE;
    log_start("worker");
    if (!conf_main(argc, argv, "quern-worker", &role.conf, &status))
        return status;
    role.solo = (unsigned)role.conf->worker.children;
    const char *pid_file = role.conf->quern.pid_file;
    struct prefork_options options = {
        .role = "worker",
        .children = role.solo + 1,
        .stop_ms = (msec)role.conf->worker.stop_ms + STOP_SLACK_MS,
        .pid_file = pid_file[0] ? strdup(pid_file) : NULL, /* outlives the settings it came from */
        .child = child,
        .reload = reload,
        .arg = &role,
    };
    log_event(LOG_START, "children=%u", options.children);
    status = prefork_run(&options);
    free((char *)options.pid_file);
    conf_free(&role.conf);
    return status;
}
