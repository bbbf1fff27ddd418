/* Where a broker may be: endpoints in turn, names at each of their addresses, a key for all or one each. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/places.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/resolve.h"
#include "tests/lib/fault_malloc.h"

#define KEY_A "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
#define KEY_B "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"

static struct loop *loop;
static struct places *places;
static char endpoint[128], given[128], key[64], reason[128];
static unsigned answers;

static void on_found(void *arg, const struct place *place, const char *why)
{
    answers++;
    snprintf(endpoint, sizeof endpoint, "%s", place ? place->endpoint : "");
    snprintf(given, sizeof given, "%s", place ? place->given : "");
    snprintf(key, sizeof key, "%s", place ? place->key->text : "");
    snprintf(reason, sizeof reason, "%s", why ? why : "");
    loop_stop(loop);
}

static void turn(void *arg) {}

static int begin(void **state)
{
    loop = loop_new(turn, NULL);
    answers = 0;
    return loop ? 0 : 1;
}

static int end(void **state)
{
    places_free(&places);
    loop_free(&loop);
    return 0;
}

static enum err start(const char *endpoints, const char *keys)
{
    return places_new(loop, endpoints, keys, on_found, NULL, &places);
}

/* Asks and waits for the answer. */
static void find(void)
{
    unsigned before = answers;
    places_find(places);
    if (answers == before)
        loop_run(loop);
    assert_int_equal(answers, before + 1);
}

static void they_are_tried_in_turn_and_round(void **state)
{
    assert_int_equal(start("tcp://10.0.0.1:5571, tcp://10.0.0.2:5571,ipc:///run/q.sock", KEY_A), ERR_OK);
    assert_true(places_several(places));
    const char *const expected[] = {"tcp://10.0.0.1:5571", "tcp://10.0.0.2:5571", "ipc:///run/q.sock", "tcp://10.0.0.1:5571"};
    for (size_t i = 0; i < ARRAY_COUNT(expected); i++) {
        unsigned before = answers;
        places_find(places);
        assert_int_equal(answers, before + 1); /* at once: nothing is looked up */
        assert_string_equal(endpoint, expected[i]);
        assert_string_equal(given, expected[i]);
        places_move_on(places);
    }
}

static void the_same_place_until_moved_on(void **state)
{
    assert_int_equal(start("ipc:///a,ipc:///b", NULL), ERR_OK);
    find();
    find();
    assert_string_equal(endpoint, "ipc:///a");
    places_forget(places);
    find();
    assert_string_equal(endpoint, "ipc:///a");
}

static void one_key_serves_all_or_each_has_its_own(void **state)
{
    assert_int_equal(start("tcp://10.0.0.1:1,tcp://10.0.0.2:1", KEY_A), ERR_OK);
    for (int i = 0; i < 2; i++) {
        find();
        assert_string_equal(key, KEY_A);
        places_move_on(places);
    }
    places_free(&places);
    assert_int_equal(start("tcp://10.0.0.1:1,ipc:///x,tcp://10.0.0.2:1", KEY_A " , " KEY_B), ERR_OK);
    find();
    assert_string_equal(key, KEY_A);
    places_move_on(places);
    find();
    assert_string_equal(key, "");
    places_move_on(places);
    find();
    assert_string_equal(key, KEY_B);
}

static void keys_that_do_not_match_are_refused_but_not_where_none_is_needed(void **state)
{
    assert_int_equal(start("tcp://10.0.0.1:1", KEY_A "," KEY_B), ERR_SETTINGS);
    assert_int_equal(start("tcp://10.0.0.1:1,tcp://10.0.0.2:1,tcp://10.0.0.3:1", KEY_A "," KEY_B), ERR_SETTINGS);
    assert_int_equal(start("tcp://10.0.0.1:1", KEY_A KEY_B), ERR_SETTINGS);
    assert_null(places);
    assert_int_equal(start("ipc:///x", KEY_A "," KEY_B), ERR_OK); /* on the broker's own host */
    assert_false(places_several(places));
}

static void what_is_no_endpoint_is_refused(void **state)
{
    const char *const bad[] = {"", "ipc:///a,", ",ipc:///a", "tcp://nowhere", "tcp://:5"};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_int_equal(start(bad[i], KEY_A), ERR_SETTINGS);
    char many[400] = "ipc:///a";
    for (int i = 0; i < 16; i++)
        strcat(many, ",ipc:///a");
    assert_int_equal(start(many, NULL), ERR_SETTINGS);
}

static void a_name_is_tried_at_each_of_its_addresses(void **state)
{
    /* What the machine's own resolver says of this name, so that the test holds on every machine. */
    struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM};
    if (getaddrinfo("localhost", NULL, &hints, &found) != 0)
        fail_msg("localhost has no address here");
    unsigned count = 0;
    for (struct addrinfo *at = found; at; at = at->ai_next)
        count++;
    freeaddrinfo(found);
    assert_int_equal(start("tcp://localhost:5571,ipc:///last", KEY_A), ERR_OK);
    char seen[8][128];
    assert_true(count <= ARRAY_COUNT(seen));
    for (unsigned i = 0; i < count; i++) {
        find();
        assert_string_equal(given, "tcp://localhost:5571");
        assert_string_equal(key, KEY_A);
        assert_true(strcmp(endpoint, "tcp://127.0.0.1:5571") == 0 || strcmp(endpoint, "tcp://[::1]:5571") == 0);
        snprintf(seen[i], sizeof seen[i], "%s", endpoint);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(seen[i], seen[j]);
        places_move_on(places);
    }
    find();
    assert_string_equal(endpoint, "ipc:///last");
}

static void a_name_without_an_address_is_said_and_passed_over(void **state)
{
    assert_int_equal(start("tcp://no-such-host.invalid:5571,ipc:///last", KEY_A), ERR_OK);
    find();
    assert_string_equal(endpoint, "");
    assert_true(strncmp(reason, "resolve: ", 9) == 0);
    places_move_on(places);
    find();
    assert_string_equal(endpoint, "ipc:///last");
}

static void on_alarm(void *arg)
{
    loop_stop(loop);
}

/* A slow name server must not keep a name from ever being tried. */
static void an_answer_that_came_too_late_is_used_at_the_next_turn(void **state)
{
    assert_int_equal(start("tcp://localhost:5571,ipc:///other", KEY_A), ERR_OK);
    places_find(places);
    places_move_on(places); /* nobody waited for it */
    AUTO(timer_free) struct timer *alarm = timer_new(loop, on_alarm, NULL);
    unsigned before = answers;
    for (int i = 0; i < 500; i++) {
        timer_set(alarm, clock_mono() + 10);
        loop_run(loop);
        assert_int_equal(answers, before);
        places_move_on(places); /* back to the name */
        places_find(places);
        if (answers > before)
            break; /* it was there already */
        places_move_on(places);
    }
    assert_int_equal(answers, before + 1);
    assert_string_equal(given, "tcp://localhost:5571");
}

static void it_may_be_freed_while_a_name_is_looked_up(void **state)
{
    for (int i = 0; i < 20; i++) {
        assert_int_equal(start("tcp://localhost:5571", KEY_A), ERR_OK);
        places_find(places);
        places_free(&places);
    }
    assert_int_equal(answers, 0);
}

static void memory_refused_is_said_and_nothing_is_left(void **state)
{
    for (long n = 1;; n++) {
        fault_arm(n, false);
        enum err e = start("tcp://name:1,tcp://10.0.0.1:1,ipc:///x", KEY_A);
        if (!fault_disarm())
            break;
        assert_int_equal(e, ERR_NOMEM);
        assert_null(places);
    }
    fault_arm(1, true); /* and while a name is looked up: it is said, and passed over */
    places_find(places);
    assert_true(fault_disarm());
    assert_string_equal(reason, "resolve: no memory or no thread");
    places_move_on(places);
    find();
    assert_string_equal(endpoint, "tcp://10.0.0.1:1");
}

int main(void)
{
#define PLACES(test) cmocka_unit_test_setup_teardown(test, begin, end)
    const struct CMUnitTest tests[] = {
        PLACES(they_are_tried_in_turn_and_round),
        PLACES(the_same_place_until_moved_on),
        PLACES(one_key_serves_all_or_each_has_its_own),
        PLACES(keys_that_do_not_match_are_refused_but_not_where_none_is_needed),
        PLACES(what_is_no_endpoint_is_refused),
        PLACES(a_name_is_tried_at_each_of_its_addresses),
        PLACES(a_name_without_an_address_is_said_and_passed_over),
        PLACES(an_answer_that_came_too_late_is_used_at_the_next_turn),
        PLACES(it_may_be_freed_while_a_name_is_looked_up),
        PLACES(memory_refused_is_said_and_nothing_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
