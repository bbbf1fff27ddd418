/* Any bytes as a stored record. The first byte is the kind; the checksum is made right, since no fuzzer guesses one, unless the
 * second byte is odd.
 * Covers: proto/record.c */
#include <stdlib.h>

#include "proto/crc32c.h"
#include "proto/record.h"

static void check_again(const struct record *record)
{
    static struct record again;
    struct blob *first = NULL, *second = NULL;
    enum err e = record_pack(record->kind, &record->job, &record->body, 1, &first);
    if (e == ERR_LIMIT)
        return;
    assert(!e);
    e = record_unpack(&again, record->kind, blob_span(first));
    assert(!e);
    e = record_pack(again.kind, &again.job, &again.body, 1, &second);
    assert(!e);
    assert(span_equal(blob_span(first), blob_span(second)));
    blob_free(&first);
    blob_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct record record;
    if (size < 2)
        return 0;
    enum record_kind kind = (enum record_kind)(RECORD_JOB + data[0] % 3);
    bool sealed = data[1] % 2 == 0;
    size_t len = size - 2;
    uint8_t *bytes = malloc(len ? len : 1);
    memcpy(bytes, data + 2, len);
    if (sealed && len >= 12) {
        bytes[0] = 'Q';
        bytes[1] = (uint8_t)kind;
        uint32_t crc = crc32c(crc32c(0, span_of(bytes, 4)), span_of(bytes + 8, len - 8));
        memcpy(bytes + 4, &crc, sizeof crc);
    }
    if (record_unpack(&record, kind, span_of(bytes, len)) == ERR_OK)
        check_again(&record);
    free(bytes);
    return 0;
}
