/* A Redis: one data set behind connections, with real Lua for the broker's scripts. It can stall, die and come back without its
 * tail, load, be read-only, out of memory or busy, lose its scripts, fail over to a replica that lags, and come back as an
 * older data set than anybody promised. What it is told is seen by the model of truth. */
#pragma once

#include "common/redis.h"
#include "tests/sim/sim.h"

void server_begin(void);

/* ---- connections (redis.c) ---- */

struct line; /* one connection, as the server sees it */
/* NULL: nobody answers. */
struct line *server_open(struct redis *client);
/* The client closed it; what is on its way may still be executed. */
void server_close(struct line *line);
/* Arrives after a while, in order. argv is copied. */
void server_send(struct line *line, const struct span *argv, size_t argc);

/* What the client is told; in the world's time, not in its process's. */
void redis_take_reply(struct redis *client, struct line *line, redisReply *reply);
void redis_take_break(struct redis *client, struct line *line, const char *why);

/* ---- trouble ---- */

void server_stall(msec for_ms);
/* Killed; back after down_ms, then loading for load_ms. */
void server_kill(msec down_ms, msec load_ms);
/* For so long write(2) of the AOF is held back, as when an fsync is slow: what is killed meanwhile lacks what was not written.
 */
void server_slow_disk(msec for_ms);
/* Every connection breaks. */
void server_break(void);
/* Commands of a kind are refused for so long. */
enum refusal { REFUSE_NOTHING, REFUSE_OOM, REFUSE_READONLY, REFUSE_BUSY, REFUSE_MISCONF, REFUSE_NOREPLICAS, REFUSALS };
void server_refuse(enum refusal refusal, msec for_ms);
void server_forget_scripts(void);
/* Comes back at once, as it was so many commands ago. */
void server_older(unsigned commands);
void server_cut_replica(msec for_ms);
/* Redis is lost, and its replica is the master from now on: with what WAIT has vouched for, and perhaps more. */
void server_fail_over(void);
void server_clock(msec jump_ms);
/* Used memory in percent of maxmemory, as INFO says it. */
void server_fill(unsigned percent);
void server_heal(void);

/* ---- looking at it ---- */

/* A key's value; data NULL: not there. */
struct span server_get(const char *key);
size_t server_members(const char *key);
