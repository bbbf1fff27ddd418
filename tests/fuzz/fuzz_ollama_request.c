/* A job's request put to an Ollama server.
 * Covers: worker/providers/ollama.c */
#define ADAPTER provider_ollama
#include "tests/fuzz/provider_request.h"
