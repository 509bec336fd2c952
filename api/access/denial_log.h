/* refusals: what is told of what users were refused: LIMIT_BURST of each user within LIMIT_WINDOW_NS
 * (base/ratelimit.h), and at the end of that time how many more there were, as an event and a line of the audit log. */
#ifndef CAIRN_API_ACCESS_DENIAL_LOG_H
#define CAIRN_API_ACCESS_DENIAL_LOG_H

#include "api/schema/schema.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct daemon;
struct err;
struct json_object;
struct refusals;

/* Returns 0; -errno with a sentence. */
int refusals_open(struct daemon *d, struct refusals **ret_r, struct err *e);
/* Tells what there is to tell. NULL allowed. */
void refusals_close(struct refusals *r);

/* An event for admins of a client of that user's, unless there were enough of them. data: taken; gets uid and
 * pid. Was it told? */
bool refusals_tell(struct refusals *r, enum event_id id, uid_t uid, pid_t pid, struct json_object *data);
/* Such a one that was not told would have been a line of the audit log, too. */
void refusals_unaudited(struct refusals *r, uid_t uid);

#endif
