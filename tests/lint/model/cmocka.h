/* cmocka as the analysers may think of it: a failed assertion ends the test. */
#pragma once

#include_next <cmocka.h>
#include <stdlib.h>

#undef assert_true
#undef assert_false
#undef assert_null
#undef assert_non_null
#undef assert_int_equal

#define assert_true(claim)     ((claim) ? (void)0 : abort())
#define assert_false(claim)    assert_true(!(claim))
#define assert_null(p)         assert_true(!(p))
#define assert_non_null(p)     assert_true(p)
#define assert_int_equal(a, b) assert_true(cast_to_largest_integral_type(a) == cast_to_largest_integral_type(b))
