/* msi_links: a real KVM sends the messages of eventfds. Skipped with a message without /dev/kvm. */
#include "base/bytes.h"
#include "base/kvm_host.h"
#include "base/log.h"
#include "base/util.h"
#include "vmm/machine/msi_links.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define LAPIC_ADDR 0xfee00000u
#define LAPIC_SVR 0xf0
#define LAPIC_SVR_ENABLED 0x1ff
#define LAPIC_IRR 0x200
enum { LINES = 24, LOOKS = 5000 };

struct msi_test {
	int sys, vm, vcpu;
	struct msi_links links;
};

static void begin(struct msi_test *t)
{
	struct kvm_lapic_state lapic;

	t->sys = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (t->sys < 0) {
		print_message("skipped: no /dev/kvm\n");
		skip();
	}
	t->vm = kvm_ioctl(t->sys, KVM_CREATE_VM, 0);
	assert_true(t->vm >= 0);
	assert_int_equal(kvm_ioctl(t->vm, KVM_CREATE_IRQCHIP, 0), 0);
	t->vcpu = kvm_ioctl(t->vm, KVM_CREATE_VCPU, 0);
	assert_true(t->vcpu >= 0);
	assert_int_equal(kvm_ioctl(t->vcpu, KVM_GET_LAPIC, &lapic), 0);
	store_le32(lapic.regs + LAPIC_SVR, LAPIC_SVR_ENABLED);
	assert_int_equal(kvm_ioctl(t->vcpu, KVM_SET_LAPIC, &lapic), 0);
	msi_links_init(&t->links);
	log_set_level(LOG_LEVEL_ERROR);
}

static void end(struct msi_test *t)
{
	close(t->vcpu);
	close(t->vm);
	close(t->sys);
}

/* Return whether the processor has got the vector. */
static bool has(struct msi_test *t, unsigned vector)
{
	struct kvm_lapic_state lapic;

	assert_int_equal(kvm_ioctl(t->vcpu, KVM_GET_LAPIC, &lapic), 0);
	return load_le32(lapic.regs + LAPIC_IRR + vector / 32 * 16) >> vector % 32 & 1;
}

/* KVM may send from a thread of its own. */
static bool gets(struct msi_test *t, unsigned vector)
{
	for (int i = 0; i < LOOKS && !has(t, vector); i++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	return has(t, vector);
}

static void signal_send(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static int event_new(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void signals_become_messages(void **state)
{
	struct msi_test t;
	uint64_t n;
	int fd, link;

	(void)state;
	begin(&t);
	fd = event_new();
	signal_send(fd); /* before the link */
	link = msi_link(&t.links, t.vm, fd, LAPIC_ADDR, 0x50);
	assert_true(link >= 0);
	assert_true(gets(&t, 0x50));
	msi_unlink(&t.links, t.vm, fd, link);
	/* Another message. The interrupt is at the processor when the unlink returns. */
	link = msi_link(&t.links, t.vm, fd, LAPIC_ADDR, 0x61);
	signal_send(fd);
	msi_unlink(&t.links, t.vm, fd, link);
	assert_true(has(&t, 0x61));
	/* From then on, the eventfd is the owner's. */
	while (read(fd, &n, sizeof(n)) > 0)
		;
	signal_send(fd);
	assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
	assert_int_equal(n, 1);
	close(fd);
	end(&t);
}

static void each_link_has_its_message(void **state)
{
	int fds[MSI_LINKS_MAX], links[MSI_LINKS_MAX], more;
	struct msi_test t;

	(void)state;
	begin(&t);
	for (int i = 0; i < MSI_LINKS_MAX; i++) {
		fds[i] = event_new();
		links[i] = msi_link(&t.links, t.vm, fds[i], LAPIC_ADDR, 0x40 + (uint32_t)i);
		assert_true(links[i] >= 0);
	}
	more = event_new();
	assert_int_equal(msi_link(&t.links, t.vm, more, LAPIC_ADDR, 0x30), -ENOSPC);
	for (int i = MSI_LINKS_MAX; i-- > 0;) {
		assert_false(has(&t, 0x40 + (unsigned)i));
		signal_send(fds[i]);
		assert_true(gets(&t, 0x40 + (unsigned)i));
	}
	msi_unlink(&t.links, t.vm, fds[7], links[7]);
	assert_int_equal(msi_link(&t.links, t.vm, fds[8], LAPIC_ADDR, 0x30), -EBUSY); /* it has a link; the place stays free */
	assert_true(msi_link(&t.links, t.vm, more, LAPIC_ADDR, 0x31) >= 0);
	signal_send(more);
	assert_true(gets(&t, 0x31));
	close(more);
	for (int i = 0; i < MSI_LINKS_MAX; i++)
		close(fds[i]);
	end(&t);
}

/* Raise a line, and note in which of the controllers it is. */
static uint64_t line_is_at(struct msi_test *t, unsigned line)
{
	struct kvm_irq_level on = { .irq = line, .level = 1 }, off = { .irq = line };
	struct kvm_irqchip chips[3] = { { .chip_id = 0 }, { .chip_id = 1 }, { .chip_id = 2 } };

	assert_int_equal(kvm_ioctl(t->vm, KVM_IRQ_LINE, &on), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(chips); i++)
		assert_int_equal(kvm_ioctl(t->vm, KVM_GET_IRQCHIP, &chips[i]), 0);
	assert_int_equal(kvm_ioctl(t->vm, KVM_IRQ_LINE, &off), 0);
	return (uint64_t)chips[2].chip.ioapic.irr << 16 | (uint64_t)chips[1].chip.pic.irr << 8 | chips[0].chip.pic.irr;
}

static void lines_stay_as_kvm_made_them(void **state)
{
	uint64_t before[LINES];
	struct msi_test plain, t;
	int fd;

	(void)state;
	begin(&plain);
	begin(&t);
	for (unsigned i = 0; i < LINES; i++)
		before[i] = line_is_at(&plain, i);
	assert_true(before[5] && before[12] && before[20] && before[5] != before[12]);
	fd = event_new();
	assert_true(msi_link(&t.links, t.vm, fd, LAPIC_ADDR, 0x50) >= 0);
	for (unsigned i = 0; i < LINES; i++)
		assert_int_equal(line_is_at(&t, i), before[i]);
	close(fd);
	end(&t);
	end(&plain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signals_become_messages),
		cmocka_unit_test(each_link_has_its_message),
		cmocka_unit_test(lines_stay_as_kvm_made_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
