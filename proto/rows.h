/* Row macros that an inclusion of messages.def does not care about: empty, unless defined before. Included again each time. */
#ifndef U8
#define U8(name, sentence)
#endif
#ifndef U16
#define U16(name, sentence)
#endif
#ifndef U32
#define U32(name, sentence)
#endif
#ifndef U64
#define U64(name, sentence)
#endif
#ifndef I64
#define I64(name, sentence)
#endif
#ifndef FLAG
#define FLAG(name, sentence)
#endif
#ifndef WORDNUM
#define WORDNUM(name, set, sentence)
#endif
#ifndef JOBID
#define JOBID(name, sentence)
#endif
#ifndef FENCE
#define FENCE(name, sentence)
#endif
#ifndef FIXED
#define FIXED(name, size, sentence)
#endif
#ifndef TEXT
#define TEXT(name, max, sentence)
#endif
#ifndef BIN
#define BIN(name, max, sentence)
#endif
#ifndef NEST
#define NEST(name, record, sentence)
#endif
#ifndef LIST
#define LIST(name, record, max, sentence)
#endif
#ifndef RECORD
#define RECORD(name, sentence)
#endif
#ifndef END_RECORD
#define END_RECORD(name)
#endif
#ifndef MESSAGE
#define MESSAGE(CODE, name, number, from, to, body, sentence)
#endif
#ifndef END_MESSAGE
#define END_MESSAGE(name)
#endif
