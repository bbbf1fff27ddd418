/* ZeroMQ's question about a new peer (RFC 27): parts separated by LF, in whatever number and content. Only CURVE with a key of
 * 32 bytes, asked of a member that is there and allows it, is let in, and then under its own key.
 * Covers: proto/zap.c */
#include "proto/zap.c"

#define LISTED "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7" /* ZeroMQ's documentation's server key */

static bool allows(void *arg, const char *key)
{
    assert(strlen(key) == 40);
    return strcmp(key, LISTED) == 0;
}

static zmsg_t *question(struct span text)
{
    zmsg_t *message = zmsg_new();
    for (;;) {
        const uint8_t *end = text.len ? memchr(text.data, '\n', text.len) : NULL;
        size_t len = end ? (size_t)(end - text.data) : text.len;
        uint8_t key[KEY_BYTES];
        if (span_is(span_of(text.data, len), "listed") && zmq_z85_decode(key, LISTED))
            zmsg_addmem(message, key, sizeof key);
        else
            zmsg_addmem(message, text.data, len);
        if (!end)
            return message;
        text = span_of(end + 1, text.len - len - 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zap_member member = {.domain = "quern-0", .allows = allows};
    char key[41] = "";
    list_init(&zap.members);
    list_init(&member.node);
    list_push_back(&zap.members, &member.node);
    zmsg_t *message = question(span_of(data, size));
    if (is_allowed(message, key)) {
        zframe_t *mechanism = zmsg_first(message);
        for (unsigned i = 0; i < MECHANISM; i++)
            mechanism = zmsg_next(message);
        assert(zmsg_size(message) == REQUEST_PARTS && zframe_streq(mechanism, "CURVE") && strcmp(key, LISTED) == 0);
    }
    list_remove(&member.node);
    zmsg_destroy(&message);
    return 0;
}
