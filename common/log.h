/* Structured lines, one per event:
 *
 *     <6>event=job.leased role=broker pid=812 job=job_01… worker=… attempt=2 lease_ms=30000
 *     time=2026-01-02T03:04:05.678Z level=info event=job.leased role=broker pid=812 job=job_01… …
 *
 * The first form when standard error is the journal's own stream (JOURNAL_STREAM names it), the second everywhere else:
 * terminals, files, containers. Every event is a row of log.def with its level and meaning. Text from outside is quoted and
 * escaped by log_str; and whatever a field holds, control characters, line separators and bytes that are not UTF-8 are escaped,
 * so a value can never start a line. Prompts, results and keys are never given to this module.
 *
 * The sink is the one process-wide state (STYLE.md): standard error as it is at log_start. Writing never blocks: a line that is
 * refused (a full pipe) is counted, and the next line that goes through says lines_dropped=N. A line has at most 4096 bytes and
 * ends in "…" when it was cut. One thread only. errno is kept. */
#pragma once

#include "common/base.h"

enum log_event {
#define EVENT(code, level, name, meaning) LOG_##code,
#include "common/log.def"
#undef EVENT
    LOG_EVENTS
};

/* "api", "broker"…: printed with every line; `role` must live as long as the process. Call first thing in main, again in a
 * child whose role has another name. Also ignores SIGPIPE, which a reader that went away would raise. */
void log_start(const char *role);

/* Writes only events of this level (log.def) and more urgent ones from now on; all before. For commands that speak to a person.
 */
void log_level(int level);

/* fields: printf form of "key=value key=value"; use log_str for text from outside. May be "". */
void log_event(enum log_event event, const char *fields, ...) PRINTF(2, 3);

/* Escapes text from outside into one quoted value for log_event's %s. Points into a ring of eight static buffers: use it in the
 * same call only. The value has at most 256 bytes, quotes included, and ends in "…" when it was cut. */
const char *log_str(struct span value);

const char *log_event_name(enum log_event event);
