/* Changes of a running machine that a client asks for: of its interfaces and of its disks' limits. */
#include "base/err.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_scsi.h"
#include "vmm/machine/machine.h"

#include <errno.h>
#include <string.h>

void machine_hold_vhost(struct machine *m, bool hold)
{
	for (unsigned n = 0; n < m->nnics; n++)
		if (m->nics[n].vhost)
			nic_hold_vhost(&m->nics[n], hold || dirty_log_is_on(&m->dirty_log));
}

static int nic_change(struct machine *m, unsigned n, const struct vm_interface_set *want, struct err *e)
{
	struct vm_interface_limits *limits = &m->cfg.limits[n];
	int r = want->set_link ? nic_set_link(&m->nics[n], !want->link_down, e) : 0;

	if (r < 0)
		return r;
	if (want->set_link)
		m->cfg.link_down[n] = want->link_down;
	if (want->set_in)
		limits->in = want->limits.in;
	if (want->set_out)
		limits->out = want->limits.out;
	if (want->set_in || want->set_out)
		nic_set_limits(&m->nics[n], limits);
	return 0;
}

int machine_set_interface(struct machine *m, const struct vm_interface_set *want, struct err *e)
{
	for (unsigned n = 0; n < m->nnics; n++)
		if (!strcmp(m->cfg.interfaces[n].id, want->id))
			return nic_change(m, n, want, e);
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no interface '%s'", want->id);
}

int machine_set_disk(struct machine *m, const struct vm_disk_set *want, struct err *e)
{
	struct virtio_blk_limits l = { want->limits.iops, want->limits.bps };

	for (unsigned n = 0; n < m->ndisks; n++) {
		if (strcmp(m->disks[n].id, want->id) || !m->disks[n].dev)
			continue;
		m->cfg.disk_limits[n] = want->limits;
		if (m->disks[n].scsi)
			virtio_scsi_set_limits(m->disks[n].dev, m->disks[n].target, &l);
		else
			virtio_blk_set_limits(m->disks[n].dev, &l);
		return 0;
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no disk '%s'", want->id);
}
