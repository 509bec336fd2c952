/* audit: one line for each call that changes something, refused ones too: who, what, how it
 * ended. Append-only, JSON, a line a call; audit.log, and when that is large audit.log.1 (the
 * newest of the old ones) to audit.log.4.
 *
 * A line has: time (ns since the epoch), uid, pid, command, vm, arguments (secrets masked; left
 * out when long), outcome ("ok" or the class of the error), error, duration (ns). Of a user who is refused too much
 * (api/access/denial_log.h) a line says how many more there were: time, uid, outcome, left-out, since (ns, the first). The first line
 * of a file says at which byte of all that was ever written it begins: a place in the log is
 * such a number, and stays right when files are turned. */
#ifndef CAIRN_API_ACCESS_AUDIT_H
#define CAIRN_API_ACCESS_AUDIT_H

#include <stdint.h>

struct audit;
struct err;
struct json_object;

#define AUDIT_FILE_BYTES (8 * 1024 * 1024)
#define AUDIT_FILES 5 /* the present one included */

/* dir: the state folder. Returns 0; -errno with a sentence. */
int audit_open(const char *dir, struct audit **ret_a, struct err *e);
/* NULL allowed. */
void audit_close(struct audit *a);
/* Borrows line. What cannot be written is logged. */
void audit_add(struct audit *a, struct json_object *line);

struct audit_query {
	uint64_t from;	   /* place; 0: the oldest that is kept */
	int64_t since_ns;  /* time */
	int64_t uid;	   /* -1: any */
	const char *vm;	   /* NULL: any */
};

/* A page: {lines, next (place), more}. The caller puts it. */
struct json_object *audit_page(struct audit *a, const struct audit_query *q);

/* A copy of arguments, fit to be kept: what looks like a secret is masked. */
struct json_object *audit_mask(struct json_object *args);

#endif
