/* A job's request as it is put to a provider, for a driver that names its ADAPTER: any JSON object becomes a body that is JSON,
 * or a failure with a name and a sentence. First byte: bit 0 stream. */
#include <stdlib.h>

#include "common/utf8.h"
#include "worker/provider.h"
#include "worker/providers.h"

static void check_built(const struct provider_call *call, void *state)
{
    struct provider_request request = {0};
    struct provider_failure failure = {0};
    if (ADAPTER.build(state, call, &request, &failure))
        assert(!json_check(span_of(request.body.data, request.body.len), NULL) && request.path[0] == '/');
    else
        assert(failure.kind == KIND_CLIENT && failure.text[0] && utf8_valid(span_str(failure.text)));
    json_out_done(&request.body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO(json_free) cJSON *tree = NULL;
    if (size < 1 || json_parse(span_of(data + 1, size - 1), &tree, NULL) || !cJSON_IsObject(tree))
        return 0;
    struct provider_call call = {.request = tree, .model = "m\"\\\n", .stream = data[0] & 1, .result_max = 4096};
    void *state = ADAPTER.create(&call);
    assert(state);
    check_built(&call, state);
    ADAPTER.destroy(state);
    return 0;
}
