/* denial_log: limits how many denials of one user are reported: RATELIMIT_BURST within RATELIMIT_WINDOW_NS
 * (base/ratelimit.h). After the window has ended, one event and, if audit lines were omitted, one audit line count the
 * omitted ones.
 * Threading: the daemon's loop. */
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

/* Create a denial log. loop, sink, audit: borrowed until denial_log_close(). Returns 0 or -errno. */
int denial_log_open(struct loop *loop, const struct event_sink *sink, struct audit *audit, struct denial_log **ret_r,
	struct err *e);
/* Report all counts and free the log. NULL allowed. */
void denial_log_close(struct denial_log *r);

/* Emit PERMISSION_DENIED or CLIENT_DROPPED for a user, within the rate limit. data: taken; uid and pid are added.
 * Returns whether the event was emitted. */
bool denial_log_report(struct denial_log *r, enum event_id id, uid_t uid, pid_t pid, struct json_object *data);
/* Count a denial that gets no audit line, after denial_log_report() returned false for it. */
void denial_log_unaudited(struct denial_log *r, uid_t uid);

#endif
