#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/core/ready.h"

#define JOBS 64

static struct ready ready;
static struct tenant *tenants;
static struct queues queues;
static struct job jobs[JOBS];
static uint64_t seq;

static int begin(void **state)
{
    static const uint32_t weights[3] = {16, 4, 1};
    tenants = NULL;
    queues = (struct queues){0};
    seq = 0;
    memset(jobs, 0, sizeof jobs);
    for (int i = 0; i < JOBS; i++)
        list_init(&jobs[i].place);
    ready_init(&ready, 1000, weights);
    return 0;
}

static int end(void **state)
{
    for (int i = 0; i < JOBS; i++) {
        if (jobs[i].flow)
            ready_remove(&ready, &jobs[i]);
        queue_put(&queues, &jobs[i].queue);
    }
    assert_null(ready.flows);
    assert_null(ready.outlets); /* gone with the last that waited */
    ready_done(&ready);
    tenants_free(&tenants);
    queues_free(&queues);
    return 0;
}

static struct outlet *outlet_at(uint32_t route)
{
    struct outlet_key key;
    bool made;
    memset(&key, 0, sizeof key);
    key.route = route;
    struct outlet *outlet = ready_outlet(&ready, &key, &made);
    assert_non_null(outlet);
    return outlet;
}

static struct job *wait_at(uint32_t route, const char *tenant, const char *queue, uint8_t class)
{
    struct job *job = &jobs[seq];
    struct flow *flow;
    job->seq = ++seq;
    job->class = class;
    job->priority = 5;
    job->runnable_at = (msec)seq;
    job->tenant = tenant_get(&tenants, span_str(tenant));
    job->queue = queue_get(&queues, span_str(queue));
    assert_int_equal(ready_reserve(&ready, job, outlet_at(route), &flow), ERR_OK);
    ready_add(&ready, flow, job);
    return job;
}

static void serve(struct job *job)
{
    ready_charge(&ready, job, 1);
    ready_remove(&ready, job);
}

static void a_closed_outlet_is_not_looked_at(void **state)
{
    struct job *job = wait_at(0, "acme", "q", CLASS_STANDARD);
    assert_null(ready_next(&ready, ~0ull));
    assert_int_equal(ready_open(&ready, outlet_at(0), 1), ERR_OK);
    assert_null(ready_next(&ready, 2)); /* another group's slot */
    assert_ptr_equal(ready_next(&ready, 1), job);
    assert_int_equal(ready_open(&ready, outlet_at(0), 0), ERR_OK);
    assert_null(ready_next(&ready, ~0ull));
}

static void tenants_take_turns_over_all_their_outlets(void **state)
{
    for (int i = 0; i < 8; i++)
        wait_at((uint32_t)i % 2, "acme", "q", CLASS_STANDARD);
    for (int i = 0; i < 4; i++)
        wait_at(1, "bolt", "q", CLASS_STANDARD);
    assert_int_equal(ready_open(&ready, outlet_at(0), 1), ERR_OK);
    assert_int_equal(ready_open(&ready, outlet_at(1), 3), ERR_OK);
    for (int i = 0; i < 8; i++) {
        struct job *job = ready_next(&ready, 3);
        assert_string_equal(job->tenant->text, i % 2 ? "bolt" : "acme");
        serve(job);
    }
    for (int i = 0; i < 4; i++)
        serve(ready_next(&ready, 3));
    assert_null(ready_next(&ready, 3));
}

static void within_a_tenant_the_oldest_of_all_queues_goes_first(void **state)
{
    for (int i = 0; i < 9; i++)
        wait_at(0, "acme", i % 3 ? "q" : "mail", CLASS_STANDARD);
    assert_int_equal(ready_open(&ready, outlet_at(0), 1), ERR_OK);
    for (uint64_t i = 1; i <= 9; i++) {
        struct job *job = ready_next(&ready, 1);
        assert_int_equal(job->seq, i);
        serve(job);
    }
}

static void a_paused_queue_lets_the_others_pass(void **state)
{
    struct job *first = wait_at(0, "acme", "mail", CLASS_STANDARD), *second = wait_at(0, "acme", "q", CLASS_STANDARD);
    assert_int_equal(ready_open(&ready, outlet_at(0), 1), ERR_OK);
    first->queue->paused = true;
    ready_pause_changed(&ready, first->flow);
    assert_ptr_equal(ready_next(&ready, 1), second);
    serve(second);
    assert_null(ready_next(&ready, 1));
    first->queue->paused = false;
    ready_pause_changed(&ready, first->flow);
    assert_ptr_equal(ready_next(&ready, 1), first);
}

static void an_interactive_job_goes_before_a_backlog(void **state)
{
    for (int i = 0; i < 10; i++)
        wait_at(0, "acme", "q", CLASS_BACKGROUND);
    assert_int_equal(ready_open(&ready, outlet_at(0), 1), ERR_OK);
    serve(ready_next(&ready, 1));
    struct job *job = wait_at(0, "acme", "q", CLASS_INTERACTIVE);
    assert_ptr_equal(ready_next(&ready, 1), job);
}

static void pools_are_used_again(void **state)
{
    for (uint64_t groups = 1; groups <= 4 * READY_POOLS; groups++) { /* many sets of groups, one after the other */
        seq = 0;
        struct job *job = wait_at(0, "acme", "q", CLASS_STANDARD);
        assert_int_equal(ready_open(&ready, outlet_at(0), groups), ERR_OK);
        assert_ptr_equal(ready_next(&ready, groups), job);
        serve(job);
        queue_put(&queues, &job->queue);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_closed_outlet_is_not_looked_at, begin, end),
        cmocka_unit_test_setup_teardown(tenants_take_turns_over_all_their_outlets, begin, end),
        cmocka_unit_test_setup_teardown(within_a_tenant_the_oldest_of_all_queues_goes_first, begin, end),
        cmocka_unit_test_setup_teardown(a_paused_queue_lets_the_others_pass, begin, end),
        cmocka_unit_test_setup_teardown(an_interactive_job_goes_before_a_backlog, begin, end),
        cmocka_unit_test_setup_teardown(pools_are_used_again, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
