#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "block/block.h"
#include "block/diff.h"
#include "tools/archive/helper.h"
#include "tools/diff/diff.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bound on the ranges: 128 MiB of memory, which clusters of 64 KiB reach on a disk of 512 GiB in the worst case. */
#define RANGES_MAX (4u << 20)

/* ---- opening ---- */

/* Find the part of a snapshot on the disk with this tree. The parts on several disks have one name, but not one id. */
static const struct tree_node *part_find(const struct tree *t, struct diff_wanted *w)
{
	const struct tree_node *n = w->found ? tree_find_part(t, &w->part) : tree_find(t, w->name);

	if (n && !w->found) {
		w->part = *n;
		w->found = true;
	}
	return n;
}

static int snapshot_open(const struct diff_disk *d, int fd, const struct tree_node *n, struct block **ret, struct err *e)
{
	int again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	int r = again < 0 ? err_set_errno(e, -errno, "%s", d->id) : block_open_snapshot(d->disk, again, n->info.id, ret, e);

	if (r < 0 && again >= 0)
		close(again);
	return r;
}

static int contents_open(struct diff_disk *d, int fd, const struct tree *t, struct diff_wanted *from, struct diff_wanted *to, struct err *e)
{
	const struct tree_node *a = part_find(t, from), *b = to->name ? part_find(t, to) : NULL;
	int r;

	if (!a || (to->name && !b)) {
		snprintf(d->reason, sizeof(d->reason), "the disk has no snapshot '%.255s'", a ? to->name : from->name);
		return 0;
	}
	if (a == b)
		return err_set(e, -EINVAL, ERR_INVALID, "both are the snapshot '%s'; name two snapshots", a->info.name);
	r = snapshot_open(d, fd, a, &d->from, e);
	if (!r && b)
		r = snapshot_open(d, fd, b, &d->to, e);
	else if (!r)
		d->to = d->disk;
	return r;
}

/* Open the disk itself, also if only snapshots are compared, because its snapshot table has their ids. Nothing else of
 * the disk is read then, so a VM may write to it. */
static int disk_open(struct loop *l, struct json_object *spec, bool itself, struct diff_disk *d, int *ret_fd, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct block_open o = { .layers = layers, .read_only = true, .no_lock = !itself, .buffered = true, .name = d->id };
	struct json_object *list = js_get_array(spec, "layers");
	int r = list ? helper_layers_take(list, layers, &o.nlayers, e) : err_set(e, -EINVAL, ERR_INVALID, "no layers");

	if (r < 0)
		return r;
	*ret_fd = layers[0].fd;
	if (layers[0].format == BLOCK_FORMAT_QCOW2)
		return block_open(l, &o, &d->disk, e);
	strcpy(d->reason, "the disk is raw and has no snapshots");
	return 0;
}

static int pair_open(struct diff_disk *d, int fd, struct diff_wanted *from, struct diff_wanted *to, struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	struct tree t = { 0 };
	size_t n = 0;
	int r = block_snapshot_list(d->disk, &list, &n, e);

	if (!r && (r = tree_build(list, n, &t)) < 0)
		err_set_errno(e, r, "snapshots");
	if (!r)
		r = contents_open(d, fd, &t, from, to, e);
	tree_done(&t);
	return r;
}

/* ---- comparing ---- */

/* Add a range, or make the one before longer. */
static int range_add(struct diff_disk *d, uint64_t off, const struct block_diff_extent *x)
{
	struct diff_range *last = d->nranges ? &d->ranges[d->nranges - 1] : NULL;

	d->bytes += x->len;
	if (last && last->off + last->len == off && last->zero == x->zero) {
		last->len += x->len;
		return 0;
	}
	if (d->nranges == d->cap) {
		size_t cap = d->cap ? 2 * d->cap : 64;
		struct diff_range *p = cap > RANGES_MAX ? NULL : reallocarray(d->ranges, cap, sizeof(*p));

		if (!p)
			return cap > RANGES_MAX ? -EFBIG : -ENOMEM;
		d->ranges = p;
		d->cap = cap;
	}
	d->ranges[d->nranges++] = (struct diff_range){ .off = off, .len = x->len, .zero = x->zero };
	return 0;
}

static int ranges_find(struct diff_disk *d, struct err *e)
{
	struct block_diff *diff;
	struct block_diff_extent x;
	struct block_info info;
	int r = block_diff_new(d->to, d->from, &diff, e);

	if (r < 0)
		return r;
	block_info(d->to, &info);
	d->size_bytes = info.size_bytes;
	for (uint64_t off = 0; off < info.size_bytes && !r; off += x.len) {
		r = block_diff_extent(diff, off, info.size_bytes - off, &x);
		if (!r && !x.same)
			r = range_add(d, off, &x);
	}
	block_diff_free(diff);
	return r < 0 ? err_set_errno(e, r, "%s: comparing the tables of the snapshots", d->id) : 0;
}

int diff_disk_open(struct loop *l, struct json_object *spec, struct diff_wanted *from, struct diff_wanted *to,
	struct diff_disk *ret, struct err *e)
{
	int fd, r;

	*ret = (struct diff_disk){ 0 };
	snprintf(ret->id, sizeof(ret->id), "%s", js_get_str_or(spec, "id", ""));
	r = disk_open(l, spec, !to->name, ret, &fd, e);
	if (!r && !ret->reason[0])
		r = pair_open(ret, fd, from, to, e);
	if (!r && !ret->reason[0])
		r = ranges_find(ret, e);
	return r;
}

void diff_disk_done(struct diff_disk *d)
{
	if (d->to != d->disk)
		block_close(d->to);
	block_close(d->from);
	block_close(d->disk);
	free(d->ranges);
}
