/* Copies the persistent bitmaps of an image to another one, for convert. */
#include "img.h"

#include "base/bitmap.h"
#include "block/qcow2/bitmap.h"

#include <errno.h>
#include <stdio.h>

struct source {
	int fd;
	struct qcow2_header header;
	struct qcow2_bitmap_info *list;
	size_t n;
};

static int source_read(const struct block *from, struct source *s, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];
	int r;

	block_layers(from, layers);
	s->fd = layers[0].fd;
	r = layers[0].format == BLOCK_FORMAT_QCOW2 ? qcow2_header_read(s->fd, "the source", &s->header, e) : -ENOTSUP;
	if (r == -ENOTSUP || (!r && s->header.version < 3))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "Source lacks bitmap support");
	return r ? r : qcow2_bitmaps_read(s->fd, &s->header, &s->list, &s->n, e);
}

int img_bitmaps_check(const struct block *from, bool skip_broken, struct err *e)
{
	struct source s;
	int r = source_read(from, &s, e);

	if (r < 0)
		return r;
	for (size_t i = s.n; i-- && !r;) { /* like qemu-img, the last one first */
		if (!(s.list[i].flags & QCOW2_BITMAP_IN_USE))
			continue;
		if (skip_broken)
			img_warn("Skipping inconsistent bitmap '%s'", s.list[i].name);
		else
			r = err_set(e, -EINVAL, ERR_INVALID, "Cannot copy inconsistent bitmap '%s'; try --skip-broken-bitmaps, "
				"or use '%s bitmap --remove' to delete it", s.list[i].name, program_invocation_short_name);
	}
	qcow2_bitmaps_free(s.list, s.n);
	return r;
}

static int one_copy(const struct source *s, const struct qcow2_bitmap_info *i, struct block *to, struct err *e)
{
	int r = qcow2_bitmap_add(to, i->name, 1ULL << i->granularity_bits, i->flags & QCOW2_BITMAP_AUTO, e);

	if (r < 0) {
		err_prefix(e, "Failed to create bitmap %.64s", i->name);
		return r;
	}
	r = qcow2_bitmap_merge_image(to, i->name, s->fd, &s->header, i, e);
	if (r < 0)
		err_prefix(e, "Failed to populate bitmap %.64s", i->name);
	return r;
}

int img_bitmaps_copy(const struct block *from, struct block *to, struct err *e)
{
	struct source s;
	int r = source_read(from, &s, e);

	if (r < 0)
		return r;
	for (size_t i = 0; i < s.n && !r; i++)
		if (!(s.list[i].flags & QCOW2_BITMAP_IN_USE))
			r = one_copy(&s, &s.list[i], to, e);
	qcow2_bitmaps_free(s.list, s.n);
	return r ? r : qcow2_bitmaps_commit(to, e);
}
