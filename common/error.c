#include "common/error.h"

#include <stddef.h>

static const struct row {
    unsigned number;
    const char *name;
    int http_status;
    const char *sentence;
} rows[] = {
#define ERROR(code, number, name, http_status, sentence) {number, name, http_status, sentence},
#include "common/error.def"
#undef ERROR
};

static const struct row *find(unsigned number)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].number == number)
            return &rows[i];
    return NULL;
}

const char *err_name(enum err e)
{
    const struct row *row = find(e);
    return row ? row->name : "unknown_error";
}

const char *err_sentence(enum err e)
{
    const struct row *row = find(e);
    return row ? row->sentence : "an unknown error";
}

int err_http_status(enum err e)
{
    const struct row *row = find(e);
    return row ? row->http_status : 500;
}

_Bool err_known(unsigned number)
{
    return find(number) != NULL;
}
