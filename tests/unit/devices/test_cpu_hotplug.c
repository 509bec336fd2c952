/* The registers of vCPUs that come and go. */
#include "fixture.h"

#include "base/bytes.h"
#include "base/util.h"
#include "devices/acpi_pm.h"
#include "devices/cpu_hotplug.h"
#include "snapshot/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PRESENT 1
#define CAME 2
#define ASKED 4
#define RELEASE 8

struct told {
	uint64_t released, refused;
	unsigned calls;
};

struct machine {
	struct fixture f;
	struct device *pm, *d;
	struct told told;
};

static void on_released(void *opaque, uint64_t vcpus)
{
	struct machine *m = opaque;

	m->told.released |= vcpus;
	m->told.calls++;
}

static void on_refused(void *opaque, uint64_t vcpus)
{
	struct machine *m = opaque;

	m->told.refused |= vcpus;
	m->told.calls++;
}

static void begin(struct machine *m, unsigned count, uint64_t present)
{
	struct cpu_hotplug_config c = { .count = count, .present = present };
	struct cpu_hotplug_listener l = { on_released, on_refused, m };

	memset(m, 0, sizeof(*m));
	fx_init(&m->f);
	assert_int_equal(acpi_pm_new(&m->f.host, m->f.pio, &m->pm, NULL), 0);
	c.pm = m->pm;
	assert_int_equal(cpu_hotplug_new(&m->f.host, m->f.pio, &c, &m->d, NULL), 0);
	cpu_hotplug_listen(m->d, &l);
	fx_out(&m->f, ACPI_GPE0_PORT + 2, 2, 1u << CPU_HOTPLUG_GPE);
}

static void end(struct machine *m)
{
	m->d->ops->free(m->d);
	m->pm->ops->free(m->pm);
	fx_done(&m->f);
}

static unsigned flags(struct machine *m, unsigned vcpu)
{
	fx_out(&m->f, CPU_HOTPLUG_PORT, 1, vcpu);
	return (unsigned)fx_in(&m->f, CPU_HOTPLUG_PORT + 1, 1);
}

static void out(struct machine *m, unsigned vcpu, unsigned reg, unsigned value)
{
	fx_out(&m->f, CPU_HOTPLUG_PORT, 1, vcpu);
	fx_out(&m->f, (uint16_t)(CPU_HOTPLUG_PORT + reg), 1, value);
	fx_run(&m->f, 1);
}

/* Return whether the event is raised, and clear it. */
static bool event(struct machine *m)
{
	bool raised = fx_in(&m->f, ACPI_GPE0_PORT, 2) & 1u << CPU_HOTPLUG_GPE;

	fx_out(&m->f, ACPI_GPE0_PORT, 2, 1u << CPU_HOTPLUG_GPE);
	return raised;
}

static void test_guest_is_told_of_a_vcpu(void **state)
{
	struct machine m;

	(void)state;
	begin(&m, 64, 1);
	assert_int_equal(flags(&m, 63), 0);
	assert_false(event(&m));
	cpu_hotplug_add(m.d, 63);
	assert_true(event(&m));
	assert_int_equal(flags(&m, 63), PRESENT | CAME);
	assert_true(cpu_hotplug_present(m.d) == (1 | 1ULL << 63));
	out(&m, 63, 1, CAME);
	assert_int_equal(flags(&m, 63), PRESENT);
	assert_int_equal(flags(&m, 64), 0);
	end(&m);
}

/* A guest takes one notification of a vCPU for each event, so the second one is raised again. */
static void test_vcpu_that_came_may_be_asked_for_at_once(void **state)
{
	struct machine m;

	(void)state;
	begin(&m, 4, 1);
	cpu_hotplug_add(m.d, 2);
	cpu_hotplug_ask_release(m.d, 2);
	assert_true(event(&m));
	assert_int_equal(flags(&m, 2), PRESENT | CAME | ASKED);
	out(&m, 2, 1, CAME);
	assert_true(event(&m));
	out(&m, 2, 1, ASKED);
	assert_false(event(&m));
	assert_int_equal(flags(&m, 2), PRESENT);
	out(&m, 2, 1, RELEASE);
	assert_true(m.told.released == 1u << 2 && cpu_hotplug_is_released(m.d, 2));
	assert_int_equal(flags(&m, 2), PRESENT);
	cpu_hotplug_removed(m.d, 2);
	assert_int_equal(flags(&m, 2), 0);
	assert_false(cpu_hotplug_is_released(m.d, 2));
	end(&m);
}

static void test_only_what_was_asked_for_is_released_or_refused(void **state)
{
	struct machine m;

	(void)state;
	begin(&m, 3, 7);
	cpu_hotplug_ask_release(m.d, 0);
	for (unsigned i = 0; i < 256; i++) {
		out(&m, i, 1, 0xff);
		out(&m, i, 2, 0x81);
	}
	assert_int_equal(m.told.calls, 0);
	cpu_hotplug_ask_release(m.d, 1);
	out(&m, 1, 2, 0x84); /* not yet */
	out(&m, 1, 2, 0);
	assert_int_equal(m.told.calls, 0);
	out(&m, 1, 2, 0x81);
	assert_true(m.told.refused == 1u << 1);
	out(&m, 1, 1, RELEASE);
	assert_int_equal(m.told.calls, 1);
	/* Another width reads and writes nothing. */
	cpu_hotplug_ask_release(m.d, 1);
	fx_out(&m.f, CPU_HOTPLUG_PORT, 4, RELEASE << 8 | 1);
	fx_run(&m.f, 1);
	assert_int_equal(m.told.calls, 1);
	assert_int_equal(fx_in(&m.f, CPU_HOTPLUG_PORT, 4), 0xffffffff);
	end(&m);
}

static void test_reset_keeps_the_vcpus_and_forgets_requests(void **state)
{
	struct machine m;

	(void)state;
	begin(&m, 4, 3);
	cpu_hotplug_add(m.d, 2);
	cpu_hotplug_ask_release(m.d, 1);
	m.d->ops->reset(m.d);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(flags(&m, i), i < 3 ? PRESENT : 0);
	out(&m, 1, 1, RELEASE);
	assert_int_equal(m.told.calls, 0);
	end(&m);
}

static int load(struct machine *m, const uint64_t state[4])
{
	uint8_t content[33] = { 0 };
	struct state_reader r = { content, 0, sizeof(content), false };

	for (unsigned i = 0; i < 4; i++)
		store_le64(content + 8 * i, state[i]);
	content[32] = 2;
	return m->d->ops->load(m->d, &r, 1, NULL);
}

static void test_damaged_states_are_refused(void **state)
{
	static const uint64_t bad[][4] = { { 6, 0, 0, 0 }, { 17, 0, 0, 0 }, { 3, 4, 0, 0 }, { 3, 0, 8, 0 }, { 3, 0, 0, 1 } };
	static const uint64_t good[4] = { 7, 4, 2, 2 };
	struct machine m;

	(void)state;
	begin(&m, 4, 1);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(load(&m, bad[i]), -EINVAL);
		assert_true(cpu_hotplug_present(m.d) == 1);
	}
	assert_int_equal(load(&m, good), 0);
	assert_int_equal(fx_in(&m.f, CPU_HOTPLUG_PORT + 1, 1), PRESENT | CAME);
	assert_int_equal(flags(&m, 1), PRESENT | ASKED);
	out(&m, 1, 1, RELEASE);
	assert_true(m.told.released == 2);
	end(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_guest_is_told_of_a_vcpu),
		cmocka_unit_test(test_vcpu_that_came_may_be_asked_for_at_once),
		cmocka_unit_test(test_only_what_was_asked_for_is_released_or_refused),
		cmocka_unit_test(test_reset_keeps_the_vcpus_and_forgets_requests),
		cmocka_unit_test(test_damaged_states_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
