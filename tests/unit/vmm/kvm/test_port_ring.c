/* port_ring: what a ring holds reaches the bus, and entries that KVM does not write reach nothing. */
#include "devices/bus.h"
#include "vmm/kvm/port_ring.h"

#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define PORT 0x402
#define ENTRIES 170u /* in a page of 4096 bytes */

struct fx {
	_Alignas(8) uint8_t page[4096];
	struct kvm_coalesced_mmio_ring *ring;
	struct port_ring p;
	char said[2 * ENTRIES];
	size_t n;
};

static void dev_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct fx *f = opaque;

	(void)off;
	assert_int_equal(size, 1);
	assert_true(f->n < sizeof(f->said));
	f->said[f->n++] = (char)value;
}

static void fx_begin(struct fx *f)
{
	static const struct bus_ops ops = { .write = dev_write };

	memset(f, 0, sizeof(*f));
	f->ring = (void *)f->page;
	f->p.ring = f->ring;
	f->p.port = PORT;
	f->p.bus = bus_new();
	pthread_mutex_init(&f->p.lock, NULL);
	assert_int_equal(bus_add(f->p.bus, PORT - 1, 4, &ops, f), 0);
}

static void fx_end(struct fx *f)
{
	bus_free(f->p.bus);
	pthread_mutex_destroy(&f->p.lock);
}

static void put(struct fx *f, char c)
{
	f->ring->coalesced_mmio[f->ring->last] = (struct kvm_coalesced_mmio){ .phys_addr = PORT, .len = 1, .pio = 1,
		.data = { (uint8_t)c } };
	f->ring->last = (f->ring->last + 1) % ENTRIES;
}

static void test_bytes_come_in_order_around_the_end(void **state)
{
	struct fx f;

	(void)state;
	fx_begin(&f);
	f.ring->first = f.ring->last = ENTRIES - 2;
	for (const char *c = "boot"; *c; c++)
		put(&f, *c);
	port_ring_drain(&f.p);
	port_ring_drain(&f.p);
	assert_string_equal(f.said, "boot");
	assert_int_equal(f.ring->first, 2);
	fx_end(&f);
}

static void test_wrong_entries_are_ignored(void **state)
{
	struct fx f;

	(void)state;
	fx_begin(&f);
	for (unsigned i = 0; i < 5; i++)
		put(&f, (char)('a' + (int)i));
	f.ring->coalesced_mmio[0].phys_addr = PORT + 1;
	f.ring->coalesced_mmio[1].len = 2;
	f.ring->coalesced_mmio[2].pio = 0;
	f.ring->coalesced_mmio[3].len = 0xffffffff;
	port_ring_drain(&f.p);
	assert_string_equal(f.said, "e");
	f.ring->last = ENTRIES;
	port_ring_drain(&f.p);
	f.ring->last = 0xffffffff;
	port_ring_drain(&f.p);
	f.ring->last = 0;
	f.ring->first = ENTRIES;
	port_ring_drain(&f.p);
	assert_string_equal(f.said, "e");
	assert_int_equal(f.ring->first, 0);
	fx_end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes_come_in_order_around_the_end),
		cmocka_unit_test(test_wrong_entries_are_ignored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
