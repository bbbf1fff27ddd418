/* Every end passes through end(); what a failure is called depends only on how far the call had come. */
#include "worker/call.h"

static bool end(struct call *call, msec now, enum kind kind, const char *why)
{
    call->state = CALL_ENDED;
    call->ended_at = now;
    call->kind = kind;
    call->why = why;
    return true;
}

void call_start(struct call *call, msec now, const struct call_clocks *clocks)
{
    *call = (struct call){.state = CALL_CONNECTING, .clocks = *clocks, .started_at = now};
}

/* The clock of the state alone. */
static msec state_deadline(const struct call *call)
{
    switch (call->state) {
    case CALL_CONNECTING:
        return call->started_at + call->clocks.connect_ms;
    case CALL_WAITING:
        return call->sent_at + call->clocks.first_token_ms;
    case CALL_FLOWING:
        return call->content_at + call->clocks.idle_ms;
    case CALL_CLOSING:
        return call->closing_at + CALL_CLOSING_MS;
    case CALL_ENDED:
        break;
    }
    return MSEC_NEVER;
}

msec call_deadline(const struct call *call)
{
    if (call->state == CALL_ENDED)
        return MSEC_NEVER;
    return MIN(state_deadline(call), call->started_at + call->clocks.total_ms);
}

static bool check_clocks(struct call *call, msec now)
{
    bool total = now >= call->started_at + call->clocks.total_ms;
    if (call->state == CALL_CLOSING)
        return (total || now >= state_deadline(call)) && end(call, now, KIND_NONE, NULL);
    if (total)
        return end(call, now, KIND_TIMEOUT, "the call took longer than its timeout");
    if (now < state_deadline(call))
        return false;
    switch (call->state) {
    case CALL_CONNECTING:
        return end(call, now, KIND_CONNECT, "no connection in time");
    case CALL_WAITING:
        return end(call, now, KIND_SENT, "nothing of the answer came in time");
    default:
        return end(call, now, KIND_STALL, "the answer stopped coming");
    }
}

static enum kind kind_of(const struct call *call, enum fault fault)
{
    switch (fault) {
    case FAULT_RESOLVE:
    case FAULT_CONNECT:
    case FAULT_TLS:
    case FAULT_RESET:
    case FAULT_CUT:
        if (call->state == CALL_CONNECTING)
            return KIND_CONNECT;
        return call->answered ? KIND_STREAM_CUT : KIND_SENT;
    case FAULT_FRAMING:
    case FAULT_HEAD:
        return KIND_BAD_FRAME;
    case FAULT_TOO_LARGE:
        return KIND_ANSWER_TOO_LARGE;
    case FAULT_STARVED:
        return KIND_STARVED;
    case FAULT_NONE:
    case FAULT_STOPPED:
    case FAULT_NOMEM:
    case FAULT_INTERNAL:
        break;
    }
    return KIND_WORKER;
}

static const char *why_of(enum fault fault)
{
    switch (fault) {
    case FAULT_RESOLVE:
        return "the host name has no address";
    case FAULT_CONNECT:
        return "no connection";
    case FAULT_TLS:
        return "TLS failed";
    case FAULT_RESET:
        return "the connection broke";
    case FAULT_CUT:
        return "the connection was closed before the answer was whole";
    case FAULT_FRAMING:
        return "the reply is not valid HTTP/1.1";
    case FAULT_HEAD:
        return "the head of the reply is too large";
    case FAULT_TOO_LARGE:
        return "the answer is too large";
    case FAULT_NOMEM:
        return "no memory left for the call";
    case FAULT_STARVED:
        return "no descriptor left for the call";
    default:
        return "the call could not be made";
    }
}

static bool content(struct call *call, msec now)
{
    if (call->state == CALL_WAITING) {
        call->state = CALL_FLOWING;
        call->first_at = now;
    }
    call->content_at = now;
    return false;
}

bool call_step(struct call *call, msec now, const struct call_input *input)
{
    if (call->state == CALL_ENDED)
        return false;
    switch (input->event) {
    case CALL_CONNECTED:
        if (call->state == CALL_CONNECTING) {
            call->state = CALL_WAITING;
            call->sent_at = now;
        }
        return false;
    case CALL_BYTES:
        call->answered = true;
        return false;
    case CALL_CONTENT:
        return content(call, now);
    case CALL_PROVEN:
        if (call->state != CALL_CLOSING) {
            call->state = CALL_CLOSING;
            call->closing_at = now;
        }
        return false;
    case CALL_FINISHED:
        return end(call, now, input->kind, NULL);
    case CALL_BROKEN:
        if (call->state == CALL_CLOSING)
            return end(call, now, KIND_NONE, NULL);
        return end(call, now, kind_of(call, input->fault), why_of(input->fault));
    case CALL_CANCEL:
        if (call->state == CALL_CLOSING)
            return end(call, now, KIND_NONE, NULL);
        return end(call, now, input->kind,
                   input->kind == KIND_STOPPING ? "the worker had to stop" : "the call was closed on request");
    case CALL_CLOCK:
        return check_clocks(call, now);
    }
    return false;
}

static uint32_t between(msec from, msec to)
{
    return from && to > from ? (uint32_t)MIN(to - from, (msec)UINT32_MAX) : 0;
}

uint32_t call_connect_ms(const struct call *call)
{
    return between(call->started_at, call->sent_at);
}
uint32_t call_first_token_ms(const struct call *call)
{
    return call->first_at ? MAX(between(call->sent_at, call->first_at), 1) : 0; /* 0 means that none came */
}
uint32_t call_total_ms(const struct call *call)
{
    return between(call->started_at, call->ended_at);
}
