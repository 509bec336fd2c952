/* audit: an append-only log with one JSON line for each mutating call, including denied ones. A line whose command
 * is in parentheses is about an act of the daemon itself. A full audit.log is rotated: audit.log.1 is the newest
 * rotated file, audit.log.4 the oldest. Threading: the daemon's loop.
 *
 * A line has: time (ns since the epoch), uid, pid, command, vm, arguments (secrets masked), outcome ("ok" or the
 * error's class), error, duration (ns). It has at most 4 KiB, and each text in it at most 255 bytes: a longer text
 * ends with "...(N bytes)", a list of arguments with "...(N more)", an object with the member "...": N, which counts
 * the omitted members. Control characters are replaced by '?'. When a user's denials exceed the rate limit
 * (api/access/denial_log.h), one line counts the omitted ones: time, uid (missing if it counts several users),
 * outcome, left-out, since (ns, the first).
 *
 * Lines of users other than root and the daemon's own are limited to a share of the log (api/access/audit_share.h).
 * Ten minutes after the first line that a user's share has no room for, and when the log is closed, one line with the
 * outcome "any" counts the omitted ones in the same way. The shares are full when the log is opened.
 *
 * A place in the log is an offset into all bytes ever written. The first line of each file states the file's own
 * offset, so places stay valid when files are rotated. */
#ifndef CAIRN_API_ACCESS_AUDIT_H
#define CAIRN_API_ACCESS_AUDIT_H

#include <stdint.h>

struct audit;
struct err;
struct json_object;
struct loop;

#define AUDIT_FILE_BYTES (8 * 1024 * 1024)
#define AUDIT_FILES 5 /* including the one that is written to */

/* Open the log in dir, the state folder. loop: borrowed until audit_close(). Returns 0 or -errno. */
int audit_open(struct loop *loop, const char *dir, struct audit **ret_a, struct err *e);
/* Write the counts of omitted lines and close the log. NULL allowed. */
void audit_close(struct audit *a);
/* Append a copy of a line, cut and without the values of keys that look like secrets. line: borrowed; only "arguments"
 * may be a list or an object. A line above its user's share is only counted. A write error goes to the daemon's log. */
void audit_add(struct audit *a, struct json_object *line);

struct audit_query {
	uint64_t from;	   /* place; 0: the oldest line */
	int64_t since_ns;  /* oldest time of the lines to return */
	int64_t uid;	   /* -1: any */
	const char *vm;	   /* NULL: any */
};

/* Return one page of matching lines, owned by the caller: {lines, next (the place where the next page begins), more}. A
 * page may have no lines although more follow. */
struct json_object *audit_page(struct audit *a, const struct audit_query *q);

#endif
