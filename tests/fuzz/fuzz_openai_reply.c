/* A reply of an OpenAI-compatible server.
 * Covers: worker/providers/openai.c worker/providers.c worker/answer.c */
#define ADAPTER     provider_openai
#define STREAM_TYPE "text/event-stream"
#include "tests/fuzz/provider_reply.h"
