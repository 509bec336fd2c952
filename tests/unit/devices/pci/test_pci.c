#include "fixture.h"

#include "base/util.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define BAR_BYTES 0x4000u
#define BAR64_BYTES 0x100000ULL

struct card {
	struct pci_function fn;
	uint32_t reg;
	unsigned changes;
};

static uint64_t now_ns;

uint64_t __wrap_loop_now_ns(void);

uint64_t __wrap_loop_now_ns(void)
{
	return now_ns;
}

static uint64_t card_read(void *opaque, uint64_t off, unsigned size)
{
	struct card *c = opaque;

	(void)size;
	return c->reg + off;
}

static void card_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct card *c = opaque;

	(void)off;
	(void)size;
	c->reg = (uint32_t)value;
}

static void card_changed(struct pci_function *f)
{
	container_of(f, struct card, fn)->changes++;
}

static const struct bus_ops card_bus_ops = { card_read, card_write };
static const struct pci_function_ops card_ops = { .changed = card_changed };

static void card_add(struct fixture *f, struct card *c, int slot)
{
	struct pci_ids ids = { .vendor = 0x1234, .device = 0x5678, .class_code = 0x0880aa,
		.revision = 7, .subsystem_vendor = 0x4321, .subsystem = 0x8765 };

	memset(c, 0, sizeof(*c));
	pci_function_init(&c->fn, &ids, &card_ops);
	pci_function_bar(&c->fn, 0, BAR_BYTES, false, &card_bus_ops, c);
	assert_int_equal(pci_function_msix(&c->fn, 1, 5), 0);
	pci_function_bar(&c->fn, 2, BAR64_BYTES, true, &card_bus_ops, c);
	assert_int_equal(pci_host_add(f->pci, &c->fn, slot, NULL), 0);
}

static void configuration_mechanism_1(void **state)
{
	struct fixture f;
	struct card c;

	(void)state;
	fx_init(&f);
	card_add(&f, &c, 4);
	assert_int_equal(fx_cfg_read(&f, 0, 0, 4), 0x00081b36);
	assert_int_equal(fx_cfg_read(&f, 0, 10, 2), 0x0600);
	assert_int_equal(fx_cfg_read(&f, 4, 0, 4), 0x56781234);
	assert_int_equal(fx_cfg_read(&f, 4, 8, 4), 0x0880aa07);
	assert_int_equal(fx_cfg_read(&f, 4, 0x2c, 4), 0x87654321);
	assert_int_equal(fx_cfg_read(&f, 4, 3, 1), 0x56);
	assert_int_equal(fx_cfg_read(&f, 4, 2, 2), 0x5678);
	assert_int_equal(fx_cfg_read(&f, 4, 0x3d, 1), 1);
	assert_int_equal(fx_cfg_read(&f, 5, 0, 4), 0xffffffff);
	/* Identity is read-only. */
	fx_cfg_write(&f, 4, 0, 4, 0);
	fx_cfg_write(&f, 4, 8, 4, 0);
	assert_int_equal(fx_cfg_read(&f, 4, 0, 4), 0x56781234);
	assert_int_equal(fx_cfg_read(&f, 4, 8, 4), 0x0880aa07);
	/* The address port reads back; accesses of other widths are ignored. */
	fx_out(&f, 0xcf8, 4, 0x80002003);
	assert_int_equal(fx_in(&f, 0xcf8, 4), 0x80002000);
	fx_out(&f, 0xcf8, 1, 0x55);
	assert_int_equal(fx_in(&f, 0xcf8, 4), 0x80002000);
	/* Disabled, another bus or another function: no device answers. */
	fx_out(&f, 0xcf8, 4, 0x00002000);
	assert_int_equal(fx_in(&f, 0xcfc, 4), 0xffffffff);
	fx_out(&f, 0xcf8, 4, 0x80012000);
	assert_int_equal(fx_in(&f, 0xcfc, 4), 0xffffffff);
	fx_out(&f, 0xcf8, 4, 0x80002100);
	assert_int_equal(fx_in(&f, 0xcfc, 4), 0xffffffff);
	pci_host_remove(&c.fn);
	fx_done(&f);
}

static void ecam(void **state)
{
	struct fixture f;
	struct card c;

	(void)state;
	fx_init(&f);
	card_add(&f, &c, 4);
	assert_int_equal(fx_read(&f, FX_ECAM + (4 << 15), 4), 0x56781234);
	assert_int_equal(fx_read(&f, FX_ECAM + (4 << 15), 8), 0x0010000256781234);
	assert_int_equal(fx_read(&f, FX_ECAM + (4 << 15) + 0x100, 4), 0);
	assert_int_equal(fx_read(&f, FX_ECAM + (6 << 15) + 0x100, 4), 0xffffffff);
	assert_int_equal(fx_read(&f, FX_ECAM + (4 << 15) + 0x1000, 4), 0xffffffff);
	fx_write(&f, FX_ECAM + (4 << 15) + 0x3c, 1, 0x17);
	assert_int_equal(fx_cfg_read(&f, 4, 0x3c, 1), 0x17);
	pci_host_remove(&c.fn);
	fx_done(&f);
}

static void bars_have_addresses_from_the_start(void **state)
{
	struct fixture f;
	struct card c;
	uint64_t v;

	(void)state;
	fx_init(&f);
	card_add(&f, &c, -1);
	assert_int_equal(c.fn.slot, 1);
	c.reg = 100;
	v = fx_cfg_read(&f, 1, 0x10, 4);
	assert_true(v >= FX_MMIO32 && v % BAR_BYTES == 0);
	assert_int_equal(fx_read(&f, v + 8, 4), 108);
	assert_int_equal(fx_cfg_read(&f, 1, 0x18, 4) & 0xf, 4);
	v = (uint64_t)fx_cfg_read(&f, 1, 0x1c, 4) << 32 | (fx_cfg_read(&f, 1, 0x18, 4) & ~0xfu);
	assert_true(v >= FX_MMIO64);
	assert_int_equal(fx_read(&f, v + 4, 4), 104);
	pci_host_remove(&c.fn);
	fx_done(&f);
}

static void bars_are_sized_and_moved(void **state)
{
	uint64_t old, to = FX_MMIO32 + 0x800000, to64 = FX_MMIO64 + 0x40000000, v;
	struct fixture f;
	struct card c;

	(void)state;
	fx_init(&f);
	card_add(&f, &c, 1);
	c.reg = 100;
	old = fx_cfg_read(&f, 1, 0x10, 4);
	/* As in Linux: decoding off, write all ones, read, restore. */
	fx_cfg_write(&f, 1, 4, 2, 0);
	assert_false(bus_read(f.mmio, old, 4, &v));
	fx_cfg_write(&f, 1, 0x10, 4, 0xffffffff);
	assert_int_equal(fx_cfg_read(&f, 1, 0x10, 4), ~(BAR_BYTES - 1));
	fx_cfg_write(&f, 1, 0x18, 4, 0xffffffff);
	fx_cfg_write(&f, 1, 0x1c, 4, 0xffffffff);
	assert_int_equal(fx_cfg_read(&f, 1, 0x18, 4), (uint32_t)~(BAR64_BYTES - 1) | 4);
	assert_int_equal(fx_cfg_read(&f, 1, 0x1c, 4), 0xffffffff);
	fx_cfg_write(&f, 1, 0x10, 4, (uint32_t)to);
	fx_cfg_write(&f, 1, 0x18, 4, (uint32_t)to64);
	fx_cfg_write(&f, 1, 0x1c, 4, (uint32_t)(to64 >> 32));
	assert_false(bus_read(f.mmio, to, 4, &v));
	fx_cfg_write(&f, 1, 4, 2, 2);
	assert_int_equal(fx_read(&f, to, 4), 100);
	assert_int_equal(fx_read(&f, to64 + BAR64_BYTES - 4, 4), 100 + BAR64_BYTES - 4);
	assert_false(bus_read(f.mmio, old, 4, &v));
	/* With decoding on, the BAR moves at once. */
	fx_cfg_write(&f, 1, 0x10, 4, (uint32_t)old);
	assert_int_equal(fx_read(&f, old, 4), 100);
	assert_false(bus_read(f.mmio, to, 4, &v));
	assert_true(c.changes > 3);
	/* A reset restores everything. */
	fx_cfg_write(&f, 1, 4, 2, 0);
	pci_function_reset(&c.fn);
	assert_int_equal(fx_read(&f, old, 4), 100);
	pci_host_remove(&c.fn);
	assert_false(bus_read(f.mmio, old, 4, &v));
	fx_done(&f);
}

/* Two BARs that swap places overlap for a moment. */
static void bars_may_swap(void **state)
{
	uint32_t a, b;
	struct fixture f;
	struct card c[2];

	(void)state;
	fx_init(&f);
	card_add(&f, &c[0], 1);
	card_add(&f, &c[1], 2);
	c[0].reg = 1;
	c[1].reg = 2;
	a = fx_cfg_read(&f, 1, 0x10, 4);
	b = fx_cfg_read(&f, 2, 0x10, 4);
	fx_cfg_write(&f, 1, 0x10, 4, b);
	assert_int_equal(fx_read(&f, b, 4), 2); /* the first one stays mapped */
	fx_cfg_write(&f, 2, 0x10, 4, a);
	assert_int_equal(fx_read(&f, b, 4), 1);
	assert_int_equal(fx_read(&f, a, 4), 2);
	/* A BAR over ECAM, at 0 or at the end of the address space is unmapped, without harm. */
	fx_cfg_write(&f, 1, 0x10, 4, (uint32_t)FX_ECAM);
	assert_int_equal(fx_read(&f, FX_ECAM, 4), 0x00081b36);
	fx_cfg_write(&f, 1, 0x10, 4, 0);
	fx_cfg_write(&f, 1, 0x18, 4, 0xffffffff);
	fx_cfg_write(&f, 1, 0x1c, 4, 0xffffffff);
	fx_cfg_write(&f, 1, 0x10, 4, b);
	assert_int_equal(fx_read(&f, b, 4), 1);
	pci_host_remove(&c[0].fn);
	pci_host_remove(&c[1].fn);
	fx_done(&f);
}

/* A guest can move BARs through ECAM, which runs inside a handler of the same bus. */
static void bars_move_through_ecam(void **state)
{
	struct fixture f;
	struct card c;

	(void)state;
	fx_init(&f);
	card_add(&f, &c, 1);
	c.reg = 5;
	fx_write(&f, FX_ECAM + (1 << 15) + 0x10, 4, FX_MMIO32 + 0xc00000);
	assert_int_equal(fx_read(&f, FX_MMIO32 + 0xc00000, 4), 5);
	pci_host_remove(&c.fn);
	fx_done(&f);
}

static void lines_are_shared(void **state)
{
	struct fixture f;
	struct card c[2];

	(void)state;
	fx_init(&f);
	card_add(&f, &c[0], 3);
	card_add(&f, &c[1], 11);
	assert_int_equal(PCI_INTX_GSI(3), 19);
	assert_int_equal(PCI_INTX_GSI(11), 19);
	pci_function_intx(&c[0].fn, true);
	pci_function_intx(&c[1].fn, true);
	assert_true(f.level[19]);
	pci_function_intx(&c[0].fn, false);
	assert_true(f.level[19]);
	pci_function_intx(&c[1].fn, false);
	assert_false(f.level[19]);
	assert_int_equal(f.raises[19], 1);
	pci_function_intx(&c[0].fn, true);
	pci_host_remove(&c[0].fn);
	assert_false(f.level[19]);
	pci_host_remove(&c[1].fn);
	fx_done(&f);
}

static void msix_table(void **state)
{
	struct fixture f;
	struct card c;
	uint64_t bar;

	(void)state;
	fx_init(&f);
	card_add(&f, &c, 1);
	bar = fx_cfg_read(&f, 1, 0x14, 4);
	assert_int_equal(fx_cfg_read(&f, 1, c.fn.msix_cap + 2, 2), 4);
	assert_int_equal(fx_read(&f, bar + 12, 4), 1); /* masked */
	fx_write(&f, bar, 8, 0xfee01000);
	fx_write(&f, bar + 8, 8, 0x4041);
	msix_raise(&c.fn, 0);
	assert_int_equal(f.nmsi, 0); /* not enabled */
	fx_cfg_write(&f, 1, c.fn.msix_cap + 2, 2, 0xc000);
	msix_raise(&c.fn, 0);
	assert_int_equal(f.nmsi, 0); /* the function is masked */
	assert_int_equal(fx_read(&f, bar + MSIX_PBA_OFFSET, 8), 1);
	fx_cfg_write(&f, 1, c.fn.msix_cap + 2, 2, 0x8000);
	assert_int_equal(f.nmsi, 1);
	assert_int_equal(f.msi_data[0], 0x4041);
	msix_raise(&c.fn, 0);
	assert_int_equal(f.nmsi, 2);
	msix_raise(&c.fn, 5);
	msix_raise(&c.fn, MSIX_NO_VECTOR);
	assert_int_equal(f.nmsi, 2);
	/* Beyond the table, misaligned, or into the PBA: no effect. */
	fx_write(&f, bar + 16 * 5, 8, 1);
	fx_write(&f, bar + MSIX_PBA_OFFSET, 8, UINT64_MAX);
	fx_write(&f, bar + 2, 2, 0xffff);
	assert_int_equal(fx_read(&f, bar + 16 * 5, 8), 0);
	assert_int_equal(fx_read(&f, bar, 8), 0xfee01000);
	pci_host_remove(&c.fn);
	fx_done(&f);
}

#define FD 70 /* no such file: only the fixture sees it */

static void wires_are_linked_while_their_vectors_are_not_masked(void **state)
{
	struct msix_wire one = { .fd = -1 }, two = { .fd = -1 }, beyond = { .fd = -1 };
	struct fixture f;
	struct card c;
	uint64_t bar;
	unsigned control;

	(void)state;
	fx_init(&f);
	fx_link_msi(&f);
	card_add(&f, &c, 1);
	control = c.fn.msix_cap + 2;
	bar = fx_cfg_read(&f, 1, 0x14, 4);
	msix_wire(&c.fn, &one, 1, FD);
	msix_wire(&c.fn, &two, 1, FD + 1);
	msix_wire(&c.fn, &beyond, 5, FD + 2);
	fx_write(&f, bar + 16, 8, 0xfee01000);
	fx_write(&f, bar + 24, 8, 0x4041); /* and not masked */
	assert_int_equal(fx_linked(&f, FD), -1); /* MSI-X is off */
	fx_cfg_write(&f, 1, control, 2, 0x8000);
	assert_int_equal(fx_linked(&f, FD), 0x4041);
	assert_int_equal(fx_linked(&f, FD + 1), 0x4041);
	assert_int_equal(fx_linked(&f, FD + 2), -1);
	assert_int_equal(f.links[0].addr, 0xfee01000);
	/* A message that changes without a mask. */
	fx_write(&f, bar + 24, 4, 0x4042);
	assert_int_equal(fx_linked(&f, FD), 0x4042);
	fx_write(&f, bar + 16, 4, 0xfee02000);
	assert_int_equal(f.links[0].addr, 0xfee02000);
	/* The device keeps interrupts of a masked vector pending, and sends them when the guest clears the mask. */
	fx_write(&f, bar + 28, 4, 1);
	assert_int_equal(fx_linked(&f, FD), -1);
	assert_int_equal(fx_linked(&f, FD + 1), -1);
	msix_raise(&c.fn, 1);
	assert_int_equal(f.nmsi, 0);
	assert_int_equal(fx_read(&f, bar + MSIX_PBA_OFFSET, 8), 2);
	fx_write(&f, bar + 24, 4, 0x4043);
	assert_int_equal(fx_linked(&f, FD), -1);
	fx_write(&f, bar + 28, 4, 0);
	assert_int_equal(f.nmsi, 1);
	assert_int_equal(f.msi_data[0], 0x4043);
	assert_int_equal(fx_linked(&f, FD), 0x4043);
	/* The mask of all vectors, another vector's, and MSI-X off. */
	fx_cfg_write(&f, 1, control, 2, 0xc000);
	assert_int_equal(fx_linked(&f, FD), -1);
	fx_cfg_write(&f, 1, control, 2, 0x8000);
	assert_int_equal(fx_linked(&f, FD), 0x4043);
	fx_write(&f, bar + 44, 4, 0);
	fx_write(&f, bar + 44, 4, 1);
	assert_int_equal(fx_linked(&f, FD), 0x4043);
	fx_cfg_write(&f, 1, control, 2, 0);
	assert_int_equal(fx_linked(&f, FD), -1);
	fx_cfg_write(&f, 1, control, 2, 0x8000);
	/* One wire goes; a reset masks all. */
	msix_unwire(&c.fn, &two);
	msix_unwire(&c.fn, &two);
	assert_int_equal(fx_linked(&f, FD + 1), -1);
	assert_int_equal(fx_linked(&f, FD), 0x4043);
	pci_function_reset(&c.fn);
	assert_int_equal(fx_linked(&f, FD), -1);
	/* KVM refuses: the owner of the eventfd sends. */
	f.link_error = -EINVAL;
	fx_write(&f, bar + 28, 4, 0);
	fx_cfg_write(&f, 1, control, 2, 0x8000);
	assert_int_equal(fx_linked(&f, FD), -1);
	msix_raise(&c.fn, 1);
	assert_int_equal(f.nmsi, 2);
	f.link_error = 0;
	msix_unwire(&c.fn, &one);
	msix_unwire(&c.fn, &beyond);
	assert_null(c.fn.msix.wires);
	pci_host_remove(&c.fn);
	fx_done(&f);
}

static void guest_that_masks_all_the_time_is_linked_no_more(void **state)
{
	struct msix_wire w = { .fd = -1 };
	struct fixture f;
	struct card c;
	uint64_t bar;

	(void)state;
	fx_init(&f);
	fx_link_msi(&f);
	card_add(&f, &c, 1);
	bar = fx_cfg_read(&f, 1, 0x14, 4);
	fx_cfg_write(&f, 1, c.fn.msix_cap + 2, 2, 0x8000);
	msix_wire(&c.fn, &w, 0, FD);
	now_ns = 5000000000;
	for (unsigned i = 0; i < 10000; i++)
		fx_write(&f, bar + 12, 4, i % 2);
	assert_int_equal(f.nlinked, 256);
	fx_write(&f, bar + 12, 4, 0);
	assert_int_equal(fx_linked(&f, FD), -1);
	msix_raise(&c.fn, 0); /* by the owner of the eventfd */
	assert_int_equal(f.nmsi, 1);
	now_ns += 1000000000;
	fx_write(&f, bar + 12, 4, 1);
	fx_write(&f, bar + 12, 4, 0);
	assert_true(fx_linked(&f, FD) >= 0);
	msix_unwire(&c.fn, &w);
	pci_host_remove(&c.fn);
	fx_done(&f);
}

static void slots_and_windows_run_out(void **state)
{
	static struct card c[PCI_SLOTS];
	struct pci_ids ids = { .vendor = 1 };
	struct fixture f;
	struct card big;
	struct err e = { 0 };

	(void)state;
	fx_init(&f);
	for (int i = 1; i < PCI_SLOTS; i++) {
		memset(&c[i], 0, sizeof(c[i]));
		pci_function_init(&c[i].fn, &ids, &card_ops);
		assert_int_equal(pci_host_add(f.pci, &c[i].fn, -1, NULL), 0);
	}
	memset(&big, 0, sizeof(big));
	pci_function_init(&big.fn, &ids, &card_ops);
	pci_function_bar(&big.fn, 0, 32 << 20, false, &card_bus_ops, &big);
	assert_int_equal(pci_host_add(f.pci, &big.fn, -1, &e), -ENOSPC);
	assert_int_equal(pci_host_add(f.pci, &big.fn, 3, &e), -EBUSY);
	assert_int_equal(pci_host_add(f.pci, &big.fn, 32, &e), -EBUSY);
	pci_host_remove(&c[9].fn);
	assert_int_equal(pci_host_add(f.pci, &big.fn, -1, &e), -ENOSPC);
	assert_non_null(strstr(e.msg, "BAR"));
	for (int i = 1; i < PCI_SLOTS; i++)
		pci_host_remove(&c[i].fn);
	fx_done(&f);
}

static void reset_register(void **state)
{
	struct fixture f;

	(void)state;
	fx_init(&f);
	fx_out(&f, PCI_RESET_PORT, 1, 0x02);
	assert_int_equal(f.nevents, 0);
	fx_out(&f, PCI_RESET_PORT, 1, PCI_RESET_VALUE);
	assert_int_equal(f.nevents, 1);
	assert_int_equal(f.events[0].kind, DEV_EVENT_RESET);
	assert_int_equal(fx_in(&f, PCI_RESET_PORT, 1), 6);
	fx_done(&f);
}

/* Replace the fixture's bus by one that a firmware configures. */
static void firmware_begin(struct fixture *f)
{
	struct pci_host_config c = { .ecam_base = FX_ECAM, .mmio32_base = FX_MMIO32, .mmio32_bytes = 16 << 20,
		.firmware = true };

	fx_init(f);
	f->pci_dev->ops->free(f->pci_dev);
	assert_int_equal(pci_host_new(&f->host, f->pio, f->mmio, &c, &f->pci, &f->pci_dev, NULL), 0);
}

static void firmware_finds_a_bridge_that_it_knows(void **state)
{
	struct fixture f;

	(void)state;
	firmware_begin(&f);
	assert_int_equal(fx_cfg_read(&f, 0, 0, 4), 0x12378086);
	assert_int_equal(fx_cfg_read(&f, 0, 10, 2), 0x0600);
	assert_int_equal(fx_cfg_read(&f, 0, 0x2c, 4), 0x11001af4);
	/* RAM is behind all segments, so the firmware copies nothing. */
	assert_int_equal(fx_cfg_read(&f, 0, 0x59, 1), 0x30);
	fx_cfg_write(&f, 0, 0x58, 4, 0x11111000);
	assert_int_equal(fx_cfg_read(&f, 0, 0x58, 4), 0x11111000);
	fx_cfg_write(&f, 0, 0x5c, 4, UINT32_MAX);
	assert_int_equal(fx_cfg_read(&f, 0, 0x5c, 4), 0x33333333);
	fx_state_test(&f, f.pci_dev, 100);
	f.pci_dev->ops->reset(f.pci_dev);
	assert_int_equal(fx_cfg_read(&f, 0, 0x58, 4), 0x33333000);
	fx_done(&f);
}

static void firmware_places_the_bars(void **state)
{
	struct fixture f;
	struct card c;

	(void)state;
	firmware_begin(&f);
	card_add(&f, &c, 3);
	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(fx_cfg_read(&f, 3, 4, 2), 0); /* the function decodes nothing */
		assert_int_equal(fx_cfg_read(&f, 3, 0x10, 4), 0);
		fx_cfg_write(&f, 3, 0x10, 4, UINT32_MAX);
		assert_int_equal(fx_cfg_read(&f, 3, 0x10, 4), ~(BAR_BYTES - 1));
		fx_cfg_write(&f, 3, 0x10, 4, 0xfebf8000);
		assert_int_equal(fx_read(&f, 0xfebf8000, 4), UINT64_MAX);
		fx_cfg_write(&f, 3, 4, 2, 2);
		c.reg = 7;
		assert_int_equal(fx_read(&f, 0xfebf8000, 4), 7);
		pci_function_reset(&c.fn);
		assert_int_equal(fx_read(&f, 0xfebf8000, 4), UINT64_MAX);
	}
	pci_host_remove(&c.fn);
	fx_done(&f);
}

#define PCIEXBAR 0x60
#define Q35_ID 0x29c08086

static bool bridge_is_at(struct fixture *f, uint64_t ecam)
{
	return fx_read(f, ecam, 4) == Q35_ID;
}

/* OVMF of 2022 places ECAM at 0xb0000000, later ones at 0xe0000000. */
static void uefi_places_ecam(void **state)
{
	struct pci_host_config c = { .mmio32_base = FX_MMIO32, .mmio32_bytes = 16 << 20, .firmware = true, .q35 = true };
	static const uint32_t places[] = { 0xb0000000, 0xe0000000 };
	struct fixture f;

	(void)state;
	fx_init(&f);
	f.pci_dev->ops->free(f.pci_dev);
	assert_int_equal(pci_host_new(&f.host, f.pio, f.mmio, &c, &f.pci, &f.pci_dev, NULL), 0);
	assert_int_equal(fx_cfg_read(&f, 0, 0, 4), Q35_ID);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		fx_cfg_write(&f, 0, PCIEXBAR, 4, 0);
		fx_cfg_write(&f, 0, PCIEXBAR + 4, 4, 0);
		assert_false(bridge_is_at(&f, places[0]));
		fx_cfg_write(&f, 0, PCIEXBAR, 4, places[i] | 1);
		assert_true(bridge_is_at(&f, places[i]));
		assert_false(bridge_is_at(&f, places[1 - i]));
	}
	fx_state_test(&f, f.pci_dev, 100);
	assert_true(bridge_is_at(&f, places[1]));
	/* Moved by an access to itself, above 4 GiB. */
	fx_write(&f, places[1] + PCIEXBAR + 4, 4, 0xf);
	assert_false(bridge_is_at(&f, places[1]));
	assert_true(bridge_is_at(&f, 0xfe0000000));
	f.pci_dev->ops->reset(f.pci_dev);
	assert_false(bridge_is_at(&f, 0xfe0000000));
	fx_done(&f);
}

static void state_survives(void **state)
{
	struct fixture f;

	(void)state;
	fx_init(&f);
	fx_out(&f, 0xcf8, 4, 0x80001234);
	fx_cfg_write(&f, 0, 4, 2, 0x6);
	fx_state_test(&f, f.pci_dev, 1000);
	assert_int_equal(fx_cfg_read(&f, 0, 4, 2), 0x6);
	fx_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(configuration_mechanism_1),
		cmocka_unit_test(ecam),
		cmocka_unit_test(bars_have_addresses_from_the_start),
		cmocka_unit_test(bars_are_sized_and_moved),
		cmocka_unit_test(bars_may_swap),
		cmocka_unit_test(bars_move_through_ecam),
		cmocka_unit_test(lines_are_shared),
		cmocka_unit_test(msix_table),
		cmocka_unit_test(wires_are_linked_while_their_vectors_are_not_masked),
		cmocka_unit_test(guest_that_masks_all_the_time_is_linked_no_more),
		cmocka_unit_test(slots_and_windows_run_out),
		cmocka_unit_test(reset_register),
		cmocka_unit_test(firmware_finds_a_bridge_that_it_knows),
		cmocka_unit_test(firmware_places_the_bars),
		cmocka_unit_test(uefi_places_ecam),
		cmocka_unit_test(state_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
