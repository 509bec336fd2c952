#include "snapshot/ram_write.h"
#include "base/cleanup.h"
#include "base/util.h"
#include "snapshot/holes.h"
#include "snapshot/ram_view.h"
#include "snapshot/vmstate.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Number of blocks that a thread takes at a time. Adjacent nonzero blocks are one write. */
#define PIECE_BLOCKS 32u
/* One thread writes while the other computes checksums, or both write. */
#define WRITERS_MAX 2u

struct ram_job {
	struct vmstate_store *s;
	const struct vmstate_layout *l;
	const struct vmstate_source *src;
	uint32_t *crcs; /* each filled in by the thread that takes the block */
	pthread_mutex_t lock;
	/* Protected by lock: */
	struct holes holes;
	uint64_t next; /* first block that no thread has taken and that was not skipped as a hole */
	uint64_t written_bytes;
	int error; /* the first error */
};

static void job_note(struct ram_job *j, int r, uint64_t written_bytes)
{
	LOCK_GUARD(&j->lock);
	j->written_bytes += written_bytes;
	if (r < 0 && !j->error)
		j->error = r;
}

/* Write [first, end), in blocks, all nonzero, in one write. data: the content from block `first` on. */
static int run_write(struct ram_job *j, uint64_t first, uint64_t end, const uint8_t *data)
{
	uint64_t off = first * VMSTATE_BLOCK_BYTES;
	uint64_t len = MIN(end * VMSTATE_BLOCK_BYTES, j->l->ram_bytes) - off;
	int r;

	if (first == end)
		return 0;
	r = j->s->write(j->s, j->l->ram_offset + off, data, len);
	job_note(j, 0, r < 0 ? 0 : len);
	return r;
}

/* Set the checksums of [first, end), in blocks, and write those that are not zero. data: the content from block `first`
 * on. */
static int piece_write(struct ram_job *j, uint64_t first, uint64_t end, const uint8_t *data)
{
	uint64_t run = first;
	int r = 0;

	for (uint64_t b = first; b < end && !r; b++) {
		j->crcs[b] = vmstate_block_crc(j->l, b, data + (b - first) * VMSTATE_BLOCK_BYTES);
		if (!vmstate_block_is_zero(j->l, j->crcs, b))
			continue;
		r = run_write(j, run, b, data + (run - first) * VMSTATE_BLOCK_BYTES);
		run = b + 1;
	}
	return r < 0 ? r : run_write(j, run, end, data + (run - first) * VMSTATE_BLOCK_BYTES);
}

static bool next_is_hole(struct ram_job *j)
{
	uint64_t off = j->next * VMSTATE_BLOCK_BYTES;
	size_t len = vmstate_block_len(j->l, j->next);

	return j->src->view ? ram_view_is_hole(j->src->view, &j->holes, off, len) : hole_at(&j->holes, off, len);
}

static void view_holes_pass(struct ram_job *j)
{
	for (; j->next < j->l->blocks && next_is_hole(j); j->next++)
		j->crcs[j->next] = vmstate_zero_crc(j->l, j->next);
}

/* Skip holes, and set their checksums to that of zeros. */
static void holes_pass(struct ram_job *j)
{
	const struct vmstate_layout *l = j->l;
	uint64_t end;

	if (j->src->view)
		view_holes_pass(j);
	if (j->src->view || j->next == l->blocks || !next_is_hole(j))
		return;
	end = j->holes.data_from < l->ram_bytes ? j->holes.data_from / VMSTATE_BLOCK_BYTES : l->blocks;
	while (j->next < end)
		j->crcs[j->next++] = l->zero_crc;
	if (end == l->blocks)
		j->crcs[end - 1] = l->zero_crc_last;
}

/* Take the next blocks that are not holes. */
static bool piece_take(struct ram_job *j, uint64_t *ret_first, uint64_t *ret_end)
{
	bool more;

	LOCK_GUARD(&j->lock);
	holes_pass(j);
	more = !j->error && j->next < j->l->blocks;
	*ret_first = j->next;
	while (more && j->next < MIN(*ret_first + PIECE_BLOCKS, j->l->blocks) && !next_is_hole(j))
		j->next++;
	*ret_end = j->next;
	return more;
}

/* Unmap written memory now, while the disk writes: at exit, the unmapping would delay the end
 * of the process, for which the daemon waits. */
static void piece_unmap(const struct ram_job *j, uint64_t first, uint64_t end)
{
	uint64_t off = first * VMSTATE_BLOCK_BYTES;

	if (j->src->unmap && !j->src->view)
		madvise((void *)(uintptr_t)(j->src->ram + off), MIN(end * VMSTATE_BLOCK_BYTES, j->l->ram_bytes) - off,
			MADV_DONTNEED);
}

/* Get the content of [first, end), in blocks: in place, or for a view read into buf. */
static int piece_get(const struct ram_job *j, uint64_t first, uint64_t end, uint8_t *buf, const uint8_t **ret_data)
{
	uint64_t off = first * VMSTATE_BLOCK_BYTES;

	*ret_data = j->src->view ? buf : j->src->ram + off;
	return j->src->view ? ram_view_read(j->src->view, off, buf, MIN(end * VMSTATE_BLOCK_BYTES, j->l->ram_bytes) - off)
		: 0;
}

/* Take and write pieces until none is left. p: NULL except on the thread that called ram_write(). */
static void pieces_write(struct ram_job *j, const struct vmstate_progress *p)
{
	uint8_t *buf = NULL;
	uint64_t first, end;

	if (j->src->view && posix_memalign((void **)&buf, 4096, PIECE_BLOCKS * VMSTATE_BLOCK_BYTES)) {
		job_note(j, -ENOMEM, 0);
		return;
	}
	while (piece_take(j, &first, &end)) {
		const uint8_t *data;
		int r = piece_get(j, first, end, buf, &data);

		if (!r)
			r = piece_write(j, first, end, data);
		if (!r)
			piece_unmap(j, first, end);
		if (!r && p && p->step && p->step(p->opaque, end * VMSTATE_BLOCK_BYTES, j->l->ram_bytes))
			r = -ECANCELED;
		job_note(j, r, 0);
	}
	free(buf);
}

static void *writer_thread(void *opaque)
{
	pthread_setname_np(pthread_self(), "ram-writer");
	pieces_write(opaque, NULL);
	return NULL;
}

int ram_write(struct vmstate_store *s, const struct vmstate_layout *l, const struct vmstate_source *src,
	uint32_t *crcs, const struct vmstate_progress *p, uint64_t *ret_written_bytes)
{
	struct ram_job j = { .s = s, .l = l, .src = src, .crcs = crcs,
		.holes = { .fd = src->ram_fd, .bytes = src->ram_bytes } };
	pthread_t thread[WRITERS_MAX - 1];
	unsigned n = 0, max = s->concurrent ? WRITERS_MAX - 1 : 0;

	if (src->view)
		ram_view_walk(src->view, &j.holes);
	pthread_mutex_init(&j.lock, NULL);
	while (n < max && !pthread_create(&thread[n], NULL, writer_thread, &j))
		n++;
	pieces_write(&j, p);
	while (n)
		pthread_join(thread[--n], NULL);
	pthread_mutex_destroy(&j.lock);
	/* If the other threads took all pieces, the caller's thread has not called step() yet. */
	if (!j.error && p && p->step && p->step(p->opaque, l->ram_bytes, l->ram_bytes))
		j.error = -ECANCELED;
	*ret_written_bytes = j.written_bytes;
	return j.error;
}
