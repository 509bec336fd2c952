/* audit: an append-only log with one JSON line for each mutating call, including denied ones. A line whose command
 * is in parentheses is about an act of the daemon itself. The lines of root, of the daemon's own user and of the daemon
 * are in audit.log, those of other users in audit-users.log; audit_page() returns both in the order of time. Full files
 * are rotated (api/access/audit_file.h). Threading: the daemon's loop.
 *
 * A line has: time (ns since the epoch), uid, pid, command, vm, arguments (secrets masked), outcome ("ok" or the
 * error's class), error, duration (ns). It has at most 4 KiB, and each text in it at most 255 bytes: a longer text
 * ends with "...(N bytes)", a list of arguments with "...(N more)", an object with the member "...": N, which counts
 * the omitted members. Control characters are replaced by '?'. When a user's denials exceed the rate limit
 * (api/access/denial_log.h), one line counts the omitted ones: time, uid (missing if it counts several users),
 * outcome, left-out, since (ns, the first).
 *
 * The lines of one user are limited to a share of audit-users.log (api/access/audit_share.h). Ten minutes after the
 * first line that a user's share has no room for, and when the log is closed, one line with the outcome "any" counts
 * the omitted ones in the same way. The shares are full when the log is opened. */
#ifndef CAIRN_API_ACCESS_AUDIT_H
#define CAIRN_API_ACCESS_AUDIT_H

#include <stdint.h>

struct audit;
struct err;
struct json_object;
struct loop;

/* Open the log in dir, the state folder. loop: borrowed until audit_close(). Returns 0 or -errno. */
int audit_open(struct loop *loop, const char *dir, struct audit **ret_a, struct err *e);
/* Send a copy of each line that is written from now on to the systemd journal. path: as for journal_open(). */
void audit_copy_to_journal(struct audit *a, const char *path);
/* Write the counts of omitted lines and close the log. NULL allowed. */
void audit_close(struct audit *a);
/* Append a copy of a line, cut and without the values of keys that look like secrets. line: borrowed; only "arguments"
 * may be a list or an object. A line above its user's share is only counted. A write error goes to the daemon's log. */
void audit_add(struct audit *a, struct json_object *line);

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
