#include "vmm/machine/machine_copy.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block.h"
#include "block/block_snapshot.h"
#include "block/mirror.h"
#include "block/qcow2/qcow2.h"
#include "devices/virtio/virtio_blk.h"
#include "vmm/machine/disk_call.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_disk.h"

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
			return err_set(e, -EBUSY, ERR_BUSY, "disk %s is being mirrored to a copy; end that first, with cairn blockjob VM %s "
				"--pivot or --abort", m->disks[i].id, m->disks[i].id);
	return 0;
}

/* ---- beginning ---- */

static int begin_check(const struct machine *m, unsigned i, const struct vm_disk_copy *what, struct err *e)
{
	const struct machine_disk *d = &m->disks[i];
	struct block_info info;

	block_info(d->block, &info);
	if (info.read_only)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s is read-only; copy its image", d->id);
	if (d->scsi)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s has bus scsi; only disks with bus virtio can be copied while the VM runs",
			d->id);
	if (what->format != BLOCK_FORMAT_RAW && what->format != BLOCK_FORMAT_QCOW2)
		return err_set(e, -EINVAL, ERR_INVALID, "unknown format of the copy");
	if (m->file_bytes_max && info.size_bytes > m->file_bytes_max / 2)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the VM's process may write files of at most %llu MiB, because the VM was started "
			"with small disks only; restart the VM", (unsigned long long)(m->file_bytes_max / MIB));
	return 0;
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

/* Open the copy while the loop's thread does not run. */
static int copy_open(struct machine_disk *d, uint8_t format, int fd, struct err *e)
{
	struct block_layer layer = { .fd = fd, .format = format };
	struct block_open o = { .layers = &layer, .nlayers = 1, .beside_pins = true, .name = d->id };
	int r = block_open(d->loop, &o, &d->copy, e);

	if (r < 0) {
		close(fd);
		return r;
	}
	r = block_mirror_new(d->block, d->copy, &d->mirror, e);
	if (r < 0)
		block_close(STEAL_PTR(d->copy));
	return r;
}

int machine_copy_begin(struct machine *m, const struct vm_disk_copy *what, int fd, struct err *e)
{
	int i = disk_find(m, what->disk, e), r = i < 0 ? i : begin_check(m, (unsigned)i, what, e), started;
	struct machine_disk *d = &m->disks[i < 0 ? 0 : i];
	struct err own;

	if (!r)
		r = image_make(d, what->format, fd, e);
	if (r < 0) {
		close(fd);
		return r;
	}
	machine_disk_io_stop(d->io);
	r = copy_open(d, what->format, fd, e);
	started = machine_disk_io_begin(m, d->io, &own);
	if (!r && started < 0) {
		block_mirror_end(STEAL_PTR(d->mirror));
		block_close(STEAL_PTR(d->copy));
		*e = own;
	}
	return r < 0 ? r : started;
}

/* ---- the end ---- */

struct hold_call {
	struct disk_call c;
	struct block_mirror *mirror;
};

static void held(void *opaque)
{
	struct hold_call *x = opaque;

	disk_call_return(&x->c, 0, NULL);
}

static void hold_run(struct disk_call *c, struct block *b)
{
	struct hold_call *x = container_of(c, struct hold_call, c);

	(void)b;
	block_mirror_hold(x->mirror, true, held, x);
}

static void release_run(struct disk_call *c, struct block *b)
{
	struct hold_call *x = container_of(c, struct hold_call, c);

	(void)b;
	block_mirror_release(x->mirror, !block_mirror_due(x->mirror));
	disk_call_return(c, 0, NULL);
}

/* A copy has no internal snapshots, and live clones read pins of the image, which are some. */
static int snapshots_check(struct machine_disk *d, struct err *e)
{
	CLEANUP_FREE struct block_snapshot_info *list = NULL;
	struct block_info info;
	size_t n = 0;
	int r;

	block_info(d->block, &info);
	if (info.format != BLOCK_FORMAT_QCOW2 || info.data_file)
		return 0;
	r = disk_snapshot_list(d, &list, &n, e);
	if (!r && n)
		r = err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the image of disk %s has %zu internal snapshots, or live clones read it, and the "
			"copy has none of that; keep the disk (--abort), or delete the snapshots first", d->id, n);
	return r;
}

static int pivot_check(struct machine_disk *d, const struct vm_disk *pivot, int fd, struct err *e)
{
	struct block_layer layers[BLOCK_LAYERS_MAX];
	struct stat is, copy;

	block_layers(d->copy, layers);
	if (fstat(layers[0].fd, &copy) < 0 || fstat(fd, &is) < 0 || is.st_dev != copy.st_dev || is.st_ino != copy.st_ino)
		return err_set(e, -EINVAL, ERR_INVALID, "the file is not the copy of disk %s", d->id);
	if (layers[0].format != pivot->format[0])
		return err_set(e, -EINVAL, ERR_INVALID, "the copy of disk %s has format %s; give that with --dest-format", d->id,
			block_format_name(layers[0].format));
	return snapshots_check(d, e);
}

/* Note that the disk's image is the copy. */
static void disk_describe(struct machine *m, struct machine_disk *d, const struct vm_disk *pivot, int fd)
{
	struct vm_disk *c = &m->cfg.disks[d - m->disks];

	c->nlayers = 1;
	c->format[0] = pivot->format[0];
	c->data_fd[0] = VM_NO_FD;
	c->may_stand_alone = 0;
	machine_disk_identify(d, fd);
	d->snapshot_unknown = d->changed = false;
	free(STEAL_PTR(d->warm));
}

int machine_copy_end(struct machine *m, const char *id, const struct vm_disk *pivot, int fd, struct err *e)
{
	int i = disk_find(m, id, e), r = 0;
	struct machine_disk *d = &m->disks[i < 0 ? 0 : i];
	struct hold_call hold = { .c.run = hold_run, .mirror = d->mirror }, release = { .c.run = release_run, .mirror = d->mirror };
	struct block_req *held_back;
	struct block *copy, *gone;
	struct err own;

	if (i < 0 || !d->copy)
		return i < 0 ? i : err_set(e, -ENOENT, ERR_NOT_FOUND, "disk %s has no copy under way", id);
	if (pivot)
		r = pivot_check(d, pivot, fd, e);
	if (!r)
		r = disk_call(d, &hold.c, e);
	if (!r && pivot && !block_mirror_is_equal(d->mirror)) {
		r = err_set(e, -EIO, ERR_IO, "the copy of disk %s lacks changes of the guest; drop it with --abort, and make another one", id);
		disk_call(d, &release.c, &own);
	}
	if (r < 0)
		return r;
	machine_disk_io_stop(d->io);
	held_back = block_mirror_end(STEAL_PTR(d->mirror));
	copy = STEAL_PTR(d->copy);
	gone = pivot ? d->block : copy;
	if (pivot) {
		virtio_blk_set_block(d->dev, copy);
		d->block = copy;
	}
	r = block_close(gone);
	if (pivot)
		disk_describe(m, d, pivot, fd);
	if (r < 0) /* after a pivot, the old image; else the copy */
		log_error(d->id, "closing the %s: %s", pivot ? "old image" : "copy", strerror(-r));
	block_mirror_submit(held_back, d->block);
	if (machine_disk_io_begin(m, d->io, &own) < 0)
		log_error(d->id, "%s", own.msg);
	return r < 0 && !pivot ? err_set_errno(e, r, "the copy of disk %s may be incomplete", id) : 0;
}
