/* The registers of hot-plug, and slots of a bus on which functions come, go and move. */
#include "fixture.h"

#include "devices/acpi_pm.h"
#include "devices/pci/pci.h"
#include "devices/pci/pci_hotplug.h"
#include "devices/virtio/virtio_rng.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct told {
	uint32_t released, refused;
	unsigned calls;
};

static void on_released(void *opaque, uint32_t slots)
{
	struct told *t = opaque;

	t->released |= slots;
	t->calls++;
}

static void on_refused(void *opaque, uint32_t slots)
{
	struct told *t = opaque;

	t->refused |= slots;
	t->calls++;
}

struct machine {
	struct fixture f;
	struct device *pm, *d;
	struct told told;
};

static void begin(struct machine *m)
{
	struct pci_hotplug_listener l = { on_released, on_refused, &m->told };

	memset(m, 0, sizeof(*m));
	fx_init(&m->f);
	assert_int_equal(acpi_pm_new(&m->f.host, m->f.pio, &m->pm, NULL), 0);
	assert_int_equal(pci_hotplug_new(&m->f.host, m->f.pio, m->pm, &m->d, NULL), 0);
	pci_hotplug_listen(m->d, &l);
	fx_out(&m->f, ACPI_GPE0_PORT + 2, 2, 1u << PCI_HOTPLUG_GPE);
}

static void end(struct machine *m)
{
	m->d->ops->free(m->d);
	m->pm->ops->free(m->pm);
	fx_done(&m->f);
}

static uint32_t in(struct machine *m, unsigned reg)
{
	return fx_in(&m->f, (uint16_t)(PCI_HOTPLUG_PORT + reg), 4);
}

static void out(struct machine *m, unsigned reg, uint32_t v)
{
	fx_out(&m->f, (uint16_t)(PCI_HOTPLUG_PORT + reg), 4, v);
	fx_run(&m->f, 1);
}

static void test_guest_is_told_once_of_a_device(void **state)
{
	struct machine m;

	(void)state;
	begin(&m);
	pci_hotplug_plugged(m.d, 5);
	pci_hotplug_plugged(m.d, 31);
	assert_true(m.f.level[ACPI_SCI_GSI]);
	assert_int_equal(in(&m, 0), 1u << 5 | 1u << 31);
	assert_int_equal(in(&m, 0), 0);
	pci_hotplug_plugged(m.d, 6);
	pci_hotplug_reset_slot(m.d, 6);
	assert_int_equal(in(&m, 0), 0);
	end(&m);
}

static void test_only_what_was_asked_for_is_released_or_refused(void **state)
{
	struct machine m;

	(void)state;
	begin(&m);
	out(&m, 8, UINT32_MAX);
	out(&m, 12, 5u << 24 | 0x81);
	assert_int_equal(m.told.calls, 0);
	pci_hotplug_ask_release(m.d, 5);
	pci_hotplug_ask_release(m.d, 7);
	assert_int_equal(in(&m, 4), 1u << 5 | 1u << 7);
	out(&m, 8, UINT32_MAX & ~(1u << 7));
	assert_int_equal(m.told.released, 1u << 5);
	assert_int_equal(in(&m, 4), 1u << 7);
	out(&m, 8, 1u << 5);
	assert_int_equal(m.told.calls, 1);
	/* Not yet, then no. */
	out(&m, 12, 7u << 24 | 0x84);
	out(&m, 12, 7u << 24);
	assert_int_equal(m.told.calls, 1);
	out(&m, 12, 7u << 24 | 0x81);
	assert_int_equal(m.told.refused, 1u << 7);
	assert_int_equal(in(&m, 4), 0);
	end(&m);
}

static void test_machine_without_hotplug_has_no_registers(void **state)
{
	struct machine m;

	(void)state;
	begin(&m);
	pci_hotplug_ask_release(m.d, 5);
	pci_hotplug_enable(m.d, false);
	assert_int_equal(in(&m, 0), UINT32_MAX);
	assert_int_equal(in(&m, 4), UINT32_MAX);
	out(&m, 8, 1u << 5);
	assert_int_equal(m.told.calls, 0);
	end(&m);
}

static void test_state_keeps_what_the_guest_has_not_seen(void **state)
{
	struct fx_state saved;
	struct machine m;

	(void)state;
	begin(&m);
	pci_hotplug_plugged(m.d, 3);
	pci_hotplug_ask_release(m.d, 4);
	fx_save(m.d, &saved);
	m.d->ops->reset(m.d);
	assert_int_equal(in(&m, 0) | in(&m, 4), 0);
	assert_int_equal(fx_load(m.d, &saved), 0);
	assert_int_equal(in(&m, 0), 1u << 3);
	assert_int_equal(in(&m, 4), 1u << 4);
	saved.buf[0] |= 1; /* the host bridge */
	assert_int_not_equal(fx_load(m.d, &saved), 0);
	free(saved.buf);
	end(&m);
}

static void test_places_of_removed_functions_are_used_again(void **state)
{
	struct device *a, *b;
	struct fixture f;
	uint32_t first = 0;

	(void)state;
	fx_init(&f);
	pci_host_begin_hotplug(f.pci);
	assert_int_equal(virtio_rng_new(&f.host, f.pci, "a", -1, &a, NULL), 0);
	for (unsigned i = 0; i < 100; i++) {
		uint32_t bar;

		assert_int_equal(virtio_rng_new(&f.host, f.pci, "b", -1, &b, NULL), 0);
		assert_int_equal(pci_host_slots(f.pci), 1 | 3u << PCI_HOTPLUG_FIRST_SLOT);
		bar = fx_cfg_read(&f, PCI_HOTPLUG_FIRST_SLOT + 1, 0x10, 4);
		assert_int_not_equal(bar, fx_cfg_read(&f, PCI_HOTPLUG_FIRST_SLOT, 0x10, 4));
		first = i ? first : bar;
		assert_int_equal(bar, first);
		b->ops->free(b);
		assert_int_equal(fx_cfg_read(&f, PCI_HOTPLUG_FIRST_SLOT + 1, 0, 4), UINT32_MAX);
	}
	a->ops->free(a);
	fx_done(&f);
}

static void test_reserved_slots_are_left_free(void **state)
{
	struct device *d[4];
	struct fixture f;

	(void)state;
	fx_init(&f);
	pci_host_reserve(f.pci, 2);
	pci_host_reserve(f.pci, 0); /* none */
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(virtio_rng_new(&f.host, f.pci, "a", -1, &d[i], NULL), 0);
	assert_int_equal(pci_host_slots(f.pci), 1 | 1u << 1 | 1u << 3);
	assert_int_equal(virtio_rng_new(&f.host, f.pci, "b", 2, &d[2], NULL), 0);
	d[2]->ops->free(d[2]);
	pci_host_reserve(f.pci, PCI_HOTPLUG_FIRST_SLOT);
	pci_host_begin_hotplug(f.pci);
	assert_int_equal(virtio_rng_new(&f.host, f.pci, "c", -1, &d[3], NULL), 0);
	assert_int_equal(pci_host_slots(f.pci), 1 | 1u << 1 | 1u << 3 | 1u << PCI_HOTPLUG_FIRST_SLOT);
	d[0]->ops->free(d[0]);
	d[1]->ops->free(d[1]);
	d[3]->ops->free(d[3]);
	fx_done(&f);
}

/* The next process of a VM places the BARs of what was plugged with all others, and then loads where they lie. */
static void test_places_of_a_loaded_state_are_taken(void **state)
{
	struct device *first, *loaded, *next;
	struct fixture before, after;
	struct fx_state saved;
	uint32_t bar;

	(void)state;
	fx_init(&before);
	pci_host_begin_hotplug(before.pci);
	assert_int_equal(virtio_rng_new(&before.host, before.pci, "a", -1, &first, NULL), 0);
	bar = fx_cfg_read(&before, PCI_HOTPLUG_FIRST_SLOT, 0x10, 4);
	fx_save(first, &saved);
	fx_init(&after);
	assert_int_equal(virtio_rng_new(&after.host, after.pci, "a", PCI_HOTPLUG_FIRST_SLOT, &loaded, NULL), 0);
	assert_int_not_equal(fx_cfg_read(&after, PCI_HOTPLUG_FIRST_SLOT, 0x10, 4), bar);
	assert_int_equal(fx_load(loaded, &saved), 0);
	assert_int_equal(fx_cfg_read(&after, PCI_HOTPLUG_FIRST_SLOT, 0x10, 4), bar);
	pci_host_begin_hotplug(after.pci);
	assert_int_equal(virtio_rng_new(&after.host, after.pci, "b", -1, &next, NULL), 0);
	assert_int_not_equal(fx_cfg_read(&after, PCI_HOTPLUG_FIRST_SLOT + 1, 0x10, 4), bar);
	next->ops->free(next);
	loaded->ops->free(loaded);
	first->ops->free(first);
	fx_done(&after);
	fx_done(&before);
	free(saved.buf);
}

static void test_functions_move_to_the_slots_of_a_state(void **state)
{
	uint8_t to[PCI_SLOTS] = { [1] = 9, [2] = 1 }, twice[PCI_SLOTS] = { [1] = 9 }, none[PCI_SLOTS] = { [1] = 40 };
	struct device *a, *b;
	struct fixture f;
	uint32_t bars[2];

	(void)state;
	fx_init(&f);
	assert_int_equal(virtio_rng_new(&f.host, f.pci, "a", -1, &a, NULL), 0);
	assert_int_equal(virtio_rng_new(&f.host, f.pci, "b", -1, &b, NULL), 0);
	for (unsigned i = 0; i < 2; i++)
		bars[i] = fx_cfg_read(&f, i + 1, 0x10, 4);
	assert_int_equal(pci_host_move(f.pci, to, NULL), 0);
	assert_int_equal(pci_host_slots(f.pci), 1 | 1u << 1 | 1u << 9);
	assert_int_equal(fx_cfg_read(&f, 9, 0x10, 4), bars[0]);
	assert_int_equal(fx_cfg_read(&f, 1, 0x10, 4), bars[1]);
	assert_int_equal(pci_host_move(f.pci, twice, NULL), -EINVAL);
	assert_int_equal(pci_host_move(f.pci, none, NULL), -EINVAL);
	assert_int_equal(pci_host_slots(f.pci), 1 | 1u << 1 | 1u << 9);
	a->ops->free(a);
	b->ops->free(b);
	fx_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_guest_is_told_once_of_a_device),
		cmocka_unit_test(test_only_what_was_asked_for_is_released_or_refused),
		cmocka_unit_test(test_machine_without_hotplug_has_no_registers),
		cmocka_unit_test(test_state_keeps_what_the_guest_has_not_seen),
		cmocka_unit_test(test_places_of_removed_functions_are_used_again),
		cmocka_unit_test(test_reserved_slots_are_left_free),
		cmocka_unit_test(test_places_of_a_loaded_state_are_taken),
		cmocka_unit_test(test_functions_move_to_the_slots_of_a_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
