/* What one call is told to do: directives, their three spellings, and counting first calls.  Pure.
 *
 * Directives come from the process-wide default (POST /_script, JSON), then from the model name
 * ("m?fault=hang&latency_ms=5"), then from the prompt ("[[fault=hang latency_ms=5]]"); the later
 * wins.  A misspelt directive is an error, never ignored: a test must not pass because its fault
 * never happened. */
#pragma once

#include "tests/upstream/bytes.h"
#include "tests/upstream/fault.h"

struct script {
    int64_t latency_ms;        /* before the first byte */
    int64_t latency_jitter_ms; /* plus a uniform draw from [0, this] */
    int64_t tokens_per_s;      /* 0: all at once */
    int64_t tokens;            /* length of the answer; -1: as long as the echo */
    int64_t fail_first;        /* the fault hits this many calls of a key; -1: every call */
    int64_t after_tokens;      /* where a fault in mid-answer strikes; -1: half way */
    int64_t bytes;             /* how much, for the huge faults; -1: each its own default */
    int64_t drip_ms;           /* between bytes of slow_drip, between keepalive comments */
    int64_t numbered;          /* not 0: the echo says which call it answers */
    const struct fault *fault;
    char key[128];
    char retry_after[64];    /* sent as it is */
    char retry_after_ms[32]; /* likewise, header retry-after-ms */
    char ratelimit[128];     /* "limit/remaining/reset" of requests, then "," and of tokens */
};

/* Why a script was refused: a sentence for the person who wrote it. */
struct complaint {
    char text[160];
};

void script_init(struct script *s);

/* Apply every [[block]] of a prompt.  Text in double brackets that does not begin with "name=" is
 * not a script and is left alone. */
bool script_read_prompt(struct script *s, const char *prompt, size_t len, struct complaint *why);

/* Apply what follows the first '?' of a model name: "name=value&name=value" with %XX and '+'. */
bool script_read_model(struct script *s, const char *model, struct complaint *why);

/* Apply a JSON object; values are numbers or strings. */
bool script_read_json(struct script *s, const char *body, size_t len, struct complaint *why);

/* The script as the JSON object that would make it. */
void script_print(const struct script *s, struct bytes *out);
