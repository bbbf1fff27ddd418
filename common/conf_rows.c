#include "common/conf_rows.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <sys/un.h>

#include "common/commas.h"
#include "common/json.h"

/* A row finds its place only inside its section, whose name TEXT and its like are not given: hence a function each. */
#define SECTION(section)                                                                                                       \
    static struct conf_rows rows_of_##section(void)                                                                            \
    {                                                                                                                          \
        typedef __typeof__(((struct conf *)NULL)->section) here;                                                               \
        static const struct conf_row rows[] = {
#define TEXT(name_, def, form_, sentence_)                                                                                     \
    {.name = #name_, .kind = CONF_TEXT, .offset = offsetof(here, name_), .text = def, .unit = form_, .sentence = sentence_},
#define COUNT(name_, def, min_, max_, unit_, sentence_)                                                                        \
    {.name = #name_,                                                                                                           \
     .kind = CONF_COUNT,                                                                                                       \
     .offset = offsetof(here, name_),                                                                                          \
     .count = def,                                                                                                             \
     .min = min_,                                                                                                              \
     .max = max_,                                                                                                              \
     .unit = unit_,                                                                                                            \
     .sentence = sentence_},
#define FLAG(name_, def, sentence_)                                                                                            \
    {.name = #name_, .kind = CONF_FLAG, .offset = offsetof(here, name_), .count = def, .sentence = sentence_},
#define END(section)                                                                                                           \
    }                                                                                                                          \
    ;                                                                                                                          \
    _Static_assert(ARRAY_COUNT(rows) <= CONF_ROWS_MAX, "CONF_ROWS_MAX is too small for " #section);                            \
    return (struct conf_rows){rows, ARRAY_COUNT(rows)};                                                                        \
    }
#include "common/settings.def"
#undef SECTION
#undef TEXT
#undef COUNT
#undef FLAG
#undef END

struct conf_section conf_section(unsigned index)
{
    static const struct {
        const char *name;
        size_t offset;
        struct conf_rows (*rows)(void);
    } sections[] = {
#define SECTION(section) {#section, offsetof(struct conf, section), rows_of_##section},
#define TEXT(name, def, form, sentence)
#define COUNT(name, def, min, max, unit, sentence)
#define FLAG(name, def, sentence)
#define END(section)
#include "common/settings.def"
#undef SECTION
#undef TEXT
#undef COUNT
#undef FLAG
#undef END
    };
    assert(index < ARRAY_COUNT(sections));
    return (struct conf_section){sections[index].name, sections[index].offset, sections[index].rows()};
}

#define ITEM_TEXT(item, name_, needed_, form_, sentence_)                                                                      \
    {                                                                                                                          \
        .name = #name_, .kind = CONF_TEXT, .offset = offsetof(struct item, name_), .needed = needed_, .text = "",              \
        .unit = form_, .sentence = sentence_                                                                                   \
    }

static const struct conf_row deployment_rows[] = {
    ITEM_TEXT(conf_deployment, name, true, "name", "What routes, logs and attempts call it."),
    ITEM_TEXT(conf_deployment, provider, true, "provider", "The protocol spoken: echo, ollama or openai."),
    ITEM_TEXT(conf_deployment, model, false, "text", "What the provider is asked for; empty: the model the caller named."),
    ITEM_TEXT(conf_deployment, credential, false, "name", "A name under credentials; empty: none."),
    {.name = "concurrency",
     .kind = CONF_COUNT,
     .offset = offsetof(struct conf_deployment, concurrency),
     .max = 1000000,
     .unit = "calls",
     .sentence = "Calls at once over all workers; 0: no limit."},
};

static const struct conf_row route_rows[] = {
    ITEM_TEXT(conf_route, name, true, "text", "The model that users ask for; \"*\" takes every model no other route names."),
    {.name = "deployments",
     .kind = CONF_NAMES,
     .offset = offsetof(struct conf_route, deployments),
     .count_offset = offsetof(struct conf_route, deployments_count),
     .needed = true,
     .unit = "name",
     .sentence = "Names under deployments."},
};

static const struct conf_row credential_rows[] = {
    ITEM_TEXT(conf_credential, name, true, "name", "What deployments call it."),
    ITEM_TEXT(conf_credential, base_url, true, "URL", "Where the provider is; its key is sent nowhere else."),
    ITEM_TEXT(conf_credential, key_file, false, "path", "The file with the provider's key; empty: no key is sent."),
};

static const struct conf_row peer_rows[] = {
    ITEM_TEXT(conf_peer, name, true, "name", "What logs call it."),
    ITEM_TEXT(conf_peer, public_key, true, "Z85", "The CURVE public key it proves to hold."),
    ITEM_TEXT(conf_peer, role, true, "role", "What it may be: api, worker or monitor."),
};

struct conf_list conf_list(unsigned index)
{
#define LIST(list, item, list_rows, list_sentence)                                                                             \
    {                                                                                                                          \
        .name = #list, .offset = offsetof(struct conf, list), .count_offset = offsetof(struct conf, list##_count),             \
        .item_size = sizeof(struct item), .rows = {list_rows, ARRAY_COUNT(list_rows)}, .sentence = list_sentence               \
    }
    static const struct conf_list lists[CONF_LISTS] = {
        [CONF_LIST_DEPLOYMENTS] = LIST(deployments, conf_deployment, deployment_rows, "Places to call: what routes point at."),
        [CONF_LIST_ROUTES] = LIST(routes, conf_route, route_rows, "What users ask for, and who may answer."),
        [CONF_LIST_CREDENTIALS] =
            LIST(credentials, conf_credential, credential_rows, "Base URLs and keys of providers. Only workers read them."),
        [CONF_LIST_PEERS] = LIST(peers, conf_peer, peer_rows, "CURVE keys that may connect over TCP."),
    };
#undef LIST
    assert(index < CONF_LISTS);
    return lists[index];
}

void *conf_section_at(struct conf *conf, const struct conf_section *section)
{
    return (char *)conf + section->offset;
}

void **conf_items(struct conf *conf, const struct conf_list *list)
{
    return (void **)((char *)conf + list->offset);
}

unsigned *conf_items_count(struct conf *conf, const struct conf_list *list)
{
    return (unsigned *)((char *)conf + list->count_offset);
}

/* --- forms of text ------------------------------------------------------------------------------------------------ */

#define Z85 "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* A port at the very end of a text. */
static bool is_port(const char *text)
{
    size_t len = strlen(text);
    return len >= 1 && len <= 5 && strspn(text, "0123456789") == len && atoi(text) <= 65535;
}

/* HOST in HOST:PORT or alone: a name, an address, or an IPv6 address in brackets. */
static bool is_host(const char *text, size_t len)
{
    if (len == 0 || len > 255)
        return false;
    if (text[0] == '[')
        return len > 2 && text[len - 1] == ']' && strspn(text + 1, "0123456789abcdefABCDEF:.%") == len - 2;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && text[i] != '.' && text[i] != '-' && text[i] != '_')
            return false;
    return true;
}

static const char *check_text(const char *value)
{
    return NULL;
}

static const char *check_path(const char *value)
{
    return strlen(value) < 4096 ? NULL : "longer than 4095 bytes";
}

static const char *check_name(const char *value)
{
    for (const char *p = value; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            return "not a name: letters, digits, '.', '_' and '-' only";
    return strlen(value) <= 64 ? NULL : "longer than 64 characters";
}

static const char *check_address(const char *value)
{
    struct in6_addr six;
    return is_host(value, strlen(value)) || inet_pton(AF_INET6, value, &six) == 1 ? NULL : "not an address";
}

static const char *check_endpoint(const char *value)
{
    if (strchr(value, ','))
        return "not an endpoint: one is expected here, without a comma";
    if (starts_with(value, "ipc://")) {
        size_t len = strlen(value + strlen("ipc://"));
        if (len == 0)
            return "not an endpoint: ipc:// needs a path";
        return len < sizeof((struct sockaddr_un *)NULL)->sun_path ? NULL : "too long: a socket's path has at most 107 bytes";
    }
    if (!starts_with(value, "tcp://"))
        return "not an endpoint: ipc://PATH or tcp://HOST:PORT";
    const char *host = value + strlen("tcp://"), *colon = strrchr(host, ':');
    bool sound = colon && (is_host(host, (size_t)(colon - host)) || starts_with(host, "*:")) && is_port(colon + 1);
    return sound ? NULL : "not an endpoint: tcp:// needs HOST:PORT";
}

/* Five characters are four bytes; some five are more than that can hold. */
static bool z85_fits(const char *five)
{
    uint64_t value = 0;
    for (int i = 0; i < 5; i++)
        value = value * 85 + (uint64_t)(strchr(Z85, five[i]) - Z85);
    return value <= UINT32_MAX;
}

static const char *check_z85(const char *value)
{
    bool sound = strlen(value) == 40 && strspn(value, Z85) == 40;
    for (int i = 0; sound && i < 40; i += 5)
        sound = z85_fits(value + i);
    return sound ? NULL : "not a public key: 40 characters of Z85";
}

/* Several values, parted by commas: each as `check` says. */
static const char *check_each(const char *value, const char *(*check)(const char *value))
{
    struct span rest = span_str(value), one;
    while (commas_next(&rest, &one)) {
        char copy[512];
        if (!one.len)
            return "nothing between two commas";
        if (one.len >= sizeof copy)
            return "longer than 511 bytes";
        memcpy(copy, one.data, one.len);
        copy[one.len] = '\0';
        const char *wrong = check(copy);
        if (wrong)
            return wrong; /* cppcheck-suppress returnDanglingLifetime ; a check answers with a fixed sentence */
    }
    return NULL;
}

static const char *check_endpoints(const char *value)
{
    return commas_count(value) <= CONF_PLACES_MAX ? check_each(value, check_endpoint) : "more than 16 endpoints";
}

static const char *check_host_port(const char *value)
{
    const char *colon = strrchr(value, ':');
    return colon && is_host(value, (size_t)(colon - value)) && is_port(colon + 1) ? NULL : "not an address: HOST:PORT";
}

static const char *check_addresses(const char *value)
{
    return commas_count(value) <= CONF_PLACES_MAX ? check_each(value, check_host_port) : "more than 16 addresses";
}

static const char *check_keys(const char *value)
{
    return check_each(value, check_z85);
}

static const char *check_url(const char *value)
{
    const char *rest = starts_with(value, "https://") ? value + 8 : starts_with(value, "http://") ? value + 7 : NULL;
    if (!rest)
        return "not a base URL: http:// or https://";
    if (strpbrk(rest, "?#"))
        return "not a base URL: no query and no fragment";
    size_t authority = strcspn(rest, "/");
    if (memchr(rest, '@', authority))
        return "not a base URL: keys belong into key_file, not before '@'";
    if (strpbrk(rest, " \\\"<>^`{|}"))
        return "not a base URL: it has characters that no URL may have";
    const char *colon = memrchr(rest, ':', authority), *bracket = memrchr(rest, ']', authority);
    if (colon && bracket && colon < bracket)
        colon = NULL;
    char port[8] = "";
    if (colon) {
        size_t len = (size_t)(rest + authority - colon - 1);
        if (len < sizeof port)
            memcpy(port, colon + 1, len);
    }
    bool sound = is_host(rest, colon ? (size_t)(colon - rest) : authority) && (!colon || is_port(port));
    return sound ? NULL : "not a base URL: its host or port is not sound";
}

static const char *check_provider(const char *value)
{
    static const char *const known[] = {"echo", "ollama", "openai"};
    for (size_t i = 0; i < ARRAY_COUNT(known); i++)
        if (strcmp(value, known[i]) == 0)
            return NULL;
    return "not a provider: echo, ollama or openai";
}

static const char *check_role(const char *value)
{
    bool known = strcmp(value, "api") == 0 || strcmp(value, "worker") == 0 || strcmp(value, "monitor") == 0;
    return known ? NULL : "not a role: api, worker or monitor";
}

/* Control characters of ASCII and C1; the line and paragraph separators and the byte order mark, on which YAML folds text. */
static bool has_control(const char *value)
{
    for (const unsigned char *p = (const unsigned char *)value; *p; p++)
        if (*p < 0x20 || *p == 0x7F || (*p == 0xC2 && p[1] < 0xA0))
            return true;
    return strstr(value, "\u2028") || strstr(value, "\u2029") || strstr(value, "\uFEFF");
}

const char *conf_form_check(const char *form, const char *value)
{
    static const struct {
        const char *form;
        const char *(*check)(const char *value);
    } forms[] = {
        {"text", check_text},         {"path", check_path},
        {"name", check_name},         {"address", check_address},
        {"endpoint", check_endpoint}, {"Z85", check_z85},
        {"URL", check_url},           {"provider", check_provider},
        {"role", check_role},         {"endpoints", check_endpoints},
        {"keys", check_keys},         {"addresses", check_addresses},
    };
    for (size_t i = 0; i < ARRAY_COUNT(forms); i++)
        if (strcmp(forms[i].form, form) == 0) {
            if (!utf8_valid(span_str(value)))
                return "not valid UTF-8";
            if (has_control(value))
                return "has a control character";
            return value[0] ? forms[i].check(value) : NULL;
        }
    assert(!"a form without a check");
    return NULL;
}
