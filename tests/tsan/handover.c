/* libzmq hands a message from our thread to its own by atomics that the sanitizer does not see. Here the hand-over is made
 * known, so that what our release function does on libzmq's thread is judged like everything else of ours. */
#include <stdlib.h>
#include <zmq.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);
int __real_zmq_msg_init_data(zmq_msg_t *message, void *data, size_t size, zmq_free_fn *release, void *hint);
int __wrap_zmq_msg_init_data(zmq_msg_t *message, void *data, size_t size, zmq_free_fn *release, void *hint);

struct handover {
    zmq_free_fn *release;
    void *hint;
};

static void released(void *data, void *hint)
{
    struct handover *h = hint;
    __tsan_acquire(h);
    h->release(data, h->hint);
    free(h);
}

int __wrap_zmq_msg_init_data(zmq_msg_t *message, void *data, size_t size, zmq_free_fn *release, void *hint)
{
    struct handover *h = malloc(sizeof *h);
    if (!h)
        abort();
    *h = (struct handover){release, hint};
    __tsan_release(h);
    return __real_zmq_msg_init_data(message, data, size, released, h);
}
