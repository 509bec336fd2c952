/* The snapshot table: held in memory and replaced as a whole. The new table is written beside the
 * old one. One sector of the header then gets the new count and offset. Only then the old table is
 * freed. So a deletion on a full file system needs space before it frees any. It takes that of the padding behind the
 * old table and behind the snapshots' L1s, of up to 60 KiB each, which was written with the table and is read by
 * nobody. */
#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/qcow2/snapshot_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the list in memory ---- */

int snapshots_load(struct qcow2 *q, struct err *e)
{
	int r;

	if (q->snapshots)
		return 0;
	r = qcow2_snapshots_read(q->base.fd, &q->h, &q->snapshots, &q->nsnapshots, e);
	if (r < 0)
		err_prefix(e, "%s", q->base.name);
	return r;
}

void snapshots_done(struct qcow2 *q)
{
	qcow2_snapshots_free(q->snapshots, q->nsnapshots);
	q->snapshots = NULL;
	q->nsnapshots = 0;
}

struct qcow2_snapshot_info *snapshot_find(struct qcow2 *q, const char *id)
{
	for (size_t i = 0; i < q->nsnapshots; i++)
		if (!strcmp(q->snapshots[i].id, id))
			return &q->snapshots[i];
	return NULL;
}

static void *bytes_copy(const void *p, size_t n)
{
	uint8_t *c = malloc(n + 1);

	if (c) {
		memcpy(c, p, n);
		c[n] = 0;
	}
	return c;
}

static int snapshot_entry_copy(const struct qcow2_snapshot_info *s, struct qcow2_snapshot_info *ret)
{
	struct qcow2_snapshot_info c = *s;

	c.id = bytes_copy(s->id, s->id_len);
	c.name = bytes_copy(s->name, s->name_len);
	c.extra = bytes_copy(s->extra, s->extra_len);
	if (!c.id || !c.name || !c.extra) {
		snapshot_entry_done(&c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

void snapshot_entry_info(const struct qcow2_snapshot_info *s, struct block_snapshot_info *ret)
{
	memset(ret, 0, sizeof(*ret));
	snprintf(ret->id, sizeof(ret->id), "%s", s->id);
	snprintf(ret->name, sizeof(ret->name), "%s", s->name);
	ret->sec = s->sec;
	ret->nsec = s->nsec;
	ret->vm_clock_ns = s->vm_clock_ns;
	ret->vm_state_bytes = s->vm_state_bytes;
	ret->disk_bytes = s->disk_bytes;
	ret->pinned = qcow2_pin_marked(s, ret->pin_id);
	if (s->extra_len <= QCOW2_SNAPSHOT_QEMU_BYTES)
		return;
	ret->extra_bytes = MIN((size_t)s->extra_len - QCOW2_SNAPSHOT_QEMU_BYTES, sizeof(ret->extra));
	memcpy(ret->extra, s->extra + QCOW2_SNAPSHOT_QEMU_BYTES, ret->extra_bytes);
}

uint32_t snapshot_disk_entries(const struct qcow2 *q, const struct qcow2_snapshot_info *s)
{
	return (uint32_t)MIN(qcow2_l1_entries(s->disk_bytes, q->cluster_bits, q->ext), s->l1_size);
}

int snapshot_l1_take(struct qcow2 *q, uint64_t *entries, uint32_t n, struct err *e)
{
	uint64_t new = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t entry = be64toh(entries[i]), t = entry & QCOW2_OFFSET_MASK;

		if ((entry & QCOW2_L1_RESERVED) || (t & (q->cluster_bytes - 1)))
			return err_set(e, -EINVAL, ERR_CORRUPT, "disk %s: the L1 table of the snapshot is invalid",
				q->base.name);
		entries[i] = t;
		new += t && meta_find(&q->meta, t >> q->cluster_bits) == META_NONE;
	}
	q->memory.max_bytes = qcow2_memory_max(q->base.fd, &q->h);
	if (new && meta_bytes_after(&q->meta, new) > q->memory.max_bytes)
		return qcow2_memory_exceeded(q, e);
	/* A snapshot whose tables were not read at open has no metadata marks yet. */
	for (uint32_t i = 0; i < n; i++)
		if (entries[i] && meta_find(&q->meta, entries[i] >> q->cluster_bits) == META_NONE)
			(void)meta_add(&q->meta, entries[i] >> q->cluster_bits, META_INACTIVE_L2);
	return 0;
}

/* ---- writing the table ---- */

int table_swap_init(struct table_swap *s, struct qcow2 *q)
{
	*s = (struct table_swap){ .list = calloc(q->nsnapshots + 2, sizeof(*s->list)) };
	if (!s->list)
		return -ENOMEM;
	for (; s->n < q->nsnapshots; s->n++)
		if (snapshot_entry_copy(&q->snapshots[s->n], &s->list[s->n]) < 0) {
			table_swap_done(s);
			return -ENOMEM;
		}
	return 0;
}

void table_swap_done(struct table_swap *s)
{
	qcow2_snapshots_free(s->list, s->n);
	free(s->buf);
	s->list = NULL;
	s->buf = NULL;
	s->n = 0;
}

void table_swap_fields(struct table_swap *s, struct qcow2 *q)
{
	memcpy(s->old_fields, q->header_piece + QCOW2_AT_NB_SNAPSHOTS, sizeof(s->old_fields));
	store_be32(q->header_piece + QCOW2_AT_NB_SNAPSHOTS, (uint32_t)s->n);
	store_be64(q->header_piece + QCOW2_AT_SNAPSHOTS_OFFSET,
		s->n ? s->place.first << q->cluster_bits : 0);
}

void table_swap_adopt(struct table_swap *s, struct qcow2 *q)
{
	struct contig old = { 0 };

	if (q->nsnapshots)
		old = (struct contig){ .first = q->h.snapshots_offset >> q->cluster_bits, .n = (uint32_t)DIV_ROUND_UP(
			q->snapshots[q->nsnapshots - 1].table_bytes, (uint64_t)q->cluster_bytes) };
	(void)contig_meta(q, &old, META_NONE);
	contig_release(q, &old);
	snapshots_done(q);
	q->h.nb_snapshots = (uint32_t)s->n;
	q->h.snapshots_offset = s->n ? s->place.first << q->cluster_bits : 0;
	q->snapshots = s->list;
	q->nsnapshots = s->n;
	s->list = NULL;
	s->n = 0;
}

enum swap_phase { SWAP_SERIALIZE, SWAP_PLACE, SWAP_WRITE, SWAP_FLUSH, SWAP_HOLD, SWAP_HEADER, SWAP_OVER, SWAP_SPARE };

/* Direct I/O and file systems have blocks of this size. */
#define BLOCK_BYTES 4096u

/* Let the padding of a table of so many bytes be freed next. Returns false if the table fills its last cluster. */
static bool spare_set(struct table_swap *s, const struct qcow2 *q, uint64_t table, uint64_t bytes)
{
	s->spare_from = table + ROUND_UP(bytes, (uint64_t)BLOCK_BYTES);
	s->spare_to = table + ROUND_UP(bytes, (uint64_t)q->cluster_bytes);
	return s->spare_from < s->spare_to;
}

static bool spare_l1(struct table_swap *s, struct qcow2 *q, const struct qcow2_snapshot_info *of)
{
	uint64_t bytes = of->l1_size * 8ULL;

	return bytes && !(of->l1_offset & (q->cluster_bytes - 1)) && qcow2_l1_in_file(q->base.fd, &q->h, of) &&
		meta_find(&q->meta, (of->l1_offset + bytes - 1) >> q->cluster_bits) == META_INACTIVE_L1 &&
		spare_set(s, q, of->l1_offset, bytes);
}

bool table_swap_retry(struct table_swap *s, struct qcow2 *q, int res)
{
	bool found = false;

	/* SWAP_FLUSH: the write of the table has failed. */
	if ((res != -ENOSPC && res != -EDQUOT) || (s->phase != SWAP_PLACE && s->phase != SWAP_FLUSH))
		return false;
	while (!found && s->spared <= q->nsnapshots) {
		size_t i = s->spared++;

		found = i ? spare_l1(s, q, &q->snapshots[i - 1]) :
			q->nsnapshots && spare_set(s, q, q->h.snapshots_offset, q->snapshots[q->nsnapshots - 1].table_bytes);
	}
	s->tight = true;
	if (found)
		s->phase = SWAP_SPARE;
	return found;
}

/* The bytes of the new table to write. Without its padding, the rest of its cluster needs no space. */
static uint64_t swap_bytes(const struct table_swap *s)
{
	return s->tight ? ROUND_UP(s->list[s->n - 1].table_bytes, (uint64_t)BLOCK_BYTES) : s->bytes;
}

/* Free the new table's clusters after a failure before the header write. */
static int swap_fail(struct table_swap *s, struct qcow2 *q, int res)
{
	(void)contig_meta(q, &s->place, META_NONE);
	contig_release(q, &s->place);
	return res;
}

static int swap_place(struct table_swap *s, struct task *t)
{
	struct qcow2 *q = t->q;
	int r = contig_alloc(q, (uint32_t)(s->bytes >> q->cluster_bits), &s->place, &t->wait);

	if (r < 0)
		return r;
	r = contig_meta(q, &s->place, META_SNAPSHOTS);
	if (r < 0)
		return swap_fail(s, q, r);
	s->phase = SWAP_WRITE;
	return 0;
}

bool table_swap_is_written(const struct table_swap *s)
{
	return s->phase == SWAP_FLUSH;
}

int table_swap_write(struct table_swap *s, struct task *t)
{
	struct qcow2 *q = t->q;
	int r;

	switch (s->phase) {
	case SWAP_SERIALIZE:
		r = snapshots_serialize(s->list, s->n, q->cluster_bytes, &s->buf, &s->bytes);
		s->phase = SWAP_PLACE;
		return r;
	case SWAP_PLACE:
		if (s->bytes)
			return swap_place(s, t);
		s->phase = SWAP_FLUSH;
		return 0;
	case SWAP_SPARE:
		s->phase = s->place.n ? SWAP_WRITE : SWAP_PLACE;
		return task_punch(t, s->spare_from, s->spare_to - s->spare_from);
	case SWAP_WRITE:
		s->phase = SWAP_FLUSH;
		return task_write(t, s->buf, swap_bytes(s), s->place.first << q->cluster_bits);
	case SWAP_FLUSH:
		s->phase = SWAP_HOLD;
		return task_flush(t);
	}
	return TASK_DONE;
}

/* Call it like a task's step(). Returns 0: continue; TASK_DONE when the header in the file names the new table;
 * -EINPROGRESS; -errno. If a wait fails, call table_swap_failed(). */
int table_swap_step(struct table_swap *s, struct task *t)
{
	struct qcow2 *q = t->q;
	int r;

	switch (s->phase) {
	case SWAP_HOLD:
		r = header_hold(q, &t->wait);
		if (r < 0)
			return r;
		table_swap_fields(s, q);
		s->phase = SWAP_HEADER;
		return header_put(q, &s->header, &t->wait);
	case SWAP_HEADER:
		header_release(q);
		table_swap_adopt(s, q);
		s->phase = SWAP_OVER;
		return TASK_DONE;
	default:
		r = table_swap_write(s, t);
		return r == TASK_DONE ? 0 : r;
	}
}

int table_swap_failed(struct table_swap *s, struct qcow2 *q, int res)
{
	if (s->phase != SWAP_HEADER)
		return swap_fail(s, q, res);
	/* The file may name the old table or the new one, so neither may be freed. */
	s->unknown = true;
	memcpy(q->header_piece + QCOW2_AT_NB_SNAPSHOTS, s->old_fields, sizeof(s->old_fields));
	header_release(q);
	log_error(q->base.name, "cannot write the header (%s): clusters leak", strerror(-res));
	return res;
}
