/* A run's event log: what becomes a line when, positions, and its end when it is full. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "worker/eventlog.h"

static void expect(struct eventlog *log, const char *lines)
{
    json_raw(&log->lines, span_of("", 1));
    assert_string_equal(log->lines.data, lines);
    log->lines.len--;
}

static void say(struct eventlog *log, const char *text)
{
    eventlog_text(log, EVENTLOG_TEXT, span_str(text));
}

static void the_first_piece_is_a_line_at_once_later_ones_are_gathered(void **state)
{
    struct eventlog log;
    eventlog_init(&log, 1 << 20);
    say(&log, "Hel");
    expect(&log, "{\"text\":\"Hel\",\"index\":0}\n");
    say(&log, "lo");
    say(&log, " \"you\"");
    expect(&log, "{\"text\":\"Hel\",\"index\":0}\n");
    eventlog_flush(&log);
    expect(&log, "{\"text\":\"Hel\",\"index\":0}\n{\"text\":\"lo \\\"you\\\"\",\"index\":1}\n");
    eventlog_flush(&log);
    assert_int_equal(log.count, 2);
    eventlog_done(&log);
}

static void much_text_is_a_line_by_itself(void **state)
{
    struct eventlog log;
    eventlog_init(&log, 1 << 20);
    say(&log, "x");
    for (int i = 0; i < EVENTLOG_HOLD_BYTES - 1; i++)
        say(&log, "y");
    assert_int_equal(log.count, 1);
    say(&log, "y");
    assert_int_equal(log.count, 2);
    assert_int_equal(log.pending.len, 0);
    eventlog_done(&log);
}

static void kinds_do_not_mix(void **state)
{
    struct eventlog log;
    eventlog_init(&log, 1 << 20);
    eventlog_text(&log, EVENTLOG_REASONING, span_str("a"));
    eventlog_text(&log, EVENTLOG_REASONING, span_str("b"));
    say(&log, "c");
    eventlog_tool(&log, 1, span_str("id"), span_str("f"), span_str(""));
    eventlog_tool(&log, 1, span_str(""), span_str(""), span_str("{\"a\""));
    expect(&log, "{\"reasoning\":\"a\",\"index\":0}\n{\"reasoning\":\"b\",\"index\":1}\n{\"text\":\"c\",\"index\":2}\n"
                 "{\"tool_call\":{\"index\":1,\"id\":\"id\",\"name\":\"f\"},\"index\":3}\n"
                 "{\"tool_call\":{\"index\":1,\"arguments\":\"{\\\"a\\\"\"},\"index\":4}\n");
    eventlog_done(&log);
}

static void a_full_log_says_so_and_stays_within_its_bound(void **state)
{
    for (size_t max = 64; max < 400; max++) {
        struct eventlog log;
        eventlog_init(&log, max);
        for (int i = 0; i < 50; i++) {
            say(&log, "0123456789");
            eventlog_flush(&log);
            eventlog_tool(&log, 0, span_str(""), span_str(""), span_str("x"));
        }
        assert_true(log.full);
        assert_true(log.lines.len <= max);
        json_raw(&log.lines, span_of("", 1));
        if (log.lines.len > 1)
            assert_non_null(strstr(log.lines.data, "\"truncated\":true"));
        eventlog_done(&log);
    }
}

static void positions_inside_a_line_snap_forward(void **state)
{
    struct span lines = span_str("{1}\n{22}\n{333}\n");
    static const size_t snapped[] = {0, 4, 4, 4, 4, 9, 9, 9, 9, 9, 15, 15, 15, 15, 15, 15, 15};
    for (size_t from = 0; from < ARRAY_COUNT(snapped); from++)
        assert_int_equal(eventlog_snap(lines, from), snapped[from]);
    assert_int_equal(eventlog_snap(lines, UINT64_MAX), 15);
    assert_int_equal(eventlog_snap((struct span){0}, 7), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_piece_is_a_line_at_once_later_ones_are_gathered),
        cmocka_unit_test(much_text_is_a_line_by_itself),
        cmocka_unit_test(kinds_do_not_mix),
        cmocka_unit_test(a_full_log_says_so_and_stays_within_its_bound),
        cmocka_unit_test(positions_inside_a_line_snap_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
