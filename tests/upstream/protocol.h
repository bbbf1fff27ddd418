/* A provider's protocol: what reply.c must know to speak it, as a small table of functions.
 *
 * reply.c decides what is sent and when; a protocol only knows shapes.  A new provider is one file
 * that fills this table and one line in protocol.c.  Text goes into the hole between an open and a
 * close, always inside a JSON string, so that any length of it can be streamed. */
#pragma once

#include "tests/upstream/bytes.h"
#include "tests/upstream/fault.h"

#include <cjson/cJSON.h>

/* What the caller asked, as far as the answer depends on it.  Texts point into doc. */
struct ask {
    cJSON *doc;
    const char *model;
    const char *prompt; /* text of the last user message */
    size_t prompt_len;
    char *joined;       /* owns the prompt when it came in several parts */
    size_t input_bytes; /* text of all messages */
    const char *tool;   /* first tool offered, or NULL */
    bool stream;
    bool wants_usage;
};

void ask_done(struct ask *a);

/* What is said; the words themselves are in answer.h. */
struct answer {
    uint64_t number; /* of the call: makes ids */
    int64_t created; /* wall clock, seconds */
    int64_t prompt_tokens, completion_tokens;
    const char *eol; /* of a stream's lines */
    bool tool_call;  /* the text is a tool call's arguments */
    bool cut_short;  /* finish reason: length */
    bool usage;      /* reported at all */
};

struct protocol {
    const char *method, *path;
    const char *stream_type; /* content type of a stream; NULL: never streams */

    /* Understand a body (lent).  NULL, or what is wrong with it, for a 400. */
    const char *(*read)(struct ask *ret_ask, const char *body, size_t len);

    /* The whole answer, around its text. */
    void (*whole_open)(struct bytes *out, const struct ask *, const struct answer *);
    void (*whole_close)(struct bytes *out, const struct ask *, const struct answer *);

    /* A stream: opening, any number of tokens, ending.  Each call appends one or more events. */
    void (*stream_open)(struct bytes *out, const struct ask *, const struct answer *);
    void (*token_open)(struct bytes *out, const struct ask *, const struct answer *);
    void (*token_close)(struct bytes *out, const struct ask *, const struct answer *);
    void (*stream_end)(struct bytes *out, const struct ask *, const struct answer *);

    /* An error in the middle of a stream; a comment that a parser must skip; a line with a broken
     * event. */
    void (*stream_error)(struct bytes *out, const struct fault *, const struct answer *);
    void (*stream_comment)(struct bytes *out, const struct answer *);
    void (*stream_malformed)(struct bytes *out, const struct answer *);

    /* The body of an error status. */
    void (*error)(struct bytes *out, const char *type, const char *code, const char *message);
};

/* NULL when nothing is served there. */
const struct protocol *protocol_at(const char *path, size_t len);

extern const struct protocol openai_chat, openai_models, ollama_chat, ollama_tags;
