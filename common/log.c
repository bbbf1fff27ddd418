/* One event, one line, one write(2). A line is at most PIPE_BUF long, so that lines of processes that share a pipe do not mix
 * and so that a write either takes the whole line or none of it.
 *
 * Never blocking, without O_NONBLOCK on a descriptor that is shared with whoever started us (a shell, a supervisor):
 *   socket (the journal)   send with MSG_DONTWAIT
 *   pipe, terminal         a description of our own, by opening /proc/self/fd/2 once more with O_NONBLOCK
 *   regular file, others   a plain write, which waits for no reader
 * Where the second opening is refused, poll first; see README.md, Decisions. */
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/utf8.h"

#define LINE_MAX_BYTES  PIPE_BUF
#define VALUE_MAX_BYTES 256
#define VALUES          8 /* how many log_str values one log_event can use */

static const struct row {
    int level;
    const char *name;
} rows[] = {
#define EVENT(code, level, name, meaning) {level, name},
#include "common/log.def"
#undef EVENT
};

/* How a line leaves. The one process-wide state. */
static struct sink {
    const char *role;
    int fd;
    enum { SINK_UNSET, SINK_PLAIN, SINK_SOCKET, SINK_POLLED } kind;
    bool journal;     /* the other end is the journal: it knows the time, and reads the level from "<6>" */
    uint64_t dropped; /* lines refused since one went through */
    int level;        /* the least urgent that is written */
} sink = {.role = "-", .fd = STDERR_FILENO, .level = 7};

const char *log_event_name(enum log_event event)
{
    return rows[event].name;
}

/* systemd names the journal's stream by device and inode, so that a process whose standard error was redirected since can tell.
 */
static bool is_journal(const struct stat *st)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && device == st->st_dev && inode == st->st_ino;
}

static void open_sink(void)
{
    struct stat st = {0};
    sink.fd = STDERR_FILENO;
    sink.kind = SINK_PLAIN;
    if (fstat(STDERR_FILENO, &st) != 0)
        return;
    sink.journal = is_journal(&st);
    if (S_ISSOCK(st.st_mode)) {
        sink.kind = SINK_SOCKET;
    } else if (S_ISFIFO(st.st_mode) || isatty(STDERR_FILENO)) {
        int own = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (own >= 0)
            sink.fd = own;
        else
            sink.kind = SINK_POLLED;
    }
}

void log_start(const char *role)
{
    sink.role = role;
    signal(SIGPIPE, SIG_IGN);
    if (sink.kind == SINK_UNSET)
        open_sink();
}

/* Whether the line went out whole. */
static bool write_line(const char *line, size_t len)
{
    ssize_t done;
    if (sink.kind == SINK_POLLED) {
        struct pollfd room = {.fd = sink.fd, .events = POLLOUT};
        if (poll(&room, 1, 0) != 1 || !(room.revents & POLLOUT))
            return false;
    }
    do
        done = sink.kind == SINK_SOCKET ? send(sink.fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL) : write(sink.fd, line, len);
    while (done < 0 && errno == EINTR);
    return done == (ssize_t)len;
}

/* Text under construction in a buffer of fixed size. What does not fit whole is left out, and everything after it. */
struct text {
    char *data;
    size_t len, size;
    bool cut;
};

static void put(struct text *text, const char *bytes, size_t len)
{
    if (text->cut || len > text->size - text->len) {
        text->cut = true;
        return;
    }
    memcpy(text->data + text->len, bytes, len);
    text->len += len;
}

static void put_format(struct text *text, const char *format, ...) PRINTF(2, 3);
static void put_format(struct text *text, const char *format, ...)
{
    char piece[256];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    if (len >= 0)
        put(text, piece, MIN((size_t)len, sizeof piece - 1));
}

/* Inside quotes the quote and the backslash are escaped as well, so that the value ends where its closing quote stands. */
static void put_escaped(struct text *text, struct span in, bool quoted)
{
    while (in.len && !text->cut) {
        size_t len = in.data[0] < 0x80 ? 1 : utf8_step(in.data, in.data + in.len);
        uint32_t code = utf8_code(in.data, len);
        if (!len) {
            put_format(text, "\\x%02x", in.data[0]);
            len = 1;
        } else if (code == '\n') {
            put(text, "\\n", 2);
        } else if (code == '\r') {
            put(text, "\\r", 2);
        } else if (code == '\t') {
            put(text, "\\t", 2);
        } else if (utf8_is_unsafe(code)) {
            put_format(text, code < 0x80 ? "\\x%02x" : "\\u%04x", (unsigned)code);
        } else if (quoted && (code == '"' || code == '\\')) {
            put_format(text, "\\%c", (char)code);
        } else {
            put(text, (const char *)in.data, len);
        }
        in = span_of(in.data + len, in.len - len);
    }
}

static const char cut_mark[] = "\xe2\x80\xa6"; /* … */

const char *log_str(struct span value)
{
    static char ring[VALUES][VALUE_MAX_BYTES + 1];
    static unsigned next;
    char *out = ring[next++ % VALUES];
    size_t tail = sizeof cut_mark; /* the mark and the closing quote */
    struct text text = {.data = out, .size = VALUE_MAX_BYTES - tail};
    put(&text, "\"", 1);
    put_escaped(&text, value, true);
    text.size = VALUE_MAX_BYTES;
    if (text.cut) {
        text.cut = false;
        put(&text, cut_mark, sizeof cut_mark - 1);
    }
    put(&text, "\"", 1);
    out[text.len] = '\0';
    return out;
}

static void put_head(struct text *line, enum log_event event)
{
    static const char *const levels[] = {"emerg", "alert", "crit", "error", "warning", "notice", "info", "debug"};
    const struct row *row = &rows[event];
    if (sink.journal) {
        put_format(line, "<%d>", row->level);
    } else {
        char now[CLOCK_TEXT_LEN + 1];
        clock_print(clock_wall(), now);
        put_format(line, "time=%s level=%s ", now, levels[row->level]);
    }
    put_format(line, "event=%s role=%s pid=%d", row->name, sink.role, (int)getpid());
    if (sink.dropped)
        put_format(line, " lines_dropped=%llu", (unsigned long long)sink.dropped);
}

void log_level(int level)
{
    sink.level = level;
}

void log_event(enum log_event event, const char *fields, ...)
{
    assert((unsigned)event < LOG_EVENTS);
    if (rows[event].level > sink.level)
        return;
    if (sink.kind == SINK_UNSET)
        open_sink();
    int saved_errno = errno;
    char given[LINE_MAX_BYTES], out[LINE_MAX_BYTES];
    size_t tail = sizeof cut_mark; /* the mark and the end of the line */
    struct text line = {.data = out, .size = sizeof out - tail};
    put_head(&line, event);

    va_list args;
    va_start(args, fields);
    int len = vsnprintf(given, sizeof given, fields, args);
    va_end(args);
    if (len > 0) {
        put(&line, " ", 1);
        put_escaped(&line, span_of(given, MIN((size_t)len, sizeof given - 1)), false);
    }
    line.size = sizeof out;
    if (line.cut || len >= (int)sizeof given) {
        line.cut = false;
        put(&line, cut_mark, sizeof cut_mark - 1);
    }
    put(&line, "\n", 1);

    if (write_line(line.data, line.len))
        sink.dropped = 0;
    else
        sink.dropped++;
    errno = saved_errno;
}
