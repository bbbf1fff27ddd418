#include "tests/sim/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "tests/sim/truth.h"

struct entry {
    UT_hash_handle hh;
    const char *key;
    struct span value; /* data NULL: not there */
    msec expires_at;   /* MSEC_NEVER: stays */
    struct span *members;
    size_t count, size;
};

struct undo {
    struct entry *entry;
    bool of_member, was_there;
    struct span value; /* before; or the member */
    msec expires_at;
    uint64_t position; /* of the command that changed it */
};

static struct entry *entries;
static struct undo *undos;
static size_t undos_count, undos_size;
static uint64_t position;
static msec skew;

void data_begin(void)
{
    HASH_CLEAR(hh, entries);
    undos_count = 0;
    position = 0;
    skew = 0;
}
void data_clock(msec jump_ms)
{
    skew += jump_ms;
}
msec data_now(void)
{
    return sim.now + skew + 10000000;
}
uint64_t data_position(void)
{
    return position;
}
void data_next(void)
{
    position++;
}

/* ---- replies ---- */

redisReply *reply_text(int type, struct span text)
{
    redisReply *reply = keep(sizeof *reply);
    reply->type = type;
    reply->str = (char *)keep_span(text).data;
    reply->len = text.len;
    return reply;
}
redisReply *reply_error(const char *text)
{
    return reply_text(REDIS_REPLY_ERROR, span_str(text));
}
redisReply *reply_number(long long number)
{
    redisReply *reply = keep(sizeof *reply);
    reply->type = REDIS_REPLY_INTEGER;
    reply->integer = number;
    return reply;
}
redisReply *reply_list(size_t count)
{
    redisReply *reply = keep(sizeof *reply);
    reply->type = REDIS_REPLY_ARRAY;
    reply->elements = count;
    reply->element = keep((count + 1) * sizeof *reply->element);
    return reply;
}
static redisReply *reply_ok(void)
{
    return reply_text(REDIS_REPLY_STATUS, span_str("OK"));
}
static redisReply *reply_value(struct span value)
{
    if (value.data)
        return reply_text(REDIS_REPLY_STRING, value);
    redisReply *reply = keep(sizeof *reply);
    reply->type = REDIS_REPLY_NIL;
    return reply;
}

/* ---- entries ---- */

static struct entry *entry_of(struct span key, bool make)
{
    struct entry *entry;
    HASH_FIND(hh, entries, key.data, key.len, entry);
    if (!entry && make) {
        entry = keep(sizeof *entry);
        entry->key = (const char *)keep_span(key).data;
        entry->expires_at = MSEC_NEVER;
        HASH_ADD_KEYPTR(hh, entries, entry->key, key.len, entry);
    }
    return entry;
}

static struct span value_of(const struct entry *entry)
{
    return entry && entry->expires_at > data_now() ? entry->value : (struct span){0};
}

static void remember(struct entry *entry, bool of_member, struct span value, bool was_there)
{
    if (undos_count == undos_size) {
        undos_size = undos_size ? undos_size * 2 : 1024;
        undos = realloc(undos, undos_size * sizeof *undos);
        MUST(undos, "the simulation has no memory");
    }
    undos[undos_count++] = (struct undo){entry, of_member, was_there, value, entry->expires_at, position};
}

static void set_value(struct span key, struct span value, msec life_ms)
{
    struct entry *entry = entry_of(key, true);
    remember(entry, false, entry->value, true);
    entry->value = value.data ? keep_span(value) : value;
    entry->expires_at = life_ms == MSEC_NEVER ? MSEC_NEVER : data_now() + life_ms;
    truth_stored(entry->key, entry->value);
}

static void set_life(struct entry *entry, msec life_ms)
{
    remember(entry, false, entry->value, true);
    entry->expires_at = data_now() + life_ms;
}

static size_t member_at(const struct entry *entry, struct span member)
{
    size_t at = 0;
    while (at < entry->count && !span_equal(entry->members[at], member))
        at++;
    return at;
}

static void put_member(struct entry *entry, struct span member)
{
    if (entry->count == entry->size) {
        size_t size = entry->size ? entry->size * 2 : 64;
        struct span *members = keep(size * sizeof *members);
        if (entry->count)
            memcpy(members, entry->members, entry->count * sizeof *members);
        entry->members = members;
        entry->size = size;
    }
    entry->members[entry->count++] = member;
}

static void add_member(struct entry *entry, struct span member)
{
    if (member_at(entry, member) < entry->count)
        return;
    member = keep_span(member);
    remember(entry, true, member, false);
    put_member(entry, member);
}

static void remove_member(struct entry *entry, struct span member)
{
    size_t at = member_at(entry, member);
    if (at == entry->count)
        return;
    remember(entry, true, entry->members[at], true);
    entry->members[at] = entry->members[--entry->count];
}

void data_undo(uint64_t to)
{
    while (undos_count && undos[undos_count - 1].position > to) {
        struct undo *u = &undos[--undos_count];
        struct entry *entry = u->entry;
        if (u->of_member && u->was_there)
            put_member(entry, u->value);
        else if (u->of_member)
            entry->members[member_at(entry, u->value)] = entry->members[entry->count - 1], entry->count--;
        else {
            entry->value = u->value;
            entry->expires_at = u->expires_at;
            truth_unstored(entry->key);
        }
    }
    /* positions never come again: what is done from here on is another history */
}

/* ---- commands ---- */

static bool is(struct span a, const char *text)
{
    return span_is(a, text);
}
static msec number_of(struct span text)
{
    return strtoll((const char *)text.data, NULL, 10); /* every argument was kept with a NUL behind it */
}

static redisReply *run_set(const struct span *argv, size_t argc)
{
    msec life_ms = MSEC_NEVER;
    bool only_new = false;
    for (size_t i = 3; i < argc; i++) {
        if (is(argv[i], "PX") && i + 1 < argc)
            life_ms = number_of(argv[++i]);
        else if (is(argv[i], "NX"))
            only_new = true;
        else
            return reply_error("ERR syntax error");
    }
    if (life_ms <= 0)
        return reply_error("ERR invalid expire time in 'set' command");
    if (only_new && value_of(entry_of(argv[1], false)).data)
        return reply_value((struct span){0});
    set_value(argv[1], argv[2], life_ms);
    return reply_ok();
}

static redisReply *run_mset(const struct span *argv, size_t argc)
{
    if (argc % 2 == 0)
        return reply_error("ERR wrong number of arguments for 'mset' command");
    for (size_t i = 1; i < argc; i += 2)
        set_value(argv[i], argv[i + 1], MSEC_NEVER);
    return reply_ok();
}

static redisReply *run_mget(const struct span *argv, size_t argc)
{
    redisReply *reply = reply_list(argc - 1);
    for (size_t i = 1; i < argc; i++)
        reply->element[i - 1] = reply_value(value_of(entry_of(argv[i], false)));
    return reply;
}

static redisReply *run_del(const struct span *argv, size_t argc)
{
    long long count = 0;
    for (size_t i = 1; i < argc; i++) {
        if (!value_of(entry_of(argv[i], false)).data)
            continue;
        set_value(argv[i], (struct span){0}, MSEC_NEVER);
        count++;
    }
    return reply_number(count);
}

static redisReply *run_pexpire(const struct span *argv, size_t argc)
{
    struct entry *entry = entry_of(argv[1], false);
    bool there = entry && (value_of(entry).data || entry->count);
    msec life_ms = number_of(argv[2]);
    if (!there)
        return reply_number(0);
    if (argc > 3 && is(argv[3], "NX") && entry->expires_at != MSEC_NEVER)
        return reply_number(0);
    if (argc > 3 && is(argv[3], "GT") && (entry->expires_at == MSEC_NEVER || data_now() + life_ms <= entry->expires_at))
        return reply_number(0);
    set_life(entry, life_ms);
    return reply_number(1);
}

static redisReply *run_pttl(const struct span *argv)
{
    struct entry *entry = entry_of(argv[1], false);
    if (!value_of(entry).data)
        return reply_number(-2);
    return reply_number(entry->expires_at == MSEC_NEVER ? -1 : entry->expires_at - data_now());
}

static redisReply *run_members(const struct span *argv, size_t argc)
{
    struct entry *entry = entry_of(argv[1], true);
    bool scored = argv[0].data[0] == 'Z', adds = is(argv[0], "SADD") || is(argv[0], "ZADD");
    for (size_t i = 2; i < argc; i++) {
        i += scored && adds; /* its score */
        if (i >= argc)
            return reply_error("ERR syntax error");
        if (adds)
            add_member(entry, argv[i]);
        else
            remove_member(entry, argv[i]);
    }
    return reply_number((long long)argc - 2);
}

/* All in one page; some members twice, as while the set is rehashed. */
static redisReply *run_sscan(const struct span *argv)
{
    struct entry *entry = entry_of(argv[1], true);
    redisReply *reply = reply_list(2), *list = reply_list(2 * entry->count);
    size_t count = 0;
    for (size_t i = 0; i < entry->count; i++)
        for (unsigned times = chance(50) ? 2 : 1; times; times--)
            list->element[count++] = reply_value(entry->members[i]);
    list->elements = count;
    reply->element[0] = reply_value(span_str("0"));
    reply->element[1] = list;
    return reply;
}

redisReply *data_run(const struct span *argv, size_t argc)
{
    struct span name = argv[0];
    if (is(name, "GET"))
        return reply_value(value_of(entry_of(argv[1], false)));
    if (is(name, "SET"))
        return run_set(argv, argc);
    if (is(name, "MSET"))
        return run_mset(argv, argc);
    if (is(name, "MGET"))
        return run_mget(argv, argc);
    if (is(name, "DEL"))
        return run_del(argv, argc);
    if (is(name, "PEXPIRE"))
        return run_pexpire(argv, argc);
    if (is(name, "PTTL"))
        return run_pttl(argv);
    if (is(name, "SADD") || is(name, "SREM") || is(name, "ZADD") || is(name, "ZREM"))
        return run_members(argv, argc);
    if (is(name, "SSCAN"))
        return run_sscan(argv);
    return NULL;
}

/* ---- looking at it ---- */

struct span data_get(const char *key)
{
    return value_of(entry_of(span_str(key), false));
}
size_t data_members(const char *key)
{
    struct entry *entry = entry_of(span_str(key), false);
    return entry ? entry->count : 0;
}
void data_each(void (*each)(const char *key, struct span value))
{
    for (struct entry *entry = entries; entry; entry = entry->hh.next)
        if (value_of(entry).data)
            each(entry->key, value_of(entry));
}
