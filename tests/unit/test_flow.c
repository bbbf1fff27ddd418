#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/core/flow.h"

#define HEAD_START 1000

static void order_is_by_key_then_arrival_however_they_come_and_go(void **state)
{
    struct flow flow;
    struct flow_key key = {0};
    struct job jobs[300];
    unsigned random = 7;
    flow_init(&flow, &key, HEAD_START);
    memset(jobs, 0, sizeof jobs);
    for (unsigned i = 0; i < ARRAY_COUNT(jobs); i++) {
        list_init(&jobs[i].place);
        jobs[i].seq = i;
        jobs[i].priority = (uint8_t)(1 + i * 7 % 10);
        jobs[i].runnable_at = i * 10;
    }
    for (int turn = 0; turn < 30000; turn++) {
        random = random * 1103515245 + 12345;
        struct job *job = &jobs[random / 65536 % ARRAY_COUNT(jobs)];
        if (job->flow)
            flow_remove(&flow, job);
        else {
            assert_int_equal(flow_reserve(&flow), ERR_OK);
            flow_add(&flow, job);
        }
        struct job *first = NULL;
        uint64_t count = 0;
        for (unsigned i = 0; i < ARRAY_COUNT(jobs); i++) {
            count += jobs[i].flow != NULL;
            if (jobs[i].flow && (!first || flow_before(&jobs[i], first, HEAD_START)))
                first = &jobs[i];
        }
        assert_int_equal(flow.count, count);
        assert_ptr_equal(flow.head, first);
    }
    /* filled in the order of arrival and emptied from its head: every lane has its turn, each job is behind the one before */
    for (unsigned i = 0; i < ARRAY_COUNT(jobs); i++) {
        if (jobs[i].flow)
            flow_remove(&flow, &jobs[i]);
    }
    for (unsigned i = 0; i < ARRAY_COUNT(jobs); i++) {
        assert_int_equal(flow_reserve(&flow), ERR_OK);
        flow_add(&flow, &jobs[i]);
    }
    for (struct job *job, *before = NULL; flow.count; before = job) {
        job = flow.head;
        assert_non_null(job);
        assert_false(before && flow_before(job, before, HEAD_START));
        flow_remove(&flow, job);
    }
    flow_done(&flow);
}

static void arrivals_use_no_heap(void **state)
{
    struct flow flow;
    struct flow_key key = {0};
    struct job jobs[100];
    flow_init(&flow, &key, HEAD_START);
    memset(jobs, 0, sizeof jobs);
    for (unsigned i = 0; i < ARRAY_COUNT(jobs); i++) {
        list_init(&jobs[i].place);
        jobs[i].seq = i;
        jobs[i].priority = (uint8_t)(1 + i % 10);
        jobs[i].runnable_at = i;
        assert_int_equal(flow_reserve(&flow), ERR_OK);
        flow_add(&flow, &jobs[i]);
        assert_true(jobs[i].in_lane);
    }
    flow_remove(&flow, &jobs[0]);
    assert_int_equal(flow_reserve(&flow), ERR_OK);
    flow_add(&flow, &jobs[0]); /* back where it was: before the others of its lane */
    assert_false(jobs[0].in_lane);
    for (unsigned i = 0; i < ARRAY_COUNT(jobs); i++)
        flow_remove(&flow, &jobs[i]);
    flow_done(&flow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_by_key_then_arrival_however_they_come_and_go),
        cmocka_unit_test(arrivals_use_no_heap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
