/* audit_share: limits how many bytes of audit-users.log the lines of one user may take. Without a limit, one user could
 * push the lines of all other users out of the log's files.
 *
 * Each user's lines are charged to a token bucket. It holds AUDIT_SHARE_BYTES, and AUDIT_SHARE_REFILL bytes flow back
 * each hour. There are AUDIT_SHARES buckets: a user gets one for itself with its first line, and returns it when it is
 * full again. All other users share the last bucket: users for whom no bucket was free, and users whose first call
 * was denied. So users without a role cannot take the buckets of users with a role. All buckets together let
 * AUDIT_SHARES * AUDIT_SHARE_BYTES and then AUDIT_SHARES * AUDIT_SHARE_REFILL bytes an hour pass. */
#ifndef CAIRN_API_ACCESS_AUDIT_SHARE_H
#define CAIRN_API_ACCESS_AUDIT_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUDIT_SHARES 16
#define AUDIT_SHARE_BYTES (2 * 1024 * 1024)
#define AUDIT_SHARE_REFILL (1024 * 1024) /* an hour */

/* The initial state is all zeros: a full bucket. */
struct audit_share {
	int64_t uid;	      /* meaningless in the shared bucket */
	uint64_t spent_bytes; /* above AUDIT_SHARE_BYTES when a line that counts omitted ones was charged */
	uint64_t refilled_ns; /* monotonic */
	int64_t since_ns;     /* realtime of the first omitted line; valid while left_out is not 0 */
	uint64_t left_out;    /* omitted lines that no line in the log counts yet */
};

/* Return the bucket of a user, refilled.
 * shares: AUDIT_SHARES buckets; the last one is shared.
 * uid:    -1: several users, whose bucket is the shared one.
 * denied: the line is about a denied call. */
struct audit_share *audit_share_of(struct audit_share *shares, int64_t uid, bool denied, uint64_t now_ns);

/* Take bytes from a bucket. Returns whether the bucket had as many. */
bool audit_share_take(struct audit_share *s, size_t bytes);

#endif
