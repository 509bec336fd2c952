/* io: one whole read or write on one fd. Short counts are continued, what lies past
 * the end of a file reads as zeros.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_BLOCK_IO_H
#define CAIRN_BLOCK_IO_H

#include "base/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/* Embedded in the caller's request; stays put until done(). */
struct io {
	struct loop_op op;
	struct loop *loop;
	int fd;
	bool write;
	const struct iovec *iov; /* borrowed until done() */
	unsigned niov;
	uint64_t offset, left, submitted;
	uint64_t ended_at; /* of a read: where the file ended; UINT64_MAX: not within it */
	struct iovec *rest; /* owned: what a short count left over */
	void (*done)(struct io *io, int res); /* 0 or -errno; never from inside the start */
};

void io_read(struct io *io, struct loop *l, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset, uint64_t len);
void io_write(struct io *io, struct loop *l, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset, uint64_t len);

/* What a read that ended with res comes to, of a file that has had `bytes` bytes: -ENODATA when
 * somebody cut it and what was asked for is gone. */
int io_read_result(const struct io *io, int res, uint64_t bytes);

/* ---- iovec arithmetic ---- */

uint64_t iov_bytes(const struct iovec *iov, unsigned niov);
/* The entries that cover [skip, skip + len) of iov. out has room for niov entries;
 * returns how many were used. The range must lie inside. */
unsigned iov_slice(const struct iovec *iov, unsigned niov, uint64_t skip, uint64_t len,
	struct iovec *out);
void iov_zero(const struct iovec *iov, unsigned niov, uint64_t skip, uint64_t len);
void iov_from_buf(const struct iovec *iov, unsigned niov, uint64_t skip, const void *buf,
	uint64_t len);
void iov_to_buf(const struct iovec *iov, unsigned niov, uint64_t skip, void *buf, uint64_t len);

/* Memory for O_DIRECT: 4 KiB aligned, not cleared; free() it. NULL: out of memory. */
void *io_buffer_new(size_t len);
/* Zeros to write from: IO_ZEROS_BYTES of them, aligned, read-only. */
#define IO_ZEROS_BYTES (64 * 1024u)
extern const uint8_t io_zeros[IO_ZEROS_BYTES];

#endif
