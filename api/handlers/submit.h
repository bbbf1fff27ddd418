/* A submit's JSON to a job, for whichever front end takes it. */
#pragma once

#include "api/job.h"
#include "api/routes.h"

/* application/json, whatever its parameters; or no type at all, unless a web page sent it: a page of another site may post
 * forms and untyped bodies to us without asking, but its browser says so in Origin. */
bool submit_is_json(const struct http_head *head);
/* Content-Type names this type, whatever its parameters. */
bool submit_is_type(const struct http_head *head, const char *type);

/* Says what is wrong with a field of the body. */
void submit_refuse(struct exchange *x, enum err e, const struct spec_fault *fault);
/* The body's tree, the caller's to free. false: it is no JSON, or there is no memory, and x was answered. */
bool submit_parse(struct exchange *x, struct span body, cJSON **ret_root);

struct submit_way {
    struct span body; /* native fields (spec.h); lent for the call */
    msec wait_ms;
    const struct job_style *style;
    /* Turns the name of a native field at fault into the front end's, in place; NULL: they are the same. */
    void (*rename)(char *param, size_t size);
};
/* Answers x, now or later. The Idempotency-Key header counts in every front end. */
void submit_job(struct api *api, struct exchange *x, const struct visit *v, const struct submit_way *way);
