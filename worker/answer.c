#include "worker/answer.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/providers.h"

static const struct span none = {0};

void answer_init(struct answer *a, const struct provider_call *call)
{
    *a = (struct answer){.max = call->result_max};
    snprintf(a->model, sizeof a->model, "%s", call->model);
}

void answer_done(struct answer *a)
{
    json_out_done(&a->content);
    json_out_done(&a->reasoning);
    json_out_done(&a->refusal);
    for (unsigned i = 0; i < a->tools_count; i++) {
        json_out_done(&a->tools[i].id);
        json_out_done(&a->tools[i].name);
        json_out_done(&a->tools[i].arguments);
    }
    free(a->tools);
}

static bool no_memory(struct provider_failure *failure)
{
    return provider_fail(failure, KIND_WORKER, none, "no memory for the answer");
}

bool answer_keep(struct answer *a, struct json_out *part, struct span text, struct provider_failure *failure)
{
    if (provider_keep(part, text, &a->held, a->max))
        return true;
    if (part->failed)
        return no_memory(failure);
    return provider_fail(failure, KIND_ANSWER_TOO_LARGE, none, "the answer is larger than %zu bytes", a->max);
}

struct answer_tool *answer_add_tool(struct answer *a, int index, struct provider_failure *failure)
{
    if (a->tools_count == ANSWER_TOOLS_MAX) {
        provider_fail(failure, KIND_BAD_FRAME, none, "more than %d tool calls", ANSWER_TOOLS_MAX);
        return NULL;
    }
    if (a->tools_count == a->tools_size) {
        unsigned size = MAX(a->tools_size * 2, 4u);
        struct answer_tool *tools = realloc(a->tools, size * sizeof *tools);
        if (!tools) {
            no_memory(failure);
            return NULL;
        }
        a->tools = tools;
        a->tools_size = size;
    }
    a->tools[a->tools_count] = (struct answer_tool){.index = index};
    return &a->tools[a->tools_count++];
}

void answer_name_model(struct answer *a, const char *model)
{
    if (model && model[0] && strcmp(model, a->model) != 0) /* mostly the same in every piece */
        provider_text(a->model, sizeof a->model, span_str(model));
}

void answer_finish(struct answer *a, const char *reason)
{
    provider_text(a->finish, sizeof a->finish, span_str(reason));
    a->finished = true;
}

/* --- the result --- */

void answer_call_id(unsigned i, char out[ANSWER_CALL_ID_MAX])
{
    snprintf(out, ANSWER_CALL_ID_MAX, "call_%u", i);
}

static void put_function(struct json_out *result, const struct answer_tool *tool)
{
    json_lit(result, "{\"name\":");
    json_str(result, provider_held(&tool->name));
    json_lit(result, ",\"arguments\":");
    json_str(result, provider_held(&tool->arguments));
    json_lit(result, "}");
}

static void put_tools(struct json_out *result, const struct answer *a)
{
    for (unsigned i = 0; i < a->tools_count; i++) {
        const struct answer_tool *tool = &a->tools[i];
        struct span arguments = provider_held(&tool->arguments);
        char made_up[ANSWER_CALL_ID_MAX];
        answer_call_id(i, made_up);
        json_lit(result, i ? ",{\"id\":" : "{\"id\":");
        json_str(result, tool->id.len ? provider_held(&tool->id) : span_str(made_up));
        json_lit(result, ",\"type\":\"function\",\"function\":");
        put_function(result, tool);
        if (arguments.len && json_check(arguments, NULL) != ERR_OK)
            json_lit(result, ",\"malformed\":true");
        json_lit(result, "}");
    }
}

static void put_text(struct json_out *result, const char *name, const struct json_out *text)
{
    if (!text->len)
        return;
    json_printf(result, ",\"%s\":", name);
    json_str(result, provider_held(text));
}

bool answer_put(const struct answer *a, const char *provider, struct json_out *result, struct provider_failure *failure)
{
    json_lit(result, "{\"content\":");
    json_str(result, provider_held(&a->content));
    put_text(result, "reasoning", &a->reasoning);
    put_text(result, "refusal", &a->refusal);
    if (a->function && a->tools_count) {
        json_lit(result, ",\"function_call\":");
        put_function(result, &a->tools[0]);
    } else if (a->tools_count) {
        json_lit(result, ",\"tool_calls\":[");
        put_tools(result, a);
        json_lit(result, "]");
    }
    json_lit(result, ",\"finish_reason\":");
    if (a->finished)
        json_str(result, span_str(a->finish));
    else
        json_lit(result, "null"); /* in one piece, some servers give none */
    json_lit(result, ",\"model\":");
    json_str(result, span_str(a->model));
    json_printf(result, ",\"provider\":\"%s\"}", provider);
    return provider_fits(result, a->max, failure);
}
