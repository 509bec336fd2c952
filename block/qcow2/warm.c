#include "block/qcow2/warm.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/util.h"
#include "block/qcow2/impl.h"

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

struct qcow2_warm *qcow2_warm_read(int fd, uint64_t at)
{
	uint8_t head[QCOW2_WARM_SLICE_BYTES];
	struct qcow2_warm *w;
	uint32_t n;

	if (pread(fd, head, sizeof(head), (off_t)at) != (ssize_t)sizeof(head) || load_le32(head) != MAGIC ||
		load_le32(head + AT_CRC) != crc32c(0, head, AT_CRC))
		return NULL;
	n = load_le32(head + AT_COUNT);
	if (!n || n > QCOW2_WARM_SLICES_MAX)
		return NULL;
	/* A mapping would keep the file, and with it the source's RAM, after the clone has let go of that. */
	w = malloc(sizeof(*w) + n * sizeof(head));
	if (!w || pread(fd, w->slices, n * sizeof(head), (off_t)(at + sizeof(head))) != (ssize_t)(n * sizeof(head))) {
		free(w);
		return NULL;
	}
	w->n = n;
	memcpy(w->id, head + AT_ID, BLOCK_PIN_ID_BYTES);
	for (uint32_t i = 0; i < n; i++)
		w->offsets[i] = load_le64(head + AT_OFFSETS + 8 * i);
	return w;
}

const uint8_t *qcow2_warm_find(const struct qcow2_warm *w, uint64_t offset)
{
	for (unsigned i = 0; w && i < w->n; i++)
		if (w->offsets[i] == offset)
			return w->slices + i * (size_t)QCOW2_WARM_SLICE_BYTES;
	return NULL;
}
