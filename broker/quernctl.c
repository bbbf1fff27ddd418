/* quernctl: the command line. It talks to the broker's monitor socket only. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/quernctl_ask.h"
#include "broker/quernctl_show.h"
#include "broker/run.h"
#include "broker/run_redis.h"
#include "common/log.h"
#include "proto/wire.h"

enum exit_code { EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_UNREACHABLE };

#define SETTINGS_MAX  16
#define WITHIN_MS     5000
#define WITHIN_MAX_MS 3600000

struct options {
    const char *settings[SETTINGS_MAX];
    size_t settings_count;
    const char *endpoint, *key_file, *broker_key, *tenant, *queue, *role;
    msec within_ms;
    bool json, result, help;
};

struct command {
    const char *name, *args, *sentence;
    int args_count;
    enum exit_code (*run)(const struct options *o, char **args);
};

static const struct command commands[];

/* ---- asking ---- */

static enum exit_code exit_code_of(enum err error)
{
    switch (error) {
    case ERR_OK:
        return EXIT_OK;
    case ERR_NOT_FOUND:
    case ERR_NOT_LIVE:
    case ERR_FORGOTTEN:
        return EXIT_NOT_FOUND;
    case ERR_UNREACHABLE:
        return EXIT_UNREACHABLE;
    case ERR_SETTINGS:
    case ERR_INVALID:
        return EXIT_USAGE;
    default:
        return EXIT_FAILED;
    }
}

/* Whoever reads JSON finds the error there too. */
static void say_json(const char *code, const char *sentence)
{
    AUTO(json_out_done) struct json_out out = {0};
    json_lit(&out, "{\"error\":{\"code\":");
    json_str(&out, span_str(code));
    json_lit(&out, ",\"message\":");
    json_str(&out, span_str(sentence));
    json_lit(&out, "}}\n");
    if (!out.failed && fwrite(out.data, 1, out.len, stdout) == out.len)
        fflush(stdout);
}

static enum exit_code say(const struct options *o, enum err error, const char *detail)
{
    const char *sentence = detail && detail[0] ? detail : err_sentence(error);
    fprintf(stderr, "quernctl: %s: %s\n", err_name(error), sentence);
    if (o->json)
        say_json(err_name(error), sentence);
    return exit_code_of(error);
}

static enum exit_code print(const struct options *o, struct span body)
{
    AUTO(json_out_done) struct json_out out = {0};
    enum err e = ERR_OK;
    if (body.len)
        e = o->json ? show_json(body, &out) : show_text(body, &out);
    else if (o->json)
        json_lit(&out, "{}\n"); /* done, and there is nothing to show */
    if (e != ERR_OK)
        return say(o, e, "the answer cannot be read");
    if (out.len && fwrite(out.data, 1, out.len, stdout) != out.len)
        return EXIT_FAILED;
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

static enum exit_code ask(const struct options *o, const struct msg_question *question)
{
    AUTO(conf_free) struct conf *conf = NULL;
    struct conf_fault fault = {""};
    AUTO(ask_answer_done) struct ask_answer answer = {0};
    enum err e = conf_load(o->settings, o->settings_count, &conf, &fault);
    if (e != ERR_OK)
        return say(o, e, fault.text);
    struct ask_options options = {conf, o->endpoint, o->key_file, o->broker_key, o->within_ms};
    e = ask_broker(&options, question, &answer);
    if (e != ERR_OK)
        return say(o, e, answer.detail);
    if (answer.error != ERR_OK)
        return say(o, answer.error, answer.detail);
    return print(o, blob_span(answer.body));
}

static enum exit_code run_stats(const struct options *o, char **args)
{
    return ask(o, &(struct msg_question){.question = QUESTION_STATS, .name = span_str(o->tenant)});
}

static enum exit_code run_peers(const struct options *o, char **args)
{
    if (o->role && strcmp(o->role, "api") != 0 && strcmp(o->role, "worker") != 0 && strcmp(o->role, "monitor") != 0)
        return say(o, ERR_INVALID, "--role is one of api, worker, monitor");
    return ask(
        o, &(struct msg_question){.question = QUESTION_WORKERS, .name = span_str(o->role ? o->role : "all"), .limit = 10000});
}

static enum exit_code run_job(const struct options *o, char **args)
{
    struct msg_question question = {.question = QUESTION_JOB, .id = span_str(args[0])};
    if (o->result)
        question.name = span_str("result");
    return ask(o, &question);
}

static enum exit_code run_cancel(const struct options *o, char **args)
{
    return ask(o, &(struct msg_question){.question = QUESTION_CANCEL, .id = span_str(args[0])});
}

/* One of --tenant and --queue. */
static enum exit_code pause_or_resume(const struct options *o, enum question question)
{
    char name[PROTO_NAME_BYTES + 1];
    if (!o->tenant == !o->queue)
        return say(o, ERR_INVALID, "give one of --tenant NAME and --queue NAME");
    int len = snprintf(name, sizeof name, "%s:%s", o->tenant ? "tenant" : "queue", o->tenant ? o->tenant : o->queue);
    if (len >= (int)sizeof name)
        return say(o, ERR_INVALID, "the name is too long");
    return ask(o, &(struct msg_question){.question = question, .name = span_str(name)});
}

static enum exit_code run_pause(const struct options *o, char **args)
{
    return pause_or_resume(o, QUESTION_PAUSE);
}
static enum exit_code run_resume(const struct options *o, char **args)
{
    return pause_or_resume(o, QUESTION_RESUME);
}

static enum exit_code run_drain(const struct options *o, char **args)
{
    return ask(o, &(struct msg_question){.question = QUESTION_DRAIN});
}

static enum exit_code run_reload(const struct options *o, char **args)
{
    return ask(o, &(struct msg_question){.question = QUESTION_RELOAD});
}

/* ---- keys ---- */

static enum exit_code run_keygen(const struct options *o, char **args)
{
    struct wire_key key;
    char why[300];
    errno = 0;
    enum err e = wire_key_make(args[0], &key);
    if (e != ERR_OK) {
        snprintf(why, sizeof why, "%.200s: %s", args[0], errno ? strerror(errno) : err_sentence(e));
        return say(o, e, why);
    }
    if (o->json)
        printf("{\"public_key\":\"%s\"}\n", key.text);
    else
        printf("%s\n", key.text);
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

/* ---- a Redis for the units ---- */

static enum exit_code run_redis(const struct options *o, char **args)
{
    if (args[0][0] != '/')
        return say(o, ERR_INVALID, "redis-setup: the directory must be an absolute path");
    enum err e = run_redis_setup(args[0]);
    return e ? say(o, e, "the files of Redis could not be written") : EXIT_OK;
}

/* ---- help and options ---- */

static void put_help(FILE *out)
{
    fputs("Usage: quernctl [options] COMMAND\n\nCommands:\n", out);
    for (const struct command *c = commands; c->name; c++)
        fprintf(out, "  %-11s %-5s %s\n", c->name, c->args, c->sentence);
    fputs("\nOptions:\n"
          "  --settings FILE   read settings; given again, later files win over earlier ones\n"
          "  --endpoint ADDR   the monitor socket, or several parted by commas; default: broker.monitor of the settings\n"
          "  --key FILE        our CURVE key, needed over TCP\n"
          "  --broker-key KEY  over TCP: the broker's public key; default: broker.public_key of the settings\n"
          "  --within MS       how long to wait for the answer; default 5000. Nobody there is said after 2000\n"
          "  --json            print JSON, errors too\n"
          "  --result          job: its result too\n"
          "  --tenant NAME     stats, pause, resume: of this tenant\n"
          "  --queue NAME      pause, resume: this queue\n"
          "  --role ROLE       peers: api, worker or monitor only\n"
          "  --help            print this\n"
          "\n"
          "Exit codes: 0 done; 1 failed; 2 usage or settings; 3 no such job; 4 the broker does not answer.\n",
          out);
}

static enum exit_code run_help(const struct options *o, char **args)
{
    put_help(stdout);
    return EXIT_OK;
}

static const struct command commands[] = {
    {"stats", "", "every number of the broker, its store and its peers", 0, run_stats},
    {"job", "ID", "state, reason, attempts and times of one job", 1, run_job},
    {"peers", "", "sessions of api, worker and monitor processes", 0, run_peers},
    {"cancel", "ID", "cancel a job", 1, run_cancel},
    {"pause", "", "start no more jobs of a tenant or a queue", 0, run_pause},
    {"resume", "", "start them again", 0, run_resume},
    {"reload", "", "read the settings again, here and in every peer", 0, run_reload},
    {"drain", "", "stop the broker once everything is stored", 0, run_drain},
    {"keygen", "FILE", "make a CURVE key pair; prints the public key", 1, run_keygen},
    {"redis-setup", "DIR", "write redis.conf and users of a private Redis into DIR, unless they are there", 1, run_redis},
    {"run", "...", "run everything on this machine; see quernctl run --help", 0, NULL},
    {"help", "", "print this", 0, run_help},
    {NULL, NULL, NULL, 0, NULL},
};

static bool read_ms(const char *text, msec *ret_ms)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value <= 0 || value > WITHIN_MAX_MS)
        return false;
    *ret_ms = value;
    return true;
}

static bool read_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"settings", required_argument, NULL, 's'}, {"endpoint", required_argument, NULL, 'e'},
        {"key", required_argument, NULL, 'k'},      {"broker-key", required_argument, NULL, 'b'},
        {"within", required_argument, NULL, 'w'},   {"json", no_argument, NULL, 'j'},
        {"result", no_argument, NULL, 'r'},         {"tenant", required_argument, NULL, 't'},
        {"queue", required_argument, NULL, 'q'},    {"role", required_argument, NULL, 'R'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0}};
    o->within_ms = WITHIN_MS;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (c) {
        case 's':
            if (o->settings_count == SETTINGS_MAX)
                return false;
            o->settings[o->settings_count++] = optarg;
            break;
        case 'e':
            o->endpoint = optarg;
            break;
        case 'k':
            o->key_file = optarg;
            break;
        case 'b':
            o->broker_key = optarg;
            break;
        case 'w':
            if (!read_ms(optarg, &o->within_ms))
                return false;
            break;
        case 't':
            o->tenant = optarg;
            break;
        case 'q':
            o->queue = optarg;
            break;
        case 'R':
            o->role = optarg;
            break;
        case 'j':
            o->json = true;
            break;
        case 'r':
            o->result = true;
            break;
        case 'h':
            o->help = true;
            break;
        default:
            return false;
        }
    }
    return true;
}

static const struct command *find(const char *name)
{
    for (const struct command *c = commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static enum exit_code usage(const struct options *o, const char *why)
{
    fprintf(stderr, "quernctl: %s; see quernctl help\n", why);
    if (o->json)
        say_json("usage", why);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct options o = {0};
    log_start("quernctl");
    if (argc > 1 && strcmp(argv[1], "run") == 0)
        return run_main(argc - 1, argv + 1);
    log_level(4); /* a person asked one thing: sessions that come and go are no news */
    if (!read_options(argc, argv, &o))
        return usage(&o, "the options are not understood");
    if (o.help)
        return (int)run_help(&o, NULL);
    if (optind >= argc)
        return usage(&o, "a command is needed");
    const struct command *command = find(argv[optind]);
    if (!command || !command->run)
        return usage(&o, "there is no such command");
    if (argc - optind - 1 != command->args_count)
        return usage(&o, command->args_count ? "this command takes one argument" : "this command takes no argument");
    return (int)command->run(&o, argv + optind + 1);
}
