/* The faults by name: see fault.h. */
#include "tests/upstream/fault.h"

#include <string.h>

static const struct fault faults[] = {
#define FAULT(id, name, status, type, code, message) {FAULT_##id, name, status, type, code, message},
#include "tests/upstream/fault.def"
#undef FAULT
};

const struct fault *fault_by_id(enum fault_id id)
{
    return &faults[id];
}

const struct fault *fault_by_name(const char *name)
{
    for (size_t i = 0; i < FAULT_COUNT; i++)
        if (strcmp(faults[i].name, name) == 0)
            return &faults[i];
    return NULL;
}
