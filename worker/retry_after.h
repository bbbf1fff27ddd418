/* How long a provider asks us to stay away (RFC 9110, section 10.2.3; `retry-after-ms` as OpenAI and Azure send it). Pure.
 *
 * `retry-after-ms` wins over `retry-after`, which is seconds (a fraction is understood) or an HTTP date. A date is taken
 * relative to the reply's own Date, so that a provider's wrong clock does not matter, and to our wall clock only where there is
 * none. Negative, past and unreadable values ask for nothing. No
 * value is believed beyond RETRY_AFTER_MAX_MS: an hour later one call more costs little, while one absurd header (milliseconds
 * said as seconds, a clock in another century) must not close a deployment for a day. */
#pragma once

#include "common/base.h"

#define RETRY_AFTER_MAX_MS ((msec)3600 * 1000)

/* Header values, empty where the header is absent. wall_ms: our clock, since 1970. 0: nothing was asked. A wait below one
 * millisecond counts as one. */
msec retry_after_read(struct span retry_after_ms, struct span retry_after, struct span date, msec wall_ms);
