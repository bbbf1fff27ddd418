/* The settings as tables: the rows of settings.def and the fields of the lists, in one form, so that reading, checking,
 * printing and freeing are written once. Used inside common/conf* only. */
#pragma once

#include "common/conf.h"

enum conf_kind {
    CONF_TEXT,  /* char * */
    CONF_COUNT, /* uint64_t */
    CONF_FLAG,  /* bool */
    CONF_NAMES, /* char ** with an unsigned count behind it (lists only) */
};

struct conf_row {
    const char *name;
    enum conf_kind kind;
    size_t offset;            /* in the section's struct or the list's item */
    size_t count_offset;      /* CONF_NAMES */
    bool needed;              /* lists only: an item without it is refused */
    const char *text;         /* default of CONF_TEXT */
    uint64_t count, min, max; /* CONF_COUNT; CONF_FLAG keeps its default in `count` */
    const char *unit;         /* CONF_COUNT: what is counted; CONF_TEXT: its form, a row of conf_form_check's table */
    const char *sentence;
};

struct conf_rows {
    const struct conf_row *at;
    size_t count;
};

struct conf_section {
    const char *name;
    size_t offset; /* in struct conf */
    struct conf_rows rows;
};

struct conf_list {
    const char *name;
    size_t offset, count_offset; /* in struct conf */
    size_t item_size;
    struct conf_rows rows;
    const char *sentence;
};

enum {
#define SECTION(section) CONF_SECTION_##section,
#define TEXT(name, def, form, sentence)
#define COUNT(name, def, min, max, unit, sentence)
#define FLAG(name, def, sentence)
#define END(section)
#include "common/settings.def"
#undef SECTION
#undef TEXT
#undef COUNT
#undef FLAG
#undef END
    CONF_SECTIONS
};

enum { CONF_LIST_DEPLOYMENTS, CONF_LIST_ROUTES, CONF_LIST_CREDENTIALS, CONF_LIST_PEERS, CONF_LISTS };

/* Rows of the longest section; how many items a list, and names an item, may have. */
#define CONF_ROWS_MAX  64
#define CONF_ITEMS_MAX 4096
#define CONF_NAMES_MAX 256
/* Endpoints in one setting that takes several. */
#define CONF_PLACES_MAX 16

/* index below CONF_SECTIONS, CONF_LISTS. */
struct conf_section conf_section(unsigned index);
struct conf_list conf_list(unsigned index);

/* Where a row's value lies in `base`, its section's struct or item. */
static inline void *conf_at(const struct conf_row *row, void *base)
{
    return (char *)base + row->offset;
}

/* A section's struct, a list's items and their number. */
void *conf_section_at(struct conf *conf, const struct conf_section *section);
void **conf_items(struct conf *conf, const struct conf_list *list);
unsigned *conf_items_count(struct conf *conf, const struct conf_list *list);

/* What is wrong with `value` as a text of this form, as a clause ("not an endpoint: …"), or NULL. The empty text is right for
 * every form. Control characters and text that is not UTF-8 are wrong for all. An unknown form is our mistake (assert). */
const char *conf_form_check(const char *form, const char *value);
