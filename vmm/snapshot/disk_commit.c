#include "vmm/snapshot/disk_commit.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/util.h"
#include "block/upper_range.h"
#include "block/qcow2/qcow2.h"
#include "vmm/machine/machine_hold.h"
#include "vmm/machine/machine_layers.h"
#include "vmm/machine/machine_plug.h"
#include "vmm/snapshot/disk_copy_impl.h"
#include "vmm/snapshot/vm_pins.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PART_BYTES (64 * MIB)
#define PIECE_BYTES (64 * KIB)

struct commit_job {
	struct copy_job p;
	struct machine_layers layers;
	unsigned top, base;
	int base_fd, above_fd; /* owned; -1: none */
	bool dropped; /* there is nothing to do */
	uint64_t copied;
	char backing_name[sizeof(((struct vm_disk_commit *)0)->backing_name)];
};

static struct commit_job *commit_of(struct work *w)
{
	return container_of(w, struct commit_job, p.j.work);
}

/* ---- copying ---- */

struct find_call {
	struct disk_call c;
	struct upper_range range;
	uint64_t off, len;
};

static void find_done(struct upper_range *a, int res, uint64_t off, uint64_t len)
{
	struct find_call *x = container_of(a, struct find_call, range);

	x->off = off;
	x->len = len;
	disk_call_return(&x->c, res, NULL);
}

static void find_run(struct disk_call *c, struct block *b)
{
	(void)b;
	upper_range_find(&container_of(c, struct find_call, c)->range);
}

/* Copy pieces that are zero as zeros, neighbours together: the lower layer may have other content there. */
static int chunk_write(struct copy_job *p, uint64_t off, uint64_t len, struct err *e)
{
	uint8_t *buf = p->buf;
	int r = 0;

	for (uint64_t at = 0, end; at < len && !r; at = end) {
		bool zero = bytes_are_zero(buf + at, MIN(PIECE_BYTES, len - at));

		for (end = at + MIN(PIECE_BYTES, len - at); end < len; end += MIN(PIECE_BYTES, len - end))
			if (bytes_are_zero(buf + end, MIN(PIECE_BYTES, len - end)) != zero)
				break;
		p->buf = buf + at;
		r = copy_request(p, zero ? BLOCK_WRITE_ZEROES : BLOCK_WRITE, off + at, end - at, e);
	}
	p->buf = buf;
	return r;
}

static int range_copy(struct copy_job *p, uint64_t off, uint64_t len, struct err *e)
{
	struct commit_job *k = container_of(p, struct commit_job, p);
	int r = 0;

	for (uint64_t end = off + len; off < end && !r; off += len) {
		len = MIN(COPY_CHUNK_BYTES, end - off);
		if (vm_work_cancelled(p->j.vm))
			return 0; /* the caller looks, too */
		r = copy_request(p, BLOCK_READ, off, len, e);
		if (!r)
			r = chunk_write(p, off, len, e);
		k->copied += len;
		if (!p->through)
			copy_rate_wait(p, k->copied);
	}
	return r;
}

/* Copy the data that the upper layers have of a part. */
static int part_commit(struct copy_job *p, uint64_t off, uint64_t len, struct err *e)
{
	struct commit_job *k = container_of(p, struct commit_job, p);
	uint64_t end = off + len;
	int r = 0;

	p->new_from = MAX(p->new_from, end);
	while (off < end && !r) {
		struct find_call x = { .c.run = find_run, .range = { .b = block_layer(p->disk->block, k->top), .depth = k->base - k->top,
			.off = off, .len = end - off, .done = find_done } };

		r = disk_call(p->disk, &x.c, e);
		if (!r && x.len)
			r = range_copy(p, x.off, x.len, e);
		off = x.len ? x.off + x.len : end;
	}
	return r;
}

/* The upper layers do not change. */
static int parts_commit(struct copy_job *p, struct err *e)
{
	int r = 0;

	for (uint64_t off = 0, len; off < p->size_bytes && !r; off += len) {
		len = MIN(PART_BYTES, p->size_bytes - off);
		if (vm_work_step(p->j.vm, off, p->size_bytes))
			return err_set(e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; disk %s keeps its layers", p->disk->id);
		r = part_commit(p, off, len, e);
	}
	if (!r && vm_work_cancelled(p->j.vm))
		r = err_set(e, -ECANCELED, ERR_CANCELLED, "the job was cancelled; disk %s keeps its layers", p->disk->id);
	return r ? r : copy_request(p, BLOCK_FLUSH, 0, 0, e);
}

static void copy_run(struct work *w)
{
	struct commit_job *k = commit_of(w);
	struct copy_job *p = &k->p;

	machine_layers_close(&k->layers, 1);
	p->from = block_layer(p->disk->block, k->top);
	p->to = block_layer(p->disk->block, k->base);
	p->begun_ns = loop_now_ns();
	p->buf = aligned_alloc(4096, COPY_CHUNK_BYTES);
	if (!p->buf)
		p->j.r = err_set_errno(&p->j.e, -ENOMEM, "disk %s", p->disk->id);
	else
		p->j.r = k->top ? parts_commit(p, &p->j.e) : copy_until_equal(p, &p->j.e);
	free(p->buf);
	if (p->j.r < 0 && k->top)
		(void)machine_layers_read_only(p->disk, p->to);
}

/* ---- the end ---- */

static void commit_end(struct work *w)
{
	struct commit_job *k = commit_of(w);

	if (k->base_fd >= 0)
		close(k->base_fd);
	if (k->above_fd >= 0)
		close(k->above_fd);
	copy_job_end(w);
}

static void drop_close_run(struct work *w)
{
	machine_layers_close(&commit_of(w)->layers, 1);
}

static void drop_done(struct work *w)
{
	struct commit_job *k = commit_of(w);

	if (k->p.j.r < 0) {
		commit_end(w);
		return;
	}
	machine_held_release(k->p.j.m);
	log_info(NULL, "disk %s has %u layers less", k->p.disk->id, k->base - k->top);
	vmsnap_job_stage(&k->p.j, drop_close_run, commit_end);
}

/* Drop the upper layers, and let the layer above them name the lower one. */
static void drop_run(struct work *w)
{
	struct commit_job *k = commit_of(w);
	struct block_layer now[BLOCK_LAYERS_MAX];
	unsigned n = block_layers(k->p.disk->block, now), gone = k->base - k->top;

	k->layers = (struct machine_layers){ .disk = k->p.disk, .o = { .nlayers = n - gone, .backing_name = k->backing_name,
		.backing_format = block_format_name(now[k->base].format), .above = k->top - 1,
		.above_fd = k->top > 1 ? k->above_fd : now[0].fd } };
	for (unsigned i = 0; i < n - gone; i++)
		k->layers.o.kept[i] = i < k->top ? i : i + gone;
	k->p.j.r = machine_layers_begin(k->p.j.m, &k->layers, 1, &k->p.j.e);
	if (k->p.j.r < 0)
		(void)machine_layers_read_only(k->p.disk, k->p.to);
}

static void copy_done(struct work *w)
{
	struct commit_job *k = commit_of(w);
	struct copy_job *p = &k->p;

	if (k->top && !p->j.r)
		vmsnap_job_stage(&p->j, drop_run, drop_done);
	else if (k->top || (!p->j.r && !p->j.m->cfg.images_only))
		commit_end(w);
	else
		copy_abort(p);
}

/* ---- the beginning ---- */

/* Layers that end have no internal snapshots, and nothing reads them at a pin. */
static int header_check(const struct machine_disk *d, int fd, unsigned i, bool ends, struct err *e)
{
	CLEANUP_FREE struct qcow2_header *h = malloc(sizeof(*h));
	int r = h ? qcow2_header_read(fd, d->id, h, e) : err_set_errno(e, -ENOMEM, "disk %s", d->id);

	if (!r && h->has_pin)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s reads a frozen content of layer %u, as live clones do, so nothing can be "
			"committed to it; make the disk independent with cairn blockpull", d->id, i + 1);
	if (!r && ends && h->nb_snapshots)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "layer %u of disk %s has internal snapshots (%u), which would be lost; delete "
			"them first", i, d->id, h->nb_snapshots);
	return r;
}

static int size_check(struct commit_job *k, const struct block *base, struct err *e)
{
	struct block_info top, low;

	block_info(block_layer(k->p.disk->block, k->top), &top);
	block_info(base, &low);
	if (low.size_bytes > top.size_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "the image that disk %s is to be committed to is larger than the disk (%llu and %llu "
			"bytes); make the disk as large with %s first", k->p.disk->id, (unsigned long long)low.size_bytes,
			(unsigned long long)top.size_bytes, k->p.j.m->cfg.images_only ? "cairn-img resize" : "cairn blockresize");
	if (low.data_file)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image that disk %s is to be committed to has an external data file",
			k->p.disk->id);
	k->p.size_bytes = k->layers.grow_bytes = top.size_bytes;
	return 0;
}

/* Return whether an earlier commit has dropped these layers, but the daemon ended before it learned of that. */
static bool is_dropped(const struct commit_job *k, const struct block_layer *now, unsigned n)
{
	return k->top && k->top < n && machine_layers_are_one_file(k->base_fd, now[k->top].fd);
}

static int commit_check(struct commit_job *k, struct err *e)
{
	struct block_layer now[BLOCK_LAYERS_MAX];
	unsigned n = block_layers(k->p.disk->block, now);
	bool same = k->above_fd < 0 || (k->top <= n && machine_layers_are_one_file(k->above_fd, now[k->top - 1].fd));
	int r = 0;

	k->dropped = same && is_dropped(k, now, n);
	if (k->dropped)
		return 0;
	if (!same || k->top >= k->base || k->base >= n || !machine_layers_are_one_file(k->base_fd, now[k->base].fd))
		return err_set(e, -EINVAL, ERR_INVALID, "the layers of disk %s are others than the daemon's; try again", k->p.disk->id);
	for (unsigned i = k->top ? k->top - 1 : 0; i < k->base && !r; i++)
		r = header_check(k->p.disk, now[i].fd, i, i >= k->top, e);
	if (!r && !k->top)
		r = machine_layers_check(k->p.disk, "the lower image has none", e);
	if (!r)
		r = size_check(k, block_layer(k->p.disk->block, k->base), e);
	k->layers.o.nlayers = n;
	for (unsigned i = 0; i < n; i++)
		k->layers.o.kept[i] = i == k->base ? BLOCK_NEW_LAYER : i;
	k->layers.o.layers[k->base] = (struct block_layer){ .fd = k->base_fd, .format = now[k->base].format };
	return r;
}

static void begin_run(struct work *w)
{
	struct commit_job *k = commit_of(w);

	vm_pins_delete_idle(k->p.j.m);
	k->p.j.r = commit_check(k, &k->p.j.e);
	if (k->p.j.r < 0 || k->dropped)
		return;
	k->base_fd = -1; /* machine_layers_begin() takes it */
	k->p.j.r = machine_layers_begin(k->p.j.m, &k->layers, 1, &k->p.j.e);
}

static void begin_done(struct work *w)
{
	struct commit_job *k = commit_of(w);

	if (k->p.j.r < 0 || k->dropped) {
		commit_end(w);
		return;
	}
	machine_held_release(k->p.j.m);
	vmsnap_job_stage(&k->p.j, copy_run, copy_done);
}

int vm_disk_commit(struct vm *vm, struct worker *w, const struct vm_disk_commit *what, const struct vm_config *c, int *fds,
	vm_snapshot_done_fn *done, void *opaque, struct err *e)
{
	struct commit_job *k = vmsnap_job_new(sizeof(*k), vm, w, "blockcommit", e);
	struct machine *m = vm_machine(vm);
	struct machine_disk *d = NULL;
	int r = k ? 0 : -EBUSY;

	if (!r && c->ndisks != 1 + (what->top > 0) && (what->top != 1 || c->ndisks != 1))
		r = err_set(e, -EINVAL, ERR_INVALID, "a commit lacks a disk");
	if (!r)
		r = machine_layers_find(m, c->disks[0].id, &d, e);
	if (!r) /* the files of all layers are opened anew */
		r = machine_check_loaded(m, d->id, e);
	if (r < 0) {
		if (k)
			vm_work_end(vm);
		free(k);
		return r;
	}
	k->p.disk = d;
	k->p.fd = -1;
	k->p.part = part_commit;
	k->p.part_bytes = PART_BYTES;
	k->p.rate_bytes_per_s = what->rate_bytes_per_s;
	k->top = what->top;
	k->base = what->base;
	snprintf(k->backing_name, sizeof(k->backing_name), "%s", what->backing_name);
	k->layers = (struct machine_layers){ .disk = d, .o.writable = what->base, .mirror = !what->top };
	k->base_fd = steal_fd(&fds[c->disks[0].fd[0]]);
	k->above_fd = c->ndisks > 1 ? steal_fd(&fds[c->disks[1].fd[0]]) : -1;
	vm_work_set_live(vm, true);
	k->p.j.done = done;
	k->p.j.opaque = opaque;
	vmsnap_job_stage(&k->p.j, begin_run, begin_done);
	return 0;
}
