/* uthash, set so that a table that finds no memory says so instead of ending the process: after HASH_ADD, hh.tbl is NULL. */
#pragma once

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
