/* One child in a process of its own, between a broker played by a ROUTER and a scripted provider: what it takes, holds, says
 * again, gives up and leaves behind. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/wire.h"

#include <curl/curl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common/conf.h"
#include "common/json.h"
#include "common/log.h"
#include "tests/unit/scripted_server.h"
#include "worker/deployment.h"
#include "worker/worker.h"

#define DEADLINE_MS 15000
#define BEAT_MS     150  /* three in silence end a session, which a pause of a busy machine should not do */
#define FIRST_MS    1500 /* the first token's clock: ends no call that a test holds on for some beats */
#define SEEN_MAX    64

/* What the broker has seen of one outcome frame. */
struct seen {
    struct id id;
    struct fence fence;
    enum kind kind;
    unsigned status;
    uint64_t retry_after_ms;
    char message[512];
    char result[512];
    char log[4096];
    size_t log_bytes;
    msec at;
    size_t events_before; /* bytes of this run's events that had come before it */
};

static struct world {
    struct loop *loop;
    struct timer *deadline;
    char dir[64], endpoint[160], settings[160];
    pid_t pid;
    int exit_status;
    bool exited;
    bool (*done)(void);
    struct server upstream;

    struct wire *wire;
    struct wire_route route;
    struct frame frame;
    struct frame_buffer buffer;
    uint64_t epoch;
    bool quiet; /* answers nothing */
    struct rec_verdict verdicts[SEEN_MAX];
    uint32_t verdicts_count;
    struct rec_lease drop[SEEN_MAX];
    uint32_t drop_count;
    bool ack; /* acknowledge outcomes */

    unsigned hellos, heartbeats, drains, byes, reloads, bad;
    struct msg_hello hello; /* numbers */
    struct rec_held held[SEEN_MAX];
    char served[128];
    uint64_t served_hash;
    uint32_t heartbeat_slots, heartbeat_leases;
    struct seen seen[SEEN_MAX];
    unsigned seen_count;
    char events[8192];
    size_t events_bytes;
    unsigned events_frames, progress_frames;
    uint8_t progress;
} world;

/* ---- the broker ---- */

static void say_with(enum message message, const void *fields, const char *body)
{
    AUTO(blob_free) struct blob *blob = body ? blob_copy(span_str(body)) : NULL;
    assert_int_equal(frame_encode(message, fields, world.epoch, 0, &world.buffer), ERR_OK);
    assert_int_equal(wire_send(world.wire, &world.route, span_of(world.buffer.data, world.buffer.len), blob), ERR_OK);
}

static void say(enum message message, const void *fields)
{
    say_with(message, fields, NULL);
}

static void welcome(const struct msg_hello *hello)
{
    world.hellos++;
    world.hello = *hello;
    for (uint32_t i = 0; i < MIN(hello->held_count, (uint32_t)SEEN_MAX); i++)
        world.held[i] = hello->held[i];
    if (hello->served_count) {
        snprintf(world.served, sizeof world.served, "%.*s", SPAN_ARG(hello->served[0].name));
        world.served_hash = hello->served[0].hash;
    }
    say(MESSAGE_WELCOME,
        &(struct msg_welcome){
            .heartbeat_ms = BEAT_MS, .lease_ms = 15000, .verdicts = world.verdicts, .verdicts_count = world.verdicts_count});
}

static void copy(char *out, size_t size, struct span text)
{
    snprintf(out, size, "%.*s", SPAN_ARG(text));
}

static void note_outcome(const struct msg_outcome *outcome, struct span body)
{
    struct seen *seen = &world.seen[world.seen_count++ % SEEN_MAX];
    *seen = (struct seen){.id = outcome->id,
                          .fence = outcome->fence,
                          .kind = outcome->kind,
                          .status = outcome->http_status,
                          .retry_after_ms = outcome->retry_after_ms,
                          .log_bytes = outcome->log_bytes,
                          .at = clock_mono(),
                          .events_before = world.events_bytes};
    copy(seen->message, sizeof seen->message, outcome->message);
    assert_int_equal(body.len, outcome->result_bytes + outcome->log_bytes);
    copy(seen->result, sizeof seen->result, span_of(body.data, outcome->result_bytes));
    copy(seen->log, sizeof seen->log, span_of(body.data + outcome->result_bytes, outcome->log_bytes));
    if (world.ack)
        say(MESSAGE_OUTCOME_ACK,
            &(struct msg_outcome_ack){.items = &(struct rec_lease){.id = outcome->id, .fence = outcome->fence},
                                      .items_count = 1});
}

static void note_events(const struct msg_run_events *events, struct span body)
{
    world.events_frames++;
    for (uint32_t i = 0; i < events->items_count; i++) {
        size_t len = events->items[i].bytes;
        assert_int_equal(events->items[i].offset, world.events_bytes); /* one watched run at a time in these tests */
        memcpy(world.events + world.events_bytes, body.data, len);
        world.events_bytes += len;
        body = span_of(body.data + len, body.len - len);
    }
    world.events[world.events_bytes] = '\0';
    assert_int_equal(body.len, 0);
}

static void on_message(void *arg, const struct wire_route *route, const char *key, struct span header, struct span body)
{
    const char *why = "";
    struct frame *frame = &world.frame;
    if (frame_decode(frame, header, body, ROLE_WORKER, ROLE_BROKER, 0, &why)) {
        print_error("bad frame: %s\n", why);
        world.bad++;
        return;
    }
    world.route = *route;
    if (world.quiet)
        return;
    switch (frame->message) {
    case MESSAGE_HELLO:
        welcome(&frame->hello);
        break;
    case MESSAGE_HEARTBEAT:
        world.heartbeats++;
        world.heartbeat_slots = frame->heartbeat.slots;
        world.heartbeat_leases = frame->heartbeat.leases_count;
        say(MESSAGE_HEARTBEAT_ACK, &(struct msg_heartbeat_ack){.drop = world.drop, .drop_count = world.drop_count});
        break;
    case MESSAGE_OUTCOME:
        note_outcome(&frame->outcome, frame->body);
        break;
    case MESSAGE_RUN_EVENTS:
        note_events(&frame->run_events, frame->body);
        break;
    case MESSAGE_PROGRESS:
        world.progress_frames++;
        world.progress = frame->progress.items[0].progress;
        break;
    case MESSAGE_DRAIN:
        world.drains++;
        break;
    case MESSAGE_RELOADED:
        world.reloads++;
        assert_int_equal(frame->reloaded.error, ERR_SETTINGS);
        break;
    case MESSAGE_BYE:
        world.byes++;
        break;
    default:
        break;
    }
}

static void start_broker(uint64_t epoch)
{
    struct wire_options options = {.kind = WIRE_ROUTER, .bind = true, .endpoint = world.endpoint};
    struct wire_hooks hooks = {.message = on_message};
    world.epoch = epoch;
    assert_int_equal(wire_new(world.loop, &options, hooks, &world.wire), ERR_OK);
}

static void turn(void *arg)
{
    if (world.wire)
        wire_turn(world.wire);
    int status;
    if (world.pid && waitpid(world.pid, &status, WNOHANG) == world.pid) {
        world.pid = 0;
        world.exited = true;
        world.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    if (world.done && world.done())
        loop_stop(world.loop);
}

static void too_late(void *arg)
{
    fail_msg("the expected did not come");
}
static void child_came(void *arg, int signo) {}

static void until(bool (*done)(void))
{
    world.done = done;
    timer_set(world.deadline, clock_mono() + DEADLINE_MS);
    loop_run(world.loop);
    timer_set(world.deadline, MSEC_NEVER);
    world.done = NULL;
}

/* ---- the worker ---- */

static enum err no_reload(void *arg, struct conf_fault *fault)
{
    snprintf(fault->text, sizeof fault->text, "no");
    return ERR_SETTINGS;
}

/* The child: this program again, so that it starts as clean as a real one. */
static int be_worker(const char *settings, bool solo)
{
    struct conf *conf = NULL;
    struct conf_fault fault = {0};
    curl_global_init(CURL_GLOBAL_DEFAULT);
    struct worker *worker = NULL;
    enum err e = conf_load(&settings, 1, &conf, &fault);
    if (!e)
        e = worker_new(&(struct worker_options){.conf = conf, .solo = solo, .reload = no_reload}, &worker, &fault);
    if (e)
        fprintf(stderr, "%s: %s\n", err_name(e), fault.text);
    else
        worker_run(worker);
    worker_free(&worker);
    conf_free(&conf);
    curl_global_cleanup();
    return e ? EXIT_FAILURE : EXIT_SUCCESS;
}

static void start_child(bool solo)
{
    world.pid = fork();
    if (world.pid)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execl("/proc/self/exe", "test_worker", "--worker", world.settings, solo ? "solo" : NULL, NULL);
    _exit(127);
}

static void write_settings(unsigned stop_ms)
{
    FILE *out = fopen(world.settings, "w");
    assert_non_null(out);
    fprintf(out,
            "worker:\n  broker: \"%s\"\n  slots: 4\n  stop_ms: %u\n  first_token_timeout_ms: %d\n"
            "credentials:\n  - name: up\n    base_url: \"http://127.0.0.1:%d/v1/\"\n"
            "  - name: keyless\n    base_url: \"https://127.0.0.1:1\"\n    key_file: \"/nowhere/key\"\n"
            "deployments:\n  - name: echo\n    provider: echo\n  - name: up\n    provider: openai\n    credential: up\n    "
            "model: own-model\n"
            "  - name: lost\n    provider: openai\n    credential: keyless\n",
            world.endpoint, stop_ms, FIRST_MS, world.upstream.port);
    fclose(out);
}

static bool hello_came(void)
{
    return world.hellos > 0;
}

static void start_with(unsigned stop_ms, bool solo, bool wait)
{
    char dir[] = "/tmp/quern-worker-XXXXXX";
    memset(&world, 0, sizeof world);
    world.ack = true;
    assert_non_null(mkdtemp(dir));
    snprintf(world.dir, sizeof world.dir, "%s", dir);
    snprintf(world.endpoint, sizeof world.endpoint, "ipc://%s/worker.sock", world.dir);
    snprintf(world.settings, sizeof world.settings, "%s/settings.yaml", world.dir);
    listen_server(&world.upstream);
    write_settings(stop_ms);
    start_child(solo);
    accept_server(&world.upstream);
    world.loop = loop_new(turn, NULL);
    world.deadline = timer_new(world.loop, too_late, NULL);
    assert_int_equal(loop_signal(world.loop, SIGCHLD, child_came, NULL), ERR_OK);
    start_broker(1);
    if (wait)
        until(hello_came);
}

static int start(void **state)
{
    start_with(5000, false, true);
    return 0;
}

static bool has_exited(void)
{
    return world.exited;
}

static int stop(void **state)
{
    if (!world.exited) {
        kill(world.pid, SIGKILL);
        until(has_exited);
    }
    assert_int_equal(world.bad, 0);
    wire_free(&world.wire);
    timer_free(&world.deadline);
    loop_free(&world.loop);
    frame_done(&world.frame);
    frame_buffer_done(&world.buffer);
    close_server(&world.upstream);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", world.dir);
    return system(command);
}

/* ---- words ---- */

#define HOLD_ON "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

static struct id id_of(uint8_t n)
{
    return (struct id){.bytes = {[15] = n}};
}

static void give(uint8_t n, uint64_t fence, const char *deployment, const char *body, bool stream, bool watched)
{
    struct msg_job job = {.id = id_of(n),
                          .fence = {world.epoch, fence},
                          .run = 1,
                          .attempt = 1,
                          .deployment = span_str(deployment),
                          .model = span_str("asked"),
                          .timeout_ms = 10000,
                          .stream = stream,
                          .watched = watched};
    say_with(MESSAGE_JOB, &job, body);
}

static void play(const char *answer, enum then then)
{
    world.upstream.answer = answer;
    world.upstream.answer_len = strlen(answer);
    world.upstream.then = then;
}

static bool one_outcome(void)
{
    return world.seen_count >= 1;
}
static bool two_outcomes(void)
{
    return world.seen_count >= 2;
}
static bool called(void)
{
    return world.upstream.requests >= 1;
}
static bool two_hellos(void)
{
    return world.hellos >= 2;
}
static bool beaten_twice(void)
{
    return world.heartbeats >= 2;
}
static bool two_leases(void)
{
    return world.heartbeat_leases == 2;
}
static bool closed(void)
{
    return world.upstream.peer_closed_at != 0;
}
static bool events_came(void)
{
    return world.events_bytes > 0;
}

static void wait_heartbeats(void)
{
    world.heartbeats = 0;
    until(beaten_twice);
}

/* ---- tests ---- */

static void hello_says_what_it_offers(void **state)
{
    assert_int_equal(world.hello.role, ROLE_WORKER);
    assert_int_equal(world.hello.slots, 4);
    assert_false(world.hello.solo);
    assert_int_equal(world.hello.held_count, 0);
    assert_int_equal(world.hello.served_count, 2); /* "lost" lacks its key */
    assert_string_equal(world.served, "echo");
    struct conf_deployment row = {
        .name = (char *)"echo", .provider = (char *)"echo", .model = (char *)"", .credential = (char *)""};
    assert_int_equal(world.served_hash, conf_deployment_hash(&row));
}

static void a_job_is_called_once_and_its_outcome_acknowledged_once(void **state)
{
    give(1, 1, "echo", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", false, false);
    until(one_outcome);
    assert_int_equal(world.seen[0].kind, KIND_NONE);
    assert_string_equal(world.seen[0].result,
                        "{\"content\":\"echo: hi\",\"finish_reason\":\"stop\",\"model\":\"asked\",\"provider\":\"echo\"}");
    assert_int_equal(world.seen[0].log_bytes, 0);
    wait_heartbeats();
    assert_int_equal(world.seen_count, 1);
}

static void a_provider_is_called_by_its_settings(void **state)
{
    play("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
         "{\"model\":\"own\",\"choices\":[{\"message\":{\"content\":\"yo\"},\"finish_reason\":\"stop\"}]}",
         CLOSE);
    give(1, 1, "up", "{\"prompt\":\"hi\",\"params\":{\"temperature\":0}}", false, false);
    until(one_outcome);
    assert_string_equal(world.seen[0].message, "");
    assert_string_equal(world.seen[0].result,
                        "{\"content\":\"yo\",\"finish_reason\":\"stop\",\"model\":\"own\",\"provider\":\"openai\"}");
    assert_int_equal(world.seen[0].status, 200);
    assert_string_equal(world.upstream.body,
                        "{\"model\":\"own-model\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"temperature\":0}");
    assert_non_null(strstr(world.upstream.head, "POST /v1/chat/completions HTTP/1.1"));
}

static void an_outcome_is_said_in_every_session_until_acknowledged(void **state)
{
    world.ack = false;
    give(1, 1, "echo", "{\"prompt\":\"a\"}", false, false);
    until(one_outcome);
    wire_free(&world.wire);
    start_broker(2);
    until(two_outcomes);
    assert_int_equal(world.hello.held_count, 1);
    assert_true(world.held[0].finished);
    assert_int_equal(world.held[0].run, 1);
    assert_int_equal(fence_compare(world.held[0].fence, (struct fence){1, 1}), 0);
    struct id id = id_of(1);
    struct rec_lease wrong = {.id = id, .fence = {1, 2}}, right = {.id = id, .fence = {1, 1}};
    say(MESSAGE_OUTCOME_ACK, &(struct msg_outcome_ack){.items = &wrong, .items_count = 1});
    wire_free(&world.wire);
    world.seen_count = world.hellos = 0;
    start_broker(3);
    until(one_outcome);
    say(MESSAGE_OUTCOME_ACK, &(struct msg_outcome_ack){.items = &right, .items_count = 1});
    wait_heartbeats();
    wire_free(&world.wire);
    world.hellos = 0;
    start_broker(4);
    until(hello_came);
    assert_int_equal(world.hello.held_count, 0);
}

static void the_same_lease_twice_is_one_call(void **state)
{
    play(HOLD_ON, HOLD);
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, false);
    until(called);
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, false);
    wait_heartbeats();
    assert_int_equal(world.heartbeat_leases, 1);
    assert_int_equal(world.upstream.requests, 1);
    assert_int_equal(world.seen_count, 0);
}

static void a_later_lease_takes_over_from_an_earlier_one(void **state)
{
    world.ack = false; /* so that the later one stays held */
    play(HOLD_ON, HOLD);
    give(1, 5, "up", "{\"prompt\":\"a\"}", true, false);
    until(called);
    give(1, 6, "echo", "{\"prompt\":\"b\"}", false, false);
    until(one_outcome);
    until(closed);
    assert_int_equal(world.seen[0].fence.n, 6);
    assert_int_equal(world.seen[0].kind, KIND_NONE);
    give(1, 5, "echo", "{\"prompt\":\"late\"}", false, false); /* an old frame */
    wait_heartbeats();
    assert_int_equal(world.heartbeat_leases, 0);
    assert_int_equal(world.seen_count, 1);
}

static void a_word_about_an_earlier_lease_leaves_the_later_one_alone(void **state)
{
    play(HOLD_ON, HOLD);
    give(1, 6, "up", "{\"prompt\":\"a\"}", true, false);
    until(called);
    say(MESSAGE_CANCEL_RUN, &(struct msg_cancel_run){.id = id_of(1), .fence = {1, 5}});
    wait_heartbeats();
    assert_int_equal(world.heartbeat_leases, 1);
    assert_int_equal(world.seen_count, 0);
}

static void a_cancel_closes_the_call_within_100_ms(void **state)
{
    play(HOLD_ON, HOLD);
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, false);
    until(called);
    msec at = clock_mono();
    say(MESSAGE_CANCEL_RUN, &(struct msg_cancel_run){.id = id_of(1), .fence = {1, 1}});
    until(one_outcome);
    until(closed);
    assert_int_equal(world.seen[0].kind, KIND_CANCELLED);
    assert_true(world.upstream.peer_closed_at - at <= 100);
}

static void what_cannot_be_done_is_reported(void **state)
{
    static const struct {
        const char *deployment, *body;
        enum kind kind;
    } rows[] = {
        {"unheard-of", "{\"prompt\":\"a\"}", KIND_UNSERVED},
        {"lost", "{\"prompt\":\"a\"}", KIND_UNSERVED},
        {"echo", "{\"prompt\":", KIND_WORKER},
        {"echo", "[]", KIND_WORKER},
        {"up", "{}", KIND_CLIENT},
    };
    for (unsigned i = 0; i < ARRAY_COUNT(rows); i++) {
        world.seen_count = 0;
        give(i, 1, rows[i].deployment, rows[i].body, false, false);
        until(one_outcome);
        assert_int_equal(world.seen[0].kind, rows[i].kind);
        assert_true(world.seen[0].message[0]);
    }
    assert_int_equal(world.upstream.requests, 0);
}

static void more_than_its_credit_is_given_back(void **state)
{
    for (uint8_t i = 0; i < 5; i++)
        give(i, 1, "echo", "{\"prompt\":\"a\",\"params\":{\"latency_ms\":60000}}", false, false);
    until(one_outcome);
    assert_int_equal(world.seen[0].kind, KIND_STOPPING);
    assert_int_equal(world.seen[0].id.bytes[15], 4);
    wait_heartbeats();
    assert_int_equal(world.heartbeat_leases, 4);
    assert_int_equal(world.heartbeat_slots, 4);
}

static void a_heartbeats_reply_drops_runs(void **state)
{
    play(HOLD_ON, HOLD);
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, false);
    until(called);
    world.drop[0] = (struct rec_lease){.id = id_of(1), .fence = {1, 1}};
    world.drop_count = 1;
    until(one_outcome); /* owed, as for a cancel */
    until(closed);
    wait_heartbeats();
    assert_int_equal(world.heartbeat_leases, 0);
    assert_int_equal(world.seen[0].kind, KIND_CANCELLED);
    assert_int_equal(world.seen_count, 1);
}

#define CHUNK(text) "{\"choices\":[{\"delta\":{\"content\":\"" text "\"},\"finish_reason\":null}]}"
#define TAIL        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"

static void a_watched_streams_events_come_before_its_outcome(void **state)
{
    play("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: " CHUNK("Hel") "\n\ndata: " CHUNK("lo") "\n\n" TAIL,
         CLOSE);
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, true);
    until(one_outcome);
    assert_int_equal(world.seen[0].kind, KIND_NONE);
    assert_string_equal(world.seen[0].log, "{\"text\":\"Hel\",\"index\":0}\n{\"text\":\"lo\",\"index\":1}\n");
    assert_string_equal(world.events, world.seen[0].log);
    assert_int_equal(world.seen[0].events_before, world.seen[0].log_bytes);
}

static void events_of_unwatched_streams_stay_until_asked_for(void **state)
{
    play("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: " CHUNK("Hello you") "\n\n", HOLD);
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, false);
    until(called);
    wait_heartbeats();
    assert_int_equal(world.events_frames, 0);
    say(MESSAGE_WATCH_RUN, &(struct msg_watch_run){.id = id_of(1), .fence = {1, 1}, .on = true, .from = 0});
    until(events_came);
    assert_string_equal(world.events, "{\"text\":\"Hello you\",\"index\":0}\n");
    /* a second watcher, from the start: everything once more; one that asks for what is not there yet takes nothing from the
     * first */
    for (uint64_t from = 0; from < 2000; from += 1000) {
        world.events_bytes = 0;
        say(MESSAGE_WATCH_RUN, &(struct msg_watch_run){.id = id_of(1), .fence = {1, 1}, .on = true, .from = from});
        wait_heartbeats();
        assert_int_equal(world.events_bytes, from ? 0 : 31);
    }
}

static void calls_go_on_while_the_broker_is_away(void **state)
{
    play(HOLD_ON, HOLD);
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, false);
    until(called);
    give(2, 2, "echo", "{\"prompt\":\"b\",\"params\":{\"latency_ms\":2000}}", false, false);
    until(two_leases);
    wire_free(&world.wire);
    world.verdicts[0] = (struct rec_verdict){.id = id_of(1), .fence = {1, 1}, .verdict = VERDICT_ABORT};
    world.verdicts[1] = (struct rec_verdict){.id = id_of(2), .fence = {1, 2}, .verdict = VERDICT_KEEP};
    world.verdicts_count = 2;
    start_broker(2);
    until(two_hellos);
    assert_int_equal(world.hello.held_count, 2);
    until(one_outcome);
    assert_int_equal(world.seen[0].id.bytes[15], 2);
    until(closed); /* the aborted one */
    wait_heartbeats();
    assert_int_equal(world.heartbeat_leases, 0);
}

static void the_first_token_clock(void **state)
{
    play(HOLD_ON, HOLD);
    msec at = clock_mono();
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, false);
    until(one_outcome);
    assert_int_equal(world.seen[0].kind, KIND_SENT);
    assert_in_range(world.seen[0].at - at, FIRST_MS, FIRST_MS + 1500);
    until(closed);
}

static void a_refusal_is_named_also_when_its_body_never_ends(void **state)
{
    static const char *const answers[] = {
        "HTTP/1.1 429 x\r\nRetry-After: 7\r\nContent-Length: 1000\r\n\r\n{\"error\":",
        "HTTP/1.1 429 x\r\nRetry-After: 7\r\nContent-Length: 1000\r\n\r\n",
    };
    for (unsigned i = 0; i < ARRAY_COUNT(answers); i++) {
        world.seen_count = 0;
        play(answers[i], HOLD);
        give(i, 1, "up", "{\"prompt\":\"a\"}", true, false);
        until(one_outcome);
        assert_int_equal(world.seen[0].kind, KIND_THROTTLED);
        assert_int_equal(world.seen[0].status, 429);
        assert_int_equal(world.seen[0].retry_after_ms, 7000);
    }
}

static void settings_are_read_again_on_request(void **state)
{
    say(MESSAGE_RELOAD, &(struct msg_reload){.revision = 3});
    wait_heartbeats();
    assert_int_equal(world.reloads, 1);
}

static void draining_finishes_what_runs_and_takes_nothing_more(void **state)
{
    give(1, 1, "echo", "{\"prompt\":\"a\",\"params\":{\"latency_ms\":1000}}", false, false);
    wait_heartbeats();
    kill(world.pid, SIGTERM);
    wait_heartbeats();
    assert_int_equal(world.drains, 1);
    assert_int_equal(world.heartbeat_slots, 1); /* as many as it runs: no credit left */
    give(2, 2, "echo", "{\"prompt\":\"b\"}", false, false);
    until(one_outcome);
    assert_int_equal(world.seen[0].kind, KIND_STOPPING);
    until(two_outcomes);
    assert_int_equal(world.seen[1].kind, KIND_NONE);
    until(has_exited);
    assert_int_equal(world.exit_status, 0);
}

static int start_impatient(void **state)
{
    start_with(200, false, true);
    return 0;
}

static void what_does_not_end_in_time_is_given_back(void **state)
{
    play(HOLD_ON, HOLD);
    give(1, 1, "up", "{\"prompt\":\"a\"}", true, false);
    until(called);
    kill(world.pid, SIGTERM);
    until(one_outcome);
    assert_int_equal(world.seen[0].kind, KIND_STOPPING);
    until(has_exited);
    assert_int_equal(world.exit_status, 0);
    until(closed);
}

static int start_solo(void **state)
{
    start_with(5000, true, true);
    return 0;
}

static void the_solo_child_has_one_slot(void **state)
{
    assert_true(world.hello.solo);
    assert_int_equal(world.hello.slots, 1);
}

int main(int argc, char **argv)
{
    log_start("test");
    if (argc > 2 && strcmp(argv[1], "--worker") == 0)
        return be_worker(argv[2], argc > 3);
#define WITH(begin, name) cmocka_unit_test_setup_teardown(name, begin, stop)
    const struct CMUnitTest tests[] = {
        WITH(start, hello_says_what_it_offers),
        WITH(start, a_job_is_called_once_and_its_outcome_acknowledged_once),
        WITH(start, a_provider_is_called_by_its_settings),
        WITH(start, an_outcome_is_said_in_every_session_until_acknowledged),
        WITH(start, the_same_lease_twice_is_one_call),
        WITH(start, a_later_lease_takes_over_from_an_earlier_one),
        WITH(start, a_word_about_an_earlier_lease_leaves_the_later_one_alone),
        WITH(start, a_cancel_closes_the_call_within_100_ms),
        WITH(start, what_cannot_be_done_is_reported),
        WITH(start, more_than_its_credit_is_given_back),
        WITH(start, a_heartbeats_reply_drops_runs),
        WITH(start, a_watched_streams_events_come_before_its_outcome),
        WITH(start, events_of_unwatched_streams_stay_until_asked_for),
        WITH(start, calls_go_on_while_the_broker_is_away),
        WITH(start, the_first_token_clock),
        WITH(start, a_refusal_is_named_also_when_its_body_never_ends),
        WITH(start, settings_are_read_again_on_request),
        WITH(start, draining_finishes_what_runs_and_takes_nothing_more),
        WITH(start_impatient, what_does_not_end_in_time_is_given_back),
        WITH(start_solo, the_solo_child_has_one_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
