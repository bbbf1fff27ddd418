/* The fuzzers' seeds as inputs of other tests. Programs run from the root of the tree. */
#pragma once

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base.h"

#define CORPUS_FILE_MAX ((size_t)1 << 20)

typedef void corpus_visit(void *arg, const char *path, struct span bytes);

/* Calls visit with every file of tests/fuzz/corpus/<name>; returns how many there are. */
static UNUSED unsigned corpus_each(const char *name, corpus_visit *visit, void *arg)
{
    char path[512];
    unsigned count = 0;
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s", name);
    DIR *folder = opendir(path);
    assert(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "tests/fuzz/corpus/%s/%s", name, entry->d_name);
        FILE *file = fopen(path, "r");
        char *bytes = malloc(CORPUS_FILE_MAX);
        assert(file && bytes);
        size_t len = fread(bytes, 1, CORPUS_FILE_MAX, file);
        fclose(file);
        visit(arg, path, span_of(bytes, len));
        free(bytes);
        count++;
    }
    closedir(folder);
    return count;
}
