#include "common/resolve.h"

#include <event2/event_struct.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STACK_BYTES (512 * 1024)

/* What the thread and the loop share. The thread writes `status` and `found`, then `known`, which orders them for the loop,
 * then the descriptor, which wakes it. */
struct question {
    atomic_int refs; /* the loop's and the thread's */
    atomic_bool known;
    int done_fd;
    int status; /* getaddrinfo's */
    struct addrinfo *found;
    char port[8];
    char host[];
};

struct resolve {
    struct question *question;
    struct event done;
    resolve_on_done *on_done;
    void *arg;
};

static void question_free(struct question **question_ptr)
{
    struct question *question = TAKE(*question_ptr);
    if (!question || atomic_fetch_sub(&question->refs, 1) != 1)
        return;
    if (question->found)
        freeaddrinfo(question->found);
    if (question->done_fd >= 0)
        close(question->done_fd);
    free(question);
}

static struct question *question_new(const char *host, unsigned port)
{
    struct question *question = calloc(1, sizeof *question + strlen(host) + 1);
    if (!question)
        return NULL;
    atomic_init(&question->refs, 1);
    strcpy(question->host, host);
    snprintf(question->port, sizeof question->port, "%u", port & 0xffff);
    question->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (question->done_fd < 0)
        question_free(&question);
    return question;
}

static void ask(struct question *question, int flags)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    question->status = getaddrinfo(question->host, question->port, &hints, &question->found);
}

static void tell(struct question *question)
{
    uint64_t one = 1;
    atomic_store(&question->known, true);
    ssize_t done = write(question->done_fd, &one, sizeof one);
    assert(done == sizeof one); /* the counter is ours and was zero */
}

static void *thread_main(void *arg)
{
    struct question *question = arg;
    ask(question, 0);
    tell(question);
    question_free(&question);
    return NULL;
}

/* Signals are the loop's: the thread is born with all of them blocked. */
static bool start_thread(struct question *question)
{
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0)
        return false;
    sigset_t all, before;
    sigfillset(&all);
    pthread_t thread;
    atomic_fetch_add(&question->refs, 1);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    bool started = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
                   pthread_attr_setstacksize(&attr, STACK_BYTES) == 0 &&
                   pthread_create(&thread, &attr, thread_main, question) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (!started)
        atomic_fetch_sub(&question->refs, 1);
    return started;
}

static void answered(evutil_socket_t fd, short what, void *arg)
{
    struct resolve *resolve = arg;
    const struct question *question = resolve->question;
    assert(atomic_load(&question->known));
    if (question->status == 0)
        resolve->on_done(resolve->arg, question->found, NULL);
    else
        resolve->on_done(resolve->arg, NULL, gai_strerror(question->status));
}

struct resolve *resolve_new(struct loop *loop, const char *host, unsigned port, resolve_on_done *on_done, void *arg)
{
    struct resolve *resolve = calloc(1, sizeof *resolve);
    if (!resolve)
        return NULL;
    resolve->on_done = on_done;
    resolve->arg = arg;
    resolve->question = question_new(host, port);
    if (!resolve->question)
        goto fail;
    int fd = resolve->question->done_fd;
    if (event_assign(&resolve->done, loop_base(loop), fd, EV_READ, answered, resolve) != 0 ||
        event_add(&resolve->done, NULL) != 0)
        goto fail;
    ask(resolve->question, AI_NUMERICHOST);
    if (resolve->question->status != EAI_NONAME)
        tell(resolve->question);
    else if (!start_thread(resolve->question))
        goto fail;
    return resolve;
fail:
    resolve_free(&resolve);
    return NULL;
}

void resolve_free(struct resolve **resolve_ptr)
{
    struct resolve *resolve = TAKE(*resolve_ptr);
    if (!resolve)
        return;
    if (event_initialized(&resolve->done))
        event_del(&resolve->done);
    question_free(&resolve->question);
    free(resolve);
}

bool resolve_is_loopback(const char *host)
{
    static const char *const names[] = {"localhost", "::1", "[::1]"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (strcmp(host, names[i]) == 0)
            return true;
    return strncmp(host, "127.", 4) == 0;
}
