#include "broker/port_monitor.h"

#include <stdio.h>
#include <stdlib.h>

#include "broker/pack.h"
#include "common/log.h"
#include "common/role.h"

#define ASKED_MAX    64 /* questions of one monitor that wait for an answer */
#define COUNTERS_MAX 1024

/* A question about a job, on its way through the store and perhaps the core. */
struct asked {
    UT_hash_handle hh;
    uint64_t number; /* the ref that the core sees */
    struct port_monitor *port;
    peer_number peer;
    uint64_t ref; /* the monitor's */
    struct id id;
    uint8_t question;
    bool with_result;
};

struct monitor_peer {
    struct peer peer;
    unsigned asked_count;
};

struct port_monitor {
    struct broker *broker;
    struct port *port;
    struct wire *feed;
    struct asked *asked;
    uint64_t asked_made, seq;
    struct frame_buffer buffer;
};

static struct monitor_peer *monitor_of(struct peer *peer)
{
    return CONTAINER_OF(peer, struct monitor_peer, peer);
}

/* ---- replies ---- */

static void reply(struct peer *peer, uint64_t ref, enum err error, const char *detail, const struct pack *pack)
{
    struct msg_reply fields = {.ref = ref, .error = (uint16_t)error, .detail = span_str(detail)};
    AUTO(blob_free) struct blob *body = pack ? pack_blob(pack) : NULL;
    if (pack && !body)
        fields.error = ERR_NOMEM;
    (void)port_send(peer, MESSAGE_REPLY, &fields, body);
}

static void refuse(struct peer *peer, uint64_t ref, enum err error)
{
    reply(peer, ref, error, err_sentence(error), NULL);
}

static void pack_id(struct pack *pack, const char *key, const struct id *id)
{
    char text[ID_TEXT_LEN + 1];
    id_print(id, text);
    pack_string(pack, key, text);
}

static void pack_attempts(struct pack *pack, const struct rec_attempt *list, uint32_t count)
{
    pack_key(pack, "attempts");
    pack_list(pack, count);
    for (uint32_t i = 0; i < count; i++) {
        pack_map(pack, 9);
        pack_number(pack, "run", list[i].run);
        pack_instant(pack, "started_at", list[i].started_at);
        pack_instant(pack, "ended_at", list[i].ended_at);
        pack_string(pack, "kind", kind_name(list[i].kind));
        pack_number(pack, "http_status", list[i].http_status);
        pack_number(pack, "first_token_ms", list[i].first_token_ms);
        pack_span(pack, "worker", list[i].worker);
        pack_span(pack, "deployment", list[i].deployment);
        pack_span(pack, "message", list[i].message);
    }
}

static void pack_view(struct pack *pack, const struct id *id, const struct rec_view *view)
{
    pack_map(pack, 15);
    pack_id(pack, "id", id);
    pack_flag(pack, "live", true);
    pack_string(pack, "state", state_name(view->state));
    pack_string(pack, "reason", reason_name(view->reason));
    pack_number(pack, "progress", view->progress);
    pack_number(pack, "priority", view->priority);
    pack_string(pack, "class", class_name(view->class));
    pack_span(pack, "queue", view->queue);
    pack_instant(pack, "created_at", view->created_at);
    pack_instant(pack, "started_at", view->started_at);
    pack_instant(pack, "retry_at", view->retry_at);
    pack_number(pack, "run", view->run);
    pack_number(pack, "attempt", view->attempt);
    pack_number(pack, "max_attempts", view->max_attempts);
    pack_attempts(pack, view->attempts, view->attempts_count);
}

static void pack_usage(struct pack *pack, const struct rec_usage *usage)
{
    pack_key(pack, "usage");
    pack_map(pack, 4);
    pack_number(pack, "input_tokens", usage->input_tokens);
    pack_number(pack, "output_tokens", usage->output_tokens);
    pack_number(pack, "cached_tokens", usage->cached_tokens);
    pack_string(pack, "source", usage_name(usage->source));
}

static void pack_ended(struct pack *pack, const struct id *id, const struct rec_ended *ended, struct span body,
                       bool with_result)
{
    struct span result = {0};
    if (with_result && (uint64_t)ended->display_bytes + ended->result_bytes <= body.len)
        result = span_of(body.data + ended->display_bytes, ended->result_bytes);
    pack_map(pack, with_result ? 19 : 18);
    pack_id(pack, "id", id);
    pack_flag(pack, "live", false);
    pack_string(pack, "state", state_name(ended->state));
    pack_span(pack, "tenant", ended->spec.tenant);
    pack_span(pack, "queue", ended->spec.queue);
    pack_number(pack, "priority", ended->spec.priority);
    pack_string(pack, "class", class_name(ended->spec.class));
    pack_instant(pack, "created_at", ended->created_at);
    pack_instant(pack, "started_at", ended->started_at);
    pack_instant(pack, "completed_at", ended->completed_at);
    pack_number(pack, "run", ended->run);
    pack_number(pack, "attempt", ended->attempt);
    pack_string(pack, "kind", kind_name(ended->kind));
    pack_number(pack, "http_status", ended->http_status);
    pack_span(pack, "message", ended->message);
    pack_span(pack, "deployment", ended->deployment);
    pack_usage(pack, &ended->usage);
    if (with_result)
        pack_span(pack, "result", result);
    pack_attempts(pack, ended->attempts, ended->attempts_count);
}

/* ---- questions answered at once ---- */

static void answer_stats(struct port_monitor *p, struct peer *peer, const struct msg_question *q)
{
    struct rec_counter counters[COUNTERS_MAX];
    uint32_t count = broker_counters(p->broker, q->name, counters, COUNTERS_MAX);
    struct pack pack;
    pack_init(&pack);
    pack_map(&pack, 7);
    pack_string(&pack, "version", QUERN_VERSION);
    pack_number(&pack, "shard", broker_facts(p->broker)->shard);
    pack_number(&pack, "epoch", broker_facts(p->broker)->epoch);
    pack_instant(&pack, "now", broker_now(p->broker));
    pack_string(&pack, "ack", ack_name(broker_ack(p->broker)));
    pack_flag(&pack, "stalled", store_is_stalled(broker_store(p->broker)));
    pack_key(&pack, "numbers");
    pack_map(&pack, count);
    for (uint32_t i = 0; i < count; i++) {
        pack_text(&pack, counters[i].name);
        msgpack_pack_uint64(&pack.packer, counters[i].value);
    }
    reply(peer, q->ref, ERR_OK, "", &pack);
    pack_done(&pack);
}

struct listing {
    struct port_monitor *port;
    struct pack *pack;
    uint32_t count, left;
    const char *role;
};

static bool count_peer(void *arg, const struct peer *peer, const char *role)
{
    struct listing *l = arg;
    l->count += !l->role || strcmp(l->role, role) == 0;
    return true;
}

static bool pack_peer(void *arg, const struct peer *peer, const char *role)
{
    struct listing *l = arg;
    if (l->role && strcmp(l->role, role) != 0)
        return true;
    if (!l->left--)
        return false;
    msec now = loop_now(broker_loop(l->port->broker));
    pack_map(l->pack, 7);
    pack_number(l->pack, "number", peer->number);
    pack_string(l->pack, "role", role);
    pack_string(l->pack, "name", peer->name);
    pack_number(l->pack, "heard_ms", (uint64_t)MAX(now - peer->heard_at, 0));
    pack_number(l->pack, "received_bytes", peer->received);
    pack_number(l->pack, "sent_bytes", peer->sent);
    pack_number(l->pack, "unacked_bytes", peer_unacked(peer));
    return true;
}

/* name: a role, or empty for all. */
static void answer_workers(struct port_monitor *p, struct peer *peer, const struct msg_question *q)
{
    struct pack pack;
    char role[16];
    struct listing l = {p, &pack, 0, 0, NULL};
    snprintf(role, sizeof role, "%.*s", (int)MIN(q->name.len, sizeof role - 1), q->name.len ? (const char *)q->name.data : "");
    l.role = role[0] ? role : "worker";
    if (strcmp(l.role, "all") == 0)
        l.role = NULL;
    broker_each_peer(p->broker, count_peer, &l);
    l.left = l.count = MIN(l.count, q->limit ? q->limit : 100);
    pack_init(&pack);
    pack_map(&pack, 1);
    pack_key(&pack, "peers");
    pack_list(&pack, l.count);
    broker_each_peer(p->broker, pack_peer, &l);
    reply(peer, q->ref, ERR_OK, "", &pack);
    pack_done(&pack);
}

/* ---- questions about one job ---- */

static struct asked *asked_find(struct port_monitor *p, uint64_t number)
{
    struct asked *a;
    HASH_FIND(hh, p->asked, &number, sizeof number, a);
    return a;
}

/* Its peer, NULL when that has gone. */
static struct peer *asked_end(struct asked *a)
{
    struct peer *peer = broker_peer(a->port->broker, a->peer);
    HASH_DELETE(hh, a->port->asked, a);
    if (peer)
        monitor_of(peer)->asked_count--;
    free(a);
    return peer;
}

static void asked_refuse(struct asked *a, enum err error)
{
    uint64_t ref = a->ref;
    struct peer *peer = asked_end(a);
    if (peer)
        refuse(peer, ref, error);
}

static void asked_ended(struct asked *a, const struct store_answer *answer)
{
    uint64_t ref = a->ref;
    struct id id = a->id;
    bool with_result = a->with_result;
    struct peer *peer = asked_end(a);
    struct pack pack;
    if (!peer)
        return;
    pack_init(&pack);
    pack_ended(&pack, &id, answer->ended, blob_span(answer->body), with_result);
    reply(peer, ref, ERR_OK, "", &pack);
    pack_done(&pack);
}

/* The core shows a job only to its tenant; the record in the store says who that is. Its ANSWER comes as an effect. */
static void ask_core(struct asked *a, struct span tenant)
{
    struct port_monitor *p = a->port;
    uint64_t number = a->number;
    struct msg_ask ask = {.ref = number, .id = a->id, .tenant = tenant};
    struct msg_cancel cancel = {.ref = number, .id = a->id, .tenant = tenant};
    struct input in = {.type = INPUT_ASK, .peer = a->peer, .ask = &ask};
    if (a->question == QUESTION_CANCEL)
        in = (struct input){.type = INPUT_CANCEL, .peer = a->peer, .cancel = &cancel};
    if (broker_step(p->broker, &in) != ERR_OK && (a = asked_find(p, number)))
        asked_refuse(a, ERR_NOMEM);
}

static void on_stored_job(void *arg, const struct lookup_key *key, const struct store_answer *answer)
{
    struct asked *a = arg;
    if (answer->status == STORE_UNKNOWN)
        asked_refuse(a, ERR_STORE);
    else if (answer->status == STORE_ABSENT)
        asked_refuse(a, ERR_NOT_FOUND);
    else if (answer->job)
        ask_core(a, answer->job->spec.tenant);
    else if (a->question == QUESTION_CANCEL)
        asked_refuse(a, ERR_ENDED);
    else
        asked_ended(a, answer);
}

static void ask_job(struct port_monitor *p, struct peer *peer, const struct msg_question *q)
{
    struct id id;
    if (id_parse(q->id, &id) != ERR_OK) {
        refuse(peer, q->ref, ERR_INVALID);
        return;
    }
    struct asked *a = monitor_of(peer)->asked_count < ASKED_MAX ? calloc(1, sizeof *a) : NULL;
    if (!a) {
        refuse(peer, q->ref, ERR_OVERLOADED);
        return;
    }
    *a = (struct asked){.number = ++p->asked_made,
                        .port = p,
                        .peer = peer->number,
                        .ref = q->ref,
                        .id = id,
                        .question = q->question,
                        .with_result = span_is(q->name, "result")};
    HASH_ADD(hh, p->asked, number, sizeof a->number, a);
    monitor_of(peer)->asked_count++;
    struct lookup_key key = {.kind = LOOKUP_ANY, .id = id};
    if (store_ask(broker_store(p->broker), &key, on_stored_job, a) != ERR_OK)
        asked_refuse(a, ERR_NOMEM);
}

enum err port_monitor_parcel(struct port_monitor *p, struct peer *peer, const struct effect *effect, struct parcel **ret_parcel)
{
    struct asked *a = asked_find(p, effect->answer.ref);
    uint64_t ref = a ? a->ref : 0;
    if (!a)
        return ERR_NOT_FOUND;
    asked_end(a);
    struct pack pack;
    AUTO(frame_buffer_done) struct frame_buffer header = {0};
    enum err error = err_known(effect->answer.error) ? (enum err)effect->answer.error : ERR_INVALID;
    struct msg_reply fields = {.ref = ref, .error = (uint16_t)error, .detail = span_str(error ? err_sentence(error) : "")};
    pack_init(&pack);
    pack_view(&pack, &effect->answer.id, &effect->answer.view);
    AUTO(blob_free) struct blob *body = pack_blob(&pack);
    pack_done(&pack);
    enum err e = port_encode(peer, MESSAGE_REPLY, &fields, &header);
    struct parcel *parcel = e == ERR_OK && body ? calloc(1, sizeof *parcel + header.len) : NULL;
    if (!parcel)
        return e != ERR_OK ? e : ERR_NOMEM;
    list_init(&parcel->node);
    parcel->type = effect->type;
    parcel->peer = effect->peer;
    parcel->body = TAKE(body);
    parcel->bytes = sizeof *parcel + header.len + parcel->body->len;
    parcel->message = MESSAGE_REPLY;
    parcel->header_len = header.len;
    memcpy(parcel->text, header.data, header.len);
    *ret_parcel = parcel;
    return ERR_OK;
}

void port_monitor_deliver(struct port_monitor *p, struct peer *peer, struct parcel **parcel_ptr)
{
    AUTO(parcel_free) struct parcel *parcel = TAKE(*parcel_ptr);
    if (peer && !peer->closed)
        (void)port_send_encoded(peer, parcel->message, span_of(parcel->text, parcel->header_len), parcel->body);
}

/* ---- acts: over ipc only, whose directory is the admin's own ---- */

static void pause_jobs(struct port_monitor *p, struct peer *peer, const struct msg_question *q)
{
    /* name: "tenant:NAME" or "queue:NAME" */
    struct input in = {.type = INPUT_PAUSE, .pause = {.on = q->question == QUESTION_PAUSE}};
    if (q->name.len > 7 && memcmp(q->name.data, "tenant:", 7) == 0) {
        in.pause.tenant = span_of(q->name.data + 7, q->name.len - 7);
    } else if (q->name.len > 6 && memcmp(q->name.data, "queue:", 6) == 0) {
        in.pause.queue = span_of(q->name.data + 6, q->name.len - 6);
    } else {
        refuse(peer, q->ref, ERR_INVALID);
        return;
    }
    refuse(peer, q->ref, broker_step(p->broker, &in));
}

static void act(struct port_monitor *p, struct peer *peer, const struct msg_question *q)
{
    if (peer->key[0]) {
        refuse(peer, q->ref, ERR_FORBIDDEN);
        return;
    }
    switch (q->question) {
    case QUESTION_CANCEL:
        ask_job(p, peer, q);
        return;
    case QUESTION_PAUSE:
    case QUESTION_RESUME:
        pause_jobs(p, peer, q);
        return;
    case QUESTION_DRAIN:
        refuse(peer, q->ref, ERR_OK);
        broker_drain(p->broker);
        return;
    case QUESTION_RELOAD:
        refuse(peer, q->ref, broker_ask_reload(p->broker));
        return;
    default:
        reply(peer, q->ref, ERR_NOT_FOUND, "this broker does not know that act", NULL);
    }
}

/* ---- frames ---- */

static void on_question(struct port_monitor *p, struct peer *peer, const struct msg_question *q)
{
    switch (q->question) {
    case QUESTION_STATS:
        answer_stats(p, peer, q);
        return;
    case QUESTION_WORKERS:
        answer_workers(p, peer, q);
        return;
    case QUESTION_JOB:
        ask_job(p, peer, q);
        return;
    default:
        if (q->question >= QUESTION_CANCEL)
            act(p, peer, q);
        else
            reply(peer, q->ref, ERR_NOT_FOUND, "this broker does not answer that question", NULL);
    }
}

static void on_frame(void *arg, struct peer *peer, const struct frame *frame)
{
    struct port_monitor *p = arg;
    struct sched_stats core;
    struct msg_heartbeat_ack ack = {.now = broker_now(p->broker), .stalled = store_is_stalled(broker_store(p->broker))};
    if (frame->message == MESSAGE_QUESTION)
        on_question(p, peer, &frame->question);
    if (frame->message != MESSAGE_HEARTBEAT)
        return;
    sched_stats(broker_sched(p->broker), &core);
    ack.workers = (uint32_t)core.workers;
    (void)port_send(peer, MESSAGE_HEARTBEAT_ACK, &ack, NULL);
}

/* The core does not know monitors: they hold nothing that ends with them. */
static enum err on_opened(void *arg, struct peer *peer, const struct msg_hello *hello)
{
    struct port_monitor *p = arg;
    struct sched_stats core;
    sched_stats(broker_sched(p->broker), &core);
    struct msg_welcome welcome = {.ack = (uint8_t)broker_ack(p->broker),
                                  .stalled = store_is_stalled(broker_store(p->broker)),
                                  .workers = (uint32_t)core.workers};
    port_fill_welcome(p->port, &welcome);
    enum err e = port_encode(peer, MESSAGE_WELCOME, &welcome, &p->buffer);
    if (e == ERR_OK)
        e = port_send_welcome(peer, span_of(p->buffer.data, p->buffer.len));
    if (e == ERR_OK)
        port_monitor_snapshot(p);
    return e;
}

static void on_closed(void *arg, struct peer *peer, bool bye, bool replaced) {}

/* ---- the feed ---- */

void port_monitor_turn(struct port_monitor *p)
{
    wire_turn(p->feed);
}

static void publish(struct port_monitor *p, enum message message, const void *fields)
{
    if (frame_encode(message, fields, broker_facts(p->broker)->epoch, 0, &p->buffer) == ERR_OK) {
        enum err e = wire_send(p->feed, NULL, span_of(p->buffer.data, p->buffer.len), NULL);
        (void)e; /* who missed it sees the gap in the numbers */
    }
}

void port_monitor_change(struct port_monitor *p, const struct msg_change *change)
{
    p->seq++;
    if (!change || !port_peers(p->port))
        return;
    struct msg_change numbered = *change;
    numbered.seq = p->seq;
    publish(p, MESSAGE_CHANGE, &numbered);
}

void port_monitor_snapshot(struct port_monitor *p)
{
    struct rec_counter counters[COUNTERS_MAX];
    struct msg_snapshot snapshot = {.seq = p->seq, .at = broker_now(p->broker), .counters = counters};
    if (!port_peers(p->port))
        return;
    snapshot.counters_count = broker_counters(p->broker, (struct span){0}, counters, COUNTERS_MAX);
    publish(p, MESSAGE_SNAPSHOT, &snapshot);
}

/* ---- life ---- */

static void release_text(char **text)
{
    free(TAKE(*text));
}

static enum err open_feed(struct port_monitor *p, const struct conf *conf)
{
    AUTO(release_text) char *endpoint = role_endpoint(conf, conf->broker.feed, "feed");
    struct wire_options options = {.kind = WIRE_PUB, .endpoint = endpoint, .bind = true};
    if (!endpoint)
        return ERR_NOMEM;
    struct wire_key *keys = NULL;
    enum err e = port_keys(conf, ROLE_MONITOR, &keys, &options.allowed_count);
    options.allowed = keys;
    if (e == ERR_OK && strncmp(endpoint, "tcp://", 6) == 0)
        e = wire_key_read(conf->broker.key_file, &options.public_key, &options.secret_key);
    if (e == ERR_OK)
        e = wire_new(broker_loop(p->broker), &options, (struct wire_hooks){.stranger = port_stranger, .arg = p->port},
                     &p->feed);
    if (e != ERR_OK)
        log_event(LOG_FATAL, "what=bind endpoint=%s error=%s", log_str(span_str(endpoint)), err_name(e));
    explicit_bzero(&options.secret_key, sizeof options.secret_key);
    free(keys);
    return e;
}

enum err port_monitor_allow(struct port_monitor *p, const struct conf *conf)
{
    struct wire_key *keys = NULL;
    size_t count;
    enum err e = port_keys(conf, ROLE_MONITOR, &keys, &count);
    if (e == ERR_OK)
        e = wire_allow(p->feed, keys, count);
    free(keys);
    return e == ERR_OK ? port_allow(p->port, conf) : e;
}

enum err port_monitor_new(struct broker *broker, struct port_stats *stats, struct port_monitor **ret_port)
{
    AUTO(port_monitor_free) struct port_monitor *p = calloc(1, sizeof *p);
    if (!p)
        return ERR_NOMEM;
    p->broker = broker;
    struct port_hooks hooks = {ROLE_MONITOR, sizeof(struct monitor_peer), on_opened, on_frame, on_closed, p};
    enum err e = port_new(broker, broker_conf(broker)->broker.monitor, "monitor", hooks, stats, &p->port);
    if (e == ERR_OK)
        e = open_feed(p, broker_conf(broker));
    if (e == ERR_OK)
        *ret_port = TAKE(p);
    return e;
}

void port_monitor_free(struct port_monitor **port)
{
    struct port_monitor *p = TAKE(*port);
    if (!p)
        return;
    struct asked *a, *after;
    HASH_ITER(hh, p->asked, a, after)
    {
        HASH_DELETE(hh, p->asked, a);
        free(a);
    }
    port_free(&p->port);
    wire_free(&p->feed);
    frame_buffer_done(&p->buffer);
    free(p);
}

struct port *port_monitor_port(struct port_monitor *p)
{
    return p->port;
}
