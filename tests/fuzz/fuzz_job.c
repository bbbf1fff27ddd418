/* The job object that users see, made from a stored record of any content that its checksum vouches for: JSON, or refused. The
 * first byte chooses a live job's view or an ended one.
 * Covers: api/job.c */
#include <stdlib.h>

#include "api/job.h"
#include "proto/crc32c.h"
#include "proto/record.h"

#define PREFIX 12

static const struct id id = {{1, 2, 3}};

static bool is_object(struct span text)
{
    return text.len >= 2 && text.data[0] == '{' && text.data[text.len - 1] == '}' && !json_check(text, NULL);
}

/* Members doubled between our own and the display are the api's own matter when it writes the display. */
static void check_json(struct json_out *out)
{
    struct json_fault fault = {0};
    if (out->failed)
        return;
    enum err e = json_check(span_of(out->data, out->len), &fault);
    assert(!e || strstr(fault.what, "given twice"));
}

static void check_ended(const struct rec_ended *ended, struct span body)
{
    struct json_out out = {0};
    bool display = ended->display_bytes <= body.len && is_object(span_of(body.data, ended->display_bytes));
    if (!job_from_ended(&out, &id, ended, body) && display)
        check_json(&out);
    json_out_done(&out);
}

static void check_live(const struct rec_job *job, struct span display)
{
    struct json_out out = {0};
    struct rec_view view = {.state = job->state,
                            .priority = job->spec.priority,
                            .class = job->spec.class,
                            .queue = job->spec.queue,
                            .created_at = job->arrived_at,
                            .attempts = job->attempts,
                            .attempts_count = job->attempts_count};
    job_from_view(&out, &id, &view, is_object(display) ? display : span_str("{}"));
    check_json(&out);
    json_out_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct record record;
    if (size < 1 + PREFIX)
        return 0;
    enum record_kind kind = data[0] & 1 ? RECORD_ENDED : RECORD_JOB;
    size_t len = size - 1;
    uint8_t *bytes = malloc(len);
    assert(bytes);
    memcpy(bytes, data + 1, len);
    bytes[0] = 'Q';
    bytes[1] = (uint8_t)kind;
    uint32_t crc = crc32c(crc32c(0, span_of(bytes, 4)), span_of(bytes + 8, len - 8));
    memcpy(bytes + 4, &crc, sizeof crc);
    if (record_unpack(&record, kind, span_of(bytes, len)) == ERR_OK) {
        if (kind == RECORD_ENDED)
            check_ended(&record.ended, record.body);
        else
            check_live(&record.job, record.body);
    }
    free(bytes);
    return 0;
}
