#include "block/io.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Limit of one system call: io_uring has 32-bit lengths, and Linux truncates at 2 GiB. */
#define IO_STEP_BYTES (1ULL << 30)

const uint8_t io_zeros[IO_ZEROS_BYTES] __attribute__((aligned(4096)));

void *io_buffer_new(size_t len)
{
	return aligned_alloc(4096, ROUND_UP(len, 4096));
}

bool io_hole_find(struct io_holes *h, int fd, uint64_t off, uint64_t *len)
{
	off_t data, end;

	if (off < h->from || off >= h->end) {
		data = lseek(fd, (off_t)off, SEEK_DATA);
		if (data < 0 && errno != ENXIO) /* ENXIO: a hole up to the end */
			return false;
		end = data == (off_t)off ? lseek(fd, data, SEEK_HOLE) : data;
		*h = (struct io_holes){ off, end > (off_t)off ? (uint64_t)end : UINT64_MAX, data != (off_t)off };
	}
	*len = MIN(*len, h->end - off);
	return h->is_hole;
}

uint64_t iov_bytes(const struct iovec *iov, unsigned niov)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < niov; i++)
		n += iov[i].iov_len;
	return n;
}

unsigned iov_slice(const struct iovec *iov, unsigned niov, uint64_t skip, uint64_t len,
	struct iovec *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < niov && len; i++) {
		uint64_t take;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		take = MIN(len, iov[i].iov_len - skip);
		out[n++] = (struct iovec){ (char *)iov[i].iov_base + skip, take };
		skip = 0;
		len -= take;
	}
	return n;
}

unsigned iov_zeros(struct iovec *iov, uint64_t len)
{
	unsigned n = 0;

	for (; len; n++) {
		uint64_t take = MIN(len, (uint64_t)IO_ZEROS_BYTES);

		iov[n] = (struct iovec){ (void *)(uintptr_t)io_zeros, take };
		len -= take;
	}
	return n;
}

bool io_host_cannot(int res)
{
	return res == -EOPNOTSUPP || res == -ENOSYS || res == -EINVAL || res == -ENODEV ||
	       res == -ENOTTY || res == -EPERM;
}

/* Call fn for each piece of [skip, skip + len). off: the piece's offset in that range. */
static void iov_each(const struct iovec *iov, unsigned niov, uint64_t skip, uint64_t len,
	void (*fn)(char *p, uint64_t n, uint64_t off, void *opaque), void *opaque)
{
	uint64_t off = 0;

	for (unsigned i = 0; i < niov && len; i++) {
		uint64_t n;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		n = MIN(len, iov[i].iov_len - skip);
		fn((char *)iov[i].iov_base + skip, n, off, opaque);
		off += n;
		len -= n;
		skip = 0;
	}
}

static void piece_zero(char *p, uint64_t n, uint64_t off, void *opaque)
{
	(void)off;
	(void)opaque;
	memset(p, 0, n);
}

static void piece_from_buf(char *p, uint64_t n, uint64_t off, void *opaque)
{
	memcpy(p, (const char *)opaque + off, n);
}

static void piece_to_buf(char *p, uint64_t n, uint64_t off, void *opaque)
{
	memcpy((char *)opaque + off, p, n);
}

void iov_zero(const struct iovec *iov, unsigned niov, uint64_t skip, uint64_t len)
{
	iov_each(iov, niov, skip, len, piece_zero, NULL);
}

void iov_from_buf(const struct iovec *iov, unsigned niov, uint64_t skip, const void *buf,
	uint64_t len)
{
	iov_each(iov, niov, skip, len, piece_from_buf, (void *)(uintptr_t)buf);
}

void iov_to_buf(const struct iovec *iov, unsigned niov, uint64_t skip, void *buf, uint64_t len)
{
	iov_each(iov, niov, skip, len, piece_to_buf, buf);
}

static void io_submit(struct io *io)
{
	const struct iovec *iov = io->rest ? io->rest : io->iov;
	unsigned niov = MIN(io->niov, (unsigned)IOV_MAX);

	io->submitted = MIN(io->left, iov_bytes(iov, niov));
	if (io->write)
		loop_writev(io->loop, &io->op, io->fd, iov, niov, io->offset);
	else
		loop_readv(io->loop, &io->op, io->fd, iov, niov, io->offset);
}

static void io_finish(struct io *io, int res)
{
	free(io->rest);
	io->rest = NULL;
	io->done(io, res);
}

/* Remove the first n bytes from the remaining work. */
static int io_advance(struct io *io, uint64_t n)
{
	const struct iovec *from = io->rest ? io->rest : io->iov;
	struct iovec *rest = malloc(io->niov * sizeof(*rest));

	if (!rest)
		return -ENOMEM;
	io->niov = iov_slice(from, io->niov, n, io->left - n, rest);
	free(io->rest);
	io->rest = rest;
	io->offset += n;
	io->left -= n;
	return 0;
}

static void io_op_done(struct loop_op *op, int res)
{
	struct io *io = container_of(op, struct io, op);
	const struct iovec *iov = io->rest ? io->rest : io->iov;
	int r;

	if (res == -EINTR || res == -EAGAIN) {
		io_submit(io);
		return;
	}
	if (res < 0) {
		io_finish(io, res);
		return;
	}
	if ((uint64_t)res >= io->left) {
		io_finish(io, 0);
		return;
	}
	/* A read that ends inside a sector has reached the end of the file. A further read from there
	 * would be misaligned for O_DIRECT. */
	if (!io->write && (res == 0 || res % 512)) {
		io->ended_at = io->offset + (uint64_t)res;
		iov_zero(iov, io->niov, (uint64_t)res, io->left - (uint64_t)res);
		io_finish(io, 0);
		return;
	}
	if (io->write && res == 0) {
		io_finish(io, -ENOSPC);
		return;
	}
	r = io_advance(io, (uint64_t)res);
	if (r < 0)
		io_finish(io, r);
	else
		io_submit(io);
}

/* Copy the iovec with each entry that is longer than IO_STEP_BYTES split into several. */
static int io_split_huge(struct io *io)
{
	struct iovec *rest;
	unsigned n = 0;

	for (unsigned i = 0; i < io->niov; i++)
		n += (unsigned)DIV_ROUND_UP(io->iov[i].iov_len, IO_STEP_BYTES);
	rest = malloc(n * sizeof(*rest));
	if (!rest)
		return -ENOMEM;
	n = 0;
	for (unsigned i = 0; i < io->niov; i++)
		for (size_t done = 0; done < io->iov[i].iov_len; done += IO_STEP_BYTES)
			rest[n++] = (struct iovec){ (char *)io->iov[i].iov_base + done,
				MIN(io->iov[i].iov_len - done, IO_STEP_BYTES) };
	io->rest = rest;
	io->niov = n;
	return 0;
}

static void io_failed_start(struct loop_op *op, int res)
{
	struct io *io = container_of(op, struct io, op);

	(void)res;
	io_finish(io, -ENOMEM);
}

static void io_start(struct io *io, struct loop *l, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset, uint64_t len)
{
	io->loop = l;
	io->fd = fd;
	io->iov = iov;
	io->niov = niov;
	io->offset = offset;
	io->left = len;
	io->ended_at = UINT64_MAX;
	io->rest = NULL;
	io->op.done = io_op_done;
	if (len > IO_STEP_BYTES && io_split_huge(io) < 0) {
		io->op.done = io_failed_start;
		loop_nop(l, &io->op);
		return;
	}
	io_submit(io);
}

int io_read_result(const struct io *io, int res, uint64_t bytes)
{
	struct stat st;

	if (res || io->ended_at >= bytes || fstat(io->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return res;
	return (uint64_t)st.st_size < bytes ? -ENODATA : 0;
}

void io_read(struct io *io, struct loop *l, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset, uint64_t len)
{
	io->write = false;
	io_start(io, l, fd, iov, niov, offset, len);
}

void io_write(struct io *io, struct loop *l, int fd, const struct iovec *iov, unsigned niov,
	uint64_t offset, uint64_t len)
{
	io->write = true;
	io_start(io, l, fd, iov, niov, offset, len);
}
