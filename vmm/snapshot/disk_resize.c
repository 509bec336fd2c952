#include "vmm/snapshot/disk_resize.h"
#include "base/log.h"
#include "base/util.h"
#include "block/block.h"
#include "vmm/machine/machine_disk.h"
#include "vmm/machine/machine_hold.h"
#include "vmm/snapshot/vm_pins.h"
#include "vmm/snapshot/vm_snapshot_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct resize_job {
	struct vmsnap_job j;
	struct machine_disk *disk;
	uint64_t size_bytes; /* 0: that of the block device */
	uint32_t step;	     /* the size is a multiple of these bytes */
};

struct resize_call {
	struct disk_call c;
	struct resize_job *p;
};

/* ---- on the disk's thread ---- */

/* Replace the size 0 by that of the block device. */
static int size_choose(struct resize_job *p, const struct block *b, struct err *e)
{
	int r = p->size_bytes ? 0 : block_device_bytes(b, &p->size_bytes);

	if (r == -ENOTSUP)
		return err_set(e, -EINVAL, ERR_INVALID, "the image of disk %s is not a block device with raw content; give a size", p->disk->id);
	return r < 0 ? err_set_errno(e, r, "disk %s", p->disk->id) : 0;
}

static int size_check(const struct resize_job *p, const struct block *b, struct err *e)
{
	uint64_t most = p->j.m->file_bytes_max, device;
	struct block_info info;

	block_info(b, &info);
	if (info.read_only)
		return err_set(e, -EROFS, ERR_PERMISSION, "disk %s is read-only", p->disk->id);
	if (p->size_bytes < info.size_bytes)
		return err_set(e, -EINVAL, ERR_INVALID, "disk %s has %llu bytes, and a disk that a guest uses does not get smaller; shut the VM "
			"down, and use cairn-img resize --shrink", p->disk->id, (unsigned long long)info.size_bytes);
	if (p->size_bytes % p->step)
		return err_set(e, -EINVAL, ERR_INVALID, "the size of disk %s must be a multiple of %u bytes", p->disk->id, p->step);
	/* The file of a qcow2 image also has tables (main.c). */
	if (info.format == BLOCK_FORMAT_QCOW2)
		most /= 2;
	if (most && p->size_bytes > most && block_device_bytes(b, &device) < 0)
		return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the VM's process may make the image of disk %s at most %llu MiB large, because the "
			"VM was started with smaller disks; grow it so far, then use cairn restart-process and repeat", p->disk->id,
			(unsigned long long)(most / MIB));
	return 0;
}

static void resize_run(struct disk_call *c, struct block *b)
{
	struct resize_job *p = container_of(c, struct resize_call, c)->p;
	struct block_info info;
	int r = size_choose(p, b, &c->e);

	block_info(b, &info);
	if (!r)
		r = size_check(p, b, &c->e);
	if (!r && p->size_bytes != info.size_bytes) {
		r = block_resize(b, p->size_bytes, &c->e);
		if (!r)
			machine_disk_resized(p->disk, p->size_bytes);
	}
	disk_call_return(c, r, NULL);
}

/* ---- the job ---- */

static void job_run(struct work *w)
{
	struct resize_job *p = container_of(w, struct resize_job, j.work);
	struct resize_call x = { .c.run = resize_run, .p = p };

	vm_pins_delete_idle(p->j.m);
	p->j.r = machine_disk_gate(p->disk, &p->j.e);
	if (p->j.r < 0)
		return;
	p->j.r = disk_call(p->disk, &x.c, &p->j.e);
	machine_disk_gate_end(p->disk);
}

static void job_done(struct work *w)
{
	struct resize_job *p = container_of(w, struct resize_job, j.work);

	if (!p->j.r)
		log_info(NULL, "disk %s has %llu bytes", p->disk->id, (unsigned long long)p->size_bytes);
	vmsnap_job_finish(&p->j);
	free(p);
}

static int disk_find(struct resize_job *p, const char *id, struct err *e)
{
	struct machine *m = p->j.m;

	for (unsigned i = 0; i < m->ndisks; i++) {
		if (strcmp(m->disks[i].id, id))
			continue;
		p->disk = &m->disks[i];
		p->step = MAX(m->cfg.disk_more[i].logical_bytes, BLOCK_SECTOR_BYTES);
		return m->cfg.disk_more[i].cdrom ? err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s is a CD drive, whose medium has its size; use "
			"cairn change-media", id) : 0;
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no disk '%s'", id);
}

int vm_disk_resize(struct vm *vm, struct worker *w, const struct vm_disk_resize *what, vm_snapshot_done_fn *done, void *opaque,
	struct err *e)
{
	struct resize_job *p = vmsnap_job_new(sizeof(*p), vm, w, "blockresize", e);
	int r = p ? disk_find(p, what->id, e) : -EBUSY;

	if (r < 0) {
		if (p)
			vm_work_end(vm);
		free(p);
		return r;
	}
	p->size_bytes = what->size_bytes;
	vm_work_set_live(vm, true);
	p->j.done = done;
	p->j.opaque = opaque;
	vmsnap_job_stage(&p->j, job_run, job_done);
	return 0;
}
