/* Settings: layers, bounds, places of faults, what must hold between settings, the dump. Run from the root of the tree. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/conf_rows.h"
#include "common/json.h"
#include "common/role.h"

#define KEY_A "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
#define KEY_B "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"

static char dir[64]; /* of the running test */

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/quern-test-conf-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

static const char *path_of(const char *name)
{
    static char paths[4][128];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, 128, "%s/%s", dir, name);
    return path;
}

static const char *write_file(const char *name, struct span text)
{
    const char *path = path_of(name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text.data, 1, text.len, f), text.len);
    assert_int_equal(fclose(f), 0);
    return path;
}

static struct conf *load(const char *const *paths, size_t count)
{
    struct conf *conf = NULL;
    struct conf_fault fault = {""};
    if (conf_load(paths, count, &conf, &fault))
        fail_msg("%s", fault.text);
    return conf;
}

static struct conf *load_text(const char *text)
{
    const char *path = write_file("a.yaml", span_str(text));
    return load(&path, 1);
}

static void expect_fault(struct span text, const char *expected)
{
    const char *path = write_file("a.yaml", text);
    struct conf *conf = NULL;
    struct conf_fault fault = {""};
    assert_int_equal(conf_load(&path, 1, &conf, &fault), ERR_SETTINGS);
    assert_null(conf);
    const char *found = strncmp(fault.text, dir, strlen(dir)) == 0 ? fault.text + strlen(dir) + 1 : fault.text;
    assert_string_equal(found, expected);
}

static void refuses(const char *text, const char *expected)
{
    expect_fault(span_str(text), expected);
}

static void test_defaults(void **state)
{
    AUTO(conf_free) struct conf *conf = load(NULL, 0);
    assert_int_equal(conf->api.port, 8080);
    assert_string_equal(conf->api.host, "127.0.0.1");
    assert_string_equal(conf->quern.state_dir, "var");
    assert_int_equal(conf->broker.bytes_max, 4294967296);
    assert_true(conf->worker.http);
    assert_false(conf->redis.tls);
    assert_int_equal(conf->deployments_count, 1);
    assert_string_equal(conf->deployments[0].name, "echo");
    assert_string_equal(conf->deployments[0].provider, "echo");
    assert_string_equal(conf->deployments[0].model, "");
    assert_int_equal(conf->routes_count, 1);
    assert_string_equal(conf->routes[0].name, "*");
    assert_int_equal(conf->routes[0].deployments_count, 1);
    assert_string_equal(conf->routes[0].deployments[0], "echo");
    assert_int_equal(conf->credentials_count, 0);
    assert_int_equal(conf->peers_count, 0);
}

/* Every default lies within its own bounds, and every form has a check. */
static void test_the_table(void **state)
{
    for (unsigned s = 0; s < CONF_SECTIONS; s++) {
        struct conf_section section = conf_section(s);
        for (size_t i = 0; i < section.rows.count; i++) {
            const struct conf_row *row = &section.rows.at[i];
            assert_true(row->sentence[strlen(row->sentence) - 1] == '.');
            if (row->kind == CONF_COUNT)
                assert_true(row->min <= row->count && row->count <= row->max);
            if (row->kind == CONF_TEXT)
                assert_null(conf_form_check(row->unit, row->text));
        }
    }
    for (unsigned l = 0; l < CONF_LISTS; l++) {
        struct conf_list list = conf_list(l);
        for (size_t i = 0; i < list.rows.count; i++)
            if (list.rows.at[i].kind == CONF_TEXT)
                assert_null(conf_form_check(list.rows.at[i].unit, ""));
    }
}

static void test_a_file(void **state)
{
    AUTO(conf_free)
    struct conf *conf = load_text("api:\n"
                                  "  port: 9000\n"
                                  "  host: '::1'\n"
                                  "redis: {allow_unsafe: yes, replicas: 2}\n"
                                  "worker:\n"
                                  "  http: off\n"
                                  "broker:\n"
                                  "deployments:\n"
                                  "  - name: a\n"
                                  "    provider: openai\n"
                                  "    model: gpt-4o\n"
                                  "    credential: one\n"
                                  "    concurrency: 8\n"
                                  "  - {name: b, provider: echo}\n"
                                  "routes:\n"
                                  "  - name: \"llama3:8b\"\n"
                                  "    deployments: [b, a]\n"
                                  "credentials:\n"
                                  "  - name: one\n"
                                  "    base_url: https://api.example.com/v1\n"
                                  "    key_file: /run/keys/one\n"
                                  "peers:\n"
                                  "  - {name: w1, public_key: '" KEY_A "', role: worker}\n");
    assert_int_equal(conf->api.port, 9000);
    assert_string_equal(conf->api.host, "::1");
    assert_int_equal(conf->api.children, 2);
    assert_true(conf->redis.allow_unsafe);
    assert_int_equal(conf->redis.replicas, 2);
    assert_false(conf->worker.http);
    assert_int_equal(conf->deployments_count, 2);
    assert_string_equal(conf->deployments[0].model, "gpt-4o");
    assert_int_equal(conf->deployments[0].concurrency, 8);
    assert_string_equal(conf->deployments[1].credential, "");
    assert_int_equal(conf->deployments[1].concurrency, 0);
    assert_int_equal(conf->routes_count, 1);
    assert_string_equal(conf->routes[0].name, "llama3:8b");
    assert_string_equal(conf->routes[0].deployments[1], "a");
    assert_string_equal(conf->credentials[0].key_file, "/run/keys/one");
    assert_string_equal(conf->peers[0].public_key, KEY_A);
}

static void test_empty_files(void **state)
{
    static const char *const texts[] = {
        "", "\n\n", "# nothing\n", "---\n", "---\n...\n", "api:\n", "api:\n  # port: 1\nroutes:\n"};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        AUTO(conf_free) struct conf *conf = load_text(texts[i]);
        assert_int_equal(conf->api.port, 8080);
        assert_int_equal(conf->routes_count, 1);
    }
}

static void test_later_files_win(void **state)
{
    const char *paths[] = {write_file("a.yaml", span_str("api: {port: 1, children: 7}\n"
                                                         "broker: {name: first}\n"
                                                         "deployments: [{name: a, provider: echo, concurrency: 3},\n"
                                                         "              {name: b, provider: echo}]\n"
                                                         "routes: [{name: x, deployments: [a]}]\n")),
                           write_file("b.yaml", span_str("api: {port: 2}\n"
                                                         "broker: {name: ''}\n"
                                                         "deployments: [{name: a, provider: echo}]\n"))};
    AUTO(conf_free) struct conf *conf = load(paths, 2);
    assert_int_equal(conf->api.port, 2);
    assert_int_equal(conf->api.children, 7);
    assert_string_equal(conf->broker.name, "");
    assert_int_equal(conf->deployments_count, 1);
    assert_int_equal(conf->deployments[0].concurrency, 0);
    assert_string_equal(conf->routes[0].name, "x");
}

static void test_a_fault_names_the_file_that_gave_the_value(void **state)
{
    const char *paths[] = {write_file("a.yaml", span_str("\n\ndeployments: [{name: a, provider: echo}]\n")),
                           write_file("b.yaml", span_str("routes:\n  - name: x\n    deployments:\n      - a\n      - gone\n"))};
    struct conf *conf = NULL;
    struct conf_fault fault;
    assert_int_equal(conf_load(paths, 2, &conf, &fault), ERR_SETTINGS);
    assert_string_equal(fault.text + strlen(dir) + 1, "b.yaml:5: routes[0].deployments[1]: there is no deployment \"gone\"");

    paths[1] = write_file("b.yaml", span_str("deployments: []\nroutes: [{name: x, deployments: [a]}]\n"));
    assert_int_equal(conf_load(paths, 2, &conf, &fault), ERR_SETTINGS);
    assert_string_equal(fault.text + strlen(dir) + 1, "b.yaml:2: routes[0].deployments[0]: there is no deployment \"a\"");
}

static void test_lists_left_out_or_empty(void **state)
{
    AUTO(conf_free) struct conf *named = load_text("deployments: [{name: b, provider: echo}, {name: a, provider: echo}]\n");
    assert_int_equal(named->routes_count, 1);
    assert_string_equal(named->routes[0].name, "*");
    assert_int_equal(named->routes[0].deployments_count, 2);
    assert_string_equal(named->routes[0].deployments[0], "b");
    AUTO(conf_free) struct conf *none = load_text("deployments: []\n");
    assert_int_equal(none->deployments_count, 0);
    assert_int_equal(none->routes_count, 0);
    AUTO(conf_free) struct conf *no_routes = load_text("routes: []\n");
    assert_int_equal(no_routes->deployments_count, 1);
    assert_int_equal(no_routes->routes_count, 0);
}

static void test_the_environment_wins(void **state)
{
    setenv("QUERN_API_PORT", "9999", 1);
    setenv("QUERN_QUERN_STATE_DIR", "/tmp/elsewhere", 1);
    setenv("QUERN_REDIS_TLS", "true", 1);
    setenv("QUERN_API_SERVICE_HOST", "10.0.0.1", 1); /* not ours */
    {
        AUTO(conf_free) struct conf *conf = load_text("api: {port: 9000}\n");
        assert_int_equal(conf->api.port, 9999);
        assert_string_equal(conf->quern.state_dir, "/tmp/elsewhere");
        assert_true(conf->redis.tls);
    }
    setenv("QUERN_API_PORT", "70000", 1);
    refuses("api: {port: 9000}\n", "QUERN_API_PORT: api.port: 70000 is above 65535");
    setenv("QUERN_API_PORT", "tcp://10.0.0.1:80", 1);
    refuses("", "QUERN_API_PORT: api.port: not a whole number");
    setenv("QUERN_API_PORT", "", 1);
    refuses("", "QUERN_API_PORT: api.port: not a whole number");
    unsetenv("QUERN_API_PORT");
    setenv("QUERN_QUERN_STATE_DIR", "", 1);
    refuses("", "QUERN_QUERN_STATE_DIR: quern.state_dir: it must be given");
    setenv("QUERN_QUERN_STATE_DIR", "a\nb", 1);
    refuses("", "QUERN_QUERN_STATE_DIR: quern.state_dir: has a control character");
    setenv("QUERN_QUERN_STATE_DIR", "a\xFF", 1);
    refuses("", "QUERN_QUERN_STATE_DIR: quern.state_dir: not valid UTF-8");
    unsetenv("QUERN_QUERN_STATE_DIR");
    unsetenv("QUERN_REDIS_TLS");
    unsetenv("QUERN_API_SERVICE_HOST");
}

static void test_unknown_and_doubled_names(void **state)
{
    refuses("api:\n  port: 1\n\n  prot: 2\n", "a.yaml:4: api.prot: there is no such setting");
    refuses("apo:\n  port: 1\n", "a.yaml:1: apo: there is no such section");
    refuses("api: {port: 1}\nroutes: []\napi: {port: 2}\n", "a.yaml:3: api: the section is given twice");
    refuses("api:\n  port: 1\n  port: 2\n", "a.yaml:3: api.port: the setting is given twice");
    refuses("deployments:\n  - name: a\n    provider: echo\n    url: x\n",
            "a.yaml:4: deployments[0].url: there is no such setting");
    refuses("api: {\"p\\u001b[31m\": 2}\n", "a.yaml:1: api.p?[31m: there is no such setting");
    refuses("api: {\"port\\0x\": 2}\n", "a.yaml:1: api.port?x: there is no such setting");
    refuses("<<: {port: 1}\n", "a.yaml:1: <<: there is no such section");
}

static void test_wrong_kinds(void **state)
{
    refuses("api: 7\n", "a.yaml:1: api: settings with names are expected here");
    refuses("api: [1]\n", "a.yaml:1: api: settings with names are expected here");
    refuses("api: ''\n", "a.yaml:1: api: settings with names are expected here");
    refuses("api:\n  port:\n    x: 1\n", "a.yaml:3: api.port: one value is expected here");
    refuses("api: {port: [1]}\n", "a.yaml:1: api.port: one value is expected here");
    refuses("routes: x\n", "a.yaml:1: routes: a list is expected here");
    refuses("routes: {a: b}\n", "a.yaml:1: routes: a list is expected here");
    refuses("routes: [x]\n", "a.yaml:1: routes[0]: settings with names are expected here");
    refuses("routes:\n  - name: x\n    deployments: y\n", "a.yaml:3: routes[0].deployments: a list is expected here");
    refuses("routes: [{name: x, deployments: [[y]]}]\n", "a.yaml:1: routes[0].deployments[0]: one value is expected here");
    refuses("- a\n", "a.yaml:1: the file must consist of sections and lists");
    refuses("text\n", "a.yaml:1: the file must consist of sections and lists");
    refuses("? [a]\n: b\n", "a.yaml:1: a section's name is expected here");
    refuses("api: {[a]: b}\n", "a.yaml:1: api: a name is expected here");
    refuses("api: {host: ~}\n", "a.yaml:1: api.host: null is not a value; \"\" is the empty text");
    refuses("api: {host: null}\n", "a.yaml:1: api.host: null is not a value; \"\" is the empty text");
}

static void test_counts(void **state)
{
    refuses("api:\n\n  port: 70000\n", "a.yaml:3: api.port: 70000 is above 65535");
    refuses("redis: {port: 0}\n", "a.yaml:1: redis.port: 0 is below 1");
    refuses("redis: {port: -1}\n", "a.yaml:1: redis.port: -1 is below 1");
    refuses("api: {port: -1}\n", "a.yaml:1: api.port: -1 is below 0");
    refuses("api: {port: 99999999999999999999999}\n", "a.yaml:1: api.port: 99999999999999999999999 is above 65535");
    refuses("redis: {port: -99999999999999999999999}\n", "a.yaml:1: redis.port: -99999999999999999999999 is below 1");
    refuses("api: {port: 8080abc}\n", "a.yaml:1: api.port: not a whole number");
    refuses("api: {port: 0x10}\n", "a.yaml:1: api.port: not a whole number");
    refuses("api: {port: 1e3}\n", "a.yaml:1: api.port: not a whole number");
    refuses("api: {port: 80.5}\n", "a.yaml:1: api.port: not a whole number");
    refuses("api: {port: ''}\n", "a.yaml:1: api.port: not a whole number");
    refuses("api: {port: -}\n", "a.yaml:1: api.port: not a whole number");
    refuses("api: {port: }\n", "a.yaml:1: api.port: not a whole number");
    refuses("api: {port: +80}\n", "a.yaml:1: api.port: not a whole number");
    AUTO(conf_free) struct conf *conf = load_text("api: {port: 0010}\nbroker: {bytes_max: 1099511627776, head_start_ms: -0}\n");
    assert_int_equal(conf->api.port, 10); /* never octal */
    assert_int_equal(conf->broker.bytes_max, 1099511627776);
    assert_int_equal(conf->broker.head_start_ms, 0);
}

static void test_flags(void **state)
{
    refuses("redis:\n  tls: flase\n", "a.yaml:2: redis.tls: neither true nor false");
    refuses("redis: {tls: 1}\n", "a.yaml:1: redis.tls: neither true nor false");
    refuses("redis: {tls: ''}\n", "a.yaml:1: redis.tls: neither true nor false");
    AUTO(conf_free) struct conf *conf = load_text("redis: {tls: on, allow_unsafe: true}\nworker: {http: no}\n");
    assert_true(conf->redis.tls && conf->redis.allow_unsafe && !conf->worker.http);
}

static void test_forms(void **state)
{
    refuses("broker: {name: 'a b'}\n", "a.yaml:1: broker.name: not a name: letters, digits, '.', '_' and '-' only");
    refuses("api: {host: 'a b'}\n", "a.yaml:1: api.host: not an address");
    refuses("broker:\n  api: http://x\n", "a.yaml:2: broker.api: not an endpoint: ipc://PATH or tcp://HOST:PORT");
    refuses("broker: {api: 'ipc://'}\n", "a.yaml:1: broker.api: not an endpoint: ipc:// needs a path");
    refuses("broker: {api: 'tcp://127.0.0.1'}\n", "a.yaml:1: broker.api: not an endpoint: tcp:// needs HOST:PORT");
    refuses("broker: {api: 'tcp://127.0.0.1:70000'}\n", "a.yaml:1: broker.api: not an endpoint: tcp:// needs HOST:PORT");
    refuses("broker: {api: 'tcp://:7000'}\n", "a.yaml:1: broker.api: not an endpoint: tcp:// needs HOST:PORT");
    refuses("worker: {broker: 'ipc:///a,'}\n", "a.yaml:1: worker.broker: nothing between two commas");
    refuses("worker: {broker: 'ipc:///a, tcp://b'}\n", "a.yaml:1: worker.broker: not an endpoint: tcp:// needs HOST:PORT");
    refuses("broker: {worker: 'ipc:///a,ipc:///b'}\n",
            "a.yaml:1: broker.worker: not an endpoint: one is expected here, without a comma");
    refuses("broker: {public_key: abc}\n", "a.yaml:1: broker.public_key: not a public key: 40 characters of Z85");
    refuses("broker: {public_key: '########################################'}\n",
            "a.yaml:1: broker.public_key: not a public key: 40 characters of Z85"); /* more than 32 bits in five */
    refuses("broker: {key_file: \"a\\nb\"}\n", "a.yaml:1: broker.key_file: has a control character");
    refuses("broker: {key_file: \"a\\0b\"}\n", "a.yaml:1: broker.key_file: the value has a NUL character");
    refuses("quern: {state_dir: \"a\\L\"}\n", "a.yaml:1: quern.state_dir: has a control character");
    for (int len = 107; len <= 108; len++) {
        char text[200];
        snprintf(text, sizeof text, "broker: {api: 'ipc://%0*d'}\n", len, 0);
        if (len == 107) {
            AUTO(conf_free) struct conf *conf = load_text(text);
            assert_int_equal(strlen(conf->broker.api), 6 + 107);
        } else {
            refuses(text, "a.yaml:1: broker.api: too long: a socket's path has at most 107 bytes");
        }
    }
}

static void expect_url(const char *url, bool sound)
{
    assert_true(!conf_form_check("URL", url) == sound);
}

static void test_base_urls(void **state)
{
    expect_url("https://api.openai.com/v1", true);
    expect_url("http://127.0.0.1:11434/v1", true);
    expect_url("http://[::1]:8080/v1", true);
    expect_url("https://host", true);
    expect_url("https://host/", true);
    expect_url("https://host/a@b", true);
    expect_url("ftp://host/v1", false);
    expect_url("HTTPS://host/v1", false);
    expect_url("host/v1", false);
    expect_url("https://", false);
    expect_url("https:///v1", false);
    expect_url("https://user:secret@host/v1", false);
    expect_url("https://host/v1?key=x", false);
    expect_url("https://host/v1#x", false);
    expect_url("https://host:/v1", false);
    expect_url("https://host:99999/v1", false);
    expect_url("https://host:80x/v1", false);
    expect_url("https://ho st/v1", false);
    expect_url("https://host\\@evil/v1", false);
    expect_url("https://[::1/v1", false);
    struct json_out out = {0};
    json_lit(&out, "credentials: [{name: a, base_url: 'https://user:s3cret@host/'}]\n");
    const char *path = write_file("a.yaml", span_of(out.data, out.len));
    json_out_done(&out);
    struct conf *conf = NULL;
    struct conf_fault fault;
    assert_int_equal(conf_load(&path, 1, &conf, &fault), ERR_SETTINGS);
    assert_null(strstr(fault.text, "s3cret"));
    assert_non_null(strstr(fault.text, "keys belong into key_file"));
}

static void test_what_lists_must_name(void **state)
{
    refuses("deployments:\n  - name: a\n    provider: echo\n  - provider: echo\n",
            "a.yaml:4: deployments[1].name: it is needed and not given");
    refuses("deployments: [{name: '', provider: echo}]\n", "a.yaml:1: deployments[0].name: it is needed and not given");
    refuses("deployments:\n  - name: a\n    provider: echo\n  - name: b\n    provider: echo\n  - provider: echo\n    name: a\n",
            "a.yaml:7: deployments[2].name: the same as in deployments[0]");
    refuses("deployments: [{name: a, provider: gpt}]\n",
            "a.yaml:1: deployments[0].provider: not a provider: echo, ollama or openai");
    refuses("deployments: [{name: a, provider: echo, concurrency: x}]\n",
            "a.yaml:1: deployments[0].concurrency: not a whole number");
    refuses("deployments: [{name: a, provider: openai}]\n",
            "a.yaml:1: deployments[0].credential: provider openai needs one, for its base URL");
    refuses("deployments:\n  - name: a\n    provider: echo\n    credential: c\n",
            "a.yaml:4: deployments[0].credential: there is no credential \"c\"");
    refuses("routes: [{name: a}]\n", "a.yaml:1: routes[0].deployments: it is needed and not given");
    refuses("routes: [{name: a, deployments: []}]\n", "a.yaml:1: routes[0].deployments: it is needed and not given");
    refuses("routes: [{name: a, deployments: [echo, echo]}]\n", "a.yaml:1: routes[0].deployments[1]: \"echo\" is named twice");
    refuses("routes: [{name: a, deployments: [other]}]\n",
            "a.yaml:1: routes[0].deployments[0]: there is no deployment \"other\"");
    refuses("credentials: [{name: a}]\n", "a.yaml:1: credentials[0].base_url: it is needed and not given");
    refuses("worker: {http: false}\ncredentials: [{name: a, base_url: 'http://h'}]\n",
            "a.yaml:2: credentials[0].base_url: http: is not allowed, since worker.http is false");
    refuses("peers: [{name: a, public_key: '" KEY_A "', role: admin}]\n",
            "a.yaml:1: peers[0].role: not a role: api, worker or monitor");
    refuses("peers:\n- {name: a, public_key: '" KEY_A "', role: api}\n- {name: b, public_key: '" KEY_A "', role: worker}\n",
            "a.yaml:3: peers[1].public_key: the same as in peers[0]");
}

static void test_what_tcp_needs(void **state)
{
    refuses("broker: {api: 'tcp://127.0.0.1:1'}\n", "a.yaml:1: broker.api: TCP needs broker.key_file");
    refuses("broker: {feed: 'tcp://*:1'}\n", "a.yaml:1: broker.feed: TCP needs broker.key_file");
    refuses("worker:\n  broker: tcp://b.example:1\n", "a.yaml:2: worker.broker: TCP needs worker.key_file");
    refuses("worker: {broker: 'tcp://b:1', key_file: k}\n", "a.yaml:1: worker.broker: TCP needs broker.public_key");
    refuses("api: {broker: 'tcp://b:1', key_file: k}\n", "a.yaml:1: api.broker: TCP needs broker.public_key");
    refuses("worker: {broker: 'tcp://b:1,tcp://c:1,ipc:///x', key_file: k}\nbroker: {public_key: '" KEY_A "," KEY_B "," KEY_A
            "'}\n",
            "a.yaml:2: broker.public_key: 3 keys for the 2 TCP endpoints of worker.broker: one for all, or one each");
    AUTO(conf_free)
    struct conf *two =
        load_text("worker: {broker: 'tcp://b:1, tcp://c:1', key_file: k}\nbroker: {public_key: '" KEY_A "," KEY_B "'}\n");
    assert_string_equal(two->worker.broker, "tcp://b:1, tcp://c:1");
    AUTO(conf_free)
    struct conf *conf = load_text("broker: {api: 'tcp://[::1]:1', worker: 'tcp://*:2', key_file: k, public_key: '" KEY_B
                                  "'}\nworker: {broker: 'tcp://b:2', key_file: w}\n");
    assert_string_equal(conf->broker.worker, "tcp://*:2");
    refuses("redis: {sentinels: 'db.example:26379', master: q0}\n",
            "a.yaml:1: redis.sentinels: Redis off loopback needs redis.tls");
    refuses("redis: {sentinels: '127.0.0.1:1, 10.0.0.1:1', master: q0}\n",
            "a.yaml:1: redis.sentinels: Redis off loopback needs redis.tls");
    refuses("redis: {sentinels: 'db.example', master: q0}\n", "a.yaml:1: redis.sentinels: not an address: HOST:PORT");
    refuses("redis: {sentinels: '127.0.0.1:1'}\n",
            "a.yaml:1: redis.sentinels: they need redis.master, the name they know it by");
    refuses("redis: {master: q0}\n", "a.yaml:1: redis.master: it needs redis.sentinels");
    refuses("redis: {sentinels: '127.0.0.1:1', master: q0, host: 127.0.0.1}\n",
            "a.yaml:1: redis.sentinels: one of these only: redis.socket, redis.host or redis.sentinels");
    refuses("redis: {sentinel_user: u}\n", "a.yaml:1: redis.sentinel_user: it needs redis.sentinel_password_file");
    refuses("redis: {host: db.example}\n", "a.yaml:1: redis.host: Redis off loopback needs redis.tls");
    refuses("redis: {user: broker}\n", "a.yaml:1: redis.user: it needs redis.password_file");
    AUTO(conf_free) struct conf *redis = load_text("redis: {host: db.example, tls: true}\n");
    assert_string_equal(redis->redis.host, "db.example");
}

static void test_hostile_files(void **state)
{
    refuses("routes: [\n", "a.yaml:2: the file is not YAML: did not find expected node content");
    refuses("api: {port: 1\nredis: 2}\n", "a.yaml:2: the file is not YAML: did not find expected ',' or '}'");
    refuses("api:\n\tport: 1\n", "a.yaml:2: the file is not YAML: found character that cannot start any token");
    refuses("api:\n  host: \xFF\n", "a.yaml:2: the file is not YAML: invalid leading UTF-8 octet");
    refuses("routes: [{name: &x a, deployments: [*x, *x]}]\n", "a.yaml:1: anchors and aliases are not used in settings");
    refuses("api: &x {port: 1}\n", "a.yaml:1: anchors and aliases are not used in settings");
    refuses("routes: &x []\n", "a.yaml:1: anchors and aliases are not used in settings");
    refuses("api: *x\n", "a.yaml:1: anchors and aliases are not used in settings");
    refuses("api: !!map {port: 1}\n", "a.yaml:1: tags are not used in settings");
    refuses("api: {port: 1}\n---\napi: {port: 2}\n", "a.yaml:2: a second document is not read");

    struct json_out out = {0};
    json_lit(&out, "# ");
    while (out.len < CONF_ITEMS_MAX * 256)
        json_lit(&out, "0123456789abcdef");
    out.len = ((size_t)1 << 20);
    AUTO(conf_free) struct conf *conf = NULL;
    struct conf_fault fault;
    const char *path = write_file("b.yaml", span_of(out.data, out.len));
    assert_int_equal(conf_load(&path, 1, &conf, &fault), ERR_OK);
    json_lit(&out, "x");
    expect_fault(span_of(out.data, out.len), "a.yaml: the file is larger than 1 MiB");
    json_out_done(&out);

    json_lit(&out, "routes:\n");
    for (int i = 0; i <= CONF_ITEMS_MAX; i++)
        json_printf(&out, "- {name: r%d, deployments: [echo]}\n", i);
    expect_fault(span_of(out.data, out.len), "a.yaml:4098: routes: more than 4096 entries");
    json_out_done(&out);
    json_lit(&out, "routes:\n- name: a\n  deployments: [");
    for (int i = 0; i <= CONF_NAMES_MAX; i++)
        json_printf(&out, "d%d, ", i);
    json_lit(&out, "]\n");
    expect_fault(span_of(out.data, out.len), "a.yaml:3: routes[0].deployments: more than 256 names");
    json_out_done(&out);
}

static void test_files_that_cannot_be_read(void **state)
{
    const char *path = path_of("none.yaml");
    struct conf *conf = NULL;
    struct conf_fault fault;
    assert_int_equal(conf_load(&path, 1, &conf, &fault), ERR_SETTINGS);
    assert_string_equal(fault.text + strlen(dir) + 1, "none.yaml: the file cannot be opened: No such file or directory");
    path = dir;
    assert_int_equal(conf_load(&path, 1, &conf, &fault), ERR_SETTINGS);
    assert_string_equal(fault.text + strlen(dir), ": the file cannot be read: Is a directory");
}

static char *dumped(const struct conf *conf)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    conf_dump(conf, out);
    fclose(out);
    return text;
}

static void test_the_dump_reads_back_the_same(void **state)
{
    AUTO(conf_free)
    struct conf *conf =
        load_text("quern: {state_dir: \"a \\\"quoted\\\" \\\\ dir: #1 é\"}\n"
                  "api: {port: 0}\nredis: {tls: true}\nworker: {http: true}\n"
                  "deployments:\n- {name: a, provider: openai, credential: c, model: 'm: \"x\"', concurrency: 4}\n"
                  "routes:\n- {name: '*', deployments: [a]}\n- {name: '- x', deployments: [a]}\n"
                  "credentials:\n- {name: c, base_url: 'http://h/v1'}\n"
                  "peers:\n- {name: p, public_key: '" KEY_B "', role: monitor}\n");
    char *first = dumped(conf);
    const char *path = write_file("dump.yaml", span_str(first));
    AUTO(conf_free) struct conf *again = load(&path, 1);
    char *second = dumped(again);
    assert_string_equal(first, second);
    assert_string_equal(again->quern.state_dir, "a \"quoted\" \\ dir: #1 \u00e9");
    assert_string_equal(again->routes[1].name, "- x");
    assert_string_equal(again->deployments[0].model, "m: \"x\"");
    free(first);
    free(second);
}

static void test_empty_lists_stay_empty_in_the_dump(void **state)
{
    AUTO(conf_free) struct conf *conf = load_text("deployments: []\n");
    char *first = dumped(conf);
    const char *path = write_file("dump.yaml", span_str(first));
    AUTO(conf_free) struct conf *again = load(&path, 1);
    assert_int_equal(again->deployments_count, 0);
    assert_int_equal(again->routes_count, 0);
    free(first);
}

/* The file that is installed says every setting, at its default, and nothing else. */
static void test_systemd_quern_yaml(void **state)
{
    AUTO(conf_free) struct conf *defaults = load(NULL, 0);
    char *expected = dumped(defaults);
    FILE *f = fopen("systemd/quern.yaml", "r");
    assert_non_null(f);
    char *found = calloc(1, 1 << 20);
    assert_non_null(found);
    assert_true(fread(found, 1, (1 << 20) - 1, f) > 0);
    fclose(f);
    assert_string_equal(found, expected);
    const char *path = "systemd/quern.yaml";
    AUTO(conf_free) struct conf *read = load(&path, 1);
    char *again = dumped(read);
    assert_string_equal(again, expected);
    for (unsigned s = 0; s < CONF_SECTIONS; s++)
        for (size_t i = 0; i < conf_section(s).rows.count; i++) {
            char line[96];
            snprintf(line, sizeof line, "\n  %s: ", conf_section(s).rows.at[i].name);
            assert_non_null(strstr(found, line));
        }
    free(expected);
    free(found);
    free(again);
}

/* --- roles ------------------------------------------------------------------------------------------------------ */

static void test_endpoints(void **state)
{
    AUTO(conf_free) struct conf *conf = load_text("quern: {state_dir: /srv/quern//}\n");
    char *endpoint = role_endpoint(conf, "", "worker");
    assert_string_equal(endpoint, "ipc:///srv/quern/worker.sock");
    free(endpoint);
    endpoint = role_endpoint(conf, "tcp://h:1", "worker");
    assert_string_equal(endpoint, "tcp://h:1");
    free(endpoint);

    AUTO(conf_free) struct conf *relative = load(NULL, 0);
    char here[256], expected[512];
    assert_non_null(getcwd(here, sizeof here));
    snprintf(expected, sizeof expected, "ipc://%s/var/api.sock", here);
    endpoint = role_endpoint(relative, "", "api");
    assert_string_equal(endpoint, expected);
    free(endpoint);
}

static void test_state_dir_leaves_room_for_sockets(void **state)
{
    char text[200];
    snprintf(text, sizeof text, "quern: {state_dir: /%093d}\n", 0);
    AUTO(conf_free) struct conf *conf = load_text(text);
    char *endpoint = role_endpoint(conf, "", "monitor");
    assert_int_equal(strlen(endpoint), strlen("ipc://") + 107);
    free(endpoint);
    snprintf(text, sizeof text, "quern: {state_dir: /%094d}\n", 0);
    refuses(text, "a.yaml:1: quern.state_dir: too long for sockets: 108 bytes with /monitor.sock, at most 107");
}

static void test_redis_options(void **state)
{
    struct redis_options o;
    struct role_redis store;
    struct conf_fault fault;
    AUTO(conf_free) struct conf *plain = load_text("quern: {state_dir: /srv}\n");
    assert_int_equal(role_redis(plain, true, &o, &store, &fault), ERR_OK);
    assert_string_equal(o.socket, "/srv/redis.sock");
    assert_null(o.user);
    assert_null(o.password);

    char text[400];
    snprintf(text, sizeof text,
             "redis: {host: 127.0.0.1, port: 7, user: w, password_file: %s, reader_user: r, reader_password_file: %s}\n",
             write_file("w", span_str("writer secret\nmore\n")), path_of("r"));
    AUTO(conf_free) struct conf *conf = load_text(text);
    assert_int_equal(role_redis(conf, true, &o, &store, &fault), ERR_OK);
    assert_null(o.socket);
    assert_string_equal(o.host, "127.0.0.1");
    assert_int_equal(o.port, 7);
    assert_string_equal(o.user, "w");
    assert_string_equal(o.password, "writer secret");
    role_redis_done(&store);
    for (size_t i = 0; i < sizeof store; i++)
        assert_int_equal(((const char *)&store)[i], 0);

    assert_int_equal(role_redis(conf, false, &o, &store, &fault), ERR_SETTINGS);
    assert_non_null(strstr(fault.text, "redis.reader_password_file: "));
    assert_non_null(strstr(fault.text, "No such file or directory"));
    write_file("r", span_str("\n"));
    assert_int_equal(role_redis(conf, false, &o, &store, &fault), ERR_SETTINGS);
    assert_non_null(strstr(fault.text, "the file is empty"));
    write_file("r", span_str("reader"));
    assert_int_equal(role_redis(conf, false, &o, &store, &fault), ERR_OK);
    assert_string_equal(o.user, "r");
    assert_string_equal(o.password, "reader");
    char longest[300];
    memset(longest, 'x', sizeof longest);
    write_file("r", span_of(longest, 255));
    assert_int_equal(role_redis(conf, false, &o, &store, &fault), ERR_OK);
    assert_int_equal(strlen(o.password), 255);
    write_file("r", span_of(longest, 256));
    assert_int_equal(role_redis(conf, false, &o, &store, &fault), ERR_SETTINGS);
    assert_non_null(strstr(fault.text, "longer than 255 bytes"));
}

/* --- options ---------------------------------------------------------------------------------------------------- */

static const char *program = "api";

/* Runs conf_main with its output in files; gives back what it printed on `stream` (1 or 2). */
static char *printed(int argc, char **argv, int stream, bool expect_run, int expect_status)
{
    const char *path = path_of("printed");
    fflush(stdout);
    fflush(stderr);
    int saved = dup(stream);
    assert_non_null(freopen(path, "w", stream == 1 ? stdout : stderr));
    struct conf *conf = NULL;
    int status = -1;
    bool run = conf_main(argc, argv, program, &conf, &status);
    fflush(stream == 1 ? stdout : stderr);
    dup2(saved, stream);
    close(saved);
    assert_int_equal(run, expect_run);
    if (!run)
        assert_int_equal(status, expect_status);
    assert_int_equal(conf != NULL, run);
    conf_free(&conf);
    char *text = calloc(1, 65536);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    (void)!fread(text, 1, 65535, f);
    fclose(f);
    return text;
}

static void expect_printed(char *const *args, int stream, bool run, int status, const char *expected)
{
    char *argv[8] = {"quern-api"};
    int argc = 1;
    for (; args[argc - 1]; argc++)
        argv[argc] = args[argc - 1];
    char *text = printed(argc, argv, stream, run, status);
    if (!strstr(text, expected))
        fail_msg("\"%s\" is not in:\n%s", expected, text);
    free(text);
}

static void test_options(void **state)
{
    char good[128], bad[128];
    strcpy(good, write_file("good.yaml", span_str("api: {port: 81}\n")));
    strcpy(bad, write_file("bad.yaml", span_str("api: {port: x}\n")));
    expect_printed((char *[]){NULL}, 1, true, 0, "");
    expect_printed((char *[]){"--settings", good, NULL}, 1, true, 0, "");
    expect_printed((char *[]){"--settings", good, "--check-config", NULL}, 1, false, 0, "settings are valid\n");
    expect_printed((char *[]){"--settings", good, "--dump-config", NULL}, 1, false, 0, "\n  port: 81\n");
    expect_printed((char *[]){"--settings", good, "--settings", bad, NULL}, 2, false, 2,
                   "bad.yaml:1: api.port: not a whole number\n");
    expect_printed((char *[]){"--check-config", "--settings", bad, NULL}, 2, false, 2, "bad.yaml:1: api.port");
    expect_printed((char *[]){"--version", NULL}, 1, false, 0, "quern-api " QUERN_VERSION "\n");
    program = "quernctl";
    expect_printed((char *[]){"--version", NULL}, 1, false, 0, "quernctl " QUERN_VERSION "\n");
    program = "api";
    expect_printed((char *[]){"--help", NULL}, 1, false, 0, "Exit codes: 0 ");
    expect_printed((char *[]){"--settings", NULL}, 2, false, 2, "Try --help");
    expect_printed((char *[]){"--nonsense", NULL}, 2, false, 2, "Try --help");
    expect_printed((char *[]){"more", NULL}, 2, false, 2, "there is no argument \"more\"");
}

static void test_deployment_hash(void **state)
{
    struct conf_deployment row = {
        .name = (char *)"a", .provider = (char *)"b", .model = (char *)"c", .credential = (char *)"d"};
    uint64_t hash = conf_deployment_hash(&row);
    assert_true(hash == 0xcb77c06e71890621u); /* FNV-1a 64 over "a\0b\0c\0d\0": what peers of other versions send */
    row.concurrency = 7;
    assert_true(conf_deployment_hash(&row) == hash);
    row.model = (char *)"";
    assert_true(conf_deployment_hash(&row) != hash);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        TEST(test_defaults),
        TEST(test_the_table),
        TEST(test_a_file),
        TEST(test_empty_files),
        TEST(test_later_files_win),
        TEST(test_a_fault_names_the_file_that_gave_the_value),
        TEST(test_lists_left_out_or_empty),
        TEST(test_the_environment_wins),
        TEST(test_unknown_and_doubled_names),
        TEST(test_wrong_kinds),
        TEST(test_counts),
        TEST(test_flags),
        TEST(test_forms),
        TEST(test_base_urls),
        TEST(test_what_lists_must_name),
        TEST(test_what_tcp_needs),
        TEST(test_hostile_files),
        TEST(test_files_that_cannot_be_read),
        TEST(test_the_dump_reads_back_the_same),
        TEST(test_empty_lists_stay_empty_in_the_dump),
        TEST(test_systemd_quern_yaml),
        TEST(test_deployment_hash),
        TEST(test_endpoints),
        TEST(test_state_dir_leaves_room_for_sockets),
        TEST(test_redis_options),
        TEST(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
