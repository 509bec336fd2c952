/* denial_log: limits how many denials of one user are reported: RATELIMIT_BURST within RATELIMIT_WINDOW_NS
 * (base/ratelimit.h). When the window ends, one event and one audit line count the omitted ones. */
#ifndef CAIRN_API_ACCESS_DENIAL_LOG_H
#define CAIRN_API_ACCESS_DENIAL_LOG_H

#include "api/schema/schema.h"

#include <stdbool.h>
#include <sys/types.h>

struct audit;
struct denial_log;
struct err;
struct event_sink;
struct json_object;
struct loop;

/* Create a denial log. All arguments are borrowed. Returns 0 or -errno. */
int denial_log_open(struct loop *loop, const struct event_sink *sink, struct audit *audit, struct denial_log **ret_r,
	struct err *e);
/* Report all counts and free the log. NULL allowed. */
void denial_log_close(struct denial_log *r);

/* Emit an event about a user's denied call to admins, within the rate limit. data: takes it; uid and pid are added.
 * Returns whether the event was emitted. */
bool denial_log_tell(struct denial_log *r, enum event_id id, uid_t uid, pid_t pid, struct json_object *data);
/* Count a denial that was neither emitted nor written to the audit log. */
void denial_log_unaudited(struct denial_log *r, uid_t uid);

#endif
