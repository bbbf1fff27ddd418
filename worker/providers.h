/* The adapters by name, and what they share. */
#pragma once

#include "worker/provider.h"

extern const struct provider provider_echo, provider_ollama, provider_openai;

/* NULL: there is no such adapter. */
const struct provider *provider_find(const char *name);

/* Text from outside into a bounded one: cut at a character, made valid UTF-8, without control bytes but newline and tab. size
 * includes the NUL. Returns the length. */
size_t provider_text(char *out, size_t size, struct span text);

/* failure->text = printf-formed words, then `evidence` by provider_text. Returns false, so that callers can return it. */
bool provider_fail(struct provider_failure *failure, enum kind kind, struct span evidence, const char *format, ...)
    PRINTF(4, 5);

/* What a status of 300 or more means where its body says nothing more precise. retry_after: whether the reply names a wait. */
enum kind provider_kind_of_status(unsigned status, bool retry_after);

/* KIND_BAD_FRAME, with the beginning of what is not as it should be. Returns false. */
bool provider_bad_frame(struct provider_failure *failure, struct span evidence, const char *what);

/* Whether a body that is no JSON looks like the front part of some. fault_at: where it stops being JSON. */
bool provider_cut_short(struct span body, size_t fault_at);

/* Appends to text that may hold `max` bytes with all its siblings; `held` counts them. false: too large, or no memory
 * (out->failed). */
bool provider_keep(struct json_out *out, struct span text, size_t *held, size_t max);

/* Whether the finished result was made and is no larger than `max`; `failure` otherwise. */
bool provider_fits(const struct json_out *result, size_t max, struct provider_failure *failure);

/* What was appended so far; never NULL. */
static inline struct span provider_held(const struct json_out *out)
{
    return span_of(out->data ? out->data : "", out->len);
}

/* The text of a message's content: a string, or the text parts of an array, joined into `out`. */
void provider_content(struct json_out *out, const cJSON *content);
