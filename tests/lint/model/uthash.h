/* uthash as the analysers may think of it. Its macros hash keys byte by byte, padding included, and unlink nodes under
 * invariants that no analyser follows; here each is a call that could do anything to the table and nothing else. */
#pragma once

#include_next <uthash.h>

void *model_find(const void *head, const void *key, size_t len);
void *model_add(void *head, void *node);
void *model_delete(void *head, void *node);
void *model_next(const void *node);
unsigned model_count(const void *head);
struct UT_hash_table *model_table(void); /* NULL: no memory */

#undef HASH_FIND
#undef HASH_FIND_STR
#undef HASH_ADD
#undef HASH_ADD_STR
#undef HASH_ADD_KEYPTR
#undef HASH_DELETE
#undef HASH_DEL
#undef HASH_COUNT
#undef HASH_ITER

#define HASH_FIND(hh, head, key, len, out)       ((out) = model_find((head), (key), (len)))
#define HASH_FIND_STR(head, key, out)            HASH_FIND(hh, head, key, strlen(key), out)
#define HASH_ADD_KEYPTR(hh, head, key, len, add) ((add)->hh.tbl = model_table(), (head) = model_add((head), (add)))
#define HASH_ADD(hh, head, field, len, add)      HASH_ADD_KEYPTR(hh, head, &(add)->field, len, add)
#define HASH_ADD_STR(head, field, add)           HASH_ADD_KEYPTR(hh, head, (add)->field, strlen((add)->field), add)
#define HASH_DELETE(hh, head, del)               ((head) = model_delete((head), (del)))
#define HASH_DEL(head, del)                      HASH_DELETE(hh, head, del)
#define HASH_COUNT(head)                         model_count(head)
#define HASH_ITER(hh, head, el, tmp)             for ((el) = (head); (el) && ((tmp) = model_next(el), 1); (el) = (tmp))
