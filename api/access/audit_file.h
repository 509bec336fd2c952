/* audit_file: the files of one class of audit lines: NAME.log, which is written to, and the full ones NAME.log.1 (the
 * newest) to NAME.log.4 (the oldest). A place is an offset into all bytes that were ever written to the class. The
 * first line of each file states the file's own place, so places stay valid when files are rotated.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_AUDIT_FILE_H
#define CAIRN_API_ACCESS_AUDIT_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define AUDIT_FILE_BYTES (8 * 1024 * 1024)
#define AUDIT_FILES 5 /* including the one that is written to */

struct audit_file {
	int dir_fd; /* borrowed */
	const char *name; /* static: "audit.log" */
	int fd;
	uint64_t base; /* place of the present file's first byte */
	uint64_t size; /* of the present file, in bytes */
};

/* Open the present file, and end its last line if a power cut left only a part. dir_fd: the state folder; name: static;
 * both are borrowed until audit_file_close(). Returns 0 or -errno; call audit_file_close() in both cases. */
int audit_file_open(struct audit_file *f, int dir_fd, const char *name);
void audit_file_close(struct audit_file *f);
/* Append a line, without its newline. A write error goes to the daemon's log. */
void audit_file_append(struct audit_file *f, const char *text);
/* Return the place behind the last line. */
uint64_t audit_file_end(const struct audit_file *f);
/* Read from *place on. If that place is in no file any more, *place becomes the next place that is. Returns the number
 * of bytes; 0: *place is at or behind the end; -errno. */
ssize_t audit_file_read(const struct audit_file *f, uint64_t *place, char *buf, size_t size);

#endif
