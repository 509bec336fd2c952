/* file: complete reads and writes, and atomic replacement of files. */
#ifndef CAIRN_BASE_FILE_H
#define CAIRN_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;

/* The identity of a file. */
struct file_id {
	uint64_t dev, ino;
	bool in_memory; /* its file system keeps data in memory (tmpfs), or may (overlayfs) */
};

/* Transfer all len bytes; retry after short counts and EINTR.
 * Return 0; -EIO if the file ends before len bytes are read; -errno. */
int write_full(int fd, const void *buf, size_t len);
int pread_full(int fd, void *buf, size_t len, off_t off);
int pwrite_full(int fd, const void *buf, size_t len, off_t off);

/* Write a line: the text and a newline.
 * fd: opened with O_APPEND; -1 returns -EBADF.
 * ret_bytes: number of bytes written; 0 if the write failed; not set with -ENOMEM.
 * Returns 0 or -errno. */
int line_append(int fd, const char *text, size_t *ret_bytes);

/* Read a whole file.
 * max: limit in bytes.
 * ret_buf: gets a NUL after the content; the caller frees it.
 * name: of the file, for the error; file_read_fd() reads from the fd's current position.
 * Returns 0; -EFBIG if the file is larger than max; -errno. The error names the path. */
int file_read(const char *path, size_t max, char **ret_buf, size_t *ret_len, struct err *e);
int file_read_fd(int fd, const char *name, size_t max, char **ret_buf, size_t *ret_len,
	struct err *e);
/* Return the number behind the first occurrence of a word in the first KiB of a file of /proc; 0: there is none. */
double file_number_behind(const char *path, const char *word);

/* Replace a file atomically: write a temporary file, fsync, rename, fsync the folder. After a crash
 * at any point, the file has either the old or the new content.
 * Returns 0 or -errno with a sentence. */
int file_write_atomic(const char *path, const void *buf, size_t len, mode_t mode, struct err *e);

/* Rename a file or folder within the folder `dir`, unless the new name is in use. On file systems without
 * RENAME_NOREPLACE, such as NFS, a file or an empty folder of that name is replaced. Returns 0; -EEXIST; -errno. */
int file_rename_new(int dir, const char *from, const char *to);

/* Returns 0 or -errno. */
int file_identify(int fd, struct file_id *ret);

/* Whether the file was created before this time, in ns since 1970. False for ns 0, if there is no such file, and if the
 * file system does not tell. */
bool file_is_older(const char *path, uint64_t ns);

/* Lock a file exclusively by flock(). Waits some 10 ms, because a process that checks whether a file is locked has the
 * lock for a moment.
 * Returns 0; -EBUSY: another process has it; -errno: no lock is possible. */
int file_lock(int fd);

/* Create a folder and its missing parents, like mkdir -p.
 * Returns 0 or -errno. */
int mkdir_all(const char *path, mode_t mode, struct err *e);

#endif
