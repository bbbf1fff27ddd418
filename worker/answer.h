/* Pure: a provider's answer, put together from its pieces, and the result JSON that comes of it (provider.h). What every
 * adapter that speaks of content, reasoning and tool calls shares; how the pieces come is the adapter's. */
#pragma once

#include "worker/provider.h"

#define ANSWER_TOOLS_MAX 128
#define ANSWER_NAME_MAX  256

/* One tool call, whole or on its way. */
struct answer_tool {
    int index; /* the provider's; −1: it gives none */
    struct json_out id, name, arguments;
};

struct answer {
    size_t max, held; /* bytes of all that is kept */
    struct json_out content, reasoning, refusal;
    struct answer_tool *tools;
    unsigned tools_count, tools_size;
    bool function; /* one call, shown as the older function_call */
    bool finished; /* `finish` is set */
    char finish[ANSWER_NAME_MAX], model[ANSWER_NAME_MAX];
};

/* model: until the answer names one. */
void answer_init(struct answer *answer, const struct provider_call *call);
void answer_done(struct answer *answer);

/* Appends to one of its texts. false: `failure` says that it is too large, or that there is no memory. */
bool answer_keep(struct answer *answer, struct json_out *part, struct span text, struct provider_failure *failure);
/* One more call. NULL: `failure`: there are too many, or no memory. Lent until the next is added. */
struct answer_tool *answer_add_tool(struct answer *answer, int index, struct provider_failure *failure);
/* The model that answered, if it says one. */
void answer_name_model(struct answer *answer, const char *model);
void answer_finish(struct answer *answer, const char *reason);

/* Arguments that are no JSON are shown and marked, so that nobody runs them unseen. A missing id is made up, as answer_call_id
 * does: callers tell calls apart by it. */
bool answer_put(const struct answer *answer, const char *provider, struct json_out *result, struct provider_failure *failure);

/* The made-up id of the i-th call. */
#define ANSWER_CALL_ID_MAX 16
void answer_call_id(unsigned i, char out[ANSWER_CALL_ID_MAX]);
