/* QUERN_TEST=name build/tests/test_store runs the tests of that name (* and ? stand for others) and no more. */
#include <stdlib.h>

/* A program that stands on this library and is no cmocka test has none. */
extern void cmocka_set_test_filter(const char *pattern) __attribute__((weak));

__attribute__((constructor)) static void one_test(void)
{
    const char *name = getenv("QUERN_TEST");
    if (name && *name && cmocka_set_test_filter)
        cmocka_set_test_filter(name);
}
