/* `quernctl run`: every role and a private Redis on one machine, supervised, for development, containers and `make up`.
 *
 *     quernctl run --state DIR [--settings FILE]... [--workers N] [--api-children N] [--port N] [--daemon]
 *     quernctl run --state DIR --stop | --alive
 *
 * DIR (0700, made when missing) holds all there is: redis.sock, redis.conf, redis.acl, redis-{broker,api}.password, the roles'
 * sockets, redis/ (the data), logs/ROLE.log and run/ROLE.pid with ROLE of redis, broker, worker, api and, for the supervisor,
 * run; run/api.port says where users connect. Programs are those beside quernctl; redis-server is found in PATH.
 *
 * What dies is started again: at once, then after 100 ms doubling to 5 s; ten seconds of life start the count again. SIGTERM
 * and SIGINT stop api, worker, broker, Redis in this order, each with a bound, after which it is killed; a second signal kills
 * at once. SIGHUP makes all read their settings again. When the supervisor is killed, every role gets SIGTERM
 * (PR_SET_PDEATHSIG). What a killed supervisor left behind is ended before anything is started; a second `run` on a living DIR
 * is refused.
 *
 * When GET /readyz answers 200 it prints "ready http://HOST:PORT". With --daemon the caller gets its prompt back then, or exit
 * status 1 after 30 s, with the supervisor going on; its lines are in logs/run.log. */
#pragma once

#define RUN_LIVES 3 /* exit status: DIR is being run already */

/* argv[0] is "run". Returns the exit status: 0 ended as asked; 1 could not go on; 2 options or settings refused; RUN_LIVES. */
int run_main(int argc, char **argv);
