#include "common/conf_file.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yaml.h>

struct line {
    char *setting;
    unsigned line;
};

/* What libcyaml fills. A section is an array of one conf_text per row. */
struct content {
    struct conf_text *sections[CONF_SECTIONS];
    struct conf_texts lists[CONF_LISTS];
};

/* libcyaml's description of struct content, made from the tables. It must live as long as the content. */
struct schema {
    cyaml_schema_value_t root, name, item[CONF_LISTS];
    cyaml_schema_field_t top[CONF_SECTIONS + CONF_LISTS + 1];
    cyaml_schema_field_t sections[CONF_SECTIONS][CONF_ROWS_MAX + 1];
    cyaml_schema_field_t items[CONF_LISTS][CONF_ROWS_MAX + 1];
};

struct conf_file {
    const char *path;
    struct line *lines;
    size_t lines_len, lines_size;
    bool said; /* there is something in it */
    struct schema schema;
    struct content *content;
};

/* A setting's full name: "api.port", "routes[3].deployments[0]". Its parts come from the tables, so it always fits. */
struct setting {
    char name[192];
};

static struct setting setting_of(const char *format, ...) PRINTF(1, 2);
static struct setting setting_of(const char *format, ...)
{
    struct setting s;
    va_list args;
    va_start(args, format);
    vsnprintf(s.name, sizeof s.name, format, args);
    va_end(args);
    return s;
}

/* --- first pass: structure and lines ------------------------------------------------------------------------------ */

struct walk {
    struct conf_file *file;
    struct conf_fault *fault;
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    bool have_event;
    struct span text;
};

static enum err refuse(struct conf_fault *fault, const char *path, size_t line, const char *format, ...) PRINTF(4, 5);
static enum err refuse(struct conf_fault *fault, const char *path, size_t line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = line ? snprintf(fault->text, sizeof fault->text, "%.200s:%zu: ", path, line)
                   : snprintf(fault->text, sizeof fault->text, "%.200s: ", path);
    vsnprintf(fault->text + len, sizeof fault->text - (size_t)len, format, args);
    va_end(args);
    return ERR_SETTINGS;
}

static size_t event_line(const struct walk *w)
{
    return w->event.start_mark.line + 1;
}

#define REFUSE(w, ...) refuse((w)->fault, (w)->file->path, event_line(w), __VA_ARGS__)

/* A piece of the file for a message: what could disturb a terminal becomes '?'. */
struct quoted {
    char text[48];
};

static struct quoted quote(const yaml_event_t *scalar)
{
    struct quoted q;
    size_t len = MIN(scalar->data.scalar.length, sizeof q.text - 1);
    for (size_t i = 0; i < len; i++) {
        uint8_t c = scalar->data.scalar.value[i];
        q.text[i] = (char)(c >= 0x20 && c < 0x7F ? c : '?');
    }
    q.text[len] = '\0';
    return q;
}

static enum err refuse_syntax(struct walk *w)
{
    const yaml_parser_t *p = &w->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return ERR_NOMEM;
    size_t line = p->problem_mark.line + 1;
    if (p->error == YAML_READER_ERROR) { /* has an offset and no mark */
        line = 1;
        for (size_t i = 0; i < MIN(p->problem_offset, w->text.len); i++)
            line += w->text.data[i] == '\n';
    }
    return refuse(w->fault, w->file->path, line, "the file is not YAML: %s", p->problem ? p->problem : "unknown error");
}

static const yaml_char_t *event_anchor(const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        return e->data.scalar.anchor;
    case YAML_SEQUENCE_START_EVENT:
        return e->data.sequence_start.anchor;
    case YAML_MAPPING_START_EVENT:
        return e->data.mapping_start.anchor;
    default:
        return NULL;
    }
}

static const yaml_char_t *event_tag(const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        return e->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return e->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return e->data.mapping_start.tag;
    default:
        return NULL;
    }
}

/* Aliases are refused where they stand, so nothing can be multiplied by them. */
static enum err next_event(struct walk *w)
{
    if (w->have_event)
        yaml_event_delete(&w->event);
    w->have_event = false;
    if (!yaml_parser_parse(&w->parser, &w->event))
        return refuse_syntax(w);
    w->have_event = true;
    if (w->event.type == YAML_ALIAS_EVENT || event_anchor(&w->event))
        return REFUSE(w, "anchors and aliases are not used in settings");
    if (event_tag(&w->event))
        return REFUSE(w, "tags are not used in settings");
    return ERR_OK;
}

static enum err note_line(struct walk *w, const char *setting)
{
    struct conf_file *f = w->file;
    if (f->lines_len == f->lines_size) {
        size_t size = f->lines_size ? f->lines_size * 2 : 64;
        struct line *grown = reallocarray(f->lines, size, sizeof *grown);
        if (!grown)
            return ERR_NOMEM;
        f->lines = grown;
        f->lines_size = size;
    }
    struct line *line = &f->lines[f->lines_len];
    *line = (struct line){.setting = strdup(setting), .line = (unsigned)event_line(w)};
    if (!line->setting)
        return ERR_NOMEM;
    f->lines_len++;
    return ERR_OK;
}

static bool event_is_plain(const yaml_event_t *e, const char *value)
{
    return e->type == YAML_SCALAR_EVENT && e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           strcmp((const char *)e->data.scalar.value, value) == 0;
}

/* The current event must be one value. */
static enum err walk_scalar(struct walk *w, const char *setting)
{
    const yaml_event_t *e = &w->event;
    if (e->type != YAML_SCALAR_EVENT)
        return REFUSE(w, "%s: one value is expected here", setting);
    if (memchr(e->data.scalar.value, '\0', e->data.scalar.length))
        return REFUSE(w, "%s: the value has a NUL character", setting);
    if (event_is_plain(e, "~") || event_is_plain(e, "null") || event_is_plain(e, "Null") || event_is_plain(e, "NULL"))
        return REFUSE(w, "%s: null is not a value; \"\" is the empty text", setting);
    return note_line(w, setting);
}

static enum err walk_names(struct walk *w, const char *setting)
{
    if (w->event.type != YAML_SEQUENCE_START_EVENT)
        return REFUSE(w, "%s: a list is expected here", setting);
    enum err e = note_line(w, setting);
    for (unsigned i = 0; !e; i++) {
        if ((e = next_event(w)) || w->event.type == YAML_SEQUENCE_END_EVENT)
            return e;
        if (i == CONF_NAMES_MAX)
            return REFUSE(w, "%s: more than %d names", setting, CONF_NAMES_MAX);
        e = walk_scalar(w, setting_of("%s[%u]", setting, i).name);
    }
    return e;
}

/* The current event opens a mapping of these rows; reads to its end. */
static enum err walk_rows(struct walk *w, const char *setting, struct conf_rows rows)
{
    if (w->event.type != YAML_MAPPING_START_EVENT)
        return REFUSE(w, "%s: settings with names are expected here", setting);
    bool seen[CONF_ROWS_MAX] = {false};
    for (;;) {
        enum err e = next_event(w);
        if (e || w->event.type == YAML_MAPPING_END_EVENT)
            return e;
        if (w->event.type != YAML_SCALAR_EVENT)
            return REFUSE(w, "%s: a name is expected here", setting);
        struct quoted key = quote(&w->event);
        size_t i = 0;
        while (i < rows.count && !span_is(span_of(w->event.data.scalar.value, w->event.data.scalar.length), rows.at[i].name))
            i++;
        if (i == rows.count)
            return REFUSE(w, "%s.%s: there is no such setting", setting, key.text);
        if (seen[i])
            return REFUSE(w, "%s.%s: the setting is given twice", setting, key.text);
        seen[i] = true;
        struct setting inner = setting_of("%s.%s", setting, rows.at[i].name);
        if ((e = next_event(w)))
            return e;
        if ((e = rows.at[i].kind == CONF_NAMES ? walk_names(w, inner.name) : walk_scalar(w, inner.name)))
            return e;
    }
}

static enum err walk_section(struct walk *w, const struct conf_section *section)
{
    return event_is_plain(&w->event, "") ? ERR_OK : walk_rows(w, section->name, section->rows);
}

static enum err walk_list(struct walk *w, const struct conf_list *list)
{
    if (event_is_plain(&w->event, ""))
        return ERR_OK;
    if (w->event.type != YAML_SEQUENCE_START_EVENT)
        return REFUSE(w, "%s: a list is expected here", list->name);
    enum err e = note_line(w, list->name);
    for (unsigned i = 0; !e; i++) {
        if ((e = next_event(w)) || w->event.type == YAML_SEQUENCE_END_EVENT)
            return e;
        if (i == CONF_ITEMS_MAX)
            return REFUSE(w, "%s: more than %d entries", list->name, CONF_ITEMS_MAX);
        struct setting item = setting_of("%s[%u]", list->name, i);
        if (!(e = note_line(w, item.name)))
            e = walk_rows(w, item.name, list->rows);
    }
    return e;
}

/* The value of a key at the top. */
static enum err walk_top(struct walk *w, unsigned index)
{
    if (index < CONF_SECTIONS) {
        struct conf_section section = conf_section(index);
        return walk_section(w, &section);
    }
    struct conf_list list = conf_list(index - CONF_SECTIONS);
    return walk_list(w, &list);
}

static const char *top_name(unsigned index)
{
    return index < CONF_SECTIONS ? conf_section(index).name : conf_list(index - CONF_SECTIONS).name;
}

static enum err walk_document(struct walk *w)
{
    if (event_is_plain(&w->event, ""))
        return ERR_OK;
    if (w->event.type != YAML_MAPPING_START_EVENT)
        return REFUSE(w, "the file must consist of sections and lists");
    w->file->said = true;
    bool seen[CONF_SECTIONS + CONF_LISTS] = {false};
    for (;;) {
        enum err e = next_event(w);
        if (e || w->event.type == YAML_MAPPING_END_EVENT)
            return e;
        if (w->event.type != YAML_SCALAR_EVENT)
            return REFUSE(w, "a section's name is expected here");
        struct quoted key = quote(&w->event);
        unsigned i = 0;
        while (i < ARRAY_COUNT(seen) && !span_is(span_of(w->event.data.scalar.value, w->event.data.scalar.length), top_name(i)))
            i++;
        if (i == ARRAY_COUNT(seen))
            return REFUSE(w, "%s: there is no such section", key.text);
        if (seen[i])
            return REFUSE(w, "%s: the section is given twice", key.text);
        seen[i] = true;
        if ((e = next_event(w)) || (e = walk_top(w, i)))
            return e;
    }
}

/* Stream start, at most one document, stream end. */
static enum err walk_stream(struct walk *w)
{
    enum err e = next_event(w);
    if (e || (e = next_event(w)) || w->event.type == YAML_STREAM_END_EVENT)
        return e;
    if ((e = next_event(w)) || (e = walk_document(w)))
        return e;
    e = next_event(w); /* the end of the document, then of the stream */
    if (!e)
        e = next_event(w);
    if (e)
        return e;
    return w->event.type == YAML_STREAM_END_EVENT ? ERR_OK : REFUSE(w, "a second document is not read");
}

static enum err find_lines(struct conf_file *file, struct span text, struct conf_fault *fault)
{
    struct walk w = {.file = file, .fault = fault, .text = text};
    if (!yaml_parser_initialize(&w.parser))
        return ERR_NOMEM;
    yaml_parser_set_input_string(&w.parser, text.data, text.len);
    enum err e = walk_stream(&w);
    if (w.have_event)
        yaml_event_delete(&w.event);
    yaml_parser_delete(&w.parser);
    return e;
}

/* --- second pass: libcyaml ---------------------------------------------------------------------------------------- */

static cyaml_schema_field_t field_of(const struct schema *s, const struct conf_row *row, size_t index)
{
    cyaml_schema_field_t field = {.key = row->name};
    size_t at = index * sizeof(struct conf_text);
    if (row->kind != CONF_NAMES) {
        field.data_offset = (uint32_t)(at + offsetof(struct conf_text, text));
        field.value =
            (cyaml_schema_value_t){CYAML_VALUE_STRING(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char *, 0, CYAML_UNLIMITED)};
        return field;
    }
    field.data_offset = (uint32_t)(at + offsetof(struct conf_text, names));
    field.count_offset = (uint32_t)(at + offsetof(struct conf_text, names_count));
    field.count_size = sizeof(unsigned);
    field.value = (cyaml_schema_value_t){
        CYAML_VALUE_SEQUENCE(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char *, &s->name, 0, CONF_NAMES_MAX)};
    return field;
}

static void fields_of(const struct schema *s, struct conf_rows rows, cyaml_schema_field_t *out)
{
    for (size_t i = 0; i < rows.count; i++)
        out[i] = field_of(s, &rows.at[i], i);
}

static cyaml_schema_value_t mapping_of(struct conf_rows rows, const cyaml_schema_field_t *fields, unsigned flags)
{
    cyaml_schema_value_t value = {CYAML_VALUE_MAPPING(flags, struct conf_text, fields)};
    value.data_size = (uint32_t)(rows.count * sizeof(struct conf_text));
    return value;
}

static void make_schema(struct schema *s)
{
    s->name = (cyaml_schema_value_t){CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 0, CYAML_UNLIMITED)};
    cyaml_schema_field_t *top = s->top;
    for (unsigned i = 0; i < CONF_SECTIONS; i++, top++) {
        struct conf_section section = conf_section(i);
        fields_of(s, section.rows, s->sections[i]);
        top->key = section.name;
        top->data_offset = (uint32_t)(offsetof(struct content, sections) + i * sizeof(struct conf_text *));
        top->value = mapping_of(section.rows, s->sections[i], CYAML_FLAG_POINTER_NULL | CYAML_FLAG_OPTIONAL);
    }
    for (unsigned i = 0; i < CONF_LISTS; i++, top++) {
        struct conf_list list = conf_list(i);
        size_t at = offsetof(struct content, lists) + i * sizeof(struct conf_texts);
        fields_of(s, list.rows, s->items[i]);
        s->item[i] = mapping_of(list.rows, s->items[i], CYAML_FLAG_DEFAULT);
        top->key = list.name;
        top->data_offset = (uint32_t)(at + offsetof(struct conf_texts, items));
        top->count_offset = (uint32_t)(at + offsetof(struct conf_texts, items_count));
        top->count_size = sizeof(unsigned);
        top->value = (cyaml_schema_value_t){CYAML_VALUE_SEQUENCE(CYAML_FLAG_POINTER_NULL | CYAML_FLAG_OPTIONAL,
                                                                 struct conf_text, &s->item[i], 0, CONF_ITEMS_MAX)};
        top->value.data_size = s->item[i].data_size;
    }
    s->root = (cyaml_schema_value_t){CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct content, s->top)};
}

static const cyaml_config_t cyaml_settings = {.mem_fn = cyaml_mem, .flags = CYAML_CFG_NO_ALIAS};

static enum err fill(struct conf_file *file, struct span text, struct conf_fault *fault)
{
    make_schema(&file->schema);
    cyaml_data_t *data = NULL;
    cyaml_err_t e = cyaml_load_data(text.data, text.len, &cyaml_settings, &file->schema.root, &data, NULL);
    file->content = data;
    /* The first pass has read these bytes: libyaml can refuse them now only for want of memory. */
    if (e == CYAML_ERR_OOM || e == CYAML_ERR_LIBYAML_PARSER || e == CYAML_ERR_LIBYAML_PARSER_INIT)
        return ERR_NOMEM;
    /* The first pass has refused all that libcyaml refuses; should it know more, it says so without a line. */
    return e == CYAML_OK ? ERR_OK : refuse(fault, file->path, 0, "%s", cyaml_strerror(e));
}

/* --- the file ----------------------------------------------------------------------------------------------------- */

enum err conf_file_scan(const char *path, struct span text, struct conf_file **ret_file, struct conf_fault *fault)
{
    if (text.len > CONF_FILE_MAX)
        return refuse(fault, path, 0, "the file is larger than 1 MiB");
    AUTO(conf_file_free) struct conf_file *file = calloc(1, sizeof *file);
    if (!file)
        return ERR_NOMEM;
    file->path = path;
    enum err e = find_lines(file, text, fault);
    if (!e && file->said)
        e = fill(file, text, fault);
    if (e)
        return e;
    *ret_file = TAKE(file);
    return ERR_OK;
}

static void release_bytes(uint8_t **bytes)
{
    free(TAKE(*bytes));
}

/* One byte more than allowed tells a larger file, whatever kind of file it is. */
static enum err read_all(int fd, uint8_t *out, size_t size, size_t *ret_len)
{
    size_t len = 0;
    while (len < size) {
        ssize_t got = read(fd, out + len, size - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ERR_SYSTEM;
        if (got == 0)
            break;
        len += (size_t)got;
    }
    *ret_len = len;
    return ERR_OK;
}

enum err conf_file_read(const char *path, struct conf_file **ret_file, struct conf_fault *fault)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return refuse(fault, path, 0, "the file cannot be opened: %s", strerror(errno));
    size_t len = 0;
    AUTO(release_bytes) uint8_t *bytes = malloc(CONF_FILE_MAX + 1);
    enum err e = bytes ? read_all(fd, bytes, CONF_FILE_MAX + 1, &len) : ERR_NOMEM;
    int why = errno;
    close(fd);
    if (e == ERR_NOMEM)
        return e;
    if (e)
        return refuse(fault, path, 0, "the file cannot be read: %s", strerror(why));
    return conf_file_scan(path, span_of(bytes, len), ret_file, fault);
}

void conf_file_free(struct conf_file **file)
{
    struct conf_file *f = TAKE(*file);
    if (!f)
        return;
    for (size_t i = 0; i < f->lines_len; i++)
        free(f->lines[i].setting);
    free(f->lines);
    if (f->content)
        cyaml_free(&cyaml_settings, &f->schema.root, f->content, 0);
    free(f);
}

const char *conf_file_path(const struct conf_file *file)
{
    return file->path;
}

const struct conf_text *conf_file_section(const struct conf_file *file, unsigned section)
{
    return file->content ? file->content->sections[section] : NULL;
}

const struct conf_texts *conf_file_list(const struct conf_file *file, unsigned list)
{
    return conf_file_line(file, conf_list(list).name) ? &file->content->lists[list] : NULL;
}

unsigned conf_file_line(const struct conf_file *file, const char *setting)
{
    for (size_t i = 0; i < file->lines_len; i++)
        if (strcmp(file->lines[i].setting, setting) == 0)
            return file->lines[i].line;
    return 0;
}
