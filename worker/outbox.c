/* Order matters to those who watch: the last events of a run leave before its outcome. */
#include "worker/outbox.h"

#include <stdlib.h>

static void timer_due(void *arg) {} /* the turn that follows does the work */

struct outbox *outbox_new(struct loop *loop)
{
    struct outbox *outbox = calloc(1, sizeof *outbox);
    if (!outbox)
        return NULL;
    outbox->loop = loop;
    list_init(&outbox->spoken);
    list_init(&outbox->unsent);
    list_init(&outbox->waits);
    outbox->timer = timer_new(loop, timer_due, outbox);
    if (!outbox->timer)
        outbox_free(&outbox);
    return outbox;
}

void outbox_free(struct outbox **outbox_ptr)
{
    struct outbox *outbox = TAKE(*outbox_ptr);
    if (!outbox)
        return;
    timer_free(&outbox->timer);
    free(outbox);
}

static void wake_at(struct outbox *outbox, msec at)
{
    if (timer_at(outbox->timer) > at)
        timer_set(outbox->timer, at);
}

static void move(struct list *list, struct run *run)
{
    list_remove(&run->node);
    list_push_back(list, &run->node);
}

void outbox_spoke(struct outbox *outbox, struct run *run, bool at_once)
{
    if (run->finished)
        return;
    outbox->at_once = outbox->at_once || (at_once && run->watched);
    if (list_empty(&run->node))
        list_push_back(&outbox->spoken, &run->node);
    wake_at(outbox, outbox->sent_at + OUTBOX_EVENTS_MS);
}

void outbox_ended(struct outbox *outbox, struct run *run)
{
    move(&outbox->unsent, run);
}

void outbox_resend(struct outbox *outbox, struct run *run)
{
    if (run->finished)
        move(&outbox->unsent, run);
}

void outbox_watch(struct outbox *outbox, struct run *run, bool on, uint64_t from)
{
    bool before = run->watched;
    run->watched = on;
    if (!on)
        return;
    size_t begin = eventlog_snap(run_log(run), from);
    run->sent =
        before ? MIN(run->sent, begin) : begin; /* another watcher may be behind: readers know by the offset what they have */
    if (!run->finished)
        outbox_spoke(outbox, run, true);
    else if (run->sent < run->log_bytes)
        move(&outbox->unsent, run); /* its events, and the outcome once more behind them */
}

/* ---- events ---- */

struct gathered {
    size_t runs, bytes;
};

/* The part of a run's log that its watcher has not been sent, whole lines, at most `room` bytes of them (one line at least if
 * the frame is empty). */
static size_t owed(const struct run *run, size_t room, bool first)
{
    struct span log = run_log(run);
    if (!run->watched || run->sent >= log.len)
        return 0;
    size_t len = log.len - run->sent;
    if (len <= room)
        return len;
    const uint8_t *from = log.data + run->sent;
    const uint8_t *end = room ? memrchr(from, '\n', room) : NULL;
    if (!end && first)
        end = memchr(from, '\n', len);
    return end ? (size_t)(end - from) + 1 : 0;
}

/* Adds a run's owed events to the frame being gathered. false: more is owed than fits. */
static bool gather(struct outbox *outbox, struct gathered *sum, struct run *run)
{
    size_t len = 0;
    if (sum->runs < OUTBOX_RUNS)
        len = owed(run, OUTBOX_EVENTS_BYTES - MIN(sum->bytes, (size_t)OUTBOX_EVENTS_BYTES), sum->bytes == 0);
    if (len) {
        outbox->events[sum->runs] =
            (struct rec_run_event){.id = run->id, .fence = run->fence, .offset = run->sent, .bytes = (uint32_t)len};
        outbox->runs[sum->runs++] = run;
        sum->bytes += len;
    }
    return !run->watched || run->sent + len >= run_log(run).len;
}

static bool send_gathered(struct outbox *outbox, const struct gathered *sum)
{
    if (!sum->runs)
        return true;
    uint8_t *data;
    AUTO(blob_free) struct blob *body = blob_new(sum->bytes, &data);
    if (!body)
        return false;
    for (size_t i = 0; i < sum->runs; i++) {
        memcpy(data, run_log(outbox->runs[i]).data + outbox->events[i].offset, outbox->events[i].bytes);
        data += outbox->events[i].bytes;
    }
    struct msg_run_events fields = {.items = outbox->events, .items_count = (uint32_t)sum->runs};
    if (link_send(outbox->link, MESSAGE_RUN_EVENTS, &fields, body) != ERR_OK)
        return false;
    for (size_t i = 0; i < sum->runs; i++)
        outbox->runs[i]->sent += outbox->events[i].bytes;
    outbox->events_count++;
    return true;
}

/* One frame. true: nothing more is owed to anyone. */
static bool send_events(struct outbox *outbox)
{
    struct gathered sum = {0};
    bool all = true;
    struct list *node, *after;
    LIST_EACH (node, &outbox->unsent)
        all = gather(outbox, &sum, CONTAINER_OF(node, struct run, node)) && all;
    LIST_EACH (node, &outbox->spoken) {
        struct run *run = CONTAINER_OF(node, struct run, node);
        eventlog_flush(&run->log);
        all = gather(outbox, &sum, run) && all;
    }
    if (!send_gathered(outbox, &sum))
        return false;
    outbox->sent_at = loop_now(outbox->loop);
    outbox->at_once = false;
    LIST_EACH_SAFE (node, after, &outbox->spoken) {
        const struct run *run = CONTAINER_OF(node, struct run, node);
        if (!run->watched || run->sent >= run_log(run).len)
            list_remove(node);
    }
    return all;
}

/* ---- progress ---- */

static bool progress_due(const struct run *run, msec now)
{
    return run->progress >= run->progress_sent + OUTBOX_PROGRESS && now >= run->progress_at + OUTBOX_PROGRESS_MS;
}

/* Of the runs that have just spoken. A report that is lost is made up for by the next. */
static void send_progress(struct outbox *outbox)
{
    msec now = loop_now(outbox->loop);
    uint32_t count = 0;
    struct list *node;
    LIST_EACH (node, &outbox->spoken) {
        struct run *run = CONTAINER_OF(node, struct run, node);
        if (count == OUTBOX_RUNS || !progress_due(run, now))
            continue;
        outbox->progress[count++] =
            (struct rec_progress){.id = run->id, .fence = run->fence, .progress = (uint8_t)run->progress};
        run->progress_sent = run->progress;
        run->progress_at = now;
    }
    struct msg_progress fields = {.items = outbox->progress, .items_count = count};
    if (count && link_send(outbox->link, MESSAGE_PROGRESS, &fields, NULL) != ERR_OK)
        return;
}

/* ---- outcomes ---- */

/* A message may hold words from the network (a certificate's names); one that no frame takes would hold up all that follow. */
static enum err send_outcome(struct outbox *outbox, const struct run *run)
{
    char message[PROTO_EVIDENCE_BYTES];
    struct msg_outcome fields = {
        .id = run->id,
        .fence = run->fence,
        .kind = (uint8_t)run->kind,
        .http_status = (uint16_t)run->http_status,
        .retry_after_ms = (uint64_t)run->retry_after_ms,
        .message = frame_text_fit(message, sizeof message, span_str(run->message)),
        .usage = run->usage,
        .connect_ms = run->connect_ms,
        .first_token_ms = run->first_token_ms,
        .total_ms = run->total_ms,
        .result_bytes = (uint32_t)run->result_bytes,
        .log_bytes = (uint32_t)run->log_bytes,
    };
    return link_send(outbox->link, MESSAGE_OUTCOME, &fields, run->body);
}

/* true: all of them. */
static bool send_outcomes(struct outbox *outbox)
{
    struct list *node;
    while ((node = list_first(&outbox->unsent))) {
        struct run *run = CONTAINER_OF(node, struct run, node);
        if (send_outcome(outbox, run) != ERR_OK)
            return false;
        outbox->outcomes_count++;
        move(&outbox->waits, run);
    }
    return true;
}

static bool events_due(const struct outbox *outbox)
{
    if (outbox->at_once || !list_empty(&outbox->unsent))
        return true;
    return !list_empty(&outbox->spoken) && loop_now(outbox->loop) >= outbox->sent_at + OUTBOX_EVENTS_MS;
}

/* Nobody is there to send to: the logs are kept up, and the next session says what it wants of them. */
static void keep_logs(struct outbox *outbox)
{
    struct list *node, *after;
    LIST_EACH_SAFE (node, after, &outbox->spoken) {
        eventlog_flush(&CONTAINER_OF(node, struct run, node)->log);
        list_remove(node);
    }
    outbox->sent_at = loop_now(outbox->loop);
    outbox->at_once = false;
}

void outbox_turn(struct outbox *outbox)
{
    bool due = events_due(outbox), done = true;
    if (!link_is_up(outbox->link)) {
        if (due)
            keep_logs(outbox);
        return;
    }
    if (due) {
        send_progress(outbox);
        done = send_events(outbox);
    }
    if (done && !list_empty(&outbox->unsent))
        done = send_outcomes(outbox);
    if (!done)
        wake_at(outbox, loop_now(outbox->loop) + OUTBOX_EVENTS_MS);
}
