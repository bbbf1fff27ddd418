/* What people see of the settings: the dump, and the options that every role's main has. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/conf_rows.h"

#define EXIT_SETTINGS 2 /* sysexits.h has no code that people know; 2 is the shell's for "not used rightly" */

/* --- the dump ----------------------------------------------------------------------------------------------------- */

/* Double quotes, because every other style gives some text another meaning. Control characters never get into settings. */
static void put_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fputc('\\', out);
        fputc(*p, out);
    }
    fputc('"', out);
}

static void put_names(FILE *out, char *const *names, unsigned count)
{
    fputc('[', out);
    for (unsigned i = 0; i < count; i++) {
        if (i)
            fputs(", ", out);
        put_text(out, names[i]);
    }
    fputc(']', out);
}

static void put_value(FILE *out, const struct conf_row *row, void *base)
{
    switch (row->kind) {
    case CONF_TEXT:
        put_text(out, *(char **)conf_at(row, base));
        break;
    case CONF_COUNT:
        fprintf(out, "%" PRIu64, *(uint64_t *)conf_at(row, base));
        break;
    case CONF_FLAG:
        fputs(*(bool *)conf_at(row, base) ? "true" : "false", out);
        break;
    case CONF_NAMES:
        put_names(out, *(char ***)conf_at(row, base), *(unsigned *)((char *)base + row->count_offset));
        break;
    }
}

/* "[bytes, 1024 to 4096]" */
static void put_bounds(FILE *out, const struct conf_row *row)
{
    switch (row->kind) {
    case CONF_TEXT:
        fprintf(out, "[%s]", row->unit);
        break;
    case CONF_COUNT:
        fprintf(out, "[%s%s%" PRIu64 " to %" PRIu64 "]", row->unit, row->unit[0] ? ", " : "", row->min, row->max);
        break;
    case CONF_FLAG:
        fputs("[true or false]", out);
        break;
    case CONF_NAMES:
        fprintf(out, "[list of %ss]", row->unit);
        break;
    }
}

static void put_section(FILE *out, const struct conf_section *section, void *base)
{
    fprintf(out, "%s:\n", section->name);
    for (size_t i = 0; i < section->rows.count; i++) {
        const struct conf_row *row = &section->rows.at[i];
        fprintf(out, "  # %s ", row->sentence);
        put_bounds(out, row);
        fprintf(out, "\n  %s: ", row->name);
        put_value(out, row, base);
        fputc('\n', out);
    }
    fputc('\n', out);
}

static void put_item(FILE *out, const struct conf_list *list, void *item)
{
    for (size_t i = 0; i < list->rows.count; i++) {
        fprintf(out, "  %c %s: ", i ? ' ' : '-', list->rows.at[i].name);
        put_value(out, &list->rows.at[i], item);
        fputc('\n', out);
    }
}

static void put_list(FILE *out, const struct conf_list *list, char *items, unsigned count)
{
    fprintf(out, "# %s\n", list->sentence);
    for (size_t i = 0; i < list->rows.count; i++) {
        const struct conf_row *row = &list->rows.at[i];
        fprintf(out, "#   %s%s: %s ", row->name, row->needed ? " (needed)" : "", row->sentence);
        put_bounds(out, row);
        fputc('\n', out);
    }
    fprintf(out, "%s:%s\n", list->name, count ? "" : " []");
    for (unsigned i = 0; i < count; i++)
        put_item(out, list, items + i * list->item_size);
}

void conf_dump(const struct conf *conf, FILE *out)
{
    struct conf *lent = (struct conf *)conf; /* only read: the tables' accessors serve writers too */
    fputs("# Every setting of Quern. A file needs only those that differ; several files are merged in the order given,\n"
          "# and QUERN_<SECTION>_<NAME> in the environment wins over all of them.\n\n",
          out);
    for (unsigned i = 0; i < CONF_SECTIONS; i++) {
        struct conf_section section = conf_section(i);
        put_section(out, &section, conf_section_at(lent, &section));
    }
    for (unsigned i = 0; i < CONF_LISTS; i++) {
        struct conf_list list = conf_list(i);
        if (i)
            fputc('\n', out);
        put_list(out, &list, *conf_items(lent, &list), *conf_items_count(lent, &list));
    }
}

/* --- options ------------------------------------------------------------------------------------------------------ */

struct options {
    const char **files;
    size_t files_count;
    bool check, dump, version, help;
};

static void options_done(struct options *o)
{
    free(o->files);
}

/* "api" and "quern-api" mean the same program; quernctl has no dash. */
static const char *prefix_of(const char *role)
{
    return strncmp(role, "quern", 5) == 0 ? "" : "quern-";
}

static void put_help(FILE *out, const char *role)
{
    fprintf(out,
            "Usage: %s%s [--settings FILE]...\n"
            "\n"
            "  --settings FILE   read settings; given again, later files win over earlier ones\n"
            "  --check-config    say whether the settings are valid, and end\n"
            "  --dump-config     print every setting in force, commented, and end\n"
            "  --version         print the version, and end\n"
            "  --help            print this, and end\n"
            "\n"
            "Every setting can also be given in the environment: api.port as QUERN_API_PORT.\n"
            "Without --settings every setting has its default; --dump-config lists them.\n"
            "\n"
            "Exit codes: 0 ended as asked; 1 could not go on; 2 the options or the settings were refused.\n",
            prefix_of(role), role);
}

static bool read_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {{"settings", required_argument, NULL, 's'}, {"check-config", no_argument, NULL, 'c'},
                                          {"dump-config", no_argument, NULL, 'd'},    {"version", no_argument, NULL, 'v'},
                                          {"help", no_argument, NULL, 'h'},           {0}};
    optind = 0; /* from the start, also when called again */
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 's':
            o->files[o->files_count++] = optarg;
            break;
        case 'c':
            o->check = true;
            break;
        case 'd':
            o->dump = true;
            break;
        case 'v':
            o->version = true;
            break;
        case 'h':
            o->help = true;
            break;
        default:
            return false;
        }
    }
    if (optind < argc)
        fprintf(stderr, "%s: there is no argument \"%s\"\n", argv[0], argv[optind]);
    return optind == argc;
}

/* Settles everything that needs no settings. Returns true to go on. */
static bool answer_early(int argc, char **argv, const char *role, struct options *o, int *ret_status)
{
    *ret_status = EXIT_SETTINGS;
    if (!(o->files = calloc((size_t)argc + 1, sizeof *o->files))) {
        fprintf(stderr, "%s\n", err_sentence(ERR_NOMEM));
        return false;
    }
    if (!read_options(argc, argv, o)) {
        fprintf(stderr, "Try --help.\n");
        return false;
    }
    *ret_status = EXIT_SUCCESS;
    if (o->help)
        put_help(stdout, role);
    else if (o->version)
        printf("%s%s %s\n", prefix_of(role), role, QUERN_VERSION);
    return !o->help && !o->version;
}

bool conf_main(int argc, char **argv, const char *role, struct conf **ret_conf, int *ret_status)
{
    AUTO(options_done) struct options o = {0};
    if (!answer_early(argc, argv, role, &o, ret_status))
        return false;
    AUTO(conf_free) struct conf *conf = NULL;
    struct conf_fault fault = {""};
    enum err e = conf_load(o.files, o.files_count, &conf, &fault);
    if (e) {
        fprintf(stderr, "%s\n", fault.text[0] ? fault.text : err_sentence(e));
        *ret_status = EXIT_SETTINGS;
        return false;
    }
    if (o.dump)
        conf_dump(conf, stdout);
    else if (o.check)
        printf("settings are valid\n");
    if (o.dump || o.check) {
        bool written = fflush(stdout) == 0 && !ferror(stdout);
        *ret_status = written ? EXIT_SUCCESS : EXIT_FAILURE;
        return false;
    }
    *ret_conf = TAKE(conf);
    return true;
}
