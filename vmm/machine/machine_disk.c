#include "vmm/machine/machine_disk.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "block/block.h"
#include "block/mirror.h"
#include "block/qcow2/warm.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_scsi.h"
#include "vmm/kvm/fork_host.h"
#include "vmm/kvm/thread_filter.h"
#include "vmm/machine/disk_apply.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* A start right after a kill of the VM's process waits so long for the end of that process's I/O. */
#define LOCK_WAIT_NS (2 * 1000000000ULL)
/* A clone starts while its source makes the pin that the clone's disk reads, which takes as long as the source's disk
 * needs to sync. If that fails, the daemon ends the clone. The wait ends with the daemon: the fork has failed then. */
#define PIN_WAIT_NS (300 * 1000000000ULL)

/* The tables of the first seven disks are in the state file between the facts about the host and the checksums of
 * snapshot/vmstate.h. */
#define WARM_END (16 * MIB)

bool machine_disk_warm_at(unsigned i, uint64_t *ret)
{
	*ret = FORK_HOST_END + i * (uint64_t)QCOW2_WARM_BYTES;
	return *ret + QCOW2_WARM_BYTES <= WARM_END;
}

void machine_disk_identify_by(struct machine_disk *d, const struct stat *st)
{
	d->image_dev = st->st_dev;
	d->image_ino = st->st_ino;
	d->medium = st->st_ino * 0x9e3779b97f4a7c15u ^ ((uint64_t)st->st_mtim.tv_sec * 1000000000 + (uint64_t)st->st_mtim.tv_nsec);
}

void machine_disk_identify(struct machine_disk *d, int fd)
{
	struct stat st;

	if (!fstat(fd, &st))
		machine_disk_identify_by(d, &st);
}

int machine_disk_loop(struct disk_io *io, const char *name, unsigned entries, struct err *e)
{
	int r = loop_new(entries, &io->loop, e);

	snprintf(io->name, sizeof(io->name), "%s", name);
	if (!r)
		loop_defer_threads(io->loop, true); /* create no threads before lockdown_drop() */
	return r;
}

void machine_disk_io_stop(struct disk_io *io)
{
	if (!io->thread_made)
		return;
	loop_stop(io->loop);
	pthread_join(io->thread, NULL);
	io->thread_made = false;
}

static void *disk_thread(void *opaque)
{
	struct disk_io *io = opaque;

	pthread_setname_np(pthread_self(), io->name);
	thread_filter_enter(io->kvm, THREAD_DISK, io->loop, -1);
	loop_defer_threads(io->loop, false);
	loop_run(io->loop);
	return NULL;
}

int machine_disk_io_start(struct machine *m, struct disk_io *io)
{
	int r;

	if (io->thread_made || !io->loop)
		return 0;
	io->kvm = &m->kvm;
	r = -pthread_create(&io->thread, NULL, disk_thread, io);
	io->thread_made = !r;
	return r;
}

int machine_disk_io_begin(struct machine *m, struct disk_io *io, struct err *e)
{
	sigset_t all, old;
	int r;

	if (!io->ndisks)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = machine_disk_io_start(m, io);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r < 0 ? err_set_errno(e, r, "cannot start the thread of disk %s", io->name) : 0;
}

/* Open the tables that a fork's source has passed on. Without them, the disk reads its tables itself. */
static void warm_take(const struct machine *m, struct machine_disk *d)
{
	uint64_t at;

	if (m->fork_fd < 0 || !machine_disk_warm_at(m->ndisks, &at))
		return;
	d->warm = qcow2_warm_open(m->fork_fd, at);
	if (d->warm)
		log_debug("disk", "%s: %u parts of tables from the memory of the fork's source", d->id, qcow2_warm_slices(d->warm));
}

void machine_disks_close_warm(struct machine *m)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		qcow2_warm_close(m->disks[i].warm);
}

int machine_disk_open(const struct machine *m, const struct vm_disk *c, const struct vm_disk_more *more, struct machine_disk *d, int *fds,
	struct err *e)
{
	struct block_layer layers[VM_DISK_LAYERS_MAX];
	struct block_open o = { .layers = layers, .nlayers = c->nlayers, .beside_pins = true,
		.may_stand_alone = c->may_stand_alone, .lock_wait_ns = LOCK_WAIT_NS,
		.read_only = c->read_only || m->cfg.images_read, .name = c->id,
		.as_handed_over = m->cfg.taken_over,
		.pin_wait = { m->cfg.forked ? PIN_WAIT_NS : 0, m->peer_fd },
		.pin_readable = m->cfg.pins_readable >> m->ndisks & 1 };
	int r;

	d->apply = disk_apply_new();
	r = d->apply ? 0 : err_set_errno(e, -ENOMEM, "disk %s", c->id);
	/* Work on the images of a VM that is off always uses direct I/O and syncs the files. */
	d->cache = m->cfg.images_only ? VM_CACHE_NONE : more->cache;
	o.buffered = d->cache != VM_CACHE_NONE;
	o.no_flush = d->cache == VM_CACHE_UNSAFE;
	d->id = c->id;
	warm_take(m, d);
	o.warm = d->warm;
	machine_disk_identify(d, fds[c->fd[0]]);
	for (unsigned i = 0; i < c->nlayers; i++)
		layers[i] = (struct block_layer){ .fd = fds[c->fd[i]], .format = c->format[i],
			.data_fd = c->data_fd[i] == VM_NO_FD ? 0 : fds[c->data_fd[i]] };
	if (!r && !d->io->loop)
		r = machine_disk_loop(d->io, c->id, DISK_LOOP_ENTRIES, e);
	if (r < 0)
		return r;
	d->loop = d->io->loop;
	d->io->ndisks++;
	r = block_open(d->loop, &o, &d->block, e);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < c->nlayers; i++) {
		fds[c->fd[i]] = -1;
		if (c->data_fd[i] != VM_NO_FD)
			fds[c->data_fd[i]] = -1;
	}
	return 0;
}

void machine_disk_close(struct machine_disk *d)
{
	int r;

	(void)block_mirror_end(d->mirror); /* the disk holds no request back */
	r = d->copy_layer ? block_flush_all(d->copy) : block_close(d->copy);
	if (r < 0)
		log_error(d->id, "closing the copy: %s", strerror(-r));
	r = block_close(d->block);
	if (r < 0)
		log_error(d->id, "closing the disk: %s", strerror(-r));
	if (d->loop)
		d->io->ndisks--;
	qcow2_warm_free(d->warm);
	disk_apply_free(d->apply);
}

uint32_t machine_disk_poll_max_ns(const struct vm_disk_more *more)
{
	return more->poll_max_us == VM_POLL_OFF ? VIRTIO_BLK_POLL_OFF : more->poll_max_us * 1000u;
}

void machine_disk_set_block(struct machine_disk *d, struct block *block)
{
	if (d->dev && d->scsi)
		virtio_scsi_set_block(d->dev, d->target, block);
	else if (d->dev)
		virtio_blk_set_block(d->dev, block);
	d->block = block;
}

void machine_disk_resized(const struct machine_disk *d, uint64_t size_bytes)
{
	if (d->dev && d->scsi)
		virtio_scsi_resized(d->dev, d->target, size_bytes);
	else if (d->dev)
		virtio_blk_resized(d->dev, size_bytes);
}

struct machine_disk *machine_snapshot_disk(struct machine *m)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (!m->cfg.disks[i].read_only && m->cfg.disks[i].format[0] == BLOCK_FORMAT_QCOW2)
			return &m->disks[i];
	return NULL;
}
