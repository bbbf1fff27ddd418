#include "common/blob.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_copy_is_its_own(void **state)
{
    char source[] = "abc";
    AUTO(blob_free) struct blob *b = blob_copy(span_str(source));
    source[0] = 'x';
    assert_true(span_is(blob_span(b), "abc"));
}

static void test_filled_by_its_maker(void **state)
{
    uint8_t *data;
    AUTO(blob_free) struct blob *b = blob_new(3, &data);
    memcpy(data, "xyz", 3);
    assert_true(span_is(blob_span(b), "xyz"));
}

static void test_empty_and_none(void **state)
{
    AUTO(blob_free) struct blob *empty = blob_copy((struct span){0});
    assert_non_null(empty);
    assert_int_equal(blob_span(empty).len, 0);
    struct blob *none = NULL;
    assert_null(blob_ref(none));
    assert_int_equal(blob_span(none).len, 0);
    blob_free(&none);
}

static void test_impossible_size_is_refused(void **state)
{
    uint8_t *data = NULL;
    assert_null(blob_new(SIZE_MAX, &data));
    assert_null(blob_new(SIZE_MAX - sizeof(struct blob) + 1, &data));
    assert_null(data);
}

static void test_lives_until_the_last_reference_goes(void **state)
{
    struct blob *first = blob_copy(span_str("abc"));
    struct blob *second = blob_ref(first);
    assert_ptr_equal(first, second);
    blob_free(&first);
    assert_null(first);
    assert_true(span_is(blob_span(second), "abc"));
    blob_free(&second);
}

/* As when ZeroMQ's thread gives back what the main thread sent. Every thread owns one reference. */
static void *ref_and_free(void *arg)
{
    struct blob *mine = arg;
    for (int i = 0; i < 100000; i++) {
        struct blob *other = blob_ref(mine);
        blob_free(&other);
    }
    blob_free(&mine);
    return NULL;
}

static void test_references_from_threads(void **state)
{
    struct blob *b = blob_copy(span_str("abc"));
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ref_and_free, blob_ref(b)), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(b->refs, 1);
    blob_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copy_is_its_own),
        cmocka_unit_test(test_filled_by_its_maker),
        cmocka_unit_test(test_empty_and_none),
        cmocka_unit_test(test_impossible_size_is_refused),
        cmocka_unit_test(test_lives_until_the_last_reference_goes),
        cmocka_unit_test(test_references_from_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
