/* Structured lines for the journal, one per event:
 *
 *     <6>event=job.leased job=job_01… worker=… attempt=2 lease_ms=30000
 *
 * Every event is a row of log.def with its level and meaning. Values with spaces, quotes or control bytes are quoted and
 * escaped, so a value can never start a line or a field. Prompts, results and keys are never given to this module.
 * The sink is the one process-wide state (STYLE.md): standard error by default. Writing never blocks: what a full pipe refuses
 * is counted and said in the next line that goes through. */
#pragma once

#include "common/base.h"

enum log_event {
#define EVENT(code, level, name, meaning) LOG_##code,
#include "common/log.def"
#undef EVENT
    LOG_EVENTS
};

/* "api", "broker"…: printed with every line. Call once at start; `role` must live as long as the process. */
void log_start(const char *role);

/* fields: printf form of "key=value key=value"; use LOG_STR for text from outside. May be "". */
void log_event(enum log_event event, const char *fields, ...) PRINTF(2, 3);

/* Escapes text from outside into one quoted value for log_event's %s. Points into a small ring of static buffers: use it in the
 * same call only. Cuts at 256 bytes. */
const char *log_str(struct span text);

const char *log_event_name(enum log_event event);
