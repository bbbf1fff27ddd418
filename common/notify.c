/* The protocol is one datagram an assignment (sd_notify(3)). libsystemd's own sender waits for as long as the manager does not
 * read, and a broker that waits does not renew its leadership; so the bytes are sent here, and never wait for long. */
#include "common/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "common/log.h"

#define WAIT_MS 500 /* for room, with what must be heard */

/* The last state that found no room: said again until it does. */
static const char *owed;

/* Connected to NOTIFY_SOCKET, or −1: nobody listens. */
static int dial(void)
{
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t len = name ? strlen(name) : 0;
    if (len < 2 || len >= sizeof to.sun_path || (name[0] != '/' && name[0] != '@'))
        return -1;
    memcpy(to.sun_path, name, len);
    if (name[0] == '@')
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* false: there is no room for it at the moment. */
static bool say(const char *text, int wait_ms)
{
    int fd = dial();
    if (fd < 0)
        return true;
    struct pollfd room = {.fd = fd, .events = POLLOUT};
    bool said = send(fd, text, strlen(text), MSG_NOSIGNAL) >= 0 || errno != EAGAIN;
    if (!said && wait_ms && poll(&room, 1, wait_ms) > 0)
        said = send(fd, text, strlen(text), MSG_NOSIGNAL) >= 0 || errno != EAGAIN;
    close(fd);
    return said;
}

static void tell(const char *state)
{
    bool known = owed != NULL;
    owed = say(state, known ? 0 : WAIT_MS) ? NULL : state;
    if (owed && !known)
        log_event(LOG_NOTIFY_LATE, "state=%s", state);
}

void notify_ready(void)
{
    tell("READY=1");
}

void notify_reloading(void)
{
    tell("RELOADING=1");
}

void notify_stopping(void)
{
    tell("STOPPING=1");
}

bool notify_owes(void)
{
    return owed != NULL;
}

msec notify_alive_every_ms(void)
{
    uint64_t within_us;
    return sd_watchdog_enabled(0, &within_us) > 0 ? (msec)MAX(within_us / 2000, 1) : 0;
}

void notify_alive(msec now)
{
    static msec sent_at = -1; /* of this process, as the watchdog is */
    if (owed)
        tell(owed);
    msec every_ms = notify_alive_every_ms();
    if (!every_ms || (sent_at >= 0 && now - sent_at < every_ms))
        return;
    if (say("WATCHDOG=1", 0))
        sent_at = now;
}

void notify_status(const char *format, ...)
{
    static const char name[] = "STATUS=";
    char text[sizeof name + 255];
    va_list args;
    memcpy(text, name, sizeof name);
    va_start(args, format);
    int len = vsnprintf(text + sizeof name - 1, sizeof text - sizeof name + 1, format, args);
    va_end(args);
    if (len < 0)
        return;
    for (char *c = text; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' ';   /* each line of a notification is an assignment of its own */
    (void)say(text, 0); /* the next one will do */
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
