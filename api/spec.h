/* A submit's JSON to what the broker and the worker need; pure. The set of fields is closed: one that does not exist, and one
 * that this version does not serve, is refused by name, never overlooked. Defaults of times and attempts are the broker's (0 in
 * the frame), so that one reload changes them for all. */
#pragma once

#include "common/blob.h"
#include "common/json.h"
#include "proto/messages.h"

#define SPEC_TAGS_MAX       16
#define SPEC_TAG_BYTES      64
#define SPEC_METADATA_BYTES 16384
#define SPEC_KEY_BYTES      255 /* of an idempotency key */
#define SPEC_MESSAGES_MAX   10000
#define SPEC_OUTPUT_TOKENS  512         /* estimate of an answer whose length the caller does not bound */
#define SPEC_IMAGE_TOKENS   800         /* estimate of an image */
#define SPEC_FAR_MS         31622400000 /* 366 days: how far ahead an instant may lie */

/* Who asks, and what their request's head says. All lent. */
struct spec_caller {
    struct span tenant;
    struct span request_id;
    struct span trace;           /* traceparent or empty */
    struct span idempotency_key; /* the header's value; data NULL without one */
    msec wall_ms;                /* now */
};

/* Everything of a SUBMIT but its id. The body is display JSON (one object: type, model or scenario, user_id, tags, metadata)
 * and then the request JSON: {"type","model","messages":[…],"params":{…},"stream":bool,"user_id"}, with a prompt as one user
 * message and `system` as the first message. */
struct submission {
    struct rec_spec spec; /* its texts lie behind the struct */
    bool keyed;           /* idem and body_hash are set */
    uint8_t idem[32];     /* SHA-256 of tenant, 0, queue, 0, key */
    uint8_t
        body_hash[32]; /* SHA-256 of the canonical request: the body above, then every number and choice of `spec` as text */
    struct blob *body;
    char texts[];
};
/* Accepts NULL. */
void submission_free(struct submission **submission);

struct spec_fault {
    char param[160]; /* "messages[2].role"; "" for the whole body */
    char message[256];
};
/* Says where a text stops being JSON, and why. */
void spec_say_json(struct spec_fault *fault, const struct json_fault *json);

/* ERR_BAD_JSON, ERR_INVALID, ERR_UNKNOWN_FIELD, ERR_TOO_LARGE, ERR_NOMEM; `fault` is filled for all but the last two. */
MUST_USE enum err spec_read(struct span body, const struct spec_caller *caller, struct submission **ret_submission,
                            struct spec_fault *fault);

/* What may be changed of a job that waits: {"priority","deadline"}, at least one of them. 0: not given. */
struct spec_change {
    uint8_t priority;
    msec deadline;
};
/* Errors as spec_read's. */
MUST_USE enum err spec_read_change(struct span body, const struct spec_caller *caller, struct spec_change *ret_change,
                                   struct spec_fault *fault);

/* Tokens of a text: a quarter of its bytes, and one per character of the scripts that are written without spaces (Han, kana,
 * Hangul). */
uint64_t spec_tokens(struct span text);

/* "30s", "500ms", "2m" or a bare number of seconds. false: none of these. */
bool spec_duration(struct span text, msec *ret_ms);
