/* A job's request as it is put to Ollama, in its words.
 * Covers: worker/providers/ollama.c */
#define ADAPTER provider_ollama
#include "tests/fuzz/provider_request.h"
