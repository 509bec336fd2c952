/* desktop: shows events as messages of the user's desktop, by the service org.freedesktop.Notifications of the
 * session's bus. cairn runs busctl for this, because cairn is linked statically. A service that hangs delays each
 * message by
 * 5 s. */
#ifndef CAIRN_TOOLS_DESKTOP_H
#define CAIRN_TOOLS_DESKTOP_H

#include "base/ratelimit.h"

#include <stdbool.h>

struct err;
struct json_object;

#define DESKTOP_TIMEOUT "--timeout=5" /* for busctl, in seconds */

struct desktop {
	bool markup; /* the service reads markup in messages */
	bool failed; /* the last message was not shown */
	struct ratelimit limit;
};

/* Find the service. Returns 0; -ENOENT: there is none, with the remedy; -errno. */
int desktop_open(struct desktop *d, struct err *e);
/* Show a message about an event, unless there were too many: RATELIMIT_BURST in RATELIMIT_WINDOW_NS. A warning on
 * standard error says if it cannot be shown, once until one can.
 * all: also show events that have no text of their own, by name and members. */
void desktop_notify(struct desktop *d, struct json_object *ev, bool all);

#endif
