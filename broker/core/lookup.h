/* Questions to the store that wait for an answer. Equal keys share one question; its requests act in turn when the answer
 * comes. */
#pragma once

#include "broker/core/job.h"

enum request_type {
    REQUEST_SUBMIT = 1, /* draft: may it be made? */
    REQUEST_FORGET,     /* id, tenant */
    REQUEST_RETRY,      /* id, tenant; and from its record on draft, ended_at: is its body there? */
};

struct request {
    struct list node;
    enum request_type type;
    peer_number peer;
    uint64_t ref;
    struct lookup *lookup; /* while it waits */
    struct job *draft;
    uint8_t body_hash[32];
    bool watch;
    struct id id;
    msec ended_at;
    uint8_t tenant_len;
    char tenant[PROTO_TENANT_BYTES];
};

struct lookup {
    UT_hash_handle hh;
    struct lookup_key key; /* zero-padded: hashed whole */
    struct list requests;
    uint32_t count;
    bool touched; /* a write changed the key since it was asked: the answer may be old */
};

struct lookups {
    struct lookup *all;
    uint64_t waiting; /* requests */
};

/* Zero-padded keys. */
struct lookup_key lookup_key_id(enum lookup_kind kind, const struct id *id);
struct lookup_key lookup_key_hash(const uint8_t hash[32]);

/* Adds the request, which must be on no list; *ret_ask: the store must be asked. ERR_NOMEM. */
MUST_USE enum err lookup_add(struct lookups *lookups, const struct lookup_key *key, struct request *request, bool *ret_ask);
struct lookup *lookup_find(struct lookups *lookups, const struct lookup_key *key);
/* A write changes the key. */
void lookup_touch(struct lookups *lookups, const struct lookup_key *key);
/* Takes the requests out, in order, and ends the lookup. */
void lookup_answered(struct lookups *lookups, struct lookup *lookup, struct list *ret_requests);
/* Takes one request out, before its answer; the lookup stays. */
void lookup_leave(struct lookups *lookups, struct request *request);
