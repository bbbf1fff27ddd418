/* A provider key, or a header line that carries one: loaded once, never printed, wiped. It lies on pages of its own that are
 * locked in memory where the system allows it, left out of core dumps and zero in a forked child. curl reads it there; its own
 * send buffer, which it frees after the call, is the one copy we do not hold. */
#pragma once

#include "common/base.h"

#define SECRET_MAX 4096

struct secret;

/* The text of a file, without the line end behind it. A relative path is looked up among the unit's credentials where systemd
 * gave some ($CREDENTIALS_DIRECTORY, systemd.exec(5)), else in the working directory. The file must be regular, and neither
 * readable nor writable by others; the text visible ASCII, at most SECRET_MAX bytes, so that it can stand in a header.
 * ERR_SETTINGS with *ret_why a clause for the log (it never contains the text), ERR_NOMEM. */
MUST_USE enum err secret_load(const char *path, struct secret **ret_secret, const char **ret_why);

/* `prefix` and the secret in one, e.g. a header line. NULL: no memory. */
MUST_USE struct secret *secret_join(const char *prefix, const struct secret *secret);

void secret_free(struct secret **secret);

/* NUL-terminated; lent until the secret is freed. */
const char *secret_text(const struct secret *secret);

/* Overwrites every occurrence of `secret` in text that came from outside (a provider may echo the key it was sent). */
void secret_hide(const struct secret *secret, char *text, size_t len);
