/* audit_file: the files of one class of audit lines: NAME.log, which is written to, and the full ones NAME.log.1 (the
 * newest) to NAME.log.4 (the oldest). A place is an offset into all bytes that were ever written to the class. The
 * first line of each file states the file's own place, so places stay valid when files are rotated.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_AUDIT_FILE_H
#define CAIRN_API_ACCESS_AUDIT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define AUDIT_FILE_BYTES (8 * 1024 * 1024)
#define AUDIT_FILES 5 /* including the one that is written to */

struct audit_file {
	int dir_fd; /* borrowed */
	const char *name; /* static: "audit.log" */
	int fd; /* -1: the file could not be opened; the next line tries it again */
	dev_t dev; /* of fd */
	ino_t ino;
	uint64_t base; /* place of the present file's first byte */
	uint64_t size; /* of the present file, in bytes */
	bool wants_room; /* allocate the blocks of each file before its lines come */
	bool has_room;
	/* For api/access/audit_sync.h: */
	uint64_t unsynced; /* lines that no sync has begun for */
	bool is_new; /* no sync has begun for the file's name */
	int sync_fd; /* the fd that is being synced; its end closes it if it is no longer `fd`; -1: none */
	int error; /* 0; -errno: why the newest line, or the next one, cannot be written */
	uint64_t lost; /* lines lost by errors, which no line on stable storage counts yet */
	int64_t lost_since_ns; /* realtime of the first of them */
	bool told; /* the line that counts them is written; the error ends when that line is on stable storage */
};

/* Open the present file, and end its last line if a power cut left only a part. dir_fd: the state folder; name: static;
 * both are borrowed until audit_file_close(). Returns 0, also, with f->error set, if the disk is full or fails; or
 * -errno. Call audit_file_close() in all cases. */
int audit_file_open(struct audit_file *f, int dir_fd, const char *name);
void audit_file_close(struct audit_file *f);
/* Prepare the file for the next line: open it again if it was removed, and allocate its blocks if f->wants_room.
 * Returns 0; -errno. */
int audit_file_ready(struct audit_file *f);
/* Append a line, without its newline. Returns 0; -errno: nothing was written. */
int audit_file_append(struct audit_file *f, const char *text);
/* Rename the present file to NAME.1, and the older ones likewise. The next line begins a new file. */
void audit_file_rotate(struct audit_file *f);
/* Return the place behind the last line. */
uint64_t audit_file_end(const struct audit_file *f);
/* Read from *place on. If that place is in no file any more, *place becomes the next place that is. Returns the number
 * of bytes; 0: *place is at or behind the end; -errno. */
ssize_t audit_file_read(const struct audit_file *f, uint64_t *place, char *buf, size_t size);

#endif
