/* refusals: what is told of what users were refused: RATELIMIT_BURST of each user within RATELIMIT_WINDOW_NS
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
struct denial_log;

/* Returns 0; -errno with a sentence. */
int denial_log_open(struct daemon *d, struct denial_log **ret_r, struct err *e);
/* Tells what there is to tell. NULL allowed. */
void denial_log_close(struct denial_log *r);

/* An event for admins of a client of that user's, unless there were enough of them. data: taken; gets uid and
 * pid. Was it told? */
bool denial_log_tell(struct denial_log *r, enum event_id id, uid_t uid, pid_t pid, struct json_object *data);
/* Such a one that was not told would have been a line of the audit log, too. */
void denial_log_unaudited(struct denial_log *r, uid_t uid);

#endif
