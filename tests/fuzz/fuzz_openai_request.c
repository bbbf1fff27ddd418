/* A job's request put to an OpenAI-compatible server.
 * Covers: worker/providers/openai.c */
#define ADAPTER provider_openai
#include "tests/fuzz/provider_request.h"
