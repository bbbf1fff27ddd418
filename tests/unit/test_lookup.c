#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/core/lookup.h"

static struct request *request(void)
{
    struct request *r = calloc(1, sizeof *r);
    assert_non_null(r);
    list_init(&r->node);
    return r;
}

static void equal_keys_share_one_question_and_act_in_turn(void **state)
{
    struct lookups lookups = {0};
    uint8_t hash[32] = {1};
    struct id id = {{1}};
    struct lookup_key key = lookup_key_hash(hash), other = lookup_key_id(LOOKUP_BODY, &id);
    struct request *r[4] = {request(), request(), request(), request()};
    bool ask;
    assert_int_equal(lookup_add(&lookups, &key, r[0], &ask), ERR_OK);
    assert_true(ask);
    assert_int_equal(lookup_add(&lookups, &key, r[1], &ask), ERR_OK);
    assert_false(ask);
    assert_int_equal(lookup_add(&lookups, &other, r[2], &ask), ERR_OK);
    assert_true(ask);
    assert_int_equal(lookup_add(&lookups, &key, r[3], &ask), ERR_OK);
    assert_int_equal(lookups.waiting, 4);
    lookup_leave(&lookups, r[1]);
    assert_int_equal(lookups.waiting, 3);

    struct lookup *found = lookup_find(&lookups, &key);
    assert_false(found->touched);
    lookup_touch(&lookups, &key);
    assert_true(found->touched);
    assert_false(lookup_find(&lookups, &other)->touched);

    struct list requests;
    list_init(&requests);
    lookup_answered(&lookups, found, &requests);
    assert_int_equal(lookups.waiting, 1);
    assert_null(lookup_find(&lookups, &key));
    assert_ptr_equal(list_first(&requests), &r[0]->node);
    assert_ptr_equal(list_last(&requests), &r[3]->node);
    list_init(&requests);
    lookup_answered(&lookups, lookup_find(&lookups, &other), &requests);
    assert_int_equal(lookups.waiting, 0);
    for (int i = 0; i < 4; i++)
        free(r[i]);
}

static void the_same_id_in_another_question_is_another_key(void **state)
{
    struct id id = {{7}};
    struct lookup_key body = lookup_key_id(LOOKUP_BODY, &id), any = lookup_key_id(LOOKUP_ANY, &id);
    assert_memory_not_equal(&body, &any, sizeof body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_keys_share_one_question_and_act_in_turn),
        cmocka_unit_test(the_same_id_in_another_question_is_another_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
