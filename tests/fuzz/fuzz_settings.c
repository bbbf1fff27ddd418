/* A settings file of any bytes: libcyaml knows no fault that the pass before it missed; every setting read has its line.
 * Covers: common/conf_file.c */
#include <stdio.h>
#include <stdlib.h>

#include "common/conf_file.h"

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void check_row(const struct conf_file *file, const char *outer, const struct conf_row *row, const struct conf_text *text)
{
    char setting[128];
    snprintf(setting, sizeof setting, "%s.%s", outer, row->name);
    must((text->text || text->names_count) <= (conf_file_line(file, setting) > 0));
    must(row->kind == CONF_NAMES ? !text->text : !text->names && text->names_count == 0);
    for (unsigned i = 0; i < text->names_count; i++)
        must(text->names[i]);
}

static void check_content(const struct conf_file *file)
{
    for (unsigned s = 0; s < CONF_SECTIONS; s++) {
        struct conf_section section = conf_section(s);
        const struct conf_text *texts = conf_file_section(file, s);
        for (size_t r = 0; texts && r < section.rows.count; r++)
            check_row(file, section.name, &section.rows.at[r], &texts[r]);
    }
    for (unsigned i = 0; i < CONF_LISTS; i++) {
        struct conf_list list = conf_list(i);
        const struct conf_texts *texts = conf_file_list(file, i);
        for (unsigned item = 0; texts && item < texts->items_count; item++) {
            char outer[64];
            snprintf(outer, sizeof outer, "%s[%u]", list.name, item);
            must(conf_file_line(file, outer) > 0);
            for (size_t r = 0; r < list.rows.count; r++)
                check_row(file, outer, &list.rows.at[r], &texts->items[item * list.rows.count + r]);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(conf_file_free) struct conf_file *file = NULL;
    struct conf_fault fault = {""};
    enum err e = conf_file_scan("f", span_of(data, size), &file, &fault);
    if (e) {
        must(e == ERR_SETTINGS && !file);
        must(strncmp(fault.text, "f:", 2) == 0 && fault.text[2] >= '1' && fault.text[2] <= '9'); /* with its line */
        return 0;
    }
    check_content(file);
    return 0;
}
