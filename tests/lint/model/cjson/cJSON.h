/* cJSON as the analysers may think of it: they cannot see into the library, where NULL is of no type. */
#pragma once

#include_next <cjson/cJSON.h>

static inline int model_is(const cJSON *item, int answer)
{
    return item && answer;
}

#define cJSON_IsArray(item)  model_is((item), cJSON_IsArray(item))
#define cJSON_IsBool(item)   model_is((item), cJSON_IsBool(item))
#define cJSON_IsNull(item)   model_is((item), cJSON_IsNull(item))
#define cJSON_IsNumber(item) model_is((item), cJSON_IsNumber(item))
#define cJSON_IsObject(item) model_is((item), cJSON_IsObject(item))
#define cJSON_IsRaw(item)    model_is((item), cJSON_IsRaw(item))
#define cJSON_IsString(item) model_is((item), cJSON_IsString(item))
