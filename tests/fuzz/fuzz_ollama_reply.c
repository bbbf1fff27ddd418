/* A reply of Ollama.
 * Covers: worker/providers/ollama.c worker/answer.c */
#define ADAPTER     provider_ollama
#define STREAM_TYPE "application/x-ndjson"
#include "tests/fuzz/provider_reply.h"
