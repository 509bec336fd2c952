/* Changes the list of an open image's bitmaps, and their content, in memory. Closing the image stores the result.
 * Sentences follow QEMU's. */
#include "base/err.h"
#include "base/util.h"
#include "block/qcow2/bitmap_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct dirty_bitmap *bitmap_find(struct qcow2 *q, const char *name)
{
	for (size_t i = 0; i < q->bitmaps.n; i++)
		if (!strcmp(q->bitmaps.list[i].info.name, name))
			return &q->bitmaps.list[i];
	return NULL;
}

/* Find a bitmap that is consistent, and load its bits. */
static int bitmap_get(struct qcow2 *q, const char *name, struct dirty_bitmap **ret, struct err *e)
{
	*ret = bitmap_find(q, name);
	if (!*ret)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
	if (bitmap_is_lost(*ret))
		return err_set(e, -EINVAL, ERR_INVALID, "Bitmap '%s' is inconsistent and cannot be used\nTry `cairn-img "
			"bitmap --remove` to delete this bitmap from disk", name);
	return bitmap_load_bits(q, *ret, e);
}

static int add_check(struct qcow2 *q, const char *name, uint64_t granularity, struct err *e)
{
	const char *why = NULL;

	if (!*name)
		return err_set(e, -EINVAL, ERR_INVALID, "Bitmap name cannot be empty");
	if (bitmap_find(q, name))
		return err_set(e, -EEXIST, ERR_EXISTS, "Bitmap already exists: %s", name);
	if (granularity < 1u << QCOW2_BITMAP_GRANULARITY_BITS_MIN || (granularity & (granularity - 1)) ||
		granularity > 1u << QCOW2_BITMAP_GRANULARITY_BITS_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "Granularity must be power of 2 and at least 512%s",
			granularity > 1u << QCOW2_BITMAP_GRANULARITY_BITS_MAX ? ", and at most 2G" : "");
	if (q->h.version < 3)
		why = "Cannot store dirty bitmaps in qcow2 v2 files";
	else if (strlen(name) > QCOW2_BITMAP_NAME_MAX)
		why = "Name length exceeds maximum (1023 characters)";
	else if (q->bitmaps.n >= QCOW2_BITMAPS_MAX)
		why = "Maximum number of persistent bitmaps is already reached";
	else if (!q->base.info.size_bytes)
		why = "The disk has no bytes";
	else if (qcow2_bitmap_table_entries(q->base.info.size_bytes, (uint32_t)__builtin_ctzll(granularity), q->cluster_bits) >
		QCOW2_BITMAP_BYTES_MAX >> q->cluster_bits)
		why = "Too much space will be occupied by the bitmap. Use larger granularity";
	return !why ? 0 : err_set(e, -EINVAL, ERR_INVALID, "Can't make bitmap '%.64s' persistent in '%s': %s", name,
		q->base.name, why);
}

uint64_t qcow2_bitmap_granularity(const struct block *b)
{
	return MIN(MAX(((const struct qcow2 *)b)->cluster_bytes, 4096u), 65536u);
}

int qcow2_bitmap_add(struct block *b, const char *name, uint64_t granularity, bool enabled, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	struct dirty_bitmap *list, *d;
	int r = add_check(q, name, granularity, e);

	if (r < 0)
		return r;
	list = reallocarray(q->bitmaps.list, q->bitmaps.n + 1, sizeof(*list));
	if (!list)
		return err_set_errno(e, -ENOMEM, "bitmaps");
	q->bitmaps.list = list;
	d = &list[q->bitmaps.n];
	*d = (struct dirty_bitmap){ .info = { .name = strdup(name), .flags = enabled ? QCOW2_BITMAP_AUTO : 0,
		.granularity_bits = (uint32_t)__builtin_ctzll(granularity) }, .changed = true };
	if (!d->info.name)
		return err_set_errno(e, -ENOMEM, "bitmaps");
	r = bitmap_load_bits(q, d, e);
	if (r < 0) {
		free(d->info.name);
		return r;
	}
	q->bitmaps.n++;
	q->bitmaps.changed = true;
	return 0;
}

int qcow2_bitmap_remove(struct block *b, const char *name, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	struct dirty_bitmap *d = bitmap_find(q, name);
	struct qcow2_bitmaps *m = &q->bitmaps;
	struct bitmap_place *removed;

	if (!d)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "Dirty bitmap '%s' not found", name);
	removed = reallocarray(m->removed, m->nremoved + 1, sizeof(*removed));
	if (!removed)
		return err_set_errno(e, -ENOMEM, "bitmaps");
	m->removed = removed;
	if (d->table)
		removed[m->nremoved++] = (struct bitmap_place){ d->table, d->info.table_offset, d->info.table_entries };
	free(d->info.name);
	bitmap_done(&d->bits);
	memmove(d, d + 1, (size_t)(m->list + m->n - (d + 1)) * sizeof(*d));
	m->n--;
	m->changed = true;
	return 0;
}

int qcow2_bitmap_clear(struct block *b, const char *name, struct err *e)
{
	struct dirty_bitmap *d;
	int r = bitmap_get(qcow2_of(b), name, &d, e);

	if (r < 0)
		return r;
	bitmap_clear_all(&d->bits);
	d->changed = true;
	return 0;
}

int qcow2_bitmap_enable(struct block *b, const char *name, bool on, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	struct dirty_bitmap *d;
	int r = bitmap_get(q, name, &d, e);

	if (r < 0)
		return r;
	d->info.flags = on ? QCOW2_BITMAP_AUTO : 0;
	q->bitmaps.changed = true;
	q->gate_shut = true;
	return 0;
}

/* Set the bits of d for each set bit of another bitmap of the same disk. */
static void bits_merge(struct dirty_bitmap *d, const struct bitmap *from, uint32_t granularity_bits, uint64_t disk_bytes)
{
	uint32_t g = d->info.granularity_bits;

	for (size_t i = bitmap_next_set(from, 0), end; i < from->nbits; i = bitmap_next_set(from, end)) {
		uint64_t first = (uint64_t)i << granularity_bits >> g, last;

		end = bitmap_next_clear(from, i);
		last = (MIN((uint64_t)end << granularity_bits, disk_bytes) - 1) >> g;
		bitmap_set_range(&d->bits, first, last - first + 1);
	}
	d->changed = true;
}

int qcow2_bitmap_merge(struct block *b, const char *name, const char *from, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	struct dirty_bitmap *d, *source;
	int r = bitmap_get(q, name, &d, e);

	if (!r)
		r = bitmap_get(q, from, &source, e);
	if (r < 0)
		return r;
	bits_merge(d, &source->bits, source->info.granularity_bits, b->info.size_bytes);
	return 0;
}

int qcow2_bitmap_merge_image(struct block *b, const char *name, int fd, const struct qcow2_header *h,
	const struct qcow2_bitmap_info *from, struct err *e)
{
	uint64_t size = b->info.size_bytes, from_size = ROUND_DOWN(h->size_bytes, 512);
	struct bitmap bits = { 0 };
	struct dirty_bitmap *d;
	int r = qcow2_bitmap_read(fd, h, from, &bits, e);

	if (!r)
		r = bitmap_get(qcow2_of(b), name, &d, e);
	if (!r && from_size != size)
		r = err_set(e, -EINVAL, ERR_INVALID, "Bitmaps are of different sizes (destination size is %llu, source size is "
			"%llu) and can't be merged", (unsigned long long)size, (unsigned long long)from_size);
	if (!r)
		bits_merge(d, &bits, from->granularity_bits, size);
	bitmap_done(&bits);
	return r;
}

int qcow2_bitmaps_commit(struct block *b, struct err *e)
{
	struct qcow2 *q = qcow2_of(b);
	int r = bitmaps_store(q, e);

	q->bitmaps.abandoned = r < 0;
	return r;
}
