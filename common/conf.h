/* The settings: one YAML file that each role reads its part of (DESIGN.md, section 6), by libcyaml. Every scalar setting is a
 * row of settings.def: section, name, type, default, bounds, unit and a sentence; the struct, the schema, --dump-config,
 * systemd/quern.yaml's check and the environment override QUERN_<SECTION>_<NAME> all come from that row.
 *
 * Files are merged in order, later over earlier, then the environment. A list given replaces the list before it. An unknown
 * key, a wrong type or a value out of bounds is an error with file, line and the name of the setting.
 *
 * Without `deployments` there is one, `echo`; without `routes` there is one, "*", to every deployment in order. */
#pragma once

#include <stdio.h>

#include "common/base.h"

/* A provider's place to call: what users' routes point at. `name` goes into frames, logs and attempts. */
struct conf_deployment {
    char *name;
    char *provider;       /* "echo", "openai" … */
    char *model;          /* what the provider is asked for; empty: the model the caller named */
    char *credential;     /* a name under `credentials`; empty: none */
    uint64_t concurrency; /* calls at once over all workers; 0: no limit */
};

/* What users ask for → deployments, by name. "*" takes every model no other route names. */
struct conf_route {
    char *name;
    char **deployments;
    unsigned deployments_count;
};

/* Only workers read these. The key is in a file so that no setting holds a secret. */
struct conf_credential {
    char *name;
    char *base_url;
    char *key_file; /* empty: no key is sent */
};

/* A CURVE public key that may connect over TCP. */
struct conf_peer {
    char *name;
    char *public_key; /* Z85, 40 characters */
    char *role;       /* "api", "worker", "monitor" */
};

struct conf {
#define SECTION(section)                           struct {
#define TEXT(name, def, unit_or_form, sentence)    char *name;
#define COUNT(name, def, min, max, unit, sentence) uint64_t name;
#define FLAG(name, def, sentence)                  bool name;
#define END(section)                                                                                                           \
    }                                                                                                                          \
    section;
#include "common/settings.def"
#undef SECTION
#undef TEXT
#undef COUNT
#undef FLAG
#undef END
    struct conf_deployment *deployments;
    unsigned deployments_count;
    struct conf_route *routes;
    unsigned routes_count;
    struct conf_credential *credentials;
    unsigned credentials_count;
    struct conf_peer *peers;
    unsigned peers_count;
};

/* Where and why the settings were refused; `text` is for people: "quern.yaml:12: api.port: 70000 is above 65535". */
struct conf_fault {
    char text[512];
};

/* paths: files in order, may be none (all defaults). The result is the caller's. ERR_SETTINGS with `fault` filled,
 * ERR_NOMEM. */
MUST_USE enum err conf_load(const char *const *paths, size_t count, struct conf **ret_conf, struct conf_fault *fault);
void conf_free(struct conf **conf);

/* Over what broker and worker must agree on before a job is sent: name, provider, model and the credential's name. FNV-1a, 64
 * bits, over the four texts in this order, each with its NUL; both sides put it into frames, so it never changes. */
uint64_t conf_deployment_hash(const struct conf_deployment *deployment);

/* The longest path that a unix socket may have; and the longest socket in state_dir, which must fit. */
#define CONF_SOCKET_PATH_MAX 107
#define CONF_SOCKET_LONGEST  "monitor.sock"

/* <absolute state_dir>/<name>. Caller frees. NULL: no memory, or the working directory is gone. */
MUST_USE char *conf_state_path(const struct conf *conf, const char *name);

/* All settings in force as YAML, with units and sentences as comments; reading it back gives the same settings. */
void conf_dump(const struct conf *conf, FILE *out);

/* What every role's main does with its arguments: --settings FILE (repeatable), --check-config, --dump-config, --version,
 * --help. role: "api", or the program's name, "quern-api". Returns true when the role should run, with *ret_conf set; false
 * when it should exit with *ret_status. Prints for people. */
bool conf_main(int argc, char **argv, const char *role, struct conf **ret_conf, int *ret_status);
