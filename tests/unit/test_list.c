#include "common/list.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct item {
    int value;
    struct list node;
};

static struct item items[6];
static struct list head;

static int setup(void **state)
{
    list_init(&head);
    for (int i = 0; i < 6; i++) {
        items[i].value = i;
        list_init(&items[i].node);
    }
    return 0;
}

/* The values as decimal digits, read forwards; the links backwards must agree. */
static long digits(const struct list *list)
{
    long forwards = 0, backwards = 0, unit = 1;
    const struct list *node;
    LIST_EACH (node, list)
        forwards = forwards * 10 + CONTAINER_OF(node, struct item, node)->value;
    for (node = list->prev; node != list; node = node->prev, unit *= 10)
        backwards += unit * CONTAINER_OF(node, struct item, node)->value;
    assert_int_equal(forwards, backwards);
    return forwards;
}

static void test_ends(void **state)
{
    assert_true(list_empty(&head));
    assert_null(list_first(&head));
    assert_null(list_last(&head));
    list_push_back(&head, &items[2].node);
    list_push_back(&head, &items[3].node);
    list_push_front(&head, &items[1].node);
    assert_int_equal(digits(&head), 123);
    assert_ptr_equal(list_first(&head), &items[1].node);
    assert_ptr_equal(list_last(&head), &items[3].node);
    assert_ptr_equal(list_next(&head, &items[1].node), &items[2].node);
    assert_null(list_next(&head, &items[3].node));
    list_insert_before(&items[3].node, &items[5].node);
    assert_int_equal(digits(&head), 1253);
}

static void test_removed_node_is_on_no_list(void **state)
{
    for (int i = 1; i < 6; i++)
        list_push_back(&head, &items[i].node);
    assert_false(list_empty(&items[3].node));
    list_remove(&items[3].node);
    assert_true(list_empty(&items[3].node));
    list_remove(&items[3].node); /* harmless */
    assert_int_equal(digits(&head), 1245);
    list_push_back(&head, &items[3].node);
    assert_int_equal(digits(&head), 12453);
    list_remove(&items[0].node); /* was never on one */
}

static void test_each_safe_may_remove(void **state)
{
    struct list *node, *after;
    for (int i = 1; i < 6; i++)
        list_push_back(&head, &items[i].node);
    LIST_EACH_SAFE (node, after, &head)
        if (CONTAINER_OF(node, struct item, node)->value % 2)
            list_remove(node);
    assert_int_equal(digits(&head), 24);
    LIST_EACH_SAFE (node, after, &head)
        list_remove(node);
    assert_true(list_empty(&head));
    LIST_EACH_SAFE (node, after, &head)
        fail();
}

static void test_append(void **state)
{
    struct list other;
    list_init(&other);
    list_append(&head, &other);
    assert_true(list_empty(&head));
    list_push_back(&other, &items[1].node);
    list_push_back(&other, &items[2].node);
    list_append(&head, &other);
    assert_true(list_empty(&other));
    assert_int_equal(digits(&head), 12);
    list_push_back(&other, &items[3].node);
    list_append(&head, &other);
    list_append(&head, &other);
    assert_int_equal(digits(&head), 123);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_ends, setup),
        cmocka_unit_test_setup(test_removed_node_is_on_no_list, setup),
        cmocka_unit_test_setup(test_each_safe_may_remove, setup),
        cmocka_unit_test_setup(test_append, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
