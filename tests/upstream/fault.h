/* The faults by name; fault.def lists them. */
#pragma once

#include <stddef.h>

enum fault_id {
#define FAULT(id, name, status, type, code, message) FAULT_##id,
#include "tests/upstream/fault.def"
#undef FAULT
    FAULT_COUNT
};

struct fault {
    enum fault_id id;
    const char *name;
    int status; /* answered whole with this status; 0: acted out by reply.c */
    const char *type, *code, *message;
};

const struct fault *fault_by_id(enum fault_id id);

/* NULL when there is no such fault. */
const struct fault *fault_by_name(const char *name);
