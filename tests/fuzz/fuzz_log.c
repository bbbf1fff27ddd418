/* Text from outside in log lines: one event is one line of valid UTF-8 without control characters, whatever it is told; a
 * quoted value reads back as what it was, unless it was cut. The first byte chooses the journal's form. Covers: common/log.c */
#include <stdlib.h>
#include <sys/mman.h>

#include "common/log.c"

static int value_of(uint8_t c)
{
    return c <= '9' ? c - '0' : c - 'a' + 10;
}

static uint32_t hex(const char *at, unsigned digits)
{
    uint32_t value = 0;
    while (digits--)
        value = value << 4 | (uint32_t)value_of((uint8_t)*at++);
    return value;
}

static size_t put_utf8(uint32_t code, uint8_t *to)
{
    if (code < 0x80) {
        to[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        to[0] = 0xc0 | (uint8_t)(code >> 6);
        to[1] = 0x80 | (code & 0x3f);
        return 2;
    }
    to[0] = 0xe0 | (uint8_t)(code >> 12);
    to[1] = 0x80 | (code >> 6 & 0x3f);
    to[2] = 0x80 | (code & 0x3f);
    return 3;
}

/* The bytes that a quoted value stands for. */
static size_t unquote(const char *text, uint8_t *to)
{
    size_t len = 0;
    for (const char *at = text + 1; at[1]; at++) { /* up to the closing quote */
        if (*at != '\\') {
            to[len++] = (uint8_t)*at;
            continue;
        }
        switch (*++at) {
        case 'n':
            to[len++] = '\n';
            break;
        case 'r':
            to[len++] = '\r';
            break;
        case 't':
            to[len++] = '\t';
            break;
        case 'x':
            to[len++] = (uint8_t)hex(at + 1, 2);
            at += 2;
            break;
        case 'u':
            len += put_utf8(hex(at + 1, 4), to + len);
            at += 4;
            break;
        default:
            to[len++] = (uint8_t)*at;
        }
    }
    return len;
}

static bool is_cut(const char *quoted)
{
    size_t len = strlen(quoted);
    return len > sizeof cut_mark && memcmp(quoted + len - sizeof cut_mark, cut_mark, sizeof cut_mark - 1) == 0;
}

static void check_value(const char *quoted, struct span given)
{
    uint8_t back[VALUE_MAX_BYTES];
    size_t len = strlen(quoted);
    assert(len >= 2 && len <= VALUE_MAX_BYTES && quoted[0] == '"' && quoted[len - 1] == '"');
    if (!is_cut(quoted))
        assert(span_equal(span_of(back, unquote(quoted, back)), given));
}

static void check_line(const char *line, size_t len)
{
    assert(len > 0 && len <= LINE_MAX_BYTES && line[len - 1] == '\n' && utf8_valid(span_of(line, len)));
    const uint8_t *at = (const uint8_t *)line, *end = at + len - 1;
    for (size_t n; at < end; at += n) {
        n = *at < 0x80 ? 1 : utf8_step(at, end);
        assert(n && !utf8_is_unsafe(utf8_code(at, n)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char line[2 * LINE_MAX_BYTES];
    if (size < 1)
        return 0;
    if (sink.kind == SINK_UNSET)
        sink = (struct sink){.role = "fuzz", .fd = memfd_create("log", MFD_CLOEXEC), .kind = SINK_PLAIN, .level = 7};
    sink.journal = data[0] & 1;
    struct span given = span_of(data + 1, size - 1);
    const char *quoted = log_str(given);
    check_value(quoted, given);
    lseek(sink.fd, 0, SEEK_SET);
    log_event(LOG_PEER_GONE, "a=%s b=%.*s", quoted, SPAN_ARG(given));
    off_t len = lseek(sink.fd, 0, SEEK_CUR);
    assert(len <= (off_t)sizeof line && pread(sink.fd, line, (size_t)len, 0) == len);
    check_line(line, (size_t)len);
    return 0;
}
