/* One settings file as texts: what it says for each row, and on which line. Values are not weighed here. Used by conf.c only.
 *
 * Two passes over the same bytes. The first, over libyaml's events, refuses what has no place in settings (unknown and doubled
 * keys, aliases and anchors, tags, a second document) with file, line and name, and notes the line of every setting. The second
 * is libcyaml, which fills the structs. libcyaml alone would not do: it knows a line only while it reports an error of its own,
 * its integers accept "8080abc", "-1" and octal, and its booleans take every word but five for true. Hence every scalar is a
 * text here, NULL where the file is silent, and conf.c reads it. */
#pragma once

#include "common/conf_rows.h"

#define CONF_FILE_MAX ((size_t)1 << 20)

/* What the file says for one row; both empty where it says nothing. */
struct conf_text {
    char *text;
    char **names; /* CONF_NAMES */
    unsigned names_count;
};

/* A list as given: item i has its rows at items[i * rows.count]. */
struct conf_texts {
    struct conf_text *items;
    unsigned items_count;
};

struct conf_file;

/* ERR_SETTINGS with `fault` filled, ERR_NOMEM. */
MUST_USE enum err conf_file_read(const char *path, struct conf_file **ret_file, struct conf_fault *fault);
/* The same from memory; `path` is what faults call it. Lent until the file is freed. */
MUST_USE enum err conf_file_scan(const char *path, struct span text, struct conf_file **ret_file, struct conf_fault *fault);
void conf_file_free(struct conf_file **file);

const char *conf_file_path(const struct conf_file *file);

/* One entry per row of the section; NULL where the file has no such section. */
const struct conf_text *conf_file_section(const struct conf_file *file, unsigned section);

/* NULL where the file does not give the list; an empty list is given. */
const struct conf_texts *conf_file_list(const struct conf_file *file, unsigned list);

/* The line that says `setting` ("api.port", "deployments[2].provider"), counted from 1; 0 when the file is silent on it. */
unsigned conf_file_line(const struct conf_file *file, const char *setting);
