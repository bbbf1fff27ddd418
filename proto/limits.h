/* Sizes and counts that each side of a socket may rely on. */
#pragma once

#define PROTO_MAJOR 1 /* the first element of every header; another major is refused */
#define PROTO_MINOR 0 /* in HELLO; grows when fields are added at the end of an array */

#define PROTO_HEADER_BYTES (1u << 20)  /* the header part of any frame */
#define PROTO_BODY_BYTES   (8u << 20)  /* the body of a job */
#define PROTO_RESULT_BYTES (4u << 20)  /* the result of a job */
#define PROTO_LOG_BYTES    (4u << 20)  /* the event log kept with it */
#define PROTO_FRAME_BYTES  (16u << 20) /* the body part of any frame, and ZMQ_MAXMSGSIZE */
#define PROTO_NODES        200000      /* msgpack nodes in one header */
#define PROTO_DEPTH        6           /* nesting in one header */

#define PROTO_TENANT_BYTES   64
#define PROTO_QUEUE_BYTES    64
#define PROTO_ROUTE_BYTES    256
#define PROTO_NAME_BYTES     128
#define PROTO_TEXT_BYTES     1024
#define PROTO_EVIDENCE_BYTES 8192
#define PROTO_ATTEMPTS       16         /* kept of one job, the last ones */
#define PROTO_HELD           65536      /* jobs one HELLO or heartbeat may list */
#define PROTO_BULK           1000       /* jobs in one bulk frame */
#define PROTO_EVENTS         65536      /* events in one frame */
#define PROTO_UNACKED_BYTES  (4u << 20) /* unacknowledged per peer; a larger frame travels alone */
