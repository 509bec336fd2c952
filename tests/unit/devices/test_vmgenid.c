/* The generation id changes, and the guest is notified if it had an id before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "devices/acpi_pm.h"
#include "devices/bus.h"
#include "devices/dev_host.h"
#include "devices/device.h"
#include "devices/vmgenid.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RAM_BYTES (1u << 20)

static void ignore_irq(struct dev_host *h, unsigned gsi, bool level)
{
	(void)h;
	(void)gsi;
	(void)level;
}

static void test_renewed_id_changes_and_notifies(void **state)
{
	static const struct dev_host_ops ops = { .irq_set = ignore_irq };
	struct dev_host h = { .ops = &ops, .ram = { { .bytes = RAM_BYTES, .host = calloc(1, RAM_BYTES) } } };
	struct device *pm, *d;
	uint8_t first[VMGENID_BYTES], *at = h.ram[0].host + VMGENID_GPA;
	struct bus *pio = bus_new();
	uint64_t gpe;

	(void)state;
	assert_int_equal(acpi_pm_new(&h, pio, &pm, NULL), 0);
	assert_int_equal(vmgenid_new(&h, pm, VMGENID_GPA, &d, NULL), 0);
	vmgenid_renew(d, false);
	memcpy(first, at, sizeof(first));
	bus_read(pio, ACPI_GPE0_PORT, 2, &gpe);
	assert_int_equal(gpe, 0);
	vmgenid_renew(d, true);
	assert_memory_not_equal(first, at, sizeof(first));
	bus_read(pio, ACPI_GPE0_PORT, 2, &gpe);
	assert_int_equal(gpe, 1 << VMGENID_GPE);
	d->ops->free(d);
	pm->ops->free(pm);
	bus_free(pio);
	free(h.ram[0].host);
}

/* RAM that ends below the id's address has no place for it; no harm results. */
static void test_tiny_memory_has_no_id(void **state)
{
	static const struct dev_host_ops ops = { .irq_set = ignore_irq };
	uint8_t page[4096];
	struct dev_host h = { .ops = &ops, .ram = { { .bytes = sizeof(page), .host = page } } };
	struct device *pm, *d;
	struct bus *pio = bus_new();

	(void)state;
	assert_int_equal(acpi_pm_new(&h, pio, &pm, NULL), 0);
	assert_int_equal(vmgenid_new(&h, pm, VMGENID_GPA, &d, NULL), 0);
	vmgenid_renew(d, true);
	d->ops->free(d);
	pm->ops->free(pm);
	bus_free(pio);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_renewed_id_changes_and_notifies), cmocka_unit_test(test_tiny_memory_has_no_id) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
