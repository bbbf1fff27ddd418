/* quern-broker: one shard's broker, or the standby that waits to be it. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/broker.h"
#include "common/log.h"
#include "common/role.h"

/* Tells the program that a fenced broker becomes to wait for its successor, whatever its name. */
#define STANDBY "STANDBY_AFTER_FENCE"

#define DESCRIPTORS_MIN 4096 /* a hard limit below this is said at the start: each connected process needs one or two */

struct program {
    int argc;
    char **argv;
    struct broker *broker;
};

static struct conf *read_settings(struct program *program, int *ret_status)
{
    struct conf *conf = NULL;
    return conf_main(program->argc, program->argv, "quern-broker", &conf, ret_status) ? conf : NULL;
}

static struct conf *reload(void *arg)
{
    int status;
    struct conf *conf = read_settings(arg, &status);
    if (!conf)
        log_event(LOG_SETTINGS_BAD, "why=\"as said above\"");
    return conf;
}

static void on_signal(void *arg, int signo)
{
    struct program *program = arg;
    if (signo == SIGHUP)
        (void)broker_ask_reload(program->broker);
    else
        broker_drain(program->broker);
}

static void raise_descriptor_limit(void)
{
    uint64_t limit = role_descriptors();
    if (limit && limit < DESCRIPTORS_MIN)
        log_event(LOG_DESCRIPTORS_FEW, "limit=%" PRIu64 " wanted=%d", limit, DESCRIPTORS_MIN);
}

static bool make_state_dir(const struct conf *conf)
{
    if (mkdir(conf->quern.state_dir, 0700) == 0 || errno == EEXIST)
        return true;
    log_event(LOG_FATAL, "what=state_dir path=%s why=%s", log_str(span_str(conf->quern.state_dir)),
              log_str(span_str(strerror(errno))));
    return false;
}

static void write_pid(const char *path)
{
    if (path[0] && role_write_number(path, (unsigned long)getpid()) != ERR_OK)
        log_event(LOG_PID_FILE_BAD, "path=%s reason=%s", log_str(span_str(path)), log_str(span_str(strerror(errno))));
}

static enum err make_broker(struct program *program, struct conf *conf)
{
    struct role_redis secrets = {0};
    struct redis_options redis = {0};
    struct conf_fault fault = {""};
    enum err e = role_redis(conf, true, &redis, &secrets, &fault);
    if (e != ERR_OK) {
        log_event(LOG_SETTINGS_BAD, "error=%s why=%s", err_name(e), log_str(span_str(fault.text)));
        conf_free(&conf);
        return e;
    }
    struct broker_options options = {
        .conf = conf, .redis = &redis, .standby = getenv(STANDBY) != NULL, .reload = reload, .arg = program};
    e = broker_new(&options, &program->broker);
    role_redis_done(&secrets);
    if (e != ERR_OK)
        log_event(LOG_FATAL, "what=start error=%s", err_name(e));
    return e;
}

static enum err watch_signals(struct program *program)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < ARRAY_COUNT(signals); i++) {
        enum err e = loop_signal(broker_loop(program->broker), signals[i], on_signal, program);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

/* Fenced: nothing of this process may go on. The same program begins again, as a standby. */
static int become_standby(char **argv)
{
    setenv(STANDBY, "1", 1);
    execv("/proc/self/exe", argv);
    log_event(LOG_FATAL, "what=exec why=%s", log_str(span_str(strerror(errno))));
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct program program = {argc, argv, NULL};
    int status = EXIT_FAILURE;
    log_start("broker");
    struct conf *conf = read_settings(&program, &status);
    if (!conf)
        return status;
    raise_descriptor_limit();
    log_event(LOG_START, "version=%s shard=%u", QUERN_VERSION, (unsigned)conf->quern.shard);
    if (!make_state_dir(conf) || id_start() != ERR_OK)
        return EXIT_FAILURE;
    write_pid(conf->quern.pid_file);
    if (make_broker(&program, conf) != ERR_OK || watch_signals(&program) != ERR_OK)
        return EXIT_FAILURE;
    enum broker_end end = broker_run(program.broker);
    broker_free(&program.broker);
    if (end == BROKER_FENCED)
        return become_standby(argv);
    log_event(LOG_STOP, "status=%d", end == BROKER_DONE ? 0 : 1);
    return end == BROKER_DONE ? EXIT_SUCCESS : EXIT_FAILURE;
}
