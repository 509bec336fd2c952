/* file: whole reads and writes, and files that change in one step. */
#ifndef CAIRN_BASE_FILE_H
#define CAIRN_BASE_FILE_H

#include <stddef.h>
#include <sys/types.h>

struct err;

/* All of len, retried over short counts and EINTR. Return 0; -EIO at an early
 * end of file; -errno. */
int write_full(int fd, const void *buf, size_t len);
int pread_full(int fd, void *buf, size_t len, off_t off);
int pwrite_full(int fd, const void *buf, size_t len, off_t off);

/* Read a whole file of at most max bytes. *ret_buf has a NUL after len bytes; the
 * caller frees it. Returns 0; -EFBIG; -errno with a sentence naming the path. */
int file_read(const char *path, size_t max, char **ret_buf, size_t *ret_len, struct err *e);
int file_read_fd(int fd, const char *name, size_t max, char **ret_buf, size_t *ret_len,
	struct err *e);

/* Replace path's content so that after a crash at any point it is either the old
 * or the new whole: temporary file, fsync, rename, fsync of the folder. */
int file_write_atomic(const char *path, const void *buf, size_t len, mode_t mode, struct err *e);

/* mkdir -p. Returns 0 or -errno. */
int mkdir_all(const char *path, mode_t mode, struct err *e);

#endif
