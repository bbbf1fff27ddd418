#include "common/clock.h"

#include <stdio.h>
#include <time.h>

#define DAY_MS (86400 * (msec)1000)

static msec read_clock(clockid_t which)
{
    struct timespec t;
    int failed = clock_gettime(which, &t);
    assert(!failed);
    return (msec)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

msec clock_mono(void)
{
    return read_clock(CLOCK_BOOTTIME);
}
msec clock_wall(void)
{
    return read_clock(CLOCK_REALTIME);
}

struct clock_axis clock_axis_start(msec floor)
{
    msec wall = clock_wall();
    return (struct clock_axis){.base = MAX(wall, floor), .mono_at = clock_mono()};
}

msec clock_axis_now(const struct clock_axis *axis)
{
    return axis->base + (clock_mono() - axis->mono_at);
}

/* Days from 1970-01-01 to the given day of the proleptic Gregorian calendar. Years are counted from March, so that the leap day
 * is a year's last; 146 097 days make an era of 400 years. */
static int64_t days_from_date(int64_t year, unsigned month, unsigned day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    unsigned year_of_era = (unsigned)(year - era * 400);
    unsigned day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
    unsigned day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    return era * 146097 + day_of_era - 719468;
}

#define YEAR_0_MS        (-62167219200000) /* 0000-01-01T00:00:00.000Z */
#define YEAR_9999_END_MS 253402300799999   /* 9999-12-31T23:59:59.999Z */

void clock_print(msec wall_ms, char out[CLOCK_TEXT_LEN + 1])
{
    wall_ms = MAX(MIN(wall_ms, YEAR_9999_END_MS), YEAR_0_MS);
    unsigned millis = (unsigned)((wall_ms % 1000 + 1000) % 1000);
    time_t seconds = (wall_ms - millis) / 1000;
    struct tm tm;
    gmtime_r(&seconds, &tm);
    /* The operands of % tell the compiler that four and two digits are enough. */
    snprintf(out, CLOCK_TEXT_LEN + 1, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)(tm.tm_year + 1900) % 10000,
             (unsigned)(tm.tm_mon + 1) % 100, (unsigned)tm.tm_mday % 100, (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100,
             (unsigned)tm.tm_sec % 100, millis);
}

/* Takes `count` digits off the front of *rest. */
static bool take_number(struct span *rest, size_t count, unsigned *ret_value)
{
    if (rest->len < count)
        return false;
    unsigned value = 0;
    for (size_t i = 0; i < count; i++) {
        if (rest->data[i] < '0' || rest->data[i] > '9')
            return false;
        value = value * 10 + (rest->data[i] - '0');
    }
    *rest = span_of(rest->data + count, rest->len - count);
    *ret_value = value;
    return true;
}

/* Takes one byte off the front if it is `wanted` or `other`. */
static bool take_either(struct span *rest, char wanted, char other)
{
    if (!rest->len || (rest->data[0] != (uint8_t)wanted && rest->data[0] != (uint8_t)other))
        return false;
    *rest = span_of(rest->data + 1, rest->len - 1);
    return true;
}

static bool take(struct span *rest, char wanted)
{
    return take_either(rest, wanted, wanted);
}

static unsigned days_in_month(unsigned year, unsigned month)
{
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap);
}

static bool take_date(struct span *rest, msec *ret_ms)
{
    unsigned year, month, day;
    if (!take_number(rest, 4, &year) || !take(rest, '-') || !take_number(rest, 2, &month) || !take(rest, '-') ||
        !take_number(rest, 2, &day))
        return false;
    if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
        return false;
    *ret_ms = days_from_date(year, month, day) * DAY_MS;
    return true;
}

/* Digits beyond the third are dropped, never rounded up into the next second. */
static bool take_fraction(struct span *rest, msec *ret_ms)
{
    unsigned digit;
    msec unit = 100, ms = 0;
    if (!take_number(rest, 1, &digit))
        return false;
    do {
        ms += digit * unit;
        unit /= 10;
    } while (take_number(rest, 1, &digit));
    *ret_ms = ms;
    return true;
}

/* A leap second (:60) is the first second of the next minute, as in POSIX time. */
static bool take_time(struct span *rest, msec *ret_ms)
{
    unsigned hour, minute, second;
    msec fraction = 0;
    if (!take_number(rest, 2, &hour) || !take(rest, ':') || !take_number(rest, 2, &minute) || !take(rest, ':') ||
        !take_number(rest, 2, &second) || hour > 23 || minute > 59 || second > 60)
        return false;
    if (take(rest, '.') && !take_fraction(rest, &fraction))
        return false;
    *ret_ms = ((msec)hour * 3600 + minute * 60 + second) * 1000 + fraction;
    return true;
}

static bool take_offset(struct span *rest, msec *ret_ms)
{
    if (take_either(rest, 'Z', 'z')) {
        *ret_ms = 0;
        return true;
    }
    unsigned hour, minute;
    int sign = take(rest, '+') ? 1 : take(rest, '-') ? -1 : 0;
    if (!sign || !take_number(rest, 2, &hour) || !take(rest, ':') || !take_number(rest, 2, &minute) || hour > 23 || minute > 59)
        return false;
    *ret_ms = sign * ((msec)hour * 60 + minute) * 60 * 1000;
    return true;
}

enum err clock_parse(struct span text, msec *ret_wall_ms)
{
    msec date, time_of_day, offset;
    if (!take_date(&text, &date) || !take_either(&text, 'T', 't') || !take_time(&text, &time_of_day) ||
        !take_offset(&text, &offset) || text.len)
        return ERR_MALFORMED;
    *ret_wall_ms = date + time_of_day - offset;
    return ERR_OK;
}
