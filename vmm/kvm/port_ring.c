#include "vmm/kvm/port_ring.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "devices/bus.h"
#include "vmm/kvm/kvm.h"

#include <linux/kvm.h>

#define PAGE_BYTES 4096u
#define RING_ENTRIES ((PAGE_BYTES - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))
#define DRAIN_NS 200000000ULL
#define QUIET_MAX 50 /* runs of the timer: 10 s */

static int zone_ioctl(const struct port_ring *p, unsigned long request)
{
	struct kvm_coalesced_mmio_zone zone = { .addr = p->port, .size = 1, .pio = 1 };

	return kvm_ioctl(p->kvm->vm_fd, request, &zone);
}

static void timer_fire(void *opaque)
{
	struct port_ring *p = opaque;

	port_ring_drain(p);
	p->quiet = atomic_exchange(&p->came, false) ? 0 : p->quiet + 1;
	if (p->quiet < QUIET_MAX) {
		loop_timer_arm(p->timer, loop_now_ns() + DRAIN_NS);
		return;
	}
	p->collects = false;
	zone_ioctl(p, KVM_UNREGISTER_COALESCED_MMIO);
	port_ring_drain(p); /* of the data that came since */
}

void port_ring_init(struct port_ring *p, const struct kvm *k, struct loop *l, uint16_t port)
{
	int page = kvm_ioctl(k->sys_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_COALESCED_MMIO);

	if (page <= 0 || ((size_t)page + 1) * PAGE_BYTES > k->run_bytes ||
		kvm_ioctl(k->sys_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_COALESCED_PIO) <= 0 ||
		loop_timer_new(l, timer_fire, p, &p->timer) < 0)
		return;
	p->kvm = k;
	p->port = port;
	p->page = (unsigned)page;
	pthread_mutex_init(&p->lock, NULL);
}

void port_ring_attach(struct port_ring *p, struct bus *bus, struct kvm_run *run)
{
	p->bus = bus;
	if (p->timer)
		p->ring = (void *)((uint8_t *)run + (size_t)p->page * PAGE_BYTES);
}

void port_ring_collect(struct port_ring *p)
{
	if (p->timer && !p->collects)
		p->collects = !zone_ioctl(p, KVM_REGISTER_COALESCED_MMIO);
}

void port_ring_resume(struct port_ring *p)
{
	if (!p->collects)
		return;
	p->quiet = 0;
	loop_timer_arm(p->timer, loop_now_ns() + DRAIN_NS);
}

void port_ring_pause(struct port_ring *p)
{
	if (p->timer)
		loop_timer_disarm(p->timer);
}

void port_ring_drain(struct port_ring *p)
{
	struct kvm_coalesced_mmio_ring *r = p->ring;
	uint32_t at, end;

	if (!r || __atomic_load_n(&r->first, __ATOMIC_ACQUIRE) == __atomic_load_n(&r->last, __ATOMIC_ACQUIRE))
		return;
	LOCK_GUARD(&p->lock);
	/* Read `last` once: do not wait for entries that vCPUs write from now on. Move `first` when the bytes are
	 * written, so that nobody finds the ring empty before. */
	end = __atomic_load_n(&r->last, __ATOMIC_ACQUIRE);
	end = end < RING_ENTRIES ? end : 0;
	for (at = r->first % RING_ENTRIES; at != end; at = (at + 1) % RING_ENTRIES) {
		const struct kvm_coalesced_mmio *b = &r->coalesced_mmio[at];

		if (b->pio == 1 && b->phys_addr == p->port && b->len == 1)
			bus_write(p->bus, p->port, 1, b->data[0]);
	}
	__atomic_store_n(&r->first, at, __ATOMIC_RELEASE);
	atomic_store(&p->came, true);
}

void port_ring_done(struct port_ring *p)
{
	if (!p->timer)
		return;
	loop_timer_free(p->timer);
	pthread_mutex_destroy(&p->lock);
	*p = (struct port_ring){ 0 };
}
