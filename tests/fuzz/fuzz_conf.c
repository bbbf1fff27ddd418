/* Whole settings: a file that is taken has every value within its bounds, and prints as a file that is taken and prints the
 * same. What is refused is refused with file, line and setting. The file lies in memory. Covers: common/conf.c
 * common/conf_print.c */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/conf.h"

static int file_of(const void *data, size_t size, char path[32])
{
    int fd = memfd_create("quern.yaml", MFD_CLOEXEC);
    assert(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

static void check_bounds(const struct conf *conf)
{
#define SECTION(section)                                                                                                       \
    {                                                                                                                          \
        __typeof__(&conf->section) s = &conf->section;
#define TEXT(name, def, unit_or_form, sentence)     assert(s->name);
#define COUNT(name, def, low, high, unit, sentence) assert(s->name - (uint64_t)(low) <= (uint64_t)(high) - (uint64_t)(low));
#define FLAG(name, def, sentence)                   (void)s->name;
#define END(section)                                }
#include "common/settings.def"
#undef SECTION
#undef TEXT
#undef COUNT
#undef FLAG
#undef END
    assert(conf->deployments_count && conf->routes_count);
}

static char *print(const struct conf *conf, size_t *ret_len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_len);
    assert(out);
    conf_dump(conf, out);
    fclose(out);
    return text;
}

static enum err load(const void *data, size_t size, struct conf **ret_conf, struct conf_fault *fault)
{
    char path[32];
    int fd = file_of(data, size, path);
    enum err e = conf_load(&(const char *){path}, 1, ret_conf, fault);
    close(fd);
    if (e)
        assert(e == ERR_SETTINGS && fault->text[0]);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(conf_free) struct conf *conf = NULL, *again = NULL;
    struct conf_fault fault = {""};
    size_t len, len_again;
    if (load(data, size, &conf, &fault))
        return 0;
    check_bounds(conf);
    char *text = print(conf, &len);
    enum err e = load(text, len, &again, &fault);
    assert(!e);
    char *text_again = print(again, &len_again);
    assert(span_equal(span_of(text, len), span_of(text_again, len_again)));
    free(text);
    free(text_again);
    return 0;
}
