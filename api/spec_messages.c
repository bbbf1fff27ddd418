/* Messages: their shape, and an estimate of their tokens. */
#include "api/spec_reader.h"

uint64_t spec_tokens(struct span text)
{
    uint64_t bytes = 0, characters = 0;
    for (size_t i = 0; i < text.len;) {
        uint8_t c = text.data[i];
        size_t len = c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        /* by first bytes: U+2E80 to U+DFFF save a few, and the planes of rarer Han */
        bool dense = (c == 0xe2 && i + 1 < text.len && text.data[i + 1] >= 0xba) || (c >= 0xe3 && c <= 0xed) ||
                     (c == 0xef && i + 1 < text.len && text.data[i + 1] >= 0xa4 && text.data[i + 1] <= 0xab) ||
                     (c == 0xf0 && i + 1 < text.len && text.data[i + 1] >= 0xa0);
        if (dense)
            characters++;
        else
            bytes += len;
        i += len;
    }
    return characters + (bytes + 3) / 4;
}

static bool is_role(const char *role)
{
    static const char *const roles[] = {"user", "assistant", "system", "tool", "developer", "function"};
    for (size_t i = 0; i < ARRAY_COUNT(roles); i++)
        if (strcmp(role, roles[i]) == 0)
            return true;
    return false;
}

static enum err read_part(struct reader *r, const cJSON *part, unsigned i, unsigned j)
{
    const char *type = cJSON_IsObject(part) ? json_text(part, "type") : NULL;
    if (!type) {
        spec_at(r, "%s[%u].content[%u].type", r->input_name, i, j);
        return BAD(r, "a part of a message must be an object with a type");
    }
    const cJSON *text = json_get(part, "text");
    if (strcmp(type, "text") == 0 && !cJSON_IsString(text)) {
        spec_at(r, "%s[%u].content[%u].text", r->input_name, i, j);
        return BAD(r, "must be a string");
    }
    if (cJSON_IsString(text))
        r->input_tokens += spec_tokens(span_str(text->valuestring));
    else if (strstr(type, "image"))
        r->input_tokens += SPEC_IMAGE_TOKENS;
    return ERR_OK;
}

static enum err read_content(struct reader *r, const cJSON *message, const cJSON *content, unsigned i)
{
    if (cJSON_IsString(content)) {
        r->input_tokens += spec_tokens(span_str(content->valuestring));
        return ERR_OK;
    }
    if ((!content || cJSON_IsNull(content)) && json_get(message, "tool_calls"))
        return ERR_OK;
    if (!cJSON_IsArray(content) || !content->child) {
        spec_at(r, "%s[%u].content", r->input_name, i);
        return BAD(r, "must be a string or an array of parts");
    }
    unsigned j = 0;
    for (const cJSON *part = content->child; part; part = part->next, j++) {
        enum err e = read_part(r, part, i, j);
        if (e)
            return e;
    }
    return ERR_OK;
}

static enum err read_message(struct reader *r, const cJSON *message, unsigned i)
{
    static const char *const known[] = {"role", "content", "name", "tool_calls", "tool_call_id"};
    if (!cJSON_IsObject(message)) {
        spec_at(r, "%s[%u]", r->input_name, i);
        return BAD(r, "must be an object");
    }
    for (const cJSON *v = message->child; v; v = v->next) {
        size_t k = 0;
        while (k < ARRAY_COUNT(known) && strcmp(v->string, known[k]) != 0)
            k++;
        if (k < ARRAY_COUNT(known))
            continue;
        spec_at(r, "%s[%u].%.100s", r->input_name, i, v->string);
        return spec_refuse(r, ERR_UNKNOWN_FIELD, "there is no such field");
    }
    const char *role = json_text(message, "role");
    if (!role || !is_role(role)) {
        spec_at(r, "%s[%u].role", r->input_name, i);
        return BAD(r, "must be user, assistant, system, developer, tool or function");
    }
    r->input_tokens += 4; /* what frames a message */
    return read_content(r, message, json_get(message, "content"), i);
}

enum err spec_read_messages(struct reader *r)
{
    unsigned i = 0;
    if (cJSON_IsString(r->input)) {
        r->input_tokens += spec_tokens(span_str(r->input->valuestring));
        return ERR_OK;
    }
    for (const cJSON *message = r->input->child; message; message = message->next, i++) {
        enum err e = read_message(r, message, i);
        if (e)
            return e;
    }
    r->field = r->input_name;
    return i > SPEC_MESSAGES_MAX ? BAD(r, "must have at most %d messages", SPEC_MESSAGES_MAX) : ERR_OK;
}
