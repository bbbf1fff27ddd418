#include "common/conf.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/commas.h"
#include "common/conf_file.h"
#include "common/resolve.h"

/* What one load has read, so that a fault found late can still name the line it came from. */
struct layers {
    struct conf_file **files;
    size_t count;
    const struct conf_file *list_from[CONF_LISTS]; /* who gave the list in force; NULL: nobody */
    struct conf_fault *fault;
};

/* --- faults ------------------------------------------------------------------------------------------------------- */

struct variable {
    char name[96];
};

static struct variable variable_of(const char *section, const char *name)
{
    struct variable v;
    snprintf(v.name, sizeof v.name, "QUERN_%s_%s", section, name);
    for (char *p = v.name; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    return v;
}

/* The variable that sets "section.name", or NULL. */
static const char *variable_in_force(const char *setting, struct variable *out)
{
    char section[32];
    const char *dot = strchr(setting, '.');
    if (!dot || strpbrk(setting, "[") || (size_t)(dot - setting) >= sizeof section)
        return NULL;
    memcpy(section, setting, (size_t)(dot - setting));
    section[dot - setting] = '\0';
    *out = variable_of(section, dot + 1);
    return getenv(out->name) ? out->name : NULL;
}

static unsigned line_in(const struct conf_file *file, const char *setting)
{
    unsigned line = conf_file_line(file, setting);
    const char *item_end = strchr(setting, ']');
    if (line || !item_end)
        return line;
    char item[64]; /* a field that the item lacks: the line where the item begins */
    snprintf(item, sizeof item, "%.*s", (int)(item_end + 1 - setting), setting);
    return conf_file_line(file, item);
}

/* Who last gave `setting`; NULL when it is a default. */
static const struct conf_file *file_of(const struct layers *l, const char *setting)
{
    for (unsigned i = 0; i < CONF_LISTS; i++) {
        const char *list = conf_list(i).name;
        size_t len = strlen(list);
        if (strncmp(setting, list, len) == 0 && (setting[len] == '[' || setting[len] == '\0'))
            return l->list_from[i];
    }
    for (size_t i = l->count; i-- > 0;)
        if (conf_file_line(l->files[i], setting))
            return l->files[i];
    return NULL;
}

/* "quern.yaml:12: api.port: " and what is wrong. Always ERR_SETTINGS. */
static enum err complain(const struct layers *l, const char *setting, const char *format, ...) PRINTF(3, 4);
static enum err complain(const struct layers *l, const char *setting, const char *format, ...)
{
    char *out = l->fault->text;
    size_t size = sizeof l->fault->text;
    struct variable v;
    const char *variable = variable_in_force(setting, &v);
    const struct conf_file *file = variable ? NULL : file_of(l, setting);
    int len;
    if (variable)
        len = snprintf(out, size, "%s: %s: ", variable, setting);
    else if (file)
        len = snprintf(out, size, "%.200s:%u: %s: ", conf_file_path(file), line_in(file, setting), setting);
    else
        len = snprintf(out, size, "%s: ", setting);
    va_list args;
    va_start(args, format);
    vsnprintf(out + len, size - (size_t)len, format, args);
    va_end(args);
    return ERR_SETTINGS;
}

/* --- one value ---------------------------------------------------------------------------------------------------- */

static enum err set_text(const struct layers *l, const char *setting, const struct conf_row *row, void *base, const char *text)
{
    const char *wrong = conf_form_check(row->unit, text);
    if (wrong)
        return complain(l, setting, "%s", wrong);
    char *copy = strdup(text);
    if (!copy)
        return ERR_NOMEM;
    char **value = conf_at(row, base);
    free(*value);
    *value = copy;
    return ERR_OK;
}

static enum err set_count(const struct layers *l, const char *setting, const struct conf_row *row, void *base, const char *text)
{
    bool negative = text[0] == '-';
    const char *digits = text + negative;
    if (!*digits || digits[strspn(digits, "0123456789")])
        return complain(l, setting, "not a whole number");
    errno = 0;
    uint64_t value = strtoull(digits, NULL, 10);
    if (negative ? value > 0 : value < row->min)
        return complain(l, setting, "%.40s is below %" PRIu64, text, row->min);
    if (errno == ERANGE || value > row->max)
        return complain(l, setting, "%.40s is above %" PRIu64, text, row->max);
    *(uint64_t *)conf_at(row, base) = value;
    return ERR_OK;
}

static enum err set_flag(const struct layers *l, const char *setting, const struct conf_row *row, void *base, const char *text)
{
    static const char *const words[2][3] = {{"false", "no", "off"}, {"true", "yes", "on"}};
    for (int value = 0; value < 2; value++)
        for (size_t i = 0; i < ARRAY_COUNT(words[value]); i++)
            if (strcmp(text, words[value][i]) == 0) {
                *(bool *)conf_at(row, base) = value;
                return ERR_OK;
            }
    return complain(l, setting, "neither true nor false");
}

/* base: the section's struct or the list's item. On failure the old value stands. */
static enum err set_value(const struct layers *l, const char *setting, const struct conf_row *row, void *base, const char *text)
{
    switch (row->kind) {
    case CONF_TEXT:
        return set_text(l, setting, row, base, text);
    case CONF_COUNT:
        return set_count(l, setting, row, base, text);
    case CONF_FLAG:
        return set_flag(l, setting, row, base, text);
    case CONF_NAMES:
        break;
    }
    assert(!"a list of names has no single value");
    return ERR_SETTINGS;
}

static enum err set_default(const struct conf_row *row, void *base)
{
    switch (row->kind) {
    case CONF_TEXT:
        return (*(char **)conf_at(row, base) = strdup(row->text)) ? ERR_OK : ERR_NOMEM;
    case CONF_COUNT:
        *(uint64_t *)conf_at(row, base) = row->count;
        return ERR_OK;
    case CONF_FLAG:
        *(bool *)conf_at(row, base) = row->count != 0;
        return ERR_OK;
    case CONF_NAMES:
        return ERR_OK; /* empty */
    }
    return ERR_OK;
}

static void free_names(char ***names, unsigned *count)
{
    for (unsigned i = 0; i < *count; i++)
        free((*names)[i]);
    free(*names);
    *names = NULL;
    *count = 0;
}

static char ***names_at(const struct conf_row *row, void *base)
{
    return conf_at(row, base);
}
static unsigned *names_count_at(const struct conf_row *row, void *base)
{
    return (unsigned *)((char *)base + row->count_offset);
}

static void free_rows(struct conf_rows rows, void *base)
{
    for (size_t i = 0; i < rows.count; i++) {
        const struct conf_row *row = &rows.at[i];
        if (row->kind == CONF_TEXT)
            free(*(char **)conf_at(row, base));
        else if (row->kind == CONF_NAMES)
            free_names(names_at(row, base), names_count_at(row, base));
    }
}

/* --- lists -------------------------------------------------------------------------------------------------------- */

static void free_list(struct conf *conf, const struct conf_list *list)
{
    void **items = conf_items(conf, list);
    unsigned *count = conf_items_count(conf, list);
    for (unsigned i = 0; i < *count; i++)
        free_rows(list->rows, (char *)*items + i * list->item_size);
    free(*items);
    *items = NULL;
    *count = 0;
}

/* `count` items, all at their defaults, in place of those before. */
static enum err new_list(struct conf *conf, const struct conf_list *list, unsigned count)
{
    free_list(conf, list);
    void **items = conf_items(conf, list);
    if (count && !(*items = calloc(count, list->item_size)))
        return ERR_NOMEM;
    *conf_items_count(conf, list) = count;
    for (unsigned i = 0; i < count; i++)
        for (size_t r = 0; r < list->rows.count; r++)
            if (set_default(&list->rows.at[r], (char *)*items + i * list->item_size))
                return ERR_NOMEM;
    return ERR_OK;
}

static enum err set_names(const struct layers *l, const char *setting, const struct conf_row *row, void *base,
                          const struct conf_text *given)
{
    char ***names = names_at(row, base);
    if (given->names_count && !(*names = calloc(given->names_count, sizeof **names)))
        return ERR_NOMEM;
    *names_count_at(row, base) = given->names_count;
    for (unsigned i = 0; i < given->names_count; i++) {
        char inner[80];
        snprintf(inner, sizeof inner, "%s[%u]", setting, i);
        const char *wrong = conf_form_check(row->unit, given->names[i]);
        if (wrong)
            return complain(l, inner, "%s", wrong);
        if (!((*names)[i] = strdup(given->names[i])))
            return ERR_NOMEM;
    }
    return ERR_OK;
}

static enum err take_item(const struct layers *l, const struct conf_list *list, unsigned index, void *item,
                          const struct conf_text *given)
{
    for (size_t r = 0; r < list->rows.count; r++) {
        const struct conf_row *row = &list->rows.at[r];
        char setting[64];
        snprintf(setting, sizeof setting, "%s[%u].%s", list->name, index, row->name);
        bool empty = row->kind == CONF_NAMES ? given[r].names_count == 0 : !given[r].text || !given[r].text[0];
        if (row->needed && empty)
            return complain(l, setting, "it is needed and not given");
        enum err e = ERR_OK;
        if (row->kind == CONF_NAMES)
            e = set_names(l, setting, row, item, &given[r]);
        else if (given[r].text)
            e = set_value(l, setting, row, item, given[r].text);
        if (e)
            return e;
    }
    return ERR_OK;
}

static enum err take_list(struct layers *l, struct conf *conf, unsigned index, const struct conf_file *file)
{
    struct conf_list list = conf_list(index);
    const struct conf_texts *given = conf_file_list(file, index);
    if (!given)
        return ERR_OK;
    l->list_from[index] = file;
    enum err e = new_list(conf, &list, given->items_count);
    char *items = *conf_items(conf, &list);
    for (unsigned i = 0; i < given->items_count && !e; i++)
        e = take_item(l, &list, i, items + i * list.item_size, given->items + i * list.rows.count);
    return e;
}

static enum err replace(char **text, const char *with)
{
    char *copy = strdup(with);
    if (!copy)
        return ERR_NOMEM;
    free(*text);
    *text = copy;
    return ERR_OK;
}

static enum err default_deployments(struct conf *conf)
{
    struct conf_list list = conf_list(CONF_LIST_DEPLOYMENTS);
    enum err e = new_list(conf, &list, 1);
    if (e || (e = replace(&conf->deployments[0].name, "echo")))
        return e;
    return replace(&conf->deployments[0].provider, "echo");
}

static enum err default_routes(struct conf *conf)
{
    struct conf_list list = conf_list(CONF_LIST_ROUTES);
    enum err e = new_list(conf, &list, 1);
    if (e || (e = replace(&conf->routes[0].name, "*")))
        return e;
    unsigned count = MIN(conf->deployments_count, (unsigned)CONF_NAMES_MAX);
    struct conf_route *route = &conf->routes[0];
    if (!(route->deployments = calloc(count, sizeof *route->deployments)))
        return ERR_NOMEM;
    for (unsigned i = 0; i < count; i++, route->deployments_count++)
        if (!(route->deployments[i] = strdup(conf->deployments[i].name)))
            return ERR_NOMEM;
    return ERR_OK;
}

static enum err add_default_lists(const struct layers *l, struct conf *conf)
{
    enum err e = l->list_from[CONF_LIST_DEPLOYMENTS] ? ERR_OK : default_deployments(conf);
    if (e || l->list_from[CONF_LIST_ROUTES] || !conf->deployments_count)
        return e;
    return default_routes(conf);
}

/* --- layers ------------------------------------------------------------------------------------------------------- */

static enum err set_defaults(struct conf *conf)
{
    for (unsigned s = 0; s < CONF_SECTIONS; s++) {
        struct conf_section section = conf_section(s);
        for (size_t r = 0; r < section.rows.count; r++) {
            enum err e = set_default(&section.rows.at[r], conf_section_at(conf, &section));
            if (e)
                return e;
        }
    }
    return ERR_OK;
}

/* What `said` (a file's texts or the environment) gives for each row of a section. */
static enum err take_section(const struct layers *l, struct conf *conf, const struct conf_section *section,
                             const struct conf_text *given)
{
    for (size_t r = 0; r < section->rows.count; r++) {
        const struct conf_row *row = &section->rows.at[r];
        const char *text = given ? given[r].text : getenv(variable_of(section->name, row->name).name);
        if (!text)
            continue;
        char setting[64];
        snprintf(setting, sizeof setting, "%s.%s", section->name, row->name);
        enum err e = set_value(l, setting, row, conf_section_at(conf, section), text);
        if (e)
            return e;
    }
    return ERR_OK;
}

static enum err take_file(struct layers *l, struct conf *conf, const struct conf_file *file)
{
    enum err e = ERR_OK;
    for (unsigned s = 0; s < CONF_SECTIONS && !e; s++) {
        struct conf_section section = conf_section(s);
        const struct conf_text *given = conf_file_section(file, s);
        if (given)
            e = take_section(l, conf, &section, given);
    }
    for (unsigned i = 0; i < CONF_LISTS && !e; i++)
        e = take_list(l, conf, i, file);
    return e;
}

/* Only the names of rows are looked at: a platform may set other variables that begin alike. */
static enum err take_environment(struct layers *l, struct conf *conf)
{
    enum err e = ERR_OK;
    for (unsigned s = 0; s < CONF_SECTIONS && !e; s++) {
        struct conf_section section = conf_section(s);
        e = take_section(l, conf, &section, NULL);
    }
    return e;
}

/* --- what must hold between settings ------------------------------------------------------------------------------ */

static bool is_given(const char *text)
{
    return text[0] != '\0';
}
/* How many of the endpoints in a setting are over TCP. */
static size_t tcp_count(const char *endpoints)
{
    struct span rest = span_str(endpoints), one;
    size_t count = 0;
    while (commas_next(&rest, &one))
        count += one.len > 6 && memcmp(one.data, "tcp://", 6) == 0;
    return count;
}

static const char *item_text(struct conf *conf, const struct conf_list *list, unsigned index, const struct conf_row *row)
{
    return *(char **)conf_at(row, (char *)*conf_items(conf, list) + index * list->item_size);
}

/* No two items of a list have the same text in the row at `field`. */
static enum err check_unique(const struct layers *l, struct conf *conf, unsigned index, size_t field)
{
    struct conf_list list = conf_list(index);
    const struct conf_row *row = &list.rows.at[field];
    unsigned count = *conf_items_count(conf, &list);
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < i; j++)
            if (strcmp(item_text(conf, &list, i, row), item_text(conf, &list, j, row)) == 0) {
                char setting[64];
                snprintf(setting, sizeof setting, "%s[%u].%s", list.name, i, row->name);
                return complain(l, setting, "the same as in %s[%u]", list.name, j);
            }
    return ERR_OK;
}

static bool has_deployment(const struct conf *conf, const char *name)
{
    for (unsigned i = 0; i < conf->deployments_count; i++)
        if (strcmp(conf->deployments[i].name, name) == 0)
            return true;
    return false;
}

static bool has_credential(const struct conf *conf, const char *name)
{
    for (unsigned i = 0; i < conf->credentials_count; i++)
        if (strcmp(conf->credentials[i].name, name) == 0)
            return true;
    return false;
}

static enum err check_route(const struct layers *l, const struct conf *conf, unsigned index)
{
    const struct conf_route *route = &conf->routes[index];
    for (unsigned i = 0; i < route->deployments_count; i++) {
        char setting[64];
        snprintf(setting, sizeof setting, "routes[%u].deployments[%u]", index, i);
        if (!has_deployment(conf, route->deployments[i]))
            return complain(l, setting, "there is no deployment \"%s\"", route->deployments[i]);
        for (unsigned j = 0; j < i; j++)
            if (strcmp(route->deployments[i], route->deployments[j]) == 0)
                return complain(l, setting, "\"%s\" is named twice", route->deployments[i]);
    }
    return ERR_OK;
}

static enum err check_deployment(const struct layers *l, const struct conf *conf, unsigned index)
{
    const struct conf_deployment *d = &conf->deployments[index];
    char setting[64];
    snprintf(setting, sizeof setting, "deployments[%u].credential", index);
    if (is_given(d->credential) && !has_credential(conf, d->credential))
        return complain(l, setting, "there is no credential \"%s\"", d->credential);
    if (!is_given(d->credential) && strcmp(d->provider, "echo") != 0)
        return complain(l, setting, "provider %s needs one, for its base URL", d->provider);
    return ERR_OK;
}

static enum err check_credential(const struct layers *l, const struct conf *conf, unsigned index)
{
    char setting[64];
    snprintf(setting, sizeof setting, "credentials[%u].base_url", index);
    if (!conf->worker.http && strncmp(conf->credentials[index].base_url, "http:", 5) == 0)
        return complain(l, setting, "http: is not allowed, since worker.http is false");
    return ERR_OK;
}

static enum err check_lists(const struct layers *l, struct conf *conf)
{
    enum err e = ERR_OK;
    for (unsigned i = 0; i < CONF_LISTS && !e; i++)
        e = check_unique(l, conf, i, 0);
    if (!e)
        e = check_unique(l, conf, CONF_LIST_PEERS, 1); /* one key cannot have two roles */
    for (unsigned i = 0; i < conf->credentials_count && !e; i++)
        e = check_credential(l, conf, i);
    for (unsigned i = 0; i < conf->deployments_count && !e; i++)
        e = check_deployment(l, conf, i);
    for (unsigned i = 0; i < conf->routes_count && !e; i++)
        e = check_route(l, conf, i);
    return e;
}

/* Passwords and jobs do not travel in the clear. */
static bool all_loopback(const char *addresses)
{
    struct span rest = span_str(addresses), one;
    while (commas_next(&rest, &one)) {
        char host[280];
        snprintf(host, sizeof host, "%.*s", SPAN_ARG(one));
        char *colon = strrchr(host, ':');
        if (colon)
            *colon = '\0';
        if (!resolve_is_loopback(host))
            return false;
    }
    return true;
}

static enum err check_sentinels(const struct layers *l, const struct conf *conf)
{
    const __typeof__(conf->redis) *r = &conf->redis;
    if (is_given(r->sentinel_user) && !is_given(r->sentinel_password_file))
        return complain(l, "redis.sentinel_user", "it needs redis.sentinel_password_file");
    if (!is_given(r->sentinels))
        return is_given(r->master) ? complain(l, "redis.master", "it needs redis.sentinels") : ERR_OK;
    if (!is_given(r->master))
        return complain(l, "redis.sentinels", "they need redis.master, the name they know it by");
    if (is_given(r->socket) || is_given(r->host))
        return complain(l, "redis.sentinels", "one of these only: redis.socket, redis.host or redis.sentinels");
    if (!r->tls && !all_loopback(r->sentinels))
        return complain(l, "redis.sentinels", "Redis off loopback needs redis.tls");
    return ERR_OK;
}

static enum err check_redis(const struct layers *l, const struct conf *conf)
{
    const __typeof__(conf->redis) *r = &conf->redis;
    if (is_given(r->host) && !is_given(r->socket) && !r->tls && !resolve_is_loopback(r->host))
        return complain(l, "redis.host", "Redis off loopback needs redis.tls");
    if (is_given(r->user) && !is_given(r->password_file))
        return complain(l, "redis.user", "it needs redis.password_file");
    if (is_given(r->reader_user) && !is_given(r->reader_password_file))
        return complain(l, "redis.reader_user", "it needs redis.reader_password_file");
    return check_sentinels(l, conf);
}

/* One key for every endpoint over TCP, or one each. */
static enum err check_keys(const struct layers *l, const struct conf *conf, const char *setting, const char *endpoints)
{
    size_t keys = commas_count(conf->broker.public_key), places = tcp_count(endpoints);
    if (keys == 1 || !places || keys == places)
        return ERR_OK;
    return complain(l, "broker.public_key", "%zu keys for the %zu TCP endpoints of %s: one for all, or one each", keys, places,
                    setting);
}

/* CURVE on every TCP socket: whoever listens or connects there has a key, and whoever connects knows the broker's. */
static enum err check_endpoints(const struct layers *l, const struct conf *conf)
{
    const struct {
        const char *setting, *endpoint, *needs, *key;
    } rules[] = {
        {"broker.api", conf->broker.api, "broker.key_file", conf->broker.key_file},
        {"broker.worker", conf->broker.worker, "broker.key_file", conf->broker.key_file},
        {"broker.monitor", conf->broker.monitor, "broker.key_file", conf->broker.key_file},
        {"broker.feed", conf->broker.feed, "broker.key_file", conf->broker.key_file},
        {"worker.broker", conf->worker.broker, "worker.key_file", conf->worker.key_file},
        {"worker.broker", conf->worker.broker, "broker.public_key", conf->broker.public_key},
        {"api.broker", conf->api.broker, "api.key_file", conf->api.key_file},
        {"api.broker", conf->api.broker, "broker.public_key", conf->broker.public_key},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rules); i++)
        if (tcp_count(rules[i].endpoint) && !is_given(rules[i].key))
            return complain(l, rules[i].setting, "TCP needs %s", rules[i].needs);
    enum err e = check_keys(l, conf, "worker.broker", conf->worker.broker);
    return e ? e : check_keys(l, conf, "api.broker", conf->api.broker);
}

static void release_text(char **text)
{
    free(TAKE(*text));
}

static enum err check_state_dir(const struct layers *l, const struct conf *conf)
{
    if (!is_given(conf->quern.state_dir))
        return complain(l, "quern.state_dir", "it must be given");
    AUTO(release_text) char *longest = conf_state_path(conf, CONF_SOCKET_LONGEST);
    if (!longest)
        return ERR_NOMEM;
    if (strlen(longest) > CONF_SOCKET_PATH_MAX)
        return complain(l, "quern.state_dir", "too long for sockets: %zu bytes with /%s, at most %d", strlen(longest),
                        CONF_SOCKET_LONGEST, CONF_SOCKET_PATH_MAX);
    return ERR_OK;
}

static enum err check_all(const struct layers *l, struct conf *conf)
{
    enum err e = check_state_dir(l, conf);
    if (e || (e = check_redis(l, conf)) || (e = check_endpoints(l, conf)))
        return e;
    return check_lists(l, conf);
}

/* --- the load ----------------------------------------------------------------------------------------------------- */

static void layers_done(struct layers *l)
{
    for (size_t i = 0; i < l->count; i++)
        conf_file_free(&l->files[i]);
    free(l->files);
}

enum err conf_load(const char *const *paths, size_t count, struct conf **ret_conf, struct conf_fault *fault)
{
    AUTO(conf_free) struct conf *conf = calloc(1, sizeof *conf);
    AUTO(layers_done) struct layers l = {.fault = fault};
    if (!conf || (count && !(l.files = calloc(count, sizeof *l.files))))
        return ERR_NOMEM;
    enum err e = set_defaults(conf);
    for (size_t i = 0; i < count && !e; i++) {
        if ((e = conf_file_read(paths[i], &l.files[i], fault)))
            break;
        l.count++;
        e = take_file(&l, conf, l.files[i]);
    }
    if (e || (e = take_environment(&l, conf)) || (e = add_default_lists(&l, conf)) || (e = check_all(&l, conf)))
        return e;
    *ret_conf = TAKE(conf);
    return ERR_OK;
}

void conf_free(struct conf **conf)
{
    struct conf *c = TAKE(*conf);
    if (!c)
        return;
    for (unsigned i = 0; i < CONF_SECTIONS; i++) {
        struct conf_section section = conf_section(i);
        free_rows(section.rows, conf_section_at(c, &section));
    }
    for (unsigned i = 0; i < CONF_LISTS; i++) {
        struct conf_list list = conf_list(i);
        free_list(c, &list);
    }
    free(c);
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
    for (size_t i = 0, len = strlen(text); i <= len; i++)
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3u;
    return hash;
}

uint64_t conf_deployment_hash(const struct conf_deployment *deployment)
{
    uint64_t hash = hash_text(0xcbf29ce484222325u, deployment->name);
    hash = hash_text(hash, deployment->provider);
    hash = hash_text(hash, deployment->model);
    return hash_text(hash, deployment->credential);
}

char *conf_state_path(const struct conf *conf, const char *name)
{
    const char *dir = conf->quern.state_dir;
    size_t len = strlen(dir);
    while (len > 1 && dir[len - 1] == '/')
        len--;
    char *path = NULL;
    if (dir[0] == '/')
        return asprintf(&path, "%.*s/%s", (int)len, dir, name) < 0 ? NULL : path;
    AUTO(release_text) char *here = getcwd(NULL, 0);
    if (!here)
        return NULL;
    return asprintf(&path, "%s/%.*s/%s", strcmp(here, "/") == 0 ? "" : here, (int)len, dir, name) < 0 ? NULL : path;
}
