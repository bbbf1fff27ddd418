/* One question to the monitor socket, and its answer. */
#pragma once

#include "common/blob.h"
#include "common/conf.h"
#include "proto/messages.h"

struct ask_options {
    const struct conf *conf;
    const char *endpoint;   /* NULL: the settings'; may be several, parted by commas */
    const char *key_file;   /* over TCP: ours */
    const char *broker_key; /* over TCP: the broker's public key; NULL: the settings' */
    msec within_ms;
};

struct ask_answer {
    enum err error; /* what the broker said */
    char detail[1025];
    struct blob *body; /* msgpack; NULL: none */
};
void ask_answer_done(struct ask_answer *answer);

/* ERR_UNREACHABLE: nobody there after two seconds, or no answer in time; `detail` says which. ERR_SETTINGS, ERR_SYSTEM,
 * ERR_NOMEM: it could not be asked. */
MUST_USE enum err ask_broker(const struct ask_options *options, const struct msg_question *question,
                             struct ask_answer *ret_answer);
