/* What the roles ask of the system and of libraries that only real processes need: clocks, randomness, identity, the log. The
 * linker puts these in front (see rules.mk: --wrap, and objects before archives). */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/notify.h"
#include "common/prefork.h"
#include "tests/sim/truth.h"
#include "worker/transfer.h"

/* ---- clocks, randomness, identity ---- */

int __wrap_clock_gettime(clockid_t which, struct timespec *out);
ssize_t __wrap_getrandom(void *out, size_t len, unsigned flags);
pid_t __wrap_getpid(void);
int __wrap_gethostname(char *out, size_t len);

int __wrap_clock_gettime(clockid_t which, struct timespec *out)
{
    msec now = sim.now + (which == CLOCK_REALTIME ? sim.wall : 0);
    *out = (struct timespec){.tv_sec = now / 1000, .tv_nsec = now % 1000 * 1000000};
    return 0;
}

ssize_t __wrap_getrandom(void *out, size_t len, unsigned flags)
{
    uint8_t *bytes = out;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)draw(256);
    return (ssize_t)len;
}

pid_t __wrap_getpid(void)
{
    return sim.running ? (pid_t)sim.running->pid : 1;
}

int __wrap_gethostname(char *out, size_t len)
{
    snprintf(out, len, "host%u", sim.running ? sim.running->host : 0);
    return 0;
}

/* ---- the log is part of the trace, and its events tell what has happened ---- */

static const char *const log_names[] = {
#define EVENT(code, level, name, meaning) [LOG_##code] = name,
#include "common/log.def"
#undef EVENT
};

/* Events that a broker logs when it meets a trouble. */
static const struct {
    enum log_event event;
    enum trouble trouble;
} counted[] = {
    {LOG_STORE_STALLED, TROUBLE_STALLED},   {LOG_STORE_FULL, TROUBLE_FULL},       {LOG_STORE_OLDER, TROUBLE_OLDER_HEALED},
    {LOG_STORE_REWRITE, TROUBLE_REWRITTEN}, {LOG_STORE_SWEPT, TROUBLE_SWEPT},     {LOG_STORE_FENCED, TROUBLE_FENCED},
    {LOG_STORE_WAITS, TROUBLE_STOOD_BY},    {LOG_STORE_REFUSED, TROUBLE_REFUSED}, {LOG_CLOCK_JUMP, TROUBLE_CLOCK_BEHIND},
    {LOG_RELOADED, TROUBLE_RELOADED},
};

void log_start(const char *role) {}
void log_level(int level) {}
const char *log_event_name(enum log_event event)
{
    return log_names[event];
}

void log_event(enum log_event event, const char *fields, ...)
{
    for (size_t i = 0; i < ARRAY_COUNT(counted); i++)
        if (counted[i].event == event)
            note(counted[i].trouble);
    if (event == LOG_RELOADED)
        truth_forgives();
    MUST(event != LOG_NOMEM && event != LOG_SETTINGS_BAD, "%s is logged", log_names[event]);
    if (!sim.tracing)
        return;
    char text[512];
    va_list args;
    va_start(args, fields);
    vsnprintf(text, sizeof text, fields, args);
    va_end(args);
    trace("log %s %s", log_names[event], text);
}

const char *log_str(struct span text)
{
    static char ring[8][160];
    static unsigned at;
    char *out = ring[at++ % 8];
    snprintf(out, sizeof ring[0], "\"%.*s\"", (int)MIN(text.len, (size_t)140), text.len ? (const char *)text.data : "");
    return out;
}

/* ---- nobody supervises ---- */

void notify_ready(void) {}
void notify_reloading(void) {}
void notify_stopping(void) {}
void notify_alive(msec now) {}
msec notify_alive_every_ms(void)
{
    return 0;
}
void notify_status(const char *format, ...) {}
int notify_listener(void)
{
    return -1;
}
void prefork_ready(void) {}
void prefork_reload(void) {}
void prefork_alive(void) {}
msec prefork_alive_every_ms(void)
{
    return 0;
}

/* ---- no call in the simulation goes over a network (provider.c) ---- */

struct transfers {
    int none;
};
enum err transfers_new(struct loop *loop, const struct transfers_options *options, struct transfers **ret_transfers)
{
    *ret_transfers = keep(sizeof **ret_transfers);
    return ERR_OK;
}
void transfers_free(struct transfers **transfers)
{
    *transfers = NULL;
}
size_t transfers_open(const struct transfers *transfers)
{
    return 0;
}
enum err transfer_start(struct transfers *transfers, const struct transfer_request *request, const struct transfer_hooks *hooks,
                        struct transfer **ret_transfer)
{
    broken("a call goes over the network");
}
void transfer_free(struct transfer **transfer)
{
    MUST(!*transfer, "a transfer that was never made");
}
unsigned transfer_status(const struct transfer *transfer)
{
    return 0;
}
struct span transfer_header(const struct transfer *transfer, const char *name)
{
    return (struct span){0};
}
