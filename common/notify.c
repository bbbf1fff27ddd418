#include "common/notify.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

void notify_ready(void)
{
    sd_notify(0, "READY=1");
}

void notify_reloading(void)
{
    sd_notify(0, "RELOADING=1");
}

void notify_stopping(void)
{
    sd_notify(0, "STOPPING=1");
}

msec notify_alive_every_ms(void)
{
    uint64_t within_us;
    return sd_watchdog_enabled(0, &within_us) > 0 ? (msec)MAX(within_us / 2000, 1) : 0;
}

void notify_alive(msec now)
{
    static msec sent_at = -1; /* of this process, as the watchdog is */
    msec every_ms = notify_alive_every_ms();
    if (!every_ms || (sent_at >= 0 && now - sent_at < every_ms))
        return;
    sent_at = now;
    sd_notify(0, "WATCHDOG=1");
}

void notify_status(const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (len < 0)
        return;
    for (char *c = text; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' '; /* each line of a notification is an assignment of its own */
    sd_notifyf(0, "STATUS=%s", text);
}

int notify_listener(void)
{
    int count = sd_listen_fds(0);
    for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + count; fd++) {
        if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0)
            continue;
        int flags = fcntl(fd, F_GETFL);
        if (flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0)
            return fd;
    }
    return -1;
}
