/* make sim SEEDS=n [SEED=first] [TRACE=1]: so many worlds, each from its seed. See README.md. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/people.h"
#include "tests/sim/server.h"
#include "tests/sim/wire.h"

#define CALM_MS      400000 /* after the trouble, everything accepted must end within this */
#define SETTLE_MS    6000   /* and be forgotten by everybody within this */
#define TAME_SEEDS   1000   /* from so many seeds on, every kind of trouble must have happened */
#define CHILDREN_MAX 64
#define SEED_SECONDS 60 /* real ones: a seed that takes longer hangs */
#define STORY_LINES  80
#define FAILED       3 /* exit status */

int __real_clock_gettime(clockid_t which, struct timespec *out);

static double seconds(void)
{
    struct timespec t;
    __real_clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- one seed ---- */

struct setup setup;
static struct conf *defaults;

void setup_begin(void)
{
    static struct conf_deployment deployments[] = {{"echo", "echo", "", "", 0}, {"fast", "echo", "fast-1", "", 3}};
    static char *pair[] = {"fast", "echo"}, *echo[] = {"echo"};
    static struct conf_route routes[] = {{"pair", pair, 2}, {"*", echo, 1}};
    setup = (struct setup){.conf = *defaults};
    struct conf *conf = &setup.conf;
    conf->broker.backoff_cap_ms = 5000;
    conf->broker.max_wait_ms = 200000;
    conf->broker.ring_bytes = chance(200) ? 100000 : conf->broker.ring_bytes;
    conf->broker.jobs_max = chance(150) ? 10 + draw(20) : conf->broker.jobs_max;
    conf->broker.tenant_jobs_max = chance(150) ? 5 + draw(10) : conf->broker.tenant_jobs_max;
    conf->broker.body_cache_bytes = chance(400) ? draw(200) : conf->broker.body_cache_bytes;
    conf->api.submit_ms = chance(300) ? 100 + draw(1000) : conf->api.submit_ms;
    conf->worker.slots = 1 + draw(4);
    conf->worker.stop_ms = draw(5000);
    conf->deployments = deployments;
    conf->deployments_count = ARRAY_COUNT(deployments);
    conf->routes = routes;
    conf->routes_count = ARRAY_COUNT(routes);
    conf->credentials_count = 0;
    conf->redis.replicas = sim.synced ? 1 : 0;
    setup.brokers = chance(500) ? 2 : 1;
    setup.apart = setup.brokers > 1 && chance(500);
    conf->api.broker = setup.apart ? "ipc:///one/api.sock,ipc:///two/api.sock" : "ipc:///one/api.sock";
    conf->worker.broker = setup.apart ? "ipc:///one/worker.sock,ipc:///two/worker.sock" : "ipc:///one/worker.sock";
    setup.apis = 1 + (unsigned)draw(APIS);
    setup.workers = 1 + (unsigned)draw(WORKERS - 1);
    setup.jobs = 10 + (unsigned)draw(60);
    setup.trouble_ms = 5000 + (msec)draw(35000);
    setup.failures = chance(300) ? 0 : (unsigned)draw(500);
    setup.poison = chance(200) ? 100 : 0;
}

static void calm_down(void)
{
    sim.calm = true;
    TRACE("everything heals");
    procs_go_on();
    server_heal();
    network_heal();
    broker_pauses(false);
}

static void settle(void)
{
    msec until = sim.now + CALM_MS, settled_at = MSEC_NEVER;
    while (sim.now < until && (settled_at == MSEC_NEVER || sim.now - settled_at < SETTLE_MS)) {
        broker_pauses(false);
        run_until(sim.now + 1000);
        bool settled = truth_is_settled() && brokers_are_settled();
        settled_at = !settled ? MSEC_NEVER : settled_at == MSEC_NEVER ? sim.now : settled_at;
    }
    truth_settled();
    brokers_settled();
}

/* Returns virtual milliseconds. */
static msec run_seed(uint64_t seed)
{
    world_begin(seed);
    sim.gentle = chance(60);
    sim.cuts = !sim.gentle && chance(60);
    sim.rough = !sim.cuts && chance(250);
    sim.synced = chance(150);
    setup_begin();
    truth_begin();
    server_begin();
    network_begin();
    brokers_begin();
    workers_begin();
    callers_begin();
    faults_begin();
    run_until(sim.now + setup.trouble_ms);
    calm_down();
    settle();
    msec took = sim.now;
    callers_end();
    workers_end();
    brokers_end();
    world_end();
    return took;
}

/* ---- many, in as many processes as there are processors ---- */

/* What a process has done so far, in memory that outlives it. */
struct report {
    uint64_t seed; /* being run */
    uint64_t seeds, steps;
    msec virtual_ms;
    uint64_t troubles[TROUBLES];
};

static void run_share(struct report *report, uint64_t first, uint64_t count, unsigned child, unsigned children)
{
    for (uint64_t seed = first + child; seed < first + count; seed += children) {
        report->seed = seed;
        alarm(SEED_SECONDS);
        report->virtual_ms += run_seed(seed);
        report->steps += sim.steps;
        report->seeds++;
        memcpy(report->troubles, sim.troubles, sizeof report->troubles);
    }
    alarm(0);
}

static void add(struct report *to, const struct report *from)
{
    to->seeds += from->seeds;
    to->steps += from->steps;
    to->virtual_ms += from->virtual_ms;
    for (unsigned i = 0; i < TROUBLES; i++)
        to->troubles[i] += from->troubles[i];
}

/* The lowest seed that failed, 0 when none did. */
static uint64_t run_all(uint64_t first, uint64_t count, struct report *total)
{
    unsigned children = (unsigned)MIN(MIN((uint64_t)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1), count), CHILDREN_MAX);
    struct report *reports =
        mmap(NULL, CHILDREN_MAX * sizeof *reports, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[CHILDREN_MAX];
    uint64_t failed = 0;
    MUST(reports != MAP_FAILED, "the simulation has no memory");
    fflush(stdout);
    for (unsigned i = 0; i < children; i++) {
        pids[i] = fork();
        MUST(pids[i] >= 0, "the simulation cannot fork");
        if (pids[i] == 0) {
            run_share(&reports[i], first, count, i, children);
            exit(0);
        }
    }
    int status;
    for (pid_t pid; (pid = wait(&status)) > 0;)
        for (unsigned i = 0; i < children; i++) {
            if (pids[i] != pid)
                continue;
            add(total, &reports[i]);
            if (!(WIFEXITED(status) && WEXITSTATUS(status) == 0) && (!failed || reports[i].seed < failed))
                failed = reports[i].seed;
        }
    munmap(reports, CHILDREN_MAX * sizeof *reports);
    return failed;
}

/* ---- what is said ---- */

static const char *const trouble_names[TROUBLES] = {
#define TROUBLE(code, sentence) #code,
#include "tests/sim/troubles.def"
#undef TROUBLE
};
static const char *const trouble_sentences[TROUBLES] = {
#define TROUBLE(code, sentence) sentence,
#include "tests/sim/troubles.def"
#undef TROUBLE
};

static bool tell(const struct report *total, double took)
{
    bool tame = false;
    for (unsigned i = 0; i < TROUBLES; i++) {
        printf("%10" PRIu64 "  %s\n", total->troubles[i], trouble_sentences[i]);
        if (total->seeds >= TAME_SEEDS && !total->troubles[i]) {
            printf("TAME: %s never happened\n", trouble_names[i]);
            tame = true;
        }
    }
    printf("%" PRIu64 " seeds, %" PRIu64 " steps, %.0f virtual seconds in %.1f s: %.0f seeds/s, %.0f times real time\n",
           total->seeds, total->steps, (double)total->virtual_ms / 1000, took, (double)total->seeds / took,
           (double)total->virtual_ms / 1000 / took);
    return !tame;
}

static uint64_t number_after(int argc, char **argv, const char *name, uint64_t otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return strtoull(argv[i + 1], NULL, 10);
    return otherwise;
}

/* How it came to that: the last lines of the same seed, told. */
static void tell_story(const char *program, uint64_t seed)
{
    char command[512];
    printf("seed %" PRIu64 " failed; the end of its story:\n\n", seed);
    snprintf(command, sizeof command, "'%s' --seed %" PRIu64 " --trace 1 2>&1 | tail -n %d", program, seed, STORY_LINES);
    fflush(stdout);
    if (system(command) != 0)
        printf("it cannot be told\n");
    printf("\nall of it: make sim SEED=%" PRIu64 " TRACE=1\n", seed);
}

int main(int argc, char **argv)
{
    uint64_t first = number_after(argc, argv, "--seed", 1), count = number_after(argc, argv, "--seeds", 1);
    struct report total = {0};
    struct conf_fault fault = {""};
    if (conf_load(NULL, 0, &defaults, &fault) != ERR_OK || id_start() != ERR_OK) {
        fprintf(stderr, "%s\n", fault.text);
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    sim.tracing = number_after(argc, argv, "--trace", 0) != 0;
    double began = seconds();
    if (sim.tracing) { /* in this process, where a debugger finds it */
        run_share(&total, first, count, 0, 1);
    } else {
        uint64_t failed = run_all(first, count, &total);
        if (failed) {
            tell_story(argv[0], failed);
            return FAILED;
        }
    }
    return tell(&total, seconds() - began) ? 0 : FAILED;
}
