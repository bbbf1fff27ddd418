#include "worker/eventlog.h"

#define TRUNCATED_BYTES 48 /* room kept for the line that says so */

void eventlog_init(struct eventlog *log, size_t max)
{
    *log = (struct eventlog){.max = max};
    log->lines.max = max;
    log->pending.max = 2 * EVENTLOG_HOLD_BYTES + max;
}

void eventlog_done(struct eventlog *log)
{
    json_out_done(&log->lines);
    json_out_done(&log->pending);
}

/* Closes a line that begins at `before`; one that does not fit is taken back and ends the log. */
static void close_line(struct eventlog *log, size_t before)
{
    json_printf(&log->lines, ",\"index\":%u}\n", log->count);
    if (!log->lines.failed && log->lines.len + TRUNCATED_BYTES <= log->max) {
        log->count++;
        return;
    }
    log->full = true;
    log->lines.failed = false;
    log->lines.len = before;
    json_printf(&log->lines, "{\"truncated\":true,\"index\":%u}\n", log->count);
    if (log->lines.failed)
        log->lines.len = before;
}

void eventlog_flush(struct eventlog *log)
{
    if (!log->pending.len || log->full)
        return;
    size_t before = log->lines.len;
    json_lit(&log->lines, log->kind == EVENTLOG_TEXT ? "{\"text\":" : "{\"reasoning\":");
    json_str(&log->lines, span_of(log->pending.data, log->pending.len));
    close_line(log, before);
    log->pending.len = 0;
}

void eventlog_text(struct eventlog *log, enum eventlog_kind kind, struct span text)
{
    if (log->full || !text.len)
        return;
    if (log->kind != kind)
        eventlog_flush(log);
    log->kind = kind;
    json_raw(&log->pending, text);
    log->full = log->full || log->pending.failed;
    if (!log->count || log->pending.len >= EVENTLOG_HOLD_BYTES)
        eventlog_flush(log);
}

static void member(struct json_out *out, const char *name, struct span text)
{
    if (!text.len)
        return;
    json_printf(out, ",\"%s\":", name);
    json_str(out, text);
}

void eventlog_tool(struct eventlog *log, unsigned tool, struct span id, struct span name, struct span arguments)
{
    eventlog_flush(log);
    if (log->full)
        return;
    size_t before = log->lines.len;
    json_printf(&log->lines, "{\"tool_call\":{\"index\":%u", tool);
    member(&log->lines, "id", id);
    member(&log->lines, "name", name);
    member(&log->lines, "arguments", arguments);
    json_lit(&log->lines, "}");
    close_line(log, before);
}

size_t eventlog_snap(struct span lines, uint64_t from)
{
    if (from == 0 || from >= lines.len)
        return (size_t)MIN(from, (uint64_t)lines.len);
    const uint8_t *end = memchr(lines.data + from - 1, '\n', lines.len - from + 1);
    return end ? (size_t)(end - lines.data) + 1 : lines.len;
}
