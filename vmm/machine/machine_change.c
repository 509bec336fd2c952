/* Changes of a running machine that a client asks for: of its interfaces and of its disks' limits. */
#include "base/err.h"
#include "base/util.h"
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

static struct disk_rate rate_of(const struct vm_disk_rate *l)
{
	return (struct disk_rate){ .rate = l->rate, .max = l->max, .max_s = (uint32_t)MIN(l->max_s, (uint64_t)UINT32_MAX) };
}

struct virtio_blk_limits machine_disk_limits(const struct vm_config *c, unsigned i)
{
	struct virtio_blk_limits l = { .iops_bytes = c->disk_tune[i].iops_bytes };

	for (unsigned n = 0; n < VM_DISK_RATES; n++) {
		l.iops[n] = rate_of(&c->disk_tune[i].iops[n]);
		l.bps[n] = rate_of(&c->disk_tune[i].bps[n]);
	}
	l.iops[DISK_LIMIT_ALL].rate = c->disk_limits[i].iops;
	l.bps[DISK_LIMIT_ALL].rate = c->disk_limits[i].bps;
	return l;
}

int machine_set_disk(struct machine *m, const struct vm_disk_set *want, struct err *e)
{
	struct virtio_blk_limits l;

	for (unsigned n = 0; n < m->ndisks; n++) {
		if (strcmp(m->disks[n].id, want->id) || !m->disks[n].dev)
			continue;
		m->cfg.disk_limits[n] = want->limits;
		m->cfg.disk_tune[n] = want->tune;
		l = machine_disk_limits(&m->cfg, n);
		if (m->disks[n].scsi)
			virtio_scsi_set_limits(m->disks[n].dev, m->disks[n].target, &l);
		else
			virtio_blk_set_limits(m->disks[n].dev, &l);
		return 0;
	}
	return err_set(e, -ENOENT, ERR_NOT_FOUND, "the running VM has no disk '%s'", want->id);
}
