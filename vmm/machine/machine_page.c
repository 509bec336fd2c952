#include "vmm/machine/machine_page.h"
#include "base/err.h"
#include "devices/virtio/virtio_balloon.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_scsi.h"
#include "vmm/machine/machine.h"
#include "vmm/vm_page.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void disk_write(struct machine *m, unsigned i, const struct vm_info *info)
{
	struct vm_page_disk *to = vm_page_disk(m->page, i);
	const struct machine_disk *d = &m->disks[i];

	memcpy(to->id, info->disks[i].id, sizeof(to->id));
	to->size_bytes = info->disks[i].size_bytes;
	to->fault = info->disk_faults[i];
	to->tray = info->trays[i];
	to->direct = info->disk_direct[i];
	if (d->dev && d->scsi)
		virtio_scsi_show(d->dev, d->target, to->n);
	else if (d->dev)
		virtio_blk_show(d->dev, to->n);
}

static void interface_write(struct machine *m, unsigned i, const struct vm_info *info)
{
	struct vm_page_interface *to = vm_page_interface(m->page, i);
	const struct vm_interface_info *from = &info->interfaces[i];

	memcpy(to->id, from->id, sizeof(to->id));
	memcpy(to->target, from->target, sizeof(to->target));
	memcpy(to->mac, from->mac, sizeof(to->mac));
	to->link_up = from->link_up;
	to->link_down = info->link_down[i];
	to->vhost = from->vhost;
	to->limits = info->limits[i];
	nic_show(&m->nics[i], to->n);
}

static void machine_write(struct machine *m, const struct vm_info *info)
{
	struct vm_page *to = m->page;

	to->version = VM_PAGE_VERSION;
	to->vcpus = m->vcpus.cfg.count;
	to->ndisks = info->ndisks;
	to->ninterfaces = info->ninterfaces;
	to->host_kind = info->host_kind;
	to->assist_on = info->assist_on;
	to->machine = info->machine;
	to->vcpus_change = m->cpu_hotplug != NULL;
	if (to->vcpus_change)
		to->vcpus_absent = info->vcpus_absent;
	to->balloon_state = info->balloon.state;
	to->dirty_rate_status = info->dirty_rate.status;
	if (to->dirty_rate_status)
		to->dirty_rate = info->dirty_rate;
	to->exits_io = m->carried.exits_io;
	to->exits_mmio = m->carried.exits_mmio;
	to->exits_other = m->carried.exits_other;
	to->assist_syscalls = m->carried.assist_syscalls;
	to->assist_instructions = m->carried.assist_instructions;
	memcpy(to->vcpu_ns, m->carried.vcpu_ns, to->vcpus * sizeof(to->vcpu_ns[0]));
	for (unsigned i = 0; i < to->vcpus; i++)
		vcpu_show(&m->vcpus, i, to->vcpu_n[i]);
	assist_show(&m->assist, to->assist);
	if (m->balloon_dev)
		virtio_balloon_show(m->balloon_dev, to->balloon);
	for (unsigned i = 0; i < info->ndisks; i++)
		disk_write(m, i, info);
	for (unsigned i = 0; i < info->ninterfaces; i++)
		interface_write(m, i, info);
}

void machine_page_update(struct machine *m)
{
	struct vm_info info = { 0 };
	uint64_t seq;

	if (!m->page)
		return;
	machine_info(m, &info);
	seq = atomic_load(&m->page->seq) | 1;
	atomic_store(&m->page->seq, seq);
	atomic_thread_fence(memory_order_release); /* readers see the odd number before anything else */
	machine_write(m, &info);
	atomic_store_explicit(&m->page->seq, seq + 1, memory_order_release);
}

int machine_page_take(struct machine *m, int fd, struct err *e)
{
	struct stat st;
	void *map;

	if (fstat(fd, &st) < 0 || st.st_size < (off_t)sizeof(struct vm_page))
		return err_set(e, -EINVAL, ERR_INVALID, "the page for the VM's figures is too small");
	map = mmap(NULL, sizeof(struct vm_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return err_set_errno(e, -errno, "cannot map the page for the VM's figures");
	/* A vCPU may be about to write to the page before, so the new one takes its place in memory. */
	if (m->page && mremap(map, sizeof(struct vm_page), sizeof(struct vm_page), MREMAP_MAYMOVE | MREMAP_FIXED, m->page) == MAP_FAILED) {
		munmap(map, sizeof(struct vm_page));
		return err_set_errno(e, -errno, "cannot map the page for the VM's figures");
	}
	if (!m->page)
		m->page = map;
	machine_page_update(m);
	return 0;
}

void machine_page_done(struct machine *m)
{
	if (m->page)
		munmap(m->page, sizeof(*m->page));
	m->page = NULL;
}
