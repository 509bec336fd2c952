/* An image while it is open: reading its file, marking it corrupt or dirty, and the memory that its tables may take. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Limit on the memory for an image's tables: a fixed part, and for each piece of the space that the file takes as
 * many bytes. A cluster of an L2 table takes at least a piece of 4 KiB or, if it is smaller, itself in the file, and up
 * to 62 bytes here: 8 of the L1 table and, while the set of metadata clusters grows, 54 of it. So an image needs more
 * only if it is forged. A file's length says nothing, because a forged image may be sparse. */
#define MEMORY_BYTES (64 * MIB)
#define MEMORY_PIECE_BYTES 64

int qcow2_pread(int fd, void *buf, size_t len, uint64_t off)
{
	for (size_t have = 0; have < len;) {
		ssize_t n = pread(fd, (char *)buf + have, len - have, (off_t)(off + have));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		have += (size_t)n;
		if (!n || n % 512) {
			memset((char *)buf + have, 0, len - have);
			break;
		}
	}
	return 0;
}

/* ---- marking an image corrupt or dirty ---- */

static void corrupt_written(struct io *io, int res)
{
	struct qcow2 *q = container_of(io, struct qcow2, corrupt_io);

	q->internal--;
	if (res < 0)
		log_error(q->base.name, "cannot mark the image corrupt: %s", strerror(-res));
}

int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...)
{
	char why[256];
	va_list ap;

	if (q->corrupt)
		return -EIO;
	q->corrupt = true;
	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	log_error(q->base.name, "image corrupt: %s; nothing more is written to it. Repair it with "
		"`cairn-img check -r all`", why);
	block_report_error(&q->base, -EIO, true, why);
	if (q->h.version < 3 || q->base.info.read_only)
		return -EIO;
	store_be64(q->header_piece + QCOW2_AT_INCOMPATIBLE,
		load_be64(q->header_piece + QCOW2_AT_INCOMPATIBLE) | QCOW2_INCOMPAT_CORRUPT);
	q->corrupt_iov = (struct iovec){ q->header_piece, q->header_piece_bytes };
	q->corrupt_io.done = corrupt_written;
	q->internal++;
	io_write(&q->corrupt_io, q->base.loop, q->base.fd, &q->corrupt_iov, 1, 0,
		q->header_piece_bytes);
	return -EIO;
}

void qcow2_mark_dirty(struct qcow2 *q, bool dirty)
{
	uint64_t bits = load_be64(q->header_piece + QCOW2_AT_INCOMPATIBLE);

	if (q->h.version < 3)
		return;
	bits = dirty ? bits | QCOW2_INCOMPAT_DIRTY : bits & ~QCOW2_INCOMPAT_DIRTY;
	store_be64(q->header_piece + QCOW2_AT_INCOMPATIBLE, bits);
	q->h.incompatible = bits;
}

/* ---- memory ---- */

uint64_t qcow2_allocated_bytes(int fd)
{
	struct stat st;
	off_t end;

	if (!fstat(fd, &st) && S_ISREG(st.st_mode))
		return (uint64_t)st.st_blocks * 512;
	end = lseek(fd, 0, SEEK_END);
	return end < 0 ? 0 : (uint64_t)end;
}

uint64_t qcow2_memory_max(int fd, const struct qcow2_header *h)
{
	return MEMORY_BYTES + (qcow2_allocated_bytes(fd) >> MIN(h->cluster_bits, 12u)) * MEMORY_PIECE_BYTES;
}

int qcow2_memory_exceeded(const struct qcow2 *q, struct err *e)
{
	return err_set(e, -EDQUOT, ERR_UNSUPPORTED, "%s: the image's tables need more than %llu MiB of memory, but its file has "
		"only %llu MiB of data; copy the image with `cairn-img convert`", q->base.name,
		(unsigned long long)(q->memory.max_bytes / MIB), (unsigned long long)(qcow2_allocated_bytes(q->base.fd) / MIB));
}
