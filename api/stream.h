/* A job's events on their way to those who read them: from a position on, while it lives and after its end.
 *
 *   job ──events──► follow ─┬─ audience (readers of one style) ── written once, given to all who are up to date
 *   (broker)                └─ audience …                      └─ and to each that is behind, from where it is
 *
 *   open ─► Redis ─┬─ ended ──────────────────────────────────────► what is after the position, done
 *                  └─ absent ─► WATCH ─┬─ live ─► status, then events as they come … done
 *                                      └─ not live ─► Redis once more ─┬─ ended ─► as above
 *                                                                      └─ absent ─► 404 or 410
 *
 * A job is asked for and watched once per child, however many read it. Whoever joins late, and everybody after the broker or a
 * worker died, is given the log again from where they are (the broker has the worker send it); tokens that were left out on the
 * way show as a gap and are asked for again. What the broker cannot give any more is in the stored record. So a reader's own
 * position is all there is to know of it, and any child goes on where another stopped.
 *
 * Who catches up is given the log as fast as it takes it. Who is up to date and then lets more than api.stream_bytes wait is
 * cut: its caller comes again with the last position it got. */
#pragma once

#include "api/api.h"
#include "api/position.h"

/* What is said with every event. */
struct stream_place {
    const struct id *id;
    struct position at; /* where to go on after this event */
};

struct stream_status {
    uint8_t state, reason, progress;
    uint16_t attempt;
};

/* How events are written: one table per dialect. Every function appends whole events to `out`; NULL: it does not say these. */
struct stream_style {
    const char *type; /* Content-Type */
    const char *beat; /* said by a stream that is silent for api.heartbeat_ms; NULL: nothing */
    void (*status)(struct json_out *out, const struct stream_place *place, const struct stream_status *status);
    void (*progress)(struct json_out *out, const struct stream_place *place, unsigned percent);
    /* line: one object of the run's log: {"text":…,"index":…} and so on (worker/eventlog.h). */
    void (*token)(struct json_out *out, const struct stream_place *place, struct span line);
    /* The run that place->at names began anew: tokens from discard_from on are void. */
    void (*restarted)(struct json_out *out, const struct stream_place *place, const struct position *discard_from);
    /* The last event. ended: the record, body as there. ERR_CORRUPT. */
    enum err (*done)(struct json_out *out, const struct stream_place *place, const struct rec_ended *ended, struct span body);
};

/* GET /v1/jobs/{id}/events (API.md, Events). */
extern const struct stream_style stream_sse;

/* Answers x with the job's events after `from`, {0, 0} for all of them. id_text: as in the path. tenant is copied. style lives
 * as long as the process. */
void stream_open(struct api *api, struct exchange *x, struct span tenant, struct span id_text, const struct position *from,
                 const struct stream_style *style);

/* A watched job's event. */
void stream_event(struct api *api, const struct rec_event *event, struct span body);
/* A new session with the broker: watches are asked for again. */
void stream_session(struct api *api);
/* Once per turn: what came goes out, one write per reader. */
void stream_flush(struct api *api);
/* The child is about to stop: every stream ends here, at once, since it could last for ever; its reader goes on elsewhere. */
void stream_end_all(struct api *api);

/* What /metrics will show. */
struct stream_counts {
    unsigned readers;     /* now */
    uint64_t opened, cut; /* since the child started */
    uint64_t writes;      /* gifts to readers, one each per turn */
};
const struct stream_counts *stream_counts(const struct api *api);

/* api->streams, from the loop's beginning to its end. ERR_NOMEM. */
MUST_USE enum err streams_open(struct api *api);
/* When no connection is left. */
void streams_close(struct api *api);
