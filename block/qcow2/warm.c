#include "block/qcow2/warm.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "block/qcow2/impl.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0x4d525743u /* "CWRM" */
#define AT_COUNT 4
#define AT_ID 8
#define AT_OFFSETS 24
#define AT_CRC (QCOW2_WARM_SLICE_BYTES - 4)

_Static_assert(AT_OFFSETS == AT_ID + BLOCK_PIN_ID_BYTES, "the offsets follow the id");
_Static_assert(AT_OFFSETS + 8 * QCOW2_WARM_SLICES_MAX <= AT_CRC, "the header holds all offsets");

struct qcow2_warm {
	uint8_t id[BLOCK_PIN_ID_BYTES];
	unsigned n;
	uint64_t offsets[QCOW2_WARM_SLICES_MAX];
	uint64_t at;	      /* of the first slice in the file */
	pthread_mutex_t lock; /* of fd: the main thread closes it while the disk's thread may read */
	int fd;		      /* owned; -1: closed */
};

void qcow2_warm_write(struct block *b, const uint8_t id[BLOCK_PIN_ID_BYTES], int fd, uint64_t at)
{
	struct qcow2 *q = qcow2_of(b);
	uint8_t head[QCOW2_WARM_SLICE_BYTES] = { 0 };
	struct iovec iov[QCOW2_WARM_SLICES_MAX];
	uint32_t n = 0;

	if (q->slice_bytes != QCOW2_WARM_SLICE_BYTES)
		return;
	for (struct slice *s = q->l2.lru_head; s && n < QCOW2_WARM_SLICES_MAX; s = s->lru_next) {
		if (s->loading)
			continue;
		store_le64(head + AT_OFFSETS + 8 * n, s->offset);
		iov[n++] = (struct iovec){ s->data, QCOW2_WARM_SLICE_BYTES };
	}
	store_le32(head, MAGIC);
	store_le32(head + AT_COUNT, n);
	memcpy(head + AT_ID, id, BLOCK_PIN_ID_BYTES);
	store_le32(head + AT_CRC, crc32c(0, head, AT_CRC));
	/* The slices first: without all of them, there is no header. */
	if (n && pwritev(fd, iov, (int)n, (off_t)(at + sizeof(head))) == (ssize_t)(n * sizeof(head)))
		(void)!pwrite(fd, head, sizeof(head), (off_t)at);
}

struct qcow2_warm *qcow2_warm_open(int fd, uint64_t at)
{
	uint8_t head[QCOW2_WARM_SLICE_BYTES];
	struct qcow2_warm *w;
	uint32_t n;

	if (pread(fd, head, sizeof(head), (off_t)at) != (ssize_t)sizeof(head) || load_le32(head) != MAGIC ||
		load_le32(head + AT_CRC) != crc32c(0, head, AT_CRC))
		return NULL;
	n = load_le32(head + AT_COUNT);
	w = n && n <= QCOW2_WARM_SLICES_MAX ? malloc(sizeof(*w)) : NULL;
	if (!w)
		return NULL;
	*w = (struct qcow2_warm){ .n = n, .at = at + sizeof(head), .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3) };
	pthread_mutex_init(&w->lock, NULL);
	memcpy(w->id, head + AT_ID, BLOCK_PIN_ID_BYTES);
	for (uint32_t i = 0; i < n; i++)
		w->offsets[i] = load_le64(head + AT_OFFSETS + 8 * i);
	return w;
}

unsigned qcow2_warm_slices(const struct qcow2_warm *w)
{
	return w->n;
}

bool qcow2_warm_is_of(const struct qcow2_warm *w, const uint8_t id[BLOCK_PIN_ID_BYTES])
{
	return !memcmp(w->id, id, sizeof(w->id));
}

/* Return the index of the slice at that offset; w->n: there is none. */
static uint32_t slice_find(const struct qcow2_warm *w, uint64_t offset)
{
	uint32_t i = 0;

	while (i < w->n && w->offsets[i] != offset)
		i++;
	return i;
}

bool qcow2_warm_has(const struct qcow2_warm *w, uint64_t offset)
{
	return w && slice_find(w, offset) < w->n;
}

bool qcow2_warm_read(struct qcow2_warm *w, uint64_t offset, void *buf)
{
	uint32_t i = w ? slice_find(w, offset) : 0;
	bool whole = false;

	if (!w || i == w->n)
		return false;
	pthread_mutex_lock(&w->lock);
	if (w->fd >= 0)
		whole = pread(w->fd, buf, QCOW2_WARM_SLICE_BYTES, (off_t)(w->at + i * (uint64_t)QCOW2_WARM_SLICE_BYTES)) ==
			(ssize_t)QCOW2_WARM_SLICE_BYTES;
	pthread_mutex_unlock(&w->lock);
	return whole;
}

void qcow2_warm_close(struct qcow2_warm *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	pthread_mutex_unlock(&w->lock);
}

void qcow2_warm_free(struct qcow2_warm *w)
{
	if (!w)
		return;
	qcow2_warm_close(w);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
