/* messages.def as Markdown: the tables of proto/README.md. */
#include "common/json.h"
#include "proto/codec.h"

static void put_roles(struct json_out *out, unsigned roles)
{
    if (roles == FROM_PEER) {
        json_lit(out, "peer");
        return;
    }
    if (roles == (FROM_PEER | FROM_BROKER)) {
        json_lit(out, "any");
        return;
    }
    const char *comma = "";
    for (unsigned role = ROLE_BROKER; role <= ROLE_MONITOR; role++) {
        if (!(roles & 1u << role))
            continue;
        json_printf(out, "%s%s", comma, role_name(role));
        comma = ", ";
    }
}

static void put_type(struct json_out *out, const struct field *field)
{
    static const char *const plain[] = {
        [FIELD_U8] = "u8",   [FIELD_U16] = "u16",   [FIELD_U32] = "u32",  [FIELD_U64] = "u64",
        [FIELD_I64] = "i64", [FIELD_FLAG] = "flag", [FIELD_JOBID] = "id", [FIELD_FENCE] = "fence",
    };
    switch (field->type) {
    case FIELD_WORDNUM:
        json_printf(out, "word of %s", words_name(field->of));
        return;
    case FIELD_FIXED:
        json_printf(out, "bin of %u", field->max);
        return;
    case FIELD_TEXT:
        json_printf(out, "text to %u", field->max);
        return;
    case FIELD_BIN:
        json_printf(out, "bin to %u", field->max);
        return;
    case FIELD_NEST:
        json_printf(out, "*%s*", shape_get(field->of)->name);
        return;
    case FIELD_LIST:
        json_printf(out, "list of *%s* to %u", shape_get(field->of)->name, field->max);
        return;
    default:
        json_lit(out, plain[field->type]);
    }
}

static void put_fields(struct json_out *out, const char *title, const struct shape *shape)
{
    json_printf(out, "| **%s** | | |\n", title);
    for (uint32_t i = 0; i < shape->count; i++) {
        const struct field *field = &shape->fields[i];
        json_printf(out, "| %s | ", field->name);
        put_type(out, field);
        json_printf(out, " | %s |\n", field->sentence);
    }
}

void frame_describe(struct json_out *out)
{
    json_lit(out, "| | message | from | to | body | |\n|--:|---|---|---|---|---|\n");
    for (unsigned number = 0; number < MESSAGE_NUMBERS; number++) {
        const struct message_row *row = message_row(number);
        if (!row)
            continue;
        json_printf(out, "| %u | %s | ", number, row->code);
        put_roles(out, row->from);
        json_lit(out, " | ");
        put_roles(out, row->to);
        json_printf(out, " | %s | %s |\n", row->body == BODY_ANY ? "yes" : "", shape_get(row->shape)->sentence);
    }
    json_lit(out, "\nFields of messages, in the order of the array behind major, message, epoch, received:\n\n"
                  "| field | type | |\n|---|---|---|\n");
    for (unsigned number = 0; number < MESSAGE_NUMBERS; number++) {
        const struct message_row *row = message_row(number);
        if (row && shape_get(row->shape)->count)
            put_fields(out, row->code, shape_get(row->shape));
    }
    json_lit(out, "\nRecords, inside messages and in the store:\n\n| field | type | |\n|---|---|---|\n");
    for (enum shape_id id = 0; id < SHAPES; id++)
        if (shape_is_record(id))
            put_fields(out, shape_get(id)->name, shape_get(id));
}
