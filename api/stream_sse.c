/* Server-sent events (HTML standard, section 9.2, read 2026-11-28), as API.md says: id, event, and one line of data, which JSON
 * never breaks. */
#include "api/job.h"
#include "api/stream.h"

static void open_event(struct json_out *out, const struct stream_place *place, const char *name)
{
    char at[POSITION_TEXT_LEN + 1];
    position_print(&place->at, at);
    json_lit(out, "id: ");
    json_lit(out, at);
    json_lit(out, "\nevent: ");
    json_lit(out, name);
    json_lit(out, "\ndata: ");
}

static void close_event(struct json_out *out)
{
    json_lit(out, "\n\n");
}

static void put_name(struct json_out *out, const char *name)
{
    if (name[0])
        json_str(out, span_str(name));
    else
        json_lit(out, "null");
}

static void say_status(struct json_out *out, const struct stream_place *place, const struct stream_status *s)
{
    char id[ID_TEXT_LEN + 1];
    id_print(place->id, id);
    open_event(out, place, "status");
    json_printf(out, "{\"id\":\"%s\",\"status\":\"%s\",\"reason\":", id, state_name(s->state));
    put_name(out, reason_name(s->reason));
    json_printf(out, ",\"progress\":%u,\"attempt\":%u}", s->progress, s->attempt);
    close_event(out);
}

static void say_progress(struct json_out *out, const struct stream_place *place, unsigned percent)
{
    open_event(out, place, "progress");
    json_printf(out, "{\"progress\":%u}", percent);
    close_event(out);
}

static void say_token(struct json_out *out, const struct stream_place *place, struct span line)
{
    open_event(out, place, "token");
    json_raw(out, line);
    close_event(out);
}

static void say_restarted(struct json_out *out, const struct stream_place *place, const struct position *discard_from)
{
    char from[POSITION_TEXT_LEN + 1];
    position_print(discard_from, from);
    open_event(out, place, "attempt.restarted");
    json_printf(out, "{\"run\":%u,\"discard_from\":\"%s\"}", place->at.run, from);
    close_event(out);
}

static enum err say_done(struct json_out *out, const struct stream_place *place, const struct rec_ended *ended,
                         struct span body)
{
    open_event(out, place, "done");
    enum err e = job_from_ended(out, place->id, ended, body);
    close_event(out);
    return e;
}

const struct stream_style stream_sse = {
    .type = "text/event-stream",
    .beat = ":\n\n",
    .status = say_status,
    .progress = say_progress,
    .token = say_token,
    .restarted = say_restarted,
    .done = say_done,
};
