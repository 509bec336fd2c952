#include "vmm/machine/machine_layers.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block_snapshot.h"
#include "block/mirror.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_copy.h"
#include "vmm/machine/machine_disk.h"
#include "vmm/machine/machine_hold.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int disk_check(const struct machine *m, const struct machine_disk *d, struct err *e)
{
	struct block_info info;

	block_info(d->block, &info);
	if (info.read_only)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s is read-only", d->id);
	if (m->file_bytes_max && info.size_bytes > m->file_bytes_max / 2)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the VM's process may write files of at most %llu MiB, because the VM was started "
			"with small disks only; restart the VM", (unsigned long long)(m->file_bytes_max / MIB));
	return 0;
}

bool machine_layers_are_one_file(int a, int b)
{
	struct stat s, t;

	return !fstat(a, &s) && !fstat(b, &t) && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
}

int machine_layers_find(struct machine *m, const char *id, struct machine_disk **ret, struct err *e)
{
	for (unsigned i = 0; i < m->ndisks; i++) {
		*ret = &m->disks[i];
		if (!strcmp((*ret)->id, id))
			return disk_check(m, *ret, e);
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no disk '%s'", id);
}

int machine_layers_check(struct machine_disk *d, const char *why, struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	struct block_info info;
	size_t n = 0;
	int r;

	block_info(d->block, &info);
	if (info.format != BLOCK_FORMAT_QCOW2 || info.data_file)
		return 0;
	r = disk_snapshot_list(d, &list, &n, e);
	return r || !n ? r : err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image of disk %s has internal snapshots (%zu), or live clones read it: "
		"%s; delete the snapshots first", d->id, n, why);
}

/* ---- beginning ---- */

struct layers_call {
	struct disk_call c;
	struct machine_layers *x;
	bool go;
};

static int layer_grow(struct machine_layers *x, struct err *e)
{
	struct block *b = block_layer(x->next, x->o.writable);
	struct block_info info;

	block_info(b, &info);
	return x->grow_bytes > info.size_bytes ? block_resize(b, x->grow_bytes, e) : 0;
}

/* Refuse a chain of another size or with larger sectors. */
static int next_check(const struct block *b, const struct block *next, struct err *e)
{
	struct block_info is, will;

	block_info(b, &is);
	block_info(next, &will);
	if (is.size_bytes != will.size_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "the disk has %llu bytes, but the new image has %llu",
			(unsigned long long)is.size_bytes, (unsigned long long)will.size_bytes);
	return is.logical_block_bytes >= will.logical_block_bytes ? 0 : err_set(e, -EINVAL, ERR_UNSUPPORTED, "the disk has sectors of %u "
		"bytes, but the new image would have %u", is.logical_block_bytes, will.logical_block_bytes);
}

static void begin_run(struct disk_call *c, struct block *b)
{
	struct machine_layers *x = container_of(c, struct layers_call, c)->x;
	int r = block_restack_begin(b, &x->o, &x->next, &c->e);

	if (r < 0) {
		disk_call_return(c, r, NULL);
		return;
	}
	r = next_check(b, x->next, &c->e);
	if (!r)
		r = layer_grow(x, &c->e);
	if (!r && x->mirror)
		r = block_mirror_new(x->next, block_layer(x->next, x->o.writable), &x->to_layer, &c->e);
	if (r < 0) {
		(void)block_close(block_restack_end(b, &x->o, STEAL_PTR(x->next), false));
		x->o.nlayers = 0; /* the new files are closed */
	}
	disk_call_return(c, r, NULL);
}

static void decide_run(struct disk_call *c, struct block *b)
{
	struct layers_call *k = container_of(c, struct layers_call, c);
	struct machine_layers *x = k->x;
	struct block *gone;

	if (!k->go)
		(void)block_mirror_end(STEAL_PTR(x->to_layer));
	gone = block_restack_end(b, &x->o, x->next, k->go);
	if (k->go)
		x->gone = gone;
	else
		(void)block_close(gone);
	disk_call_return(c, 0, NULL);
}

static void layers_decide(struct machine_layers *x, bool go)
{
	struct layers_call k = { .c.run = decide_run, .x = x, .go = go };

	disk_call(x->disk, &k.c, NULL);
}

static void new_files_close(const struct block_restack *o)
{
	for (unsigned i = 0; i < o->nlayers; i++) {
		if (o->kept[i] != BLOCK_NEW_LAYER)
			continue;
		close(o->layers[i].fd);
		if (o->layers[i].data_fd)
			close(o->layers[i].data_fd);
	}
}

/* Returns 0 or -errno; then the disk is not held, and its new files are open. */
static int layers_begin(struct machine_layers *x, struct err *e)
{
	struct layers_call k = { .c.run = begin_run, .x = x };
	int r = machine_disk_gate(x->disk, e);

	if (r < 0)
		return r;
	if (x->o.kept[0] == BLOCK_NEW_LAYER && fstat(x->o.layers[0].fd, &x->st) < 0)
		r = err_set_errno(e, -errno, "disk %s", x->disk->id);
	if (!r)
		r = disk_call(x->disk, &k.c, e);
	if (r < 0)
		machine_disk_gate_end(x->disk);
	return r;
}

static int list_begin(struct machine_layers *list, unsigned n, struct err *e)
{
	unsigned i = 0;
	int r = 0;

	while (i < n && !r)
		r = layers_begin(&list[i++], e);
	if (!r) {
		for (i = 0; i < n; i++)
			layers_decide(&list[i], true);
		return 0;
	}
	new_files_close(&list[--i].o);
	for (unsigned k = i + 1; k < n; k++)
		new_files_close(&list[k].o);
	while (i--) {
		layers_decide(&list[i], false);
		machine_disk_gate_end(list[i].disk);
	}
	return r;
}

/* ---- going on ---- */

static void disk_describe(struct machine *m, struct machine_layers *x)
{
	struct machine_disk *d = x->disk;
	struct vm_disk *c = &m->cfg.disks[d - m->disks];
	struct block_layer layers[BLOCK_LAYERS_MAX];

	c->nlayers = (uint16_t)block_layers(x->next, layers);
	for (unsigned i = 0; i < c->nlayers; i++) {
		c->format[i] = (uint8_t)layers[i].format;
		c->data_fd[i] = layers[i].data_fd ? 0 : VM_NO_FD;
	}
	c->may_stand_alone = 0;
	if (x->o.kept[0] == BLOCK_NEW_LAYER) {
		machine_disk_identify_by(d, &x->st);
		m->base_id[0] = 0; /* another image's snapshots may have the same ids */
	}
	d->snapshot_unknown = d->changed = false;
}

static void list_switch(struct machine *m, void *what, unsigned n)
{
	struct block_req *held[VM_DISKS_MAX];
	struct machine_layers *list = what;
	struct err e;

	for (unsigned i = 0; i < n; i++) {
		struct machine_disk *d = list[i].disk;

		machine_disk_io_stop(d->io);
		held[i] = block_mirror_end(STEAL_PTR(d->mirror));
		machine_disk_set_block(d, list[i].next);
		if (list[i].mirror) {
			d->mirror = list[i].to_layer;
			d->copy = block_layer(d->block, list[i].o.writable);
			d->copy_layer = list[i].o.writable;
		}
		disk_describe(m, &list[i]);
	}
	for (unsigned i = 0; i < n; i++) /* before the first loop's thread starts: disks may share a loop */
		block_mirror_submit(held[i], list[i].disk->block);
	for (unsigned i = 0; i < n; i++)
		if (machine_disk_io_begin(m, list[i].disk->io, &e) < 0)
			log_error(list[i].disk->id, "%s", e.msg);
}

int machine_layers_begin(struct machine *m, struct machine_layers *list, unsigned n, struct err *e)
{
	int r;

	machine_held_begin(m);
	r = list_begin(list, n, e);
	machine_held_end(m, r < 0 ? NULL : list_switch, list, n);
	return r;
}

struct read_only_call {
	struct disk_call c;
	struct block *layer;
};

static void read_only_run(struct disk_call *c, struct block *b)
{
	(void)b;
	disk_call_return(c, block_stop_writing(container_of(c, struct read_only_call, c)->layer), NULL);
}

int machine_layers_read_only(struct machine_disk *d, struct block *layer)
{
	struct read_only_call x = { .c.run = read_only_run, .layer = layer };

	return disk_call(d, &x.c, NULL);
}

void machine_layers_close(struct machine_layers *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		int r = machine_copy_close(list[i].disk, list[i].gone);

		if (r < 0)
			log_error(list[i].disk->id, "closing layers that the disk does not use any more: %s", strerror(-r));
	}
}
