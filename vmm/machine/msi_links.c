#include "vmm/machine/msi_links.h"
#include "base/cleanup.h"
#include "base/kvm_host.h"
#include "base/log.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

/* Lines of the IOAPIC. The first ones are also those of the two PICs. */
enum { IOAPIC_PINS = 24, PIC_LINES = 16, PIC_PINS = 8 };

struct route_list {
	struct kvm_irq_routing head;
	struct kvm_irq_routing_entry entries[IOAPIC_PINS + PIC_LINES + MSI_LINKS_MAX];
};

void msi_links_init(struct msi_links *l)
{
	memset(l, 0, sizeof(*l));
	pthread_mutex_init(&l->lock, NULL);
}

static void pin_add(struct route_list *list, uint32_t gsi, uint32_t chip, uint32_t pin)
{
	list->entries[list->head.nr++] = (struct kvm_irq_routing_entry){ .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin } };
}

/* The routes that KVM_CREATE_IRQCHIP makes. */
static void pins_add(struct route_list *list)
{
	for (uint32_t i = 0; i < IOAPIC_PINS; i++)
		pin_add(list, i, KVM_IRQCHIP_IOAPIC, i);
	for (uint32_t i = 0; i < PIC_LINES; i++)
		pin_add(list, i, i < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, i % PIC_PINS);
}

static uint32_t gsi_of(unsigned link)
{
	return IOAPIC_PINS + link;
}

/* l->lock is held. Returns 0 or -errno. */
static int routes_set(const struct msi_links *l, int vm_fd)
{
	struct route_list list;

	memset(&list, 0, sizeof(list));
	pins_add(&list);
	for (unsigned i = 0; i < MSI_LINKS_MAX; i++)
		if (l->links[i].used)
			list.entries[list.head.nr++] = (struct kvm_irq_routing_entry){ .gsi = gsi_of(i), .type = KVM_IRQ_ROUTING_MSI,
				.u.msi = { .address_lo = (uint32_t)l->links[i].addr,
					.address_hi = (uint32_t)(l->links[i].addr >> 32), .data = l->links[i].data } };
	return kvm_ioctl(vm_fd, KVM_SET_GSI_ROUTING, &list);
}

static int irqfd_set(int vm_fd, int eventfd, unsigned link, uint32_t flags)
{
	struct kvm_irqfd f = { .fd = (uint32_t)eventfd, .gsi = gsi_of(link), .flags = flags };

	return kvm_ioctl(vm_fd, KVM_IRQFD, &f);
}

int msi_link(struct msi_links *l, int vm_fd, int eventfd, uint64_t addr, uint32_t data)
{
	unsigned i = 0;
	int r;

	LOCK_GUARD(&l->lock);
	while (i < MSI_LINKS_MAX && l->links[i].used)
		i++;
	if (i == MSI_LINKS_MAX)
		return -ENOSPC;
	l->links[i].used = true;
	l->links[i].addr = addr;
	l->links[i].data = data;
	r = routes_set(l, vm_fd);
	if (!r)
		r = irqfd_set(vm_fd, eventfd, i, 0);
	if (!r)
		return (int)i;
	l->links[i].used = false; /* if KVM refuses the message, the list without it stays good */
	log_debug(NULL, "KVM does not link an eventfd to an interrupt: %s", strerror(-r));
	return r;
}

/* KVM waits for the messages of earlier signals. The route, which nothing uses any more, stays until the next link. */
void msi_unlink(struct msi_links *l, int vm_fd, int eventfd, int link)
{
	int r;

	LOCK_GUARD(&l->lock);
	r = irqfd_set(vm_fd, eventfd, (unsigned)link, KVM_IRQFD_FLAG_DEASSIGN);
	if (r < 0)
		log_error(NULL, "KVM does not unlink an eventfd from its interrupt: %s", strerror(-r));
	l->links[link].used = false;
}
