#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/core/tenant.h"

static struct sched_tenant_stats stats_at(const struct tenant *tenant, msec now)
{
    struct sched_tenant_stats stats;
    tenant_stats(tenant, now, &stats);
    return stats;
}

static void quantiles_are_right_within_their_buckets(void **state)
{
    struct tenant *all = NULL, *tenant = tenant_get(&all, span_str("acme"));
    assert_ptr_equal(tenant_get(&all, span_str("acme")), tenant);
    for (int ms = 1; ms <= 10000; ms++)
        tenant_count_end(tenant, 1000000, STATE_COMPLETED, ms);
    struct sched_tenant_stats stats = stats_at(tenant, 1000000);
    assert_in_range(stats.p50_ms, 5000, 6000);
    assert_in_range(stats.p99_ms, 9900, 11800);
    assert_int_equal(stats.completed, 10000);
    assert_int_equal(stats.done_ms_total, 50005000);
    tenants_free(&all);
}

static void every_duration_has_a_bucket(void **state)
{
    static const msec took[] = {-5, 0, 1, 3, 4, 5, 7, 8, 1000, 1 << 20, (msec)1 << 40};
    for (size_t i = 0; i < ARRAY_COUNT(took); i++) {
        struct tenant *all = NULL, *tenant = tenant_get(&all, span_str("t"));
        tenant_count_end(tenant, 1, STATE_COMPLETED, took[i]);
        uint32_t p50 = stats_at(tenant, 1).p50_ms;
        msec most = ((msec)1 << 29) - 1;
        msec real = MAX(0, MIN(took[i], most));
        assert_true(p50 >= real && p50 <= real + real / 4 + 1);
        tenants_free(&all);
    }
}

static void what_is_old_is_forgotten(void **state)
{
    struct tenant *all = NULL, *tenant = tenant_get(&all, span_str("acme"));
    msec now = 5000000;
    tenant_count_end(tenant, now, STATE_COMPLETED, 100000);
    tenant_count_end(tenant, now, STATE_FAILED, 1);
    assert_int_equal(stats_at(tenant, now).per_minute, 2);
    assert_int_equal(stats_at(tenant, now + 61000).per_minute, 0);
    assert_true(stats_at(tenant, now + 299999).p50_ms > 0);
    now += 300000;
    tenant_count_end(tenant, now, STATE_COMPLETED, 1); /* the window before still counts */
    assert_true(stats_at(tenant, now).p99_ms >= 100000);
    now += 300000;
    tenant_count_end(tenant, now, STATE_COMPLETED, 1);
    assert_int_equal(stats_at(tenant, now).p99_ms, 1);
    assert_int_equal(stats_at(tenant, now + 600000).p99_ms, 0);
    tenants_free(&all);
}

static void a_queue_goes_with_its_last_job_unless_it_is_paused(void **state)
{
    struct queues queues = {0};
    struct queue *queue = queue_get(&queues, span_str("mail")), *again = queue_get(&queues, span_str("mail"));
    assert_ptr_equal(queue, again);
    queue_put(&queues, &again);
    assert_null(again);
    assert_non_null(queue_find(&queues, span_str("mail")));
    queue->paused = true;
    again = queue;
    queue_put(&queues, &again);
    assert_non_null(queue_find(&queues, span_str("mail")));
    again = queue_get(&queues, span_str("mail"));
    again->paused = false;
    queue_put(&queues, &again);
    assert_null(queue_find(&queues, span_str("mail")));
    assert_memory_equal(queue->text, "mail", 4); /* until it is swept */
    queues_sweep(&queues);
    queues_free(&queues);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_are_right_within_their_buckets),
        cmocka_unit_test(every_duration_has_a_bucket),
        cmocka_unit_test(what_is_old_is_forgotten),
        cmocka_unit_test(a_queue_goes_with_its_last_job_unless_it_is_paused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
