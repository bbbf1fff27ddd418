#include "proto/scan.h"

#include "proto/limits.h"

/* What a first byte says, by the table of formats in msgpack's spec.md. */
enum what { SCALAR, BYTES, ARRAY, MAP, REFUSED };

struct first {
    enum what what;
    unsigned width; /* bytes of the number that follows: a scalar's value, or a length */
    uint32_t count; /* with width 0: the length itself */
};

static struct first first_of(uint8_t byte)
{
    if (byte <= 0x7f || byte >= 0xe0)
        return (struct first){SCALAR, 0, 0};
    if (byte >= 0xa0 && byte <= 0xbf)
        return (struct first){BYTES, 0, byte & 0x1f};
    if (byte >= 0x90 && byte <= 0x9f)
        return (struct first){ARRAY, 0, byte & 0x0f};
    if (byte >= 0x80 && byte <= 0x8f)
        return (struct first){MAP, 0, byte & 0x0f};
    switch (byte) {
    case 0xc0: /* nil, false, true */
    case 0xc2:
    case 0xc3:
        return (struct first){SCALAR, 0, 0};
    case 0xc4: /* bin, str */
    case 0xd9:
        return (struct first){BYTES, 1, 0};
    case 0xc5:
    case 0xda:
        return (struct first){BYTES, 2, 0};
    case 0xc6:
    case 0xdb:
        return (struct first){BYTES, 4, 0};
    case 0xcc: /* uint8, int8 */
    case 0xd0:
        return (struct first){SCALAR, 1, 0};
    case 0xcd: /* uint16, int16 */
    case 0xd1:
        return (struct first){SCALAR, 2, 0};
    case 0xca: /* float, uint32, int32 */
    case 0xce:
    case 0xd2:
        return (struct first){SCALAR, 4, 0};
    case 0xcb: /* double, uint64, int64 */
    case 0xcf:
    case 0xd3:
        return (struct first){SCALAR, 8, 0};
    case 0xdc:
        return (struct first){ARRAY, 2, 0};
    case 0xdd:
        return (struct first){ARRAY, 4, 0};
    case 0xde:
        return (struct first){MAP, 2, 0};
    case 0xdf:
        return (struct first){MAP, 4, 0};
    default: /* ext, and 0xc1, which is nothing */
        return (struct first){REFUSED, 0, 0};
    }
}

static uint32_t read_big_endian(const uint8_t *p, unsigned width)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < width; i++)
        value = value << 8 | p[i];
    return value;
}

/* header: an array, and no map in it. */
static const char *scan(struct span bytes, bool header)
{
    const uint8_t *p = bytes.data, *end = p + bytes.len;
    uint32_t open[PROTO_DEPTH]; /* elements still to come, per level */
    unsigned depth = 0;
    uint32_t nodes = 0;

    do {
        if (p == end)
            return "it ends too early";
        if (++nodes > PROTO_NODES)
            return "it has too many elements";
        if (depth)
            open[depth - 1]--;
        struct first first = first_of(*p++);
        if (first.what == REFUSED || (first.what == MAP && header))
            return "it holds a map, an ext or a byte that is nothing";
        if (!depth && first.what != ARRAY && header)
            return "it is not an array";
        if ((size_t)(end - p) < first.width)
            return "it ends too early";
        if (first.what != SCALAR && first.width)
            first.count = read_big_endian(p, first.width);
        p += first.width;
        uint64_t needed = first.what == MAP ? 2 * (uint64_t)first.count : first.count;
        if (needed > (size_t)(end - p)) /* an element takes at least one byte */
            return "a length is larger than the bytes left";
        if (first.what == BYTES)
            p += first.count;
        if (first.what == ARRAY || first.what == MAP) {
            if (depth == PROTO_DEPTH)
                return "it is nested too deep";
            if (needed > PROTO_NODES - nodes)
                return "it has too many elements";
            open[depth++] = (uint32_t)needed;
        }
        while (depth && open[depth - 1] == 0)
            depth--;
    } while (depth);
    return p == end ? NULL : "bytes follow its end";
}

const char *scan_header(struct span bytes)
{
    return scan(bytes, true);
}
const char *scan_answer(struct span bytes)
{
    return scan(bytes, false);
}
