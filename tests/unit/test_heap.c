#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/core/heap.h"

struct item {
    int key;
    struct heap_node node;
};

static bool less(const struct heap_node *a, const struct heap_node *b)
{
    return CONTAINER_OF(a, struct item, node)->key < CONTAINER_OF(b, struct item, node)->key;
}

static void any_entry_is_removed_or_moved(void **state)
{
    struct heap heap;
    struct item items[200] = {{0}};
    unsigned random = 1, in = 0;
    heap_init(&heap, less);
    assert_int_equal(heap_reserve(&heap, ARRAY_COUNT(items)), ERR_OK);
    for (int i = 0; i < 20000; i++) {
        random = random * 1103515245 + 12345;
        struct item *item = &items[random / 65536 % ARRAY_COUNT(items)];
        if (!heap_has(&item->node)) {
            item->key = (int)(random >> 4 & 1023);
            heap_push(&heap, &item->node);
            in++;
        } else if (random & 1 << 20) {
            item->key = (int)(random >> 5 & 1023);
            heap_fix(&heap, &item->node);
        } else {
            heap_remove(&heap, &item->node);
            heap_remove(&heap, &item->node); /* harmless outside */
            in--;
        }
        assert_int_equal(heap.count, in);
        int least = 1024;
        for (size_t k = 0; k < ARRAY_COUNT(items); k++)
            if (heap_has(&items[k].node))
                least = MIN(least, items[k].key);
        assert_true(!in || CONTAINER_OF(heap_top(&heap), struct item, node)->key == least);
    }
    heap_done(&heap);
}

static void what_comes_out_is_in_order(void **state)
{
    struct heap heap;
    struct item items[64] = {{0}};
    heap_init(&heap, less);
    assert_null(heap_top(&heap));
    assert_int_equal(heap_reserve(&heap, 64), ERR_OK);
    for (int i = 0; i < 64; i++) {
        items[i].key = i * 37 % 64;
        heap_push(&heap, &items[i].node);
    }
    for (int i = 0; i < 64; i++) {
        struct item *top = CONTAINER_OF(heap_top(&heap), struct item, node);
        assert_int_equal(top->key, i);
        heap_remove(&heap, &top->node);
    }
    assert_null(heap_top(&heap));
    heap_done(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_entry_is_removed_or_moved),
        cmocka_unit_test(what_comes_out_is_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
