/* irq_cost: measures the sender's cost of an MSI by KVM_SIGNAL_MSI and by an irqfd. Prints two
 * numbers in ns. For tests/bench/bench_irq.py. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 200000
#define LAPIC_BASE 0xfee00000u
#define VECTOR 0x31u
#define GSI 30

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* Create a route for one MSI and an irqfd on it. Returns -1 when KVM refuses. */
static int irqfd_make(int vm)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry e[1];
	} r = { .head.nr = 1, .e = { { .gsi = GSI, .type = KVM_IRQ_ROUTING_MSI,
					     .u.msi = { .address_lo = LAPIC_BASE, .data = VECTOR } } } };
	struct kvm_irqfd f = { .fd = (uint32_t)eventfd(0, 0), .gsi = GSI };

	if (ioctl(vm, KVM_SET_GSI_ROUTING, &r) < 0 || ioctl(vm, KVM_IRQFD, &f) < 0)
		return -1;
	return (int)f.fd;
}

int main(void)
{
	struct kvm_msi msi = { .address_lo = LAPIC_BASE, .data = VECTOR };
	uint64_t one = 1;
	int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0), fd;
	double t0, t1, t2;

	if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0) < 0 || ioctl(vm, KVM_CREATE_VCPU, 0) < 0 ||
		(fd = irqfd_make(vm)) < 0) {
		perror("KVM");
		return 1;
	}
	t0 = now_ns();
	for (int i = 0; i < ROUNDS; i++)
		ioctl(vm, KVM_SIGNAL_MSI, &msi);
	t1 = now_ns();
	for (int i = 0; i < ROUNDS; i++)
		if (write(fd, &one, sizeof(one)) != sizeof(one))
			return 1;
	t2 = now_ns();
	printf("%.1f %.1f\n", (t1 - t0) / ROUNDS, (t2 - t1) / ROUNDS);
	return 0;
}
