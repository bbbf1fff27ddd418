/* Between the files of spec: the request being read. Private to them. */
#pragma once

#include "api/spec.h"

struct reader {
    const struct spec_caller *caller;
    struct spec_fault *fault;
    struct rec_spec spec;
    const char *field; /* of the root, being read: at fault unless spec_at says more */
    const char *type, *model, *scenario, *queue, *user_id, *key;
    const cJSON *input, *system, *params, *tags, *metadata; /* input: a string or an array of messages */
    const char *input_name;                                 /* the field it came from */
    bool has_attempts, has_start;
    uint64_t input_tokens;
};

/* Fills the fault's message, and its place unless spec_at has named one. Returns e. */
enum err spec_refuse(struct reader *r, enum err e, const char *format, ...) PRINTF(3, 4);
#define BAD(r, ...) spec_refuse(r, ERR_INVALID, __VA_ARGS__)

/* Names the place of a fault, where it is not the field itself: before or after it was refused. */
void spec_at(struct reader *r, const char *format, ...) PRINTF(2, 3);

/* The prompt or the messages: checked, their tokens counted. */
MUST_USE enum err spec_read_messages(struct reader *r);

/* What was read, as a submission. ERR_INVALID (metadata too long), ERR_TOO_LARGE, ERR_NOMEM. */
MUST_USE enum err spec_write(struct reader *r, struct submission **ret_submission);
