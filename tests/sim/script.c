#include "tests/sim/script.h"

#include <lua5.1/lauxlib.h>
#include <lua5.1/lua.h>
#include <lua5.1/lualib.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPTS  4
#define ARGS_MAX 4096

static lua_State *lua;
static struct {
    struct span text;
    char sha[41];
    int function; /* in the registry */
} scripts[SCRIPTS];
static unsigned scripts_count;

/* ---- replies to Lua and back ---- */

static void push(const redisReply *reply)
{
    switch (reply->type) {
    case REDIS_REPLY_INTEGER:
        lua_pushnumber(lua, (lua_Number)reply->integer);
        return;
    case REDIS_REPLY_STRING:
        lua_pushlstring(lua, reply->str, reply->len);
        return;
    case REDIS_REPLY_NIL:
        lua_pushboolean(lua, 0);
        return;
    case REDIS_REPLY_ARRAY:
        lua_createtable(lua, (int)reply->elements, 0);
        for (size_t i = 0; i < reply->elements; i++) {
            push(reply->element[i]);
            lua_rawseti(lua, -2, (int)i + 1);
        }
        return;
    default:
        lua_createtable(lua, 0, 1);
        lua_pushlstring(lua, reply->str, reply->len);
        lua_setfield(lua, -2, "ok");
    }
}

static redisReply *pop_reply(int at)
{
    size_t len;
    switch (lua_type(lua, at)) {
    case LUA_TNUMBER:
        return reply_number((long long)lua_tonumber(lua, at));
    case LUA_TSTRING: {
        const char *text = lua_tolstring(lua, at, &len);
        return reply_text(REDIS_REPLY_STRING, span_of(text, len));
    }
    case LUA_TTABLE: {
        size_t count = lua_objlen(lua, at);
        redisReply *list = reply_list(count);
        for (size_t i = 0; i < count; i++) {
            lua_rawgeti(lua, at, (int)i + 1);
            list->element[i] = pop_reply(lua_gettop(lua));
            lua_pop(lua, 1);
        }
        return list;
    }
    default: {
        redisReply *nil = reply_number(0);
        nil->type = REDIS_REPLY_NIL;
        return nil;
    }
    }
}

static int redis_call(lua_State *state)
{
    struct span argv[ARGS_MAX];
    int argc = lua_gettop(lua);
    MUST(argc > 0 && argc <= ARGS_MAX, "a script calls with %d arguments", argc);
    for (int i = 0; i < argc; i++) {
        size_t len;
        const char *text = lua_tolstring(lua, i + 1, &len);
        if (!text)
            return luaL_error(lua, "Lua redis() command arguments must be strings or integers");
        argv[i] = span_of(text, len);
    }
    redisReply *reply = data_run(argv, (size_t)argc);
    if (!reply || reply->type == REDIS_REPLY_ERROR)
        return luaL_error(lua, "%s", reply ? reply->str : "ERR unknown command");
    push(reply);
    return 1;
}

/* ---- scripts ---- */

static void start(void)
{
    lua = luaL_newstate();
    MUST(lua, "the simulation has no memory");
    luaL_openlibs(lua);
    lua_createtable(lua, 0, 1);
    lua_pushcfunction(lua, redis_call);
    lua_setfield(lua, -2, "call");
    lua_setglobal(lua, "redis");
}

const char *script_add(struct span text)
{
    for (unsigned i = 0; i < scripts_count; i++)
        if (scripts[i].text.data == text.data || span_equal(scripts[i].text, text))
            return scripts[i].sha;
    if (!lua)
        start();
    MUST(scripts_count < SCRIPTS, "more scripts than expected");
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0, at = scripts_count++;
    EVP_Digest(text.data, text.len, digest, &len, EVP_sha1(), NULL);
    for (unsigned i = 0; i < 20; i++)
        snprintf(scripts[at].sha + 2 * i, 3, "%02x", digest[i]);
    uint8_t *copy = malloc(text.len);
    MUST(copy, "the simulation has no memory");
    memcpy(copy, text.data, text.len);
    scripts[at].text = span_of(copy, text.len);
    /* the first line is Redis's own, not Lua's */
    const uint8_t *line = memchr(copy, '\n', text.len);
    size_t from = line ? (size_t)(line - copy) : 0;
    MUST(luaL_loadbuffer(lua, (const char *)copy + from, text.len - from, "script") == 0, "a script is no Lua: %s",
         lua_tostring(lua, -1));
    scripts[at].function = luaL_ref(lua, LUA_REGISTRYINDEX);
    return scripts[at].sha;
}

static void set_list(const char *name, const struct span *list, size_t count)
{
    lua_createtable(lua, (int)count, 0);
    for (size_t i = 0; i < count; i++) {
        lua_pushlstring(lua, (const char *)list[i].data, list[i].len);
        lua_rawseti(lua, -2, (int)i + 1);
    }
    lua_setglobal(lua, name);
}

redisReply *script_run(struct span sha, const struct span *keys, size_t keys_count, const struct span *args, size_t args_count)
{
    unsigned at = 0;
    while (at < scripts_count && !span_is(sha, scripts[at].sha))
        at++;
    if (at == scripts_count)
        return NULL;
    set_list("KEYS", keys, keys_count);
    set_list("ARGV", args, args_count);
    lua_rawgeti(lua, LUA_REGISTRYINDEX, scripts[at].function);
    MUST(lua_pcall(lua, 0, 1, 0) == 0, "a script fails: %s", lua_tostring(lua, -1));
    redisReply *reply = pop_reply(lua_gettop(lua));
    lua_pop(lua, 1);
    return reply;
}
