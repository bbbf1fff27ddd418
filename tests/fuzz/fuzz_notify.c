/* What systemd says in the environment and what it is told: lines separated by LF set WATCHDOG_USEC, WATCHDOG_PID, LISTEN_FDS
 * and LISTEN_PID, in this order; the rest is a status. A notification is one assignment whatever the status holds, the
 * watchdog is fed at a sane pace or not at all, and no descriptor is taken for a listener that is none.
 * Covers: common/notify.c */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/notify.h"

static int hear(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t len = sizeof address;
    char name[32];
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) == 0);
    getsockname(fd, (struct sockaddr *)&address, &len);
    snprintf(name, sizeof name, "@%.*s", (int)(len - sizeof(sa_family_t) - 1), address.sun_path + 1);
    setenv("NOTIFY_SOCKET", name, 1);
    return fd;
}

static void set(const char *name, struct span *text)
{
    char value[64];
    const uint8_t *end = text->len ? memchr(text->data, '\n', text->len) : NULL;
    size_t len = end ? (size_t)(end - text->data) : text->len;
    snprintf(value, sizeof value, "%.*s", (int)MIN(len, sizeof value - 1), text->len ? (const char *)text->data : "");
    setenv(name, value, 1);
    len = MIN(len + 1, text->len);
    *text = span_of(text->data + len, text->len - len);
}

static void check_status(int heard, struct span text)
{
    char told[1024];
    notify_status("%.*s", SPAN_ARG(text));
    ssize_t len = recv(heard, told, sizeof told, 0);
    assert(len >= 7 && len <= 7 + 255 && memcmp(told, "STATUS=", 7) == 0);
    assert(!memchr(told, '\n', (size_t)len) && !memchr(told, '\r', (size_t)len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int heard = -1;
    struct span text = span_of(data, size);
    if (heard < 0)
        heard = hear();
    set("WATCHDOG_USEC", &text);
    set("WATCHDOG_PID", &text);
    set("LISTEN_FDS", &text);
    set("LISTEN_PID", &text);
    msec every_ms = notify_alive_every_ms();
    assert(every_ms >= 0);
    int listener = notify_listener();
    assert(listener == -1); /* descriptor 3 on are libFuzzer's: none is a listening socket */
    check_status(heard, text);
    return 0;
}
