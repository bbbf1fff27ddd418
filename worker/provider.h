/* What an adapter is: the one file that knows a provider's API. It fills a struct provider; nothing else in the worker knows
 * which provider a call goes to. Pure: an adapter opens no socket, reads no clock and logs nothing. (Adding one:
 * worker/README.md.)
 *
 *   create ─► build ─► [head ─► feed* ─► end]     status below 300: the answer, as a stream or whole
 *                   └► [classify]                 any other status: what the error body means
 *
 * The request JSON of a job, in the JOB frame's body:
 *
 *   {"messages": [{"role": …, "content": …}, …],   an array; or "prompt": "…", which means one user message
 *    "params": {…}}                                passed to the provider as it is, save the names the adapter reserves
 *
 * The result JSON, in OUTCOME's body; the broker does not look into it and the api shows it as `result`:
 *
 *   {"content": "…", "reasoning": "…"?, "refusal": "…"?, "tool_calls": [{"id","type","function":{"name","arguments"}}]?,
 *    "finish_reason": "…", "model": "as answered", "provider": "openai"} */
#pragma once

#include "common/json.h"
#include "proto/limits.h"
#include "worker/call.h"

#define PROVIDER_TEXT_MAX  (PROTO_EVIDENCE_BYTES - 256) /* the worker adds a few words of its own */
#define PROVIDER_ERROR_MAX (64 * 1024)                  /* so much of an error's body is read */

/* Tokens in disjoint buckets. */
struct provider_usage {
    bool known;                                          /* the provider told */
    uint64_t input_tokens, cached_tokens, output_tokens; /* input without cached */
};

/* Why a call failed, in the provider's terms. */
struct provider_failure {
    enum kind kind;
    char text[PROVIDER_TEXT_MAX]; /* for people: our words, the provider's message or the evidence; valid UTF-8, may be "" */
};

/* Where an adapter's findings go, from inside feed and end. */
struct provider_sink {
    void (*text)(void *arg, struct span text);
    void (*reasoning)(void *arg, struct span text);
    /* One piece of a tool call. id and name are empty but in its first piece; index tells calls of one answer apart. */
    void (*tool)(void *arg, unsigned index, struct span id, struct span name, struct span arguments);
    void *arg;
};

/* One call, as the adapter is told of it. Lent until the adapter's state is freed. */
struct provider_call {
    const cJSON *request; /* an object; freed after build */
    const char *model;
    bool stream;
    size_t result_max; /* bytes of the result JSON */
};

#define PROVIDER_PATH_MAX    255
#define PROVIDER_HEADERS_MAX 8

/* What to send. */
struct provider_request {
    char path[PROVIDER_PATH_MAX + 1];              /* behind the credential's base URL */
    const char *headers[PROVIDER_HEADERS_MAX + 1]; /* static "Name: value", NULL ends them; Content-Type is there already */
    struct json_out body;
};

/* When a call that needs no network speaks. */
struct provider_local {
    msec first_ms, step_ms; /* the first piece after first_ms, each next one step_ms later */
};

struct provider {
    const char *name;
    /* The header that carries the key, up to the key: "Authorization: Bearer ". NULL: no key is sent. */
    const char *key_header;

    /* The state of one call. NULL: no memory. */
    void *(*create)(const struct provider_call *call);
    void (*destroy)(void *state);

    /* What to send. false fills `failure`: KIND_CLIENT if the request cannot be put to this provider, KIND_WORKER for want of
     * memory. */
    bool (*build)(void *state, const struct provider_call *call, struct provider_request *request,
                  struct provider_failure *failure);

    /* Instead of `build`, and of `head` to `proven`, for an adapter that needs no network: when to speak, and the next piece of
     * content (false: there are no more). */
    bool (*answer)(void *state, const struct provider_call *call, struct provider_local *local,
                   struct provider_failure *failure);
    bool (*step)(void *state, const struct provider_sink *sink);

    /* The head of a reply with a status below 300. type: Content-Type, may be empty. Returns whether the answer comes as a
     * stream: then what feed gives to `sink` is the sign of life the clocks watch, otherwise any byte. */
    bool (*head)(void *state, struct span type);
    /* Bytes of its body. false: it failed, `failure` says how. Pieces of content go to `sink`. */
    bool (*feed)(void *state, struct span bytes, const struct provider_sink *sink, struct provider_failure *failure);
    /* Whether the protocol's own end was seen: nothing that follows matters. */
    bool (*proven)(const void *state);
    /* The body is over. true: the answer is whole, the result is in `result`. false: `failure`. `usage` is filled as far as it
     * is known, on failure too. */
    bool (*end)(void *state, const struct provider_sink *sink, struct json_out *result, struct provider_failure *failure);
    void (*usage)(const void *state, struct provider_usage *usage);

    /* What a status of 300 or more means, with its body (cut at PROVIDER_ERROR_MAX). retry_after: whether the reply names a
     * wait. */
    void (*classify)(unsigned status, struct span body, bool retry_after, struct provider_failure *failure);
};
