/* audit: an append-only log with one JSON line for each mutating call, including denied ones. A line whose command
 * is in parentheses is about an act of the daemon itself. The lines of root, of the daemon's own user and of the daemon
 * are in audit.log, those of other users in audit-users.log; audit_page() returns both in the order of time. Full files
 * are rotated (api/access/audit_file.h). A thread brings the lines to stable storage (api/access/audit_sync.h), and a
 * call is answered after that. Threading: the daemon's loop.
 *
 * A line has: time (ns since the epoch), uid, pid, command, vm, arguments (secrets masked, and all of URLs but the
 * host), outcome ("ok" or the error's class), error, duration (ns). It has at most 4 KiB, and each text in it at most
 * 255 bytes: a longer text ends with "...(N bytes)", a list of arguments with "...(N more)", an object with the member
 * "...": N, which counts the omitted members. Control characters are replaced by '?'. When a user's denials exceed the
 * rate limit (api/access/denial_log.h), one line counts the omitted ones: time, uid (missing if it counts several
 * users), outcome, left-out, since (ns, the first).
 *
 * The lines of one user are limited to a share of audit-users.log (api/access/audit_share.h). Ten minutes after the
 * first line that a user's share has no room for, and when the log is closed, one line with the outcome "any" counts
 * the omitted ones in the same way. The shares are full when the log is opened. */
#ifndef CAIRN_API_ACCESS_AUDIT_H
#define CAIRN_API_ACCESS_AUDIT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct audit;
struct err;
struct json_object;
struct loop;

/* Open the log in dir, the state folder. loop: borrowed until audit_close(). Returns 0 or -errno. */
int audit_open(struct loop *loop, const char *dir, struct audit **ret_a, struct err *e);
/* Send a copy of each line that is written from now on to the systemd journal. path: as for journal_open(). */
void audit_copy_to_journal(struct audit *a, const char *path);
/* From now on, let audit_check() refuse calls that cannot be recorded, and allocate the blocks of the files
 * beforehand. */
void audit_require(struct audit *a);
bool audit_is_required(const struct audit *a);
/* Return whether lines are not on stable storage yet. If so, the caller runs the loop and asks again. NULL allowed. */
bool audit_owes(const struct audit *a);
/* Write the counts of omitted lines, bring all lines to stable storage and close the log. If audit_owes(), the loop
 * must not run afterwards. NULL allowed. */
void audit_close(struct audit *a);
/* Append a copy of a line, cut and without the values of keys that look like secrets. line: borrowed; only "arguments"
 * may be a list or an object. A line above its user's share is only counted. A write error goes to the daemon's log. */
void audit_add(struct audit *a, struct json_object *line);
/* Append the line of a call, and have stored() called when the line is on stable storage (r: 0), or when that has
 * failed (r: -errno); not from inside this function.
 * promised: audit_check() has allowed the call, so the line is written even if the user's share is used up.
 * Returns 1; 0: the line is only counted; -errno: it is lost. With the latter two, stored() is not called. */
int audit_add_call(struct audit *a, struct json_object *line, bool promised, void (*stored)(void *opaque, int r),
	void *opaque);
/* With audit_require(): check that the line of a call by this user can be written. Returns 0; -errno: refuse the
 * call. */
int audit_check(struct audit *a, uid_t uid, struct err *e);

struct audit_query {
	uint64_t from;	   /* `next` of the page before; 0: the oldest line */
	int64_t since_ns;  /* oldest time of the lines to return */
	int64_t uid;	   /* -1: any */
	const char *vm;	   /* NULL: any */
};

/* Return one page of matching lines, owned by the caller: {lines, next (where the next page begins), more}. A
 * page may have no lines although more follow. */
struct json_object *audit_page(struct audit *a, const struct audit_query *q);

#endif
