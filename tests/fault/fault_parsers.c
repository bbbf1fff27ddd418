/* What reads bytes from outside, without memory: JSON, HTTP, a submit, a job's record, settings, ids. Their inputs are the
 * fuzzers' seeds, good and bad: each must be judged as it is with memory, or not at all. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/http.h"
#include "api/job.h"
#include "api/spec.h"
#include "broker/settings.h"
#include "common/conf_file.h"
#include "common/id.h"
#include "common/json.h"
#include "proto/record.h"
#include "tests/lib/corpus.h"
#include "tests/lib/fault.h"

/* One parser, one seed after another. */
struct trial {
    fault_act *act;
    const char *path;
    struct span bytes;
    unsigned long refusals;
};

static void sweep_seed(void *arg, const char *path, struct span bytes)
{
    struct trial *trial = arg;
    trial->path = path;
    trial->bytes = bytes;
    trial->refusals += fault_sweep(path, trial->act, NULL, trial);
}

static void sweep_corpus(const char *name, const char *corpus, fault_act *act)
{
    struct trial trial = {.act = act};
    assert_true(corpus_each(corpus, sweep_seed, &trial) > 0);
    fault_tell(name, trial.refusals);
}

static struct span seed(void *arg)
{
    return ((struct trial *)arg)->bytes;
}

/* ---- JSON ---- */

static enum err parse_json(void *arg)
{
    AUTO(json_free) cJSON *tree = NULL;
    struct json_fault fault = {0};
    enum err e = json_parse(seed(arg), &tree, &fault);
    assert((e == ERR_OK) == (tree != NULL));
    return e;
}

static enum err check_json(void *arg)
{
    return json_check(seed(arg), NULL);
}

/* What was read printed again; once it has failed it stays failed. */
static enum err print_json(void *arg)
{
    AUTO(json_free) cJSON *tree = NULL;
    AUTO(json_out_done) struct json_out out = {0};
    enum err e = json_parse(seed(arg), &tree, NULL);
    if (e)
        return e;
    json_tree(&out, tree);
    bool failed = out.failed;
    json_str(&out, span_str("a\"b"));
    json_printf(&out, "%d", 7);
    assert(!failed || out.failed);
    return out.failed ? ERR_NOMEM : ERR_OK;
}

static void json(void **state)
{
    sweep_corpus("json_check", "json", check_json);
    sweep_corpus("json_parse", "json", parse_json);
    sweep_corpus("json_tree, json_str, json_printf", "json", print_json);
}

/* ---- HTTP: needs none ---- */

static enum err read_head(void *arg)
{
    struct http_field fields[16];
    struct http_head head;
    bool done;
    uint8_t text[256];
    size_t len;
    struct span bytes = seed(arg), query, name, value;
    http_head_start(&head, fields, ARRAY_COUNT(fields), 2048);
    enum err e = http_head_read(&head, bytes, &done);
    if (e || !done)
        return e;
    query = http_span(&head, head.query);
    (void)http_find(&head, "host", &value, NULL);
    while (http_next_param(&query, &name, &value) && !e)
        e = value.len <= sizeof text ? http_unescape(value, true, text, &len) : ERR_OK;
    return e;
}

static enum err read_chunked(void *arg)
{
    struct http_chunked chunked;
    uint8_t out[4096];
    size_t used, wrote;
    bool done;
    struct span bytes = seed(arg);
    http_chunked_start(&chunked, 1 << 20);
    return http_chunked_read(&chunked, span_of(bytes.data, MIN(bytes.len, sizeof out)), out, &used, &wrote, &done);
}

static enum err write_reply_head(void *arg)
{
    char out[HTTP_REPLY_HEAD_MAX], date[HTTP_DATE_LEN + 1];
    http_date(1795341600, date);
    struct http_reply reply = {.status = 200, .date = date, .type = "application/json", .body_bytes = 7};
    return http_reply_head(&reply, out) ? ERR_OK : ERR_INVALID;
}

static void http(void **state)
{
    sweep_corpus("http_head_read", "http_head", read_head);
    sweep_corpus("http_chunked_read", "http_chunked", read_chunked);
    fault_tell("http_reply_head", fault_sweep("http_reply_head", write_reply_head, NULL, NULL));
}

/* ---- the api's own ---- */

static enum err read_spec(void *arg)
{
    const struct spec_caller caller = {
        .tenant = span_str("t"), .request_id = span_str("r"), .idempotency_key = span_str("k"), .wall_ms = 1767322800000};
    AUTO(submission_free) struct submission *submission = NULL;
    struct spec_fault fault = {0};
    enum err e = spec_read(seed(arg), &caller, &submission, &fault);
    assert((e == ERR_OK) == (submission != NULL));
    return e;
}

static enum err read_change(void *arg)
{
    const struct spec_caller caller = {.tenant = span_str("t"), .request_id = span_str("r"), .wall_ms = 1767322800000};
    struct spec_change change = {0};
    struct spec_fault fault = {0};
    enum err e =
        spec_read_change(span_str("{\"priority\":\"high\",\"deadline\":\"2026-01-03T00:00:00Z\"}"), &caller, &change, &fault);
    assert((e == ERR_OK) == (change.deadline != 0));
    return e;
}

static enum err show_job(void *arg)
{
    AUTO(json_out_done) struct json_out out = {0};
    const struct rec_attempt attempt = {.run = 1, .message = span_str("words"), .worker = span_str("w")};
    struct rec_ended ended = {.spec = {.tenant = span_str("t"), .queue = span_str("q"), .route = span_str("m")},
                              .state = STATE_COMPLETED,
                              .display_bytes = 12,
                              .result_bytes = 15,
                              .attempts = &attempt,
                              .attempts_count = 1};
    struct rec_view view = {.state = STATE_PENDING, .attempts = &attempt, .attempts_count = 1};
    struct id id = {{0}};
    job_accepted(&out, &id, STATE_PENDING, ACK_STORED);
    job_cancelled(&out, &id);
    job_from_view(&out, &id, &view, span_str("{\"model\":\"m\"}"));
    enum err e = job_from_ended(&out, &id, &ended, span_str("{\"type\":\"t\"}{\"content\":\"\"}"));
    return e ? e : out.failed ? ERR_NOMEM : ERR_OK;
}

static void submits_and_jobs(void **state)
{
    sweep_corpus("spec_read", "spec", read_spec);
    fault_tell("spec_read_change", fault_sweep("spec_read_change", read_change, NULL, NULL));
    fault_tell("job_from_view, job_from_ended …", fault_sweep("job", show_job, NULL, NULL));
}

/* ---- settings ---- */

static enum err scan_settings(void *arg)
{
    AUTO(conf_file_free) struct conf_file *file = NULL;
    struct conf_fault fault = {""};
    enum err e = conf_file_scan("f", seed(arg), &file, &fault);
    assert((e == ERR_OK) == (file != NULL));
    return e;
}

static enum err load_settings(void *arg)
{
    AUTO(conf_free) struct conf *conf = NULL;
    struct conf_fault fault = {""};
    enum err e = conf_load(&((struct trial *)arg)->path, 1, &conf, &fault);
    assert((e == ERR_OK) == (conf != NULL) && (e != ERR_SETTINGS || fault.text[0]));
    if (e)
        return e;
    struct settings settings = {0};
    e = settings_make(conf, &settings, &fault);
    settings_done(&settings);
    return e;
}

static void settings(void **state)
{
    sweep_corpus("conf_file_scan", "settings", scan_settings);
    sweep_corpus("conf_load, settings_make", "settings", load_settings);
}

/* ---- ids ---- */

static enum err make_id(void *arg)
{
    char text[ID_TEXT_LEN + 1];
    struct id back;
    struct id_key key = {{7}};
    struct id id = id_make(1795341600000, 7, ID_STORED, 42, &key, span_str("acme"));
    id_print(&id, text);
    enum err e = id_parse(span_of(text, ID_TEXT_LEN), &back);
    return e ? e : id_equal(&id, &back) && id_belongs(&back, &key, span_str("acme")) ? ERR_OK : ERR_CORRUPT;
}

static void ids(void **state)
{
    assert_int_equal(id_start(), ERR_OK);
    fault_tell("id_make, id_print, id_parse", fault_sweep("id", make_id, NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json),     cmocka_unit_test(http), cmocka_unit_test(submits_and_jobs),
        cmocka_unit_test(settings), cmocka_unit_test(ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
