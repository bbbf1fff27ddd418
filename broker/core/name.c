#include "broker/core/name.h"

#include <stdlib.h>

struct name *name_get(struct names *names, struct span text)
{
    struct name *name;
    if (!text.data)
        text = span_str("");
    HASH_FIND(hh, names->all, text.data, text.len, name);
    if (name)
        return name_ref(name);
    name = malloc(sizeof *name + text.len + 1);
    if (!name)
        return NULL;
    name->refs = 1;
    name->len = (uint32_t)text.len;
    if (text.len)
        memcpy(name->text, text.data, text.len);
    name->text[text.len] = 0;
    HASH_ADD_KEYPTR(hh, names->all, name->text, name->len, name);
    if (!name->hh.tbl) {
        free(name);
        return NULL;
    }
    return name;
}

void name_put(struct names *names, struct name **name)
{
    struct name *mine = TAKE(*name);
    if (!mine || --mine->refs)
        return;
    HASH_DELETE(hh, names->all, mine);
    mine->dead = names->dead;
    names->dead = mine;
}

void names_sweep(struct names *names)
{
    for (struct name *name; (name = names->dead);) {
        names->dead = name->dead;
        free(name);
    }
}
