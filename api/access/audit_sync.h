/* audit_sync: brings lines of the audit log to stable storage. A thread syncs the files; lines that come during a sync
 * wait for the next one together.
 *
 * When a line cannot be written or synced, the file has an error until it works again: once a second, a line that
 * counts the lost lines is tried. After a failed sync, the kernel may have dropped the unwritten data, so these lines
 * count as lost.
 *
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_AUDIT_SYNC_H
#define CAIRN_API_ACCESS_AUDIT_SYNC_H

#include "api/store/store.h"
#include "api/store/store_writer.h"

#include <stdbool.h>
#include <stdint.h>

#define AUDIT_CLASSES 2

struct audit_file;
struct audit_waiter;

struct audit_sync {
	struct loop *loop;
	struct audit_file *files; /* AUDIT_CLASSES; borrowed */
	int dir_fd; /* the files' folder; borrowed */
	struct store_writer writer;
	struct store_work work;
	bool runs; /* a sync runs */
	bool ends;
	struct sync_part {
		int fd; /* -1: the file has no new lines */
		bool has_name; /* the folder has a new name, too */
		bool told;
		uint64_t lines;
		int r;
	} parts[AUDIT_CLASSES]; /* of the sync that runs */
	struct audit_waiter *waiters, *syncing; /* of the next sync, and of the one that runs; newest first */
	struct loop_timer *retry;
};

/* files, dir_fd: borrowed until audit_sync_close(), also on errors; loop: the same. Returns 0; -errno. */
int audit_sync_open(struct audit_sync *s, struct loop *loop, struct audit_file *files, int dir_fd, struct err *e);
/* Begin no further sync: audit_sync_close() syncs the lines that follow. */
void audit_sync_end(struct audit_sync *s);
/* Sync the files, end the thread and call the functions that are not called yet. No effect if s is zero. If
 * audit_sync_owes(), the loop must not run afterwards: it has a task of the sync. */
void audit_sync_close(struct audit_sync *s);
/* Append a line, and have stored() called when it is on stable storage (r: 0), or when that has failed (r: -errno).
 * stored: NULL allowed; not called from inside this function. class: index of the file.
 * Returns 0; -errno: the line is lost, and stored() is not called. */
int audit_sync_append(struct audit_sync *s, unsigned class, const char *text, void (*stored)(void *opaque, int r),
	void *opaque);
/* Return 0 if the files can be written, as far as is known; else -errno. */
int audit_sync_check(struct audit_sync *s);
/* Return whether lines are not on stable storage yet. */
bool audit_sync_owes(const struct audit_sync *s);

#endif
