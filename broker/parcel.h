/* One effect that shows something, made ready to leave: encoded or copied at once, because what an effect points at is lent
 * until the next step. It leaves now, or waits on the commit whose number it depends on. */
#pragma once

#include "broker/port.h"

struct parcel {
    struct list node; /* first: what the store holds are parcels */
    enum effect_type type;
    peer_number peer;
    uint64_t ref;      /* ACK */
    struct blob *body; /* owned */
    size_t bytes;      /* about what it costs */
    union {
        struct rec_event event;
        struct rec_lease lease; /* JOB, OUTCOME_ACK */
        struct rec_ack_item ack_item;
        struct msg_change change; /* its texts are below */
    };
    enum message message;
    size_t header_len;
    uint8_t text[]; /* the header, or texts */
};

/* effect: of a frame or CHANGE. peer: its session, NULL for CHANGE or when it has gone (then it is not encoded). event_body:
 * what an EVENT carries, lent; NULL: none. ERR_NOMEM; ERR_LIMIT: the fields are longer than the table allows. */
MUST_USE enum err parcel_make(const struct effect *effect, const struct peer *peer, struct blob *event_body,
                              struct parcel **ret_parcel);
void parcel_free(struct parcel **parcel);
/* Frees all of a list. */
void parcels_drop(struct list *parcels);
