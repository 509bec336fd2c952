#include "vmm/machine/machine_plug.h"
#include "base/err.h"
#include "base/log.h"
#include "base/machine_version.h"
#include "base/util.h"
#include "block/block.h"
#include "devices/device.h"
#include "devices/pci/pci.h"
#include "devices/pci/pci_hotplug.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_scsi.h"
#include "snapshot/fault_tracker.h"
#include "snapshot/ram_reader.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_disk.h"
#include "vmm/machine/machine_scsi.h"
#include "vmm/machine/machine_state.h"

#include <errno.h>
#include <string.h>

/* ---- threads of disks ---- */

/* Return the loop that serves the fewest disks. */
static struct disk_io *io_choose(struct machine *m)
{
	struct disk_io *least = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(m->disk_ios); i++) {
		struct disk_io *io = &m->disk_ios[i];

		if (io->loop && (!least || io->ndisks < least->ndisks))
			least = io;
	}
	return least;
}

static void io_restart(struct machine *m, struct disk_io *io)
{
	struct err e;

	if (machine_disk_io_begin(m, io, &e) < 0)
		log_error(io->name, "%s", e.msg);
}

/* ---- the lists of the machine ---- */

/* Elements of the configuration have pointers to them. */
static void names_refresh(struct machine *m)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		m->disks[i].id = m->cfg.disks[i].id;
	for (unsigned i = 0; i < m->nnics; i++)
		m->nics[i].cfg = &m->cfg.interfaces[i];
}

/* One of several arrays with an item for each disk, interface or device. */
struct list {
	void *items;
	size_t bytes; /* of an item */
};

#define LIST(array) { array, sizeof((array)[0]) }

/* Remove the item at `at` from all lists, and clear their last one. Returns the new *n. */
static unsigned lists_remove(const struct list *lists, size_t nlists, unsigned at, unsigned *n)
{
	--*n;
	for (size_t i = 0; i < nlists; i++) {
		char *items = lists[i].items;
		size_t bytes = lists[i].bytes;

		memmove(items + at * bytes, items + (at + 1) * bytes, (*n - at) * bytes);
		memset(items + *n * bytes, 0, bytes);
	}
	return *n;
}

/* Return the PCI slot that no device of the list has; 0: there is none. */
static uint8_t new_slot(const struct machine *m)
{
	uint32_t slots = m->pci ? pci_host_slots(m->pci) & ~1u : 0;

	for (unsigned i = 0; i < m->ndevices; i++)
		slots &= ~(m->slots[i] ? 1u << m->slots[i] : 0);
	return slots ? (uint8_t)__builtin_ctz(slots) : 0;
}

int machine_device_insert(struct machine *m, unsigned at, int r, struct device *made)
{
	uint8_t slot = r ? 0 : new_slot(m);

	if (r)
		return r;
	memmove(&m->devices[at + 1], &m->devices[at], (m->ndevices - at) * sizeof(m->devices[0]));
	memmove(&m->slots[at + 1], &m->slots[at], m->ndevices - at);
	m->devices[at] = made;
	m->slots[at] = slot;
	m->ndevices++;
	return 0;
}

static void device_remove(struct machine *m, unsigned at)
{
	const struct list lists[] = { LIST(m->devices), LIST(m->slots) };

	lists_remove(lists, ARRAY_SIZE(lists), at, &m->ndevices);
}

static int device_find(const struct machine *m, const struct device *d)
{
	for (unsigned i = 0; i < m->ndevices; i++)
		if (m->devices[i] == d)
			return (int)i;
	return -ENOENT;
}

static int disk_find(const struct machine *m, const char *id)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (!strcmp(m->disks[i].id, id))
			return (int)i;
	return -ENOENT;
}

static int nic_find(const struct machine *m, const char *id)
{
	for (unsigned i = 0; i < m->nnics; i++)
		if (!strcmp(m->cfg.interfaces[i].id, id))
			return (int)i;
	return -ENOENT;
}

/* ---- adding ---- */

static int hotplug_check(const struct machine *m, struct err *e)
{
	if (pci_hotplug_is_on(m->pci_hotplug))
		return 0;
	if (machine_hardware_to_boot(m) == MACHINE_HARDWARE_VERSION_1)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM has machine version 1, which has no hot-plug; change its definition with "
			"--config, or set its key machine to %u, and start the VM again", machine_version_newest(m->cfg.firmware));
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the guest was saved by a Cairn without hot-plug, and has not booted since; "
		"reboot it, or change its definition with --config");
}

/* Return the number of PCI devices that come. */
static unsigned slots_needed(const struct machine *m, const struct vm_config *c)
{
	bool controller = m->scsi;
	unsigned n = c->ninterfaces;

	for (unsigned i = 0; i < c->ndisks; i++) {
		n += c->disk_more[i].bus != VM_BUS_SCSI || !controller;
		controller |= c->disk_more[i].bus == VM_BUS_SCSI;
	}
	return n;
}

static int plug_check(const struct machine *m, const struct vm_config *c, struct err *e)
{
	uint32_t slots = ~pci_host_slots(m->pci) & PCI_HOTPLUG_SLOTS;
	unsigned needed = slots_needed(m, c);

	if (needed && hotplug_check(m, e) < 0)
		return -ENOTSUP;
	if ((unsigned)__builtin_popcount(slots) < needed)
		return err_set(e, -ENOSPC, ERR_INVALID, "all %d PCI slots for devices that are attached while the VM runs are taken; detach one "
			"first, or attach the device with --config", PCI_SLOTS - PCI_HOTPLUG_FIRST_SLOT - (m->cfg.firmware == VM_FIRMWARE_UEFI));
	if (m->ndisks + c->ndisks > VM_DISKS_MAX || m->nnics + c->ninterfaces > VM_INTERFACES_MAX)
		return err_set(e, -ENOSPC, ERR_INVALID, "a VM has at most %d disks and %d interfaces; detach one first", VM_DISKS_MAX,
			VM_INTERFACES_MAX);
	for (unsigned i = 0; i < c->ndisks; i++)
		if (disk_find(m, c->disks[i].id) >= 0)
			return err_set(e, -EEXIST, ERR_EXISTS, "target %s already exists", c->disks[i].id);
	for (unsigned i = 0; i < c->ninterfaces; i++)
		if (nic_find(m, c->interfaces[i].id) >= 0)
			return err_set(e, -EEXIST, ERR_EXISTS, "interface %s already exists", c->interfaces[i].id);
	return 0;
}

/* A VM that was started with raw disks only may not write files that are much larger than these (main.c). */
static int size_check(const struct machine *m, const struct machine_disk *d, struct err *e)
{
	struct block_info b;

	block_info(d->block, &b);
	if (!m->file_bytes_max || b.read_only || b.size_bytes <= m->file_bytes_max / 2)
		return 0;
	return err_set(e, -EFBIG, ERR_UNSUPPORTED, "the VM's process may write files of at most %llu MiB, because the VM was started "
		"with small disks only; attach %s with --config, and restart the VM",
		(unsigned long long)(m->file_bytes_max / MIB), d->id);
}

static int blk_new(struct machine *m, const struct vm_disk *c, unsigned i, struct err *e)
{
	struct machine_disk *d = &m->disks[i];
	const struct vm_disk_more *more = &m->cfg.disk_more[i];
	struct virtio_blk_config v = { .name = c->id, .serial = c->serial, .block = d->block, .loop = d->loop,
		.logical_bytes = more->logical_bytes, .physical_bytes = more->physical_bytes, .no_discard = more->no_discard,
		.detect_zeroes = more->detect_zeroes,
		.poll_max_ns = machine_disk_poll_max_ns(more),
		.queues = c->queues ? c->queues : MIN(m->cfg.vcpus, VIRTIO_BLK_QUEUES_MAX), .queue_size = c->queue_size,
		.errors = (enum virtio_blk_errors)c->error_policy, .slot = -1,
		.limits = machine_disk_limits(&m->cfg, i) };
	int r = virtio_blk_new(&m->host, m->pci, &v, &d->dev, e);
	unsigned at = m->disks_at;

	for (unsigned k = 0; k < i; k++) /* the SCSI controller of other disks comes behind them */
		at += !m->disks[k].scsi;
	return machine_device_insert(m, at, r, d->dev);
}

/* Tell the guest of a new device, or pause the device with the machine. */
static void device_begin(struct machine *m, struct device *d, bool running)
{
	if (!running && d->ops->pause)
		d->ops->pause(d);
	pci_hotplug_plugged(m->pci_hotplug, m->slots[device_find(m, d)]);
}

static int disk_plug(struct machine *m, const struct vm_config *c, unsigned at, int *fds, bool running, struct err *e)
{
	unsigned i = m->ndisks;
	struct machine_disk *d = &m->disks[i];
	bool made = true;
	struct err own;
	int r, started;

	m->cfg.disks[i] = c->disks[at];
	m->cfg.disk_limits[i] = c->disk_limits[at];
	m->cfg.disk_tune[i] = c->disk_tune[at];
	m->cfg.boot_place[i] = 0;
	m->cfg.disk_more[i] = c->disk_more[at];
	*d = (struct machine_disk){ .io = io_choose(m) };
	machine_disk_io_stop(d->io);
	r = machine_disk_open(m, &m->cfg.disks[i], &m->cfg.disk_more[i], d, fds, e);
	if (!r)
		r = size_check(m, d, e);
	if (!r && m->cfg.disk_more[i].bus == VM_BUS_SCSI)
		r = machine_scsi_attach(m, i, &made, e);
	else if (!r)
		r = blk_new(m, &m->cfg.disks[i], i, e);
	if (r < 0)
		machine_disk_close(d);
	started = machine_disk_io_begin(m, d->io, &own);
	if (r < 0)
		return r;
	m->ndisks = m->cfg.ndisks = i + 1;
	m->nics_at += !d->scsi;
	if (started < 0) {
		machine_unplug(m, c->disks[at].id, running, NULL);
		*e = own;
		return started;
	}
	if (made)
		device_begin(m, d->dev, running);
	return 0;
}

static int nic_plug(struct machine *m, const struct vm_config *c, unsigned at, int *fds, bool running, struct err *e)
{
	unsigned i = m->nnics;
	struct device *d = NULL;
	int r;

	m->cfg.interfaces[i] = c->interfaces[at];
	m->cfg.link_down[i] = c->link_down[at];
	m->cfg.limits[i] = c->limits[at];
	m->cfg.queue_pairs[i] = c->queue_pairs[at];
	memcpy(m->cfg.pair_fds[i], c->pair_fds[at], sizeof(m->cfg.pair_fds[i]));
	m->cfg.vhost[i] = m->cfg.interface_slots[i] = 0; /* VM_MSG_PLUG does not have them */
	memset(&m->nics[i], 0, sizeof(m->nics[i]));
	m->nics[i].on_main_loop = true;
	r = nic_init(&m->nics[i], &m->host, m->pci, &m->cfg, i, fds, &d, e);
	r = machine_device_insert(m, m->nics_at + i, r, d);
	if (r < 0) {
		nic_done(&m->nics[i]);
		return r;
	}
	m->nnics = m->cfg.ninterfaces = i + 1;
	device_begin(m, d, running);
	return 0;
}

int machine_plug(struct machine *m, const struct vm_config *c, int *fds, bool running, struct err *e)
{
	int r = plug_check(m, c, e);

	for (unsigned i = 0; i < c->ndisks && !r; i++)
		r = disk_plug(m, c, i, fds, running, e);
	for (unsigned i = 0; i < c->ninterfaces && !r; i++)
		r = nic_plug(m, c, i, fds, running, e);
	return r;
}

/* ---- media ---- */

static int medium_check(const struct machine *m, int at, const struct vm_config *c, struct err *e)
{
	const struct machine_disk *d = &m->disks[at < 0 ? 0 : at];

	if (at < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no disk '%s'", c->disks[0].id);
	if (!d->scsi || !m->cfg.disk_more[at].cdrom)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "disk %s is no cdrom with bus scsi, so the guest would not see its medium change: "
			"change it with --config", d->id);
	if (!c->disk_more[0].force && !virtio_scsi_tray_is_open(d->dev, d->target) && virtio_scsi_is_locked(d->dev, d->target, true))
		return err_set(e, -EBUSY, ERR_BUSY, "the guest keeps the tray of %s locked, and is asked to eject the medium; unmount it in the "
			"guest and try again, or use --force", d->id);
	return 0;
}

/* Close a disk that its device does not have, while the loop's thread does not run. */
static void disk_drop(struct machine *m, struct machine_disk *d, bool restart)
{
	struct disk_io *io = d->io;

	machine_disk_io_stop(io);
	machine_disk_close(d);
	if (restart)
		io_restart(m, io);
}

/* Open the medium of a drive while the thread of its loop is blocked. */
static int medium_open(struct machine *m, const struct vm_disk *c, const struct machine_disk *d, struct machine_disk *ret, int *fds,
	struct err *e)
{
	const struct vm_disk_more *more = &m->cfg.disk_more[d - m->disks];
	struct err own;
	int r, started;

	*ret = (struct machine_disk){ .io = d->io, .dev = d->dev, .scsi = true, .target = d->target };
	machine_disk_io_stop(d->io);
	r = machine_disk_open(m, c, more, ret, fds, e);
	if (r < 0)
		machine_disk_close(ret);
	started = machine_disk_io_begin(m, d->io, &own);
	ret->id = d->id;
	if (r < 0 || !started)
		return r;
	disk_drop(m, ret, false);
	*e = own;
	return started;
}

int machine_set_medium(struct machine *m, const struct vm_config *c, int *fds, struct err *e)
{
	int at = disk_find(m, c->disks[0].id), r = medium_check(m, at, c, e);
	struct machine_disk *d = &m->disks[at < 0 ? 0 : at], next, old;

	/* Before the loop's thread is stopped: it may wait for an image that does not answer. */
	if (!r)
		r = machine_scsi_hold(m, (unsigned)at, false, "the medium stays", e);
	if (r < 0)
		return r;
	r = medium_open(m, &c->disks[0], d, &next, fds, e);
	if (r < 0) {
		virtio_scsi_release(d->dev, d->target);
		return r;
	}
	r = virtio_scsi_set_medium(d->dev, d->target, next.block, next.medium, e);
	if (r < 0) {
		disk_drop(m, &next, true);
		return r;
	}
	m->cfg.disks[at] = c->disks[0];
	old = *d;
	*d = next;
	disk_drop(m, &old, true);
	return 0;
}

/* ---- removing ---- */

static int slot_of(const struct machine *m, const char *id)
{
	int disk = disk_find(m, id), nic = nic_find(m, id);

	if (disk < 0 && nic < 0)
		return -ENOENT;
	return (int)machine_slot(m, disk >= 0 ? m->disks[disk].dev : m->nics[nic].dev);
}

bool machine_has(const struct machine *m, const char *id)
{
	return slot_of(m, id) >= 0;
}

bool machine_loads_from(struct machine *m, const char *id)
{
	struct machine_disk *d = machine_snapshot_disk(m);
	struct ram_reader_stats s = { 0 };

	if (!d || strcmp(d->id, id) || !m->paged_from || !m->ram_reader)
		return false;
	ram_reader_stats(m->ram_reader, &s);
	if (!s.complete && m->tracker)
		fault_tracker_load_all(m->tracker);
	return !s.complete;
}

int machine_check_loaded(struct machine *m, const char *id, struct err *e)
{
	return !machine_loads_from(m, id) ? 0 : err_set(e, -EBUSY, ERR_BUSY, "the guest's memory is still being read from the image of %s, "
		"since its snapshot was reverted to or memory was reclaimed; try again in a moment", id);
}

bool machine_goes_at_once(const struct machine *m, const char *id)
{
	int i = disk_find(m, id);

	return i >= 0 && machine_scsi_has(m, (unsigned)i) && !machine_scsi_is_last(m, (unsigned)i);
}

int machine_hold_target(struct machine *m, const char *id, struct err *e)
{
	return machine_scsi_hold(m, (unsigned)disk_find(m, id), false, "it stays attached", e);
}

/* The guest's machine version has no slots for devices of its start. */
static int eject_refuse(const struct machine *m, const char *id, struct err *e)
{
	int disk = disk_find(m, id);

	if (disk >= 0 && machine_scsi_has(m, (unsigned)disk))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s is the last disk at the SCSI controller, which was there when the guest booted and "
			"stays as long as the guest runs; detach %s with --config, or attach another disk with bus scsi first", id, id);
	if (machine_version_ejects(machine_hardware_to_boot(m)))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s was there when the guest booted, with machine version %u, in which only devices "
			"that were attached later can be detached; reboot the guest, which then has version %u, or detach %s with --config", id,
			m->hardware, machine_hardware_to_boot(m), id);
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "%s was there when the VM started, and with machine version %u only devices that were "
		"attached while it runs can be detached from it; detach %s with --config, or set the key machine of its definition to %u and "
		"start the VM again", id, m->hardware, id, machine_version_newest(m->cfg.firmware));
}

int machine_ask_release(struct machine *m, const char *id, struct err *e)
{
	int slot = slot_of(m, id);

	if (slot < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no device '%s'", id);
	if (hotplug_check(m, e) < 0)
		return -ENOTSUP;
	if (!((PCI_HOTPLUG_SLOTS | machine_eject_slots(m, m->hardware)) >> slot & 1))
		return eject_refuse(m, id, e);
	pci_hotplug_ask_release(m->pci_hotplug, (unsigned)slot);
	return 0;
}

const char *machine_in_slot(const struct machine *m, unsigned slot)
{
	for (unsigned i = 0; i < m->ndisks; i++)
		if (slot_of(m, m->disks[i].id) == (int)slot)
			return m->disks[i].id;
	for (unsigned i = 0; i < m->nnics; i++)
		if (slot_of(m, m->cfg.interfaces[i].id) == (int)slot)
			return m->cfg.interfaces[i].id;
	return NULL;
}

/* Drain the device and free it, while its loop's thread does not run. */
static void device_end(struct machine *m, struct device *d)
{
	int at = device_find(m, d);

	pci_hotplug_reset_slot(m->pci_hotplug, m->slots[at]);
	d->ops->free(d);
	device_remove(m, (unsigned)at);
}

/* Drain a device that disks have, stop its loop, and free it. */
static void disk_device_end(struct machine *m, struct disk_io *io, struct device *d, bool running)
{
	if (running && d->ops->pause)
		d->ops->pause(d);
	machine_disk_io_stop(io);
	device_end(m, d);
}

/* Take a disk from the SCSI controller, or free the controller with its last disk. The loop of the disk is stopped
 * then. Return the loop of the controller, which may be stopped, too. */
static struct disk_io *scsi_end(struct machine *m, unsigned i, bool running)
{
	struct machine_disk *d = &m->disks[i];
	struct device *controller = m->scsi;
	struct disk_io *io = m->scsi_io;

	if (!machine_scsi_is_last(m, i)) {
		(void)machine_scsi_hold(m, i, true, "", NULL); /* cannot fail */
		machine_disk_io_stop(d->io);
		virtio_scsi_unplug(controller, d->target);
		return io;
	}
	if (running)
		controller->ops->pause(controller);
	machine_disk_io_stop(d->io);
	machine_scsi_detached(m);
	disk_device_end(m, io, controller, false);
	return io;
}

static int disk_unplug(struct machine *m, unsigned i, bool running, struct err *e)
{
	const struct list lists[] = { LIST(m->disks), LIST(m->cfg.disks), LIST(m->cfg.disk_limits), LIST(m->cfg.disk_tune),
		LIST(m->cfg.boot_place), LIST(m->cfg.disk_more), LIST(m->carried.disk_faults) };
	struct machine_disk *d = &m->disks[i];
	struct disk_io *ios[] = { d->io, d->io };
	bool is_device = !d->scsi;
	int r;

	if (d == machine_snapshot_disk(m))
		m->base_id[0] = 0; /* another disk's snapshots may have the same ids */
	if (is_device)
		disk_device_end(m, d->io, d->dev, running);
	else
		ios[1] = scsi_end(m, i, running);
	r = block_flush_all(d->block);
	if (r < 0)
		err_set_errno(e, r, "%s: the last data could not be written", d->id);
	machine_disk_close(d);
	for (unsigned k = 0; k < ARRAY_SIZE(ios); k++)
		io_restart(m, ios[k]);
	m->cfg.ndisks = lists_remove(lists, ARRAY_SIZE(lists), i, &m->ndisks);
	m->nics_at -= is_device;
	names_refresh(m);
	return r;
}

static void nic_unplug(struct machine *m, unsigned i, bool running)
{
	const struct list lists[] = { LIST(m->nics), LIST(m->cfg.interfaces), LIST(m->cfg.link_down), LIST(m->cfg.limits),
		LIST(m->cfg.queue_pairs), LIST(m->cfg.pair_fds), LIST(m->cfg.vhost), LIST(m->cfg.vhost_fds),
		LIST(m->cfg.interface_slots) };
	struct nic *n = &m->nics[i];

	if (running && n->dev->ops->pause)
		n->dev->ops->pause(n->dev);
	nic_stop(n);
	device_end(m, n->dev);
	nic_done(n);
	m->cfg.ninterfaces = lists_remove(lists, ARRAY_SIZE(lists), i, &m->nnics);
	names_refresh(m);
}

int machine_unplug(struct machine *m, const char *id, bool running, struct err *e)
{
	int disk = disk_find(m, id), nic = nic_find(m, id);

	if (disk >= 0)
		return disk_unplug(m, (unsigned)disk, running, e);
	if (nic < 0)
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no device '%s'", id);
	nic_unplug(m, (unsigned)nic, running);
	return 0;
}
