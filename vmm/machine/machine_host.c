#include "vmm/machine/machine_host.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/legacy/pvpanic.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/ram_load.h"

#include <linux/kvm.h>

static struct machine *machine_of(struct dev_host *h)
{
	return container_of(h, struct machine, host);
}

static void host_irq_set(struct dev_host *h, unsigned gsi, bool level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	kvm_ioctl(machine_of(h)->kvm.vm_fd, KVM_IRQ_LINE, &irq);
}

/* For a thread of ours, KVM_SIGNAL_MSI is one system call, like a write to an irqfd, but needs no route for each
 * vector. Both take 0.24 to 0.30 us (tests/bench/bench_irq.py). */
static void host_msi_send(struct dev_host *h, uint64_t addr, uint32_t data)
{
	struct kvm_msi msi = { .address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32),
		.data = data };

	kvm_ioctl(machine_of(h)->kvm.vm_fd, KVM_SIGNAL_MSI, &msi);
}

static int host_msi_link(struct dev_host *h, int eventfd, uint64_t addr, uint32_t data)
{
	struct machine *m = machine_of(h);

	return msi_link(&m->msi_links, m->kvm.vm_fd, eventfd, addr, data);
}

static void host_msi_unlink(struct dev_host *h, int eventfd, int link)
{
	struct machine *m = machine_of(h);

	msi_unlink(&m->msi_links, m->kvm.vm_fd, eventfd, link);
}

static int doorbell_set(struct dev_host *h, uint64_t gpa, unsigned size, int fd, uint32_t flags)
{
	struct kvm_ioeventfd io = { .addr = gpa, .len = size, .fd = fd, .flags = flags };

	return kvm_ioctl(machine_of(h)->kvm.vm_fd, KVM_IOEVENTFD, &io);
}

static int host_doorbell_add(struct dev_host *h, uint64_t gpa, unsigned size, int fd)
{
	return doorbell_set(h, gpa, size, fd, 0);
}

static void host_doorbell_del(struct dev_host *h, uint64_t gpa, unsigned size, int fd)
{
	doorbell_set(h, gpa, size, fd, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

/* Return whether the vCPUs have to stop as soon as the event occurs, not only when the main thread
 * handles it. */
static bool event_stops(const struct dev_event *ev)
{
	switch (ev->kind) {
	case DEV_EVENT_POWEROFF:
	case DEV_EVENT_RESET:
	case DEV_EVENT_DEBUG_EXIT:
		return true;
	case DEV_EVENT_PANICKED:
		return ev->value & PVPANIC_PANICKED;
	case DEV_EVENT_IO_ERROR:
		return ev->stop;
	default:
		return false;
	}
}

static void host_event(struct dev_host *h, const struct dev_event *ev)
{
	struct machine *m = machine_of(h);

	if (event_stops(ev))
		vcpus_request_stop(&m->vcpus);
	m->listener.event(m->listener.opaque, ev);
}

static void host_ram_fetch(struct dev_host *h, const struct iovec *iov, unsigned niov, bool write)
{
	ram_load_iov(machine_of(h), iov, niov, write);
}

static bool host_ram_make_room(struct dev_host *h, const struct iovec *iov, unsigned niov, int wake_fd)
{
	return ram_make_room(machine_of(h), iov, niov, wake_fd);
}

/* dirty_log_mark() does nothing while the dirty log is off. */
static void host_ram_dirty(struct dev_host *h, uint64_t gpa, uint64_t len)
{
	struct machine *m = machine_of(h);

	dirty_log_mark(&m->dirty_log, gpa < MEM_HIGH_BASE ? gpa : gpa - MEM_HIGH_BASE + m->mem.low_bytes, len);
}

static bool host_ram_give_back(struct dev_host *h, uint64_t gpa, uint64_t len, int wake_fd)
{
	struct machine *m = machine_of(h);

	return ram_give_back(m, gpa < MEM_HIGH_BASE ? gpa : gpa - MEM_HIGH_BASE + m->mem.low_bytes, len, wake_fd);
}

static int host_show(struct dev_host *h, uint64_t gpa, uint64_t bytes, void *memory)
{
	return memory_show(&machine_of(h)->kvm, gpa, bytes, memory);
}

const struct dev_host_ops machine_host_ops = {
	.irq_set = host_irq_set,
	.msi_send = host_msi_send,
	.msi_link = host_msi_link,
	.msi_unlink = host_msi_unlink,
	.doorbell_add = host_doorbell_add,
	.doorbell_del = host_doorbell_del,
	.event = host_event,
	.ram_dirty = host_ram_dirty,
	.ram_fetch = host_ram_fetch,
	.ram_make_room = host_ram_make_room,
	.ram_give_back = host_ram_give_back,
	.show = host_show,
};
