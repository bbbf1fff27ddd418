#include "broker/quernctl_ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/role.h"
#include "proto/link.h"

#define REF      1
#define REACH_MS 1900 /* a broker that serves opens a session within milliseconds; the link would log its own words at 2000 */

struct asking {
    struct loop *loop;
    struct link *link;
    struct timer *late;
    msec until;
    bool met; /* it has had a session */
    const struct msg_question *question;
    struct ask_answer *answer;
    bool answered;
    enum err sent;
};

void ask_answer_done(struct ask_answer *answer)
{
    blob_free(&answer->body);
}

static void release_text(char **text)
{
    free(TAKE(*text));
}

/* Every session asks anew: what was asked in one before may be lost. */
static void on_up(void *arg, const struct msg_welcome *welcome, bool new_epoch)
{
    struct asking *a = arg;
    struct msg_question question = *a->question;
    a->met = true;
    timer_set(a->late, a->until);
    question.ref = REF;
    a->sent = link_send(a->link, MESSAGE_QUESTION, &question, NULL);
}

static void on_frame(void *arg, const struct frame *frame)
{
    struct asking *a = arg;
    if (frame->message != MESSAGE_REPLY || frame->reply.ref != REF || a->answered)
        return;
    a->answer->error = err_known(frame->reply.error) ? (enum err)frame->reply.error : ERR_INVALID;
    snprintf(a->answer->detail, sizeof a->answer->detail, "%.*s", SPAN_ARG(frame->reply.detail));
    a->answer->body = frame->body.len ? blob_copy(frame->body) : NULL;
    a->answered = true;
    loop_stop(a->loop);
}

static void on_turn(void *arg)
{
    struct asking *a = arg;
    if (a->link)
        link_turn(a->link);
}

static void on_late(void *arg)
{
    loop_stop(((struct asking *)arg)->loop);
}

/* Over TCP. What is missing is said. */
static enum err read_keys(struct asking *a, const struct ask_options *o, struct link_options *options)
{
    const char *lacks = NULL;
    if (!o->key_file)
        lacks = "over TCP a key is needed: --key FILE (see quernctl keygen)";
    else if (!options->server_keys[0])
        lacks = "over TCP the broker's public key is needed: --broker-key, or broker.public_key in the settings";
    else if (wire_key_read(o->key_file, &options->public_key, &options->secret_key) != ERR_OK)
        lacks = "--key: not a key file of ours that others cannot read";
    if (lacks)
        snprintf(a->answer->detail, sizeof a->answer->detail, "%s", lacks);
    return lacks ? ERR_SETTINGS : ERR_OK;
}

static enum err make_link(struct asking *a, const struct ask_options *o, const char *endpoint)
{
    char host[200] = "", name[256];
    struct link_options options = {.endpoints = endpoint,
                                   .server_keys = o->broker_key ? o->broker_key : o->conf->broker.public_key,
                                   .role = ROLE_MONITOR,
                                   .name = name};
    if (gethostname(host, sizeof host - 1) != 0)
        host[0] = '\0';
    snprintf(name, sizeof name, "quernctl@%s:%d", host, (int)getpid());
    enum err e = strstr(endpoint, "tcp://") ? read_keys(a, o, &options) : ERR_OK;
    struct link_hooks hooks = {.up = on_up, .frame = on_frame, .arg = a};
    if (e == ERR_OK && (e = link_new(a->loop, &options, hooks, &a->link)) == ERR_SETTINGS)
        snprintf(a->answer->detail, sizeof a->answer->detail,
                 "%.300s cannot be asked: one broker key for all endpoints over TCP, or one each (--broker-key)", endpoint);
    explicit_bzero(&options.secret_key, sizeof options.secret_key);
    return e;
}

enum err ask_broker(const struct ask_options *o, const struct msg_question *question, struct ask_answer *ret_answer)
{
    struct asking a = {.question = question, .answer = ret_answer, .until = clock_mono() + o->within_ms};
    *ret_answer = (struct ask_answer){0};
    AUTO(release_text)
    char *endpoint = o->endpoint ? strdup(o->endpoint) : role_endpoint(o->conf, o->conf->broker.monitor, "monitor");
    AUTO(loop_free) struct loop *loop = a.loop = endpoint ? loop_new(on_turn, &a) : NULL;
    if (!loop)
        return ERR_NOMEM;
    AUTO(timer_free) struct timer *late = a.late = timer_new(loop, on_late, &a);
    if (!late)
        return ERR_NOMEM;
    enum err e = make_link(&a, o, endpoint);
    if (e != ERR_OK)
        return e;
    timer_set(late, MIN(a.until, clock_mono() + REACH_MS));
    loop_run(loop);
    link_free(&a.link);
    if (a.answered)
        return ERR_OK;
    snprintf(ret_answer->detail, sizeof ret_answer->detail, "%s at %s",
             a.met ? "no answer in time from the broker" : "no broker serves (none runs, or it starts, or waits as a standby)",
             endpoint);
    return ERR_UNREACHABLE;
}
