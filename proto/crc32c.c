#include "proto/crc32c.h"

#define POLYNOMIAL 0x82f63b78u /* bits reversed */

/* Eight tables, so that eight bytes are taken at once: tables[k][b] is the CRC of byte b followed by k zero bytes. */
struct tables {
    bool made;
    uint32_t of[8][256];
};

/* Filled on first use, always with the same numbers. */
static const struct tables *get_tables(void)
{
    static struct tables tables;
    if (tables.made)
        return &tables;
    for (unsigned b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
        tables.of[0][b] = crc;
    }
    for (unsigned k = 1; k < 8; k++)
        for (unsigned b = 0; b < 256; b++)
            tables.of[k][b] = tables.of[k - 1][b] >> 8 ^ tables.of[0][tables.of[k - 1][b] & 0xff];
    tables.made = true;
    return &tables;
}

uint32_t crc32c_portable(uint32_t seed, struct span bytes)
{
    const struct tables *t = get_tables();
    const uint8_t *p = bytes.data;
    size_t left = bytes.len;
    uint32_t crc = ~seed;
    for (; left >= 8; p += 8, left -= 8) {
        uint64_t w;
        memcpy(&w, p, sizeof w);
        w ^= crc;
        crc = t->of[7][w & 0xff] ^ t->of[6][w >> 8 & 0xff] ^ t->of[5][w >> 16 & 0xff] ^ t->of[4][w >> 24 & 0xff] ^
              t->of[3][w >> 32 & 0xff] ^ t->of[2][w >> 40 & 0xff] ^ t->of[1][w >> 48 & 0xff] ^ t->of[0][w >> 56];
    }
    for (; left; p++, left--)
        crc = crc >> 8 ^ t->of[0][(crc ^ *p) & 0xff];
    return ~crc;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "eight bytes are read as one little-endian number");

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t seed, struct span bytes)
{
    const uint8_t *p = bytes.data;
    size_t left = bytes.len;
    uint64_t crc = ~seed;
    for (; left >= 8; p += 8, left -= 8) {
        uint64_t w;
        memcpy(&w, p, sizeof w);
        crc = __builtin_ia32_crc32di(crc, w);
    }
    for (; left; p++, left--)
        crc = __builtin_ia32_crc32qi((uint32_t)crc, *p);
    return ~(uint32_t)crc;
}
#endif

uint32_t crc32c(uint32_t seed, struct span bytes)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2"))
        return by_instruction(seed, bytes);
#endif
    return crc32c_portable(seed, bytes);
}
