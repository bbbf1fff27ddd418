/* Front ends that applications already speak to, a file each: thin translations onto a job. */
#pragma once

#include "api/routes.h"

/* queue.c: API.md, section 3, Queue front end */
handler handle_queue_submit;
handler handle_queue_job;
handler handle_queue_stats;
handler handle_queue_stream;
extern const struct exchange_form queue_form;
