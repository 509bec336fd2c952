#include "vmm/machine/machine_copy.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/shell_word.h"
#include "base/util.h"
#include "block/block.h"
#include "block/block_snapshot.h"
#include "block/mirror.h"
#include "block/restack.h"
#include "block/qcow2/qcow2.h"
#include "block/qcow2/warm.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_disk.h"
#include "vmm/machine/machine_hold.h"
#include "vmm/machine/machine_layers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLUSTER_BITS 16
#define REFCOUNT_ORDER 4

static int disk_find(const struct machine *m, const char *id, struct err *e)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (!strcmp(m->disks[i].id, id))
			return (int)i;
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no disk '%s'", id);
}

int machine_copy_check(const struct machine *m, struct err *e)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (m->disks[i].copy)
			return err_set(e, -EBUSY, ERR_BUSY, "disk %s is being mirrored to a copy, or to its base; end that first, with cairn blockjob "
				"%s %s --abort, or --pivot", m->disks[i].id, shell_word(m->cfg.name).s, m->disks[i].id);
	return 0;
}

int machine_copy_find_begun(struct machine *m, const char *id, struct machine_disk **ret, struct err *e)
{
	int i = disk_find(m, id, e);

	if (i < 0)
		return i;
	*ret = &m->disks[i];
	return m->disks[i].copy ? 0 : err_set(e, -ENOENT, ERR_NOT_FOUND, "disk %s has no copy under way", id);
}

/* ---- beginning ---- */

static int begin_check(const struct machine *m, unsigned i, const struct vm_disk_copy *what, struct err *e)
{
	const struct machine_disk *d = &m->disks[i];
	struct block_info info;

	block_info(d->block, &info);
	if (info.read_only)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s is read-only; copy its image", d->id);
	if (what->format != BLOCK_FORMAT_RAW && what->format != BLOCK_FORMAT_QCOW2)
		return err_set(e, -EINVAL, ERR_INVALID, "unknown format of the copy");
	if (m->file_bytes_max && info.size_bytes > m->file_bytes_max / 2)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the VM's process may write files of at most %llu MiB, because the VM was started "
			"with small disks only; restart the VM", (unsigned long long)(m->file_bytes_max / MIB));
	return 0;
}

int machine_copy_find(struct machine *m, const struct vm_disk_copy *what, struct machine_disk **ret, struct err *e)
{
	int i = disk_find(m, what->disk, e), r = i < 0 ? i : begin_check(m, (unsigned)i, what, e);

	if (!r)
		*ret = &m->disks[i];
	return r;
}

static int image_make(const struct machine_disk *d, uint8_t format, int fd, struct err *e)
{
	struct qcow2_create c = { .cluster_bits = CLUSTER_BITS, .refcount_order = REFCOUNT_ORDER, .version = 3 };
	struct block_info info;
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size)
		return err_set(e, -EINVAL, ERR_INVALID, "the copy of %s needs an empty regular file", d->id);
	block_info(d->block, &info);
	c.size_bytes = info.size_bytes;
	if (format == BLOCK_FORMAT_QCOW2)
		return qcow2_create(fd, &c, e);
	return ftruncate(fd, (off_t)info.size_bytes) < 0 ? err_set_errno(e, -errno, "the copy of %s", d->id) : 0;
}

struct open_call {
	struct disk_call c;
	uint8_t format;
	int fd;
};

static void open_run(struct disk_call *c, struct block *b)
{
	struct open_call *x = container_of(c, struct open_call, c);
	struct machine_disk *d = c->disk;
	struct block_layer layer = { .fd = x->fd, .format = x->format };
	struct block_open o = { .layers = &layer, .nlayers = 1, .beside_pins = true, .buffered = d->cache != VM_CACHE_NONE,
		.no_flush = d->cache == VM_CACHE_UNSAFE, .name = d->id };
	int r = block_open(d->loop, &o, &d->copy, &c->e);

	if (!r) {
		x->fd = -1;
		r = block_mirror_new(b, d->copy, &d->mirror, &c->e);
	}
	if (r < 0)
		block_close(STEAL_PTR(d->copy));
	disk_call_return(c, r, NULL);
}

int machine_copy_open(struct machine_disk *d, uint8_t format, int fd, struct err *e)
{
	struct open_call x = { .c.run = open_run, .format = format, .fd = fd };
	int r = image_make(d, format, fd, e);

	if (!r)
		r = disk_call(d, &x.c, e);
	if (x.fd >= 0)
		close(x.fd);
	return r;
}

/* ---- the end ---- */

struct equal_call {
	struct disk_call c;
	bool equal;
};

static void equal_run(struct disk_call *c, struct block *b)
{
	(void)b;
	container_of(c, struct equal_call, c)->equal = block_mirror_is_equal(c->disk->mirror);
	disk_call_return(c, 0, NULL);
}

static int equal_check(struct machine_disk *d, struct err *e)
{
	struct equal_call x = { .c.run = equal_run };
	int r = disk_call(d, &x.c, e);

	return r || x.equal ? r : err_set(e, -EIO, ERR_IO, "the copy of disk %s lacks changes of the guest; drop it with --abort, and make "
		"another one", d->id);
}

static int pivot_check(struct machine_disk *d, const struct vm_disk *pivot, int fd, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct stat is, copy;
	int r;

	block_layers(d->copy, layers);
	if (fstat(layers[0].fd, &copy) < 0 || fstat(fd, &is) < 0 || is.st_dev != copy.st_dev || is.st_ino != copy.st_ino)
		return err_set(e, -EINVAL, ERR_INVALID, "the file is not the copy of disk %s", d->id);
	if (pivot->nlayers != block_layers(d->copy, layers))
		return err_set(e, -EINVAL, ERR_INVALID, "the copy of disk %s has another number of backing files", d->id);
	if (layers[0].format != pivot->format[0])
		return err_set(e, -EINVAL, ERR_INVALID, "the copy of disk %s has format %s; give that with --dest-format", d->id,
			block_format_name(layers[0].format));
	r = machine_layers_check(d, "the copy has none, so continue with the disk (--abort)", e);
	return r ? r : equal_check(d, e);
}

/* Note that the disk's image is the copy. */
static void disk_describe(struct machine *m, struct machine_disk *d, const struct vm_disk *pivot, int fd)
{
	struct vm_disk *c = &m->cfg.disks[d - m->disks];

	c->nlayers = pivot->nlayers;
	memcpy(c->format, pivot->format, sizeof(c->format));
	memcpy(c->data_fd, pivot->data_fd, sizeof(c->data_fd));
	c->may_stand_alone = 0;
	machine_disk_identify(d, fd);
	m->base_id[0] = 0; /* another image's snapshots may have the same ids */
	d->snapshot_unknown = d->changed = false;
	qcow2_warm_free(STEAL_PTR(d->warm));
}

int machine_copy_hold(struct machine_disk *d, const struct vm_disk *pivot, int fd, struct err *e)
{
	int r = machine_disk_hold(d, e);

	if (r < 0 || !pivot)
		return r;
	r = pivot_check(d, pivot, fd, e);
	if (r < 0)
		machine_disk_release(d);
	return r;
}

struct block *machine_copy_swap(struct machine *m, struct machine_disk *d, const struct vm_disk *pivot, int fd)
{
	struct block *copy = STEAL_PTR(d->copy), *gone = pivot ? d->block : copy;
	struct block_req *held_back;
	struct err e;

	machine_disk_io_stop(d->io);
	held_back = block_mirror_end(STEAL_PTR(d->mirror));
	if (pivot && d->copy_layer)
		block_cut(d->block, d->copy_layer);
	d->copy_layer = 0;
	if (pivot) {
		machine_disk_set_block(d, copy);
		disk_describe(m, d, pivot, fd);
	}
	block_mirror_submit(held_back, d->block);
	if (machine_disk_io_begin(m, d->io, &e) < 0)
		log_error(d->id, "%s", e.msg);
	return gone;
}

struct close_call {
	struct disk_call c;
	struct block *gone;
	struct block_req flush;
	struct block_layer files[BLOCK_LAYERS_MAX];
	unsigned nfiles;
};

static void flush_done(struct block_req *r, int res)
{
	disk_call_return(&container_of(r, struct close_call, flush)->c, res, NULL);
}

static void flush_run(struct disk_call *c, struct block *b)
{
	struct close_call *x = container_of(c, struct close_call, c);

	(void)b;
	block_submit(x->gone, &x->flush);
}

static void close_run(struct disk_call *c, struct block *b)
{
	struct close_call *x = container_of(c, struct close_call, c);

	(void)b;
	x->nfiles = block_layers(x->gone, x->files);
	disk_call_return(c, block_close_but_files(x->gone), NULL);
}

/* A layer to which a commit has written stays in the disk. */
static bool is_layer(const struct machine_disk *d, const struct block *gone)
{
	struct block *y = d->block;

	for (unsigned n = 1; y && y != gone; n++)
		y = block_layer(d->block, n);
	return y;
}

/* The flush waits for the file system beside other requests of the disk, and the close() of the files on this thread.
 * */
int machine_copy_close(struct machine_disk *d, struct block *gone)
{
	struct close_call x = { .c.run = flush_run, .gone = gone, .flush = { .op = BLOCK_FLUSH, .done = flush_done } };
	int r = disk_call(d, &x.c, NULL), closed;

	if (is_layer(d, gone))
		return machine_layers_read_only(d, gone);
	x.c = (struct disk_call){ .run = close_run };
	closed = disk_call(d, &x.c, NULL);
	for (unsigned i = 0; i < x.nfiles; i++) {
		close(x.files[i].fd);
		if (x.files[i].data_fd)
			close(x.files[i].data_fd);
	}
	return r < 0 ? r : closed;
}
