#include "api/trace.h"

static bool is_lower_hex(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

static void put_hex(uint64_t n, char out[16])
{
    for (int i = 15; i >= 0; i--, n >>= 4)
        out[i] = "0123456789abcdef"[n & 15];
}

bool trace_id_ok(struct span text)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-')
            return false;
    }
    return text.len > 0 && text.len <= TRACE_ID_MAX;
}

void trace_id_make(uint64_t random, char out[TRACE_OWN_LEN + 1])
{
    memcpy(out, "req-", 4);
    put_hex(random, out + 4);
    out[TRACE_OWN_LEN] = '\0';
}

/* `len` lower-case hex digits at `at`, not all of them zero unless zero_ok. */
static bool hex_part(struct span s, size_t at, size_t len, bool zero_ok)
{
    bool zero = true;
    for (size_t i = at; i < at + len; i++) {
        if (!is_lower_hex(s.data[i]))
            return false;
        zero = zero && s.data[i] == '0';
    }
    return zero_ok || !zero;
}

bool trace_continue(struct span p, uint64_t random, char out[TRACE_PARENT_LEN + 1])
{
    if (p.len < TRACE_PARENT_LEN || p.data[2] != '-' || p.data[35] != '-' || p.data[52] != '-')
        return false;
    if (!hex_part(p, 0, 2, true) || !hex_part(p, 3, 32, false) || !hex_part(p, 36, 16, false) || !hex_part(p, 53, 2, true))
        return false;
    bool newer = !span_is(span_of(p.data, 2), "00");
    if (span_is(span_of(p.data, 2), "ff") || (p.len > TRACE_PARENT_LEN && (!newer || p.data[TRACE_PARENT_LEN] != '-')))
        return false;
    memcpy(out, "00", 2);
    memcpy(out + 2, p.data + 2, 34);
    put_hex(random ? random : 1, out + 36);
    memcpy(out + 52, p.data + 52, 3);
    out[TRACE_PARENT_LEN] = '\0';
    return true;
}
