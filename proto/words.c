/* words.def as one table of names by set and number. That the enums of words.h say the same is asserted here row by row; that
 * they have no member without a row, by tests/unit/test_words.c. */
#include "proto/words.h"

#define NUMBERS 64 /* a set is small; numbers are below this */

static const char *const names[WORDS_SETS][NUMBERS] = {
#define WORD(set, CODE, number, name) [WORDS_##set][number] = name,
#include "proto/words.def"
#undef WORD
};

#define MEMBER_state(code)    STATE_##code
#define MEMBER_reason(code)   REASON_##code
#define MEMBER_class(code)    CLASS_##code
#define MEMBER_ack(code)      ACK_##code
#define MEMBER_role(code)     ROLE_##code
#define MEMBER_kind(code)     KIND_##code
#define MEMBER_verdict(code)  VERDICT_##code
#define MEMBER_event(code)    EVENT_##code
#define MEMBER_usage(code)    USAGE_##code
#define MEMBER_question(code) QUESTION_##code
#define WORD(set, CODE, number, name)                                                                                          \
    _Static_assert(MEMBER_##set(CODE) == (number), "words.h and words.def differ: " #set " " #CODE);
#include "proto/words.def"
#undef WORD

static const char *name_of(enum words set, unsigned number)
{
    return number < NUMBERS && names[set][number] ? names[set][number] : "";
}

#define WORDS_DEFINE(set)                                                                                                      \
    const char *set##_name(unsigned number)                                                                                    \
    {                                                                                                                          \
        return name_of(WORDS_##set, number);                                                                                   \
    }
WORDS_EACH(WORDS_DEFINE)

bool words_have(enum words set, unsigned number)
{
    return number < NUMBERS && names[set][number];
}

const char *words_name(enum words set)
{
    static const char *const set_names[] = {
#define WORDS_STRING(set) [WORDS_##set] = #set,
        WORDS_EACH(WORDS_STRING)};
    return set_names[set];
}

/* The set's number, WORDS_SETS if there is none of that name. */
static unsigned find_set(const char *set)
{
    unsigned i = 0;
    while (i < WORDS_SETS && strcmp(words_name(i), set) != 0)
        i++;
    return i;
}

int word_number(const char *set, struct span name)
{
    unsigned s = find_set(set);
    for (unsigned i = 0; s < WORDS_SETS && i < NUMBERS; i++)
        if (names[s][i] && span_is(name, names[s][i]))
            return (int)i;
    return -1;
}

bool word_known(const char *set, unsigned number)
{
    unsigned s = find_set(set);
    return s < WORDS_SETS && words_have(s, number);
}
