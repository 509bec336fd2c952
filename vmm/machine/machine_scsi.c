#include "vmm/machine/machine_scsi.h"
#include "base/err.h"
#include "base/util.h"
#include "devices/virtio/virtio_scsi.h"
#include "snapshot/state.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_disk.h"
#include "vmm/machine/machine_plug.h"

#include <errno.h>

static struct virtio_scsi_disk scsi_disk(const struct machine *m, unsigned i)
{
	const struct vm_disk *c = &m->cfg.disks[i];
	const struct vm_disk_more *more = &m->cfg.disk_more[i];

	return (struct virtio_scsi_disk){ .id = c->id, .block = m->disks[i].block, .loop = m->disks[i].loop, .serial = c->serial,
		.wwn = more->wwn, .logical_bytes = more->logical_bytes, .physical_bytes = more->physical_bytes,
		.cdrom = more->cdrom, .medium = m->disks[i].medium, .no_discard = more->no_discard, .detect_zeroes = more->detect_zeroes,
		.poll_max_ns = machine_disk_poll_max_ns(more),
		.errors = (enum virtio_blk_errors)c->error_policy,
		.limits = machine_disk_limits(&m->cfg, i) };
}

/* Create the controller on the loop of its first disk, which then has one more user.
 * at: index in the list of devices. */
static int controller_new(struct machine *m, const struct virtio_scsi_disk *disks, unsigned n, struct disk_io *io, unsigned at,
	struct err *e)
{
	struct virtio_scsi_config c = { .name = "scsi0", .disks = disks, .ndisks = n, .queues = MIN(m->cfg.vcpus, VIRTIO_SCSI_QUEUES_MAX),
		.slot = -1 };
	struct device *d = NULL;
	int r = virtio_scsi_new(&m->host, m->pci, &c, &d, e);

	if (r)
		return r;
	machine_device_insert(m, at, 0, d);
	m->scsi = d;
	m->scsi_io = io;
	io->ndisks++;
	return 0;
}

int machine_scsi_new(struct machine *m, struct err *e)
{
	struct virtio_scsi_disk disks[VM_DISKS_MAX];
	struct disk_io *io = NULL;
	unsigned n = 0;
	int r;

	for (unsigned i = 0; i < m->ndisks; i++) {
		if (m->cfg.disk_more[i].bus != VM_BUS_SCSI)
			continue;
		m->disks[i].scsi = true;
		m->disks[i].target = n;
		disks[n++] = scsi_disk(m, i);
		io = io ? io : m->disks[i].io;
	}
	r = n ? controller_new(m, disks, n, io, m->ndevices, e) : 0;
	for (unsigned i = 0; i < m->ndisks && !r; i++)
		if (m->disks[i].scsi)
			m->disks[i].dev = m->scsi;
	return r;
}

int machine_scsi_attach(struct machine *m, unsigned i, bool *ret_made, struct err *e)
{
	struct virtio_scsi_disk disk = scsi_disk(m, i);
	struct machine_disk *d = &m->disks[i];
	int r;

	*ret_made = !m->scsi;
	d->target = 0;
	if (m->scsi)
		r = virtio_scsi_plug(m->scsi, &disk, &d->target, e);
	else /* at its place in the list of a start */
		r = controller_new(m, &disk, 1, d->io, m->nics_at + m->nnics + (m->vsock != NULL), e);
	d->scsi = !r;
	d->dev = r ? NULL : m->scsi;
	return r;
}

bool machine_scsi_has(const struct machine *m, unsigned i)
{
	return m->disks[i].scsi && m->disks[i].dev;
}

bool machine_scsi_is_last(const struct machine *m, unsigned i)
{
	for (unsigned k = 0; k < m->ndisks; k++)
		if (k != i && machine_scsi_has(m, k))
			return false;
	return machine_scsi_has(m, i);
}

int machine_scsi_hold(struct machine *m, unsigned i, bool patient, const char *what, struct err *e)
{
	const struct machine_disk *d = &m->disks[i];

	return !virtio_scsi_hold(d->dev, d->target, patient) ? 0 : err_set(e, -EBUSY, ERR_BUSY, "the image of %s does not answer the guest's "
		"commands, so %s; try again when it does", d->id, what);
}

void machine_scsi_detached(struct machine *m)
{
	m->scsi_io->ndisks--;
	m->scsi = NULL;
	m->scsi_io = NULL;
}

int machine_scsi_check(const struct machine *m, const struct state_section *s, bool *ret_lacks, struct err *e)
{
	uint32_t lacks = 0;
	int r = virtio_scsi_state_compare(m->scsi, &s->content, s->version, &lacks, NULL, e);

	for (unsigned i = 0; i < m->ndisks && !r; i++)
		if (machine_scsi_has(m, i) && (lacks >> m->disks[i].target & 1))
			ret_lacks[i] = true;
	return r;
}

void machine_scsi_loaded(struct machine *m)
{
	for (unsigned i = 0; i < m->ndisks; i++) {
		int target = machine_scsi_has(m, i) ? virtio_scsi_find(m->scsi, m->disks[i].id) : -ENOENT;

		if (target >= 0)
			m->disks[i].target = (unsigned)target;
	}
}
