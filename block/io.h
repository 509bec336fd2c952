/* io: one complete read or write on one fd. After a short count, it transfers the rest. Bytes past the end of a file
 * read as zeros. Also the holes of a file.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_BLOCK_IO_H
#define CAIRN_BLOCK_IO_H

#include "base/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/* Embedded in the caller's request; must not move until done(). */
struct io {
	struct loop_op op;
	struct loop *loop;
	int fd;
	bool write;
	const struct iovec *iov; /* borrowed until done() */
	unsigned niov;
	uint64_t offset, left, submitted;
	uint64_t ended_at; /* for a read: the offset of the file's end; UINT64_MAX: the read ended before it */
	struct iovec *rest; /* owned; the remainder after a short count, or the split entries of a huge request */
	void (*done)(struct io *io, int res); /* res: 0 or -errno; never called inside io_read() or io_write() */
};

void io_read(struct io *io, struct loop *l, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset, uint64_t len);
void io_write(struct io *io, struct loop *l, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset, uint64_t len);

/* Convert the result of a read from a file that had `bytes` bytes.
 * Returns res; -ENODATA if another program truncated the file before the requested data. */
int io_read_result(const struct io *io, int res, uint64_t bytes);

/* Returns true if the error says that the host or its file system does not have the operation. */
bool io_host_cannot(int res);

/* ---- holes ---- */

/* The file system's last answer, for [from, end). The query is slow: some file systems scan up to the end of the hole
 * or the data each time. Zeros: no answer; the owner clears it before a write. */
struct io_holes {
	uint64_t from, end;
	bool is_hole;
};
/* Look up the stretch of fd from off on. *len: its most bytes; set to those that are all hole or all data.
 * Returns true for a hole, also past the end of the file; false for data, or if the file system cannot tell. */
bool io_hole_find(struct io_holes *h, int fd, uint64_t off, uint64_t *len);

/* ---- iovec arithmetic ---- */

uint64_t iov_bytes(const struct iovec *iov, unsigned niov);
/* Get the iovecs that cover [skip, skip + len) of iov; the range must lie inside.
 * out: room for niov entries.
 * Returns the number of entries in out. */
unsigned iov_slice(const struct iovec *iov, unsigned niov, uint64_t skip, uint64_t len,
	struct iovec *out);
/* Fill iov with entries of zeros (io_zeros) for len bytes. Returns their number. */
unsigned iov_zeros(struct iovec *iov, uint64_t len);
void iov_zero(const struct iovec *iov, unsigned niov, uint64_t skip, uint64_t len);
void iov_from_buf(const struct iovec *iov, unsigned niov, uint64_t skip, const void *buf,
	uint64_t len);
void iov_to_buf(const struct iovec *iov, unsigned niov, uint64_t skip, void *buf, uint64_t len);

/* Allocate memory for O_DIRECT: aligned to 4 KiB, not cleared. Returns NULL if out of memory. The
 * caller frees it with free(). */
void *io_buffer_new(size_t len);
/* A buffer of IO_ZEROS_BYTES zeros to write from: aligned, read-only. */
#define IO_ZEROS_BYTES (64 * 1024u)
extern const uint8_t io_zeros[IO_ZEROS_BYTES];

#endif
