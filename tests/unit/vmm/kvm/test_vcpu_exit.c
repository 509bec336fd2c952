/* vcpu_exit: handlers of KVM_RUN's exits, with a hand-made kvm_run page; needs no KVM. */
#include "base/bytes.h"
#include "base/util.h"
#include "devices/bus.h"
#include "vmm/kvm/vcpu.h"

#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PORT 0x500
#define GPA 0xd0000000ULL
#define RANGE 0x20

struct access {
	uint64_t off, value;
	unsigned size;
	bool is_write;
};

struct exit_fx {
	union {
		struct kvm_run run;
		uint8_t page[8192];
	};
	struct vcpu vcpu;
	struct vcpus set;
	struct access seen[16];
	unsigned nseen;
	unsigned faults;
	enum vm_reason reason;
	char detail[VM_DETAIL_MAX];
};

static uint64_t seen_read(void *opaque, uint64_t off, unsigned size)
{
	struct exit_fx *f = opaque;

	assert_true(f->nseen < ARRAY_SIZE(f->seen));
	f->seen[f->nseen] = (struct access){ .off = off, .size = size };
	return 0x1122334455667700ULL + f->nseen++;
}

static void seen_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct exit_fx *f = opaque;

	assert_true(f->nseen < ARRAY_SIZE(f->seen));
	f->seen[f->nseen++] =
		(struct access){ .off = off, .size = size, .value = value, .is_write = true };
}

static void fault(void *opaque, unsigned vcpu, enum vm_reason reason, const char *detail)
{
	struct exit_fx *f = opaque;

	assert_int_equal(vcpu, 3);
	f->faults++;
	f->reason = reason;
	snprintf(f->detail, sizeof(f->detail), "%s", detail);
}

static int fx_setup(void **state)
{
	static const struct bus_ops ops = { .read = seen_read, .write = seen_write };
	struct exit_fx *f = calloc(1, sizeof(*f));

	*state = f;
	f->vcpu = (struct vcpu){
		.set = &f->set, .index = 3, .fd = -1, .run = &f->run, .stats_fd = -1
	};
	f->set.vcpu = &f->vcpu;
	f->set.cfg = (struct vcpus_config){
		.count = 1, .pio = bus_new(), .mmio = bus_new(), .fault = fault, .opaque = f
	};
	return bus_add(f->set.cfg.pio, PORT, RANGE, &ops, f) ||
	       bus_add(f->set.cfg.mmio, GPA, RANGE, &ops, f);
}

static int fx_teardown(void **state)
{
	struct exit_fx *f = *state;

	bus_free(f->set.cfg.pio);
	bus_free(f->set.cfg.mmio);
	free(f);
	return 0;
}

static uint8_t *io(
	struct exit_fx *f, uint8_t direction, uint16_t port, uint8_t size, uint32_t count)
{
	f->run.exit_reason = KVM_EXIT_IO;
	f->run.io.direction = direction;
	f->run.io.port = port;
	f->run.io.size = size;
	f->run.io.count = count;
	f->run.io.data_offset = 4096;
	f->nseen = 0;
	return f->page + 4096;
}

static void test_out_reaches_bus(void **state)
{
	struct exit_fx *f = *state;

	for (uint8_t size = 1; size <= 4; size *= 2) {
		store_le64(io(f, KVM_EXIT_IO_OUT, PORT + 4, size, 1), 0x8877665544332211ULL);
		assert_true(vcpu_exit_handle(&f->vcpu));
		assert_int_equal(f->nseen, 1);
		assert_true(f->seen[0].is_write);
		assert_int_equal(f->seen[0].off, 4);
		assert_int_equal(f->seen[0].size, size);
		assert_int_equal(
			f->seen[0].value, 0x44332211U & (uint32_t)((1ULL << 8 * size) - 1));
	}
	assert_int_equal(figure_get(f->vcpu.counters, VCPU_EXITS_IO), 3);
}

/* REP OUTSW and REP INSW: all data to the same port, in order. */
static void test_string_io(void **state)
{
	struct exit_fx *f = *state;
	uint8_t *p = io(f, KVM_EXIT_IO_OUT, PORT, 2, 5);

	for (unsigned i = 0; i < 5; i++)
		store_le16(p + 2 * i, (uint16_t)(0x1000 + i));
	assert_true(vcpu_exit_handle(&f->vcpu));
	assert_int_equal(f->nseen, 5);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(f->seen[i].off, 0);
		assert_int_equal(f->seen[i].value, 0x1000 + i);
	}
	p = io(f, KVM_EXIT_IO_IN, PORT, 2, 5);
	memset(p, 0xee, 16);
	assert_true(vcpu_exit_handle(&f->vcpu));
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(load_le16(p + 2 * i), 0x7700 + i);
	assert_int_equal(p[10], 0xee);
}

static void test_unclaimed_port_reads_all_ones(void **state)
{
	struct exit_fx *f = *state;
	uint8_t *p = io(f, KVM_EXIT_IO_IN, 0x1234, 4, 1);

	memset(p, 0, 8);
	assert_true(vcpu_exit_handle(&f->vcpu));
	assert_int_equal(load_le32(p), 0xffffffff);
	assert_int_equal(p[4], 0);
	/* Across the end of a range: unclaimed. */
	p = io(f, KVM_EXIT_IO_IN, PORT + RANGE - 2, 4, 1);
	assert_true(vcpu_exit_handle(&f->vcpu));
	assert_int_equal(load_le32(p), 0xffffffff);
	io(f, KVM_EXIT_IO_OUT, 0xffff, 4, 1);
	assert_true(vcpu_exit_handle(&f->vcpu));
	assert_int_equal(f->nseen, 0);
	assert_int_equal(f->faults, 0);
}

/* KVM passes any length up to 8; devices see powers of two, each byte once. */
static void test_mmio_of_every_length(void **state)
{
	struct exit_fx *f = *state;
	uint8_t data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, got[8];

	for (uint32_t len = 1; len <= 8; len++) {
		uint64_t at = 0;

		f->run.exit_reason = KVM_EXIT_MMIO;
		f->run.mmio.phys_addr = GPA + 8;
		f->run.mmio.len = len;
		f->run.mmio.is_write = 1;
		memcpy(f->run.mmio.data, data, 8);
		f->nseen = 0;
		assert_true(vcpu_exit_handle(&f->vcpu));
		for (unsigned i = 0; i < f->nseen; i++) {
			assert_true(is_power_of_two(f->seen[i].size));
			assert_int_equal(f->seen[i].off, 8 + at);
			store_le64(got, f->seen[i].value);
			assert_memory_equal(got, data + at, f->seen[i].size);
			at += f->seen[i].size;
		}
		assert_int_equal(at, len);
		f->run.mmio.is_write = 0;
		memset(f->run.mmio.data, 0xee, 8);
		f->nseen = 0;
		assert_true(vcpu_exit_handle(&f->vcpu));
		assert_int_equal(f->run.mmio.data[0], 0);
		for (uint32_t i = len; i < 8; i++)
			assert_int_equal(f->run.mmio.data[i], 0xee);
	}
	assert_int_equal(figure_get(f->vcpu.counters, VCPU_EXITS_MMIO), 16);
}

static void test_unclaimed_mmio_reads_all_ones(void **state)
{
	struct exit_fx *f = *state;

	f->run.exit_reason = KVM_EXIT_MMIO;
	f->run.mmio.phys_addr = UINT64_MAX - 2;
	f->run.mmio.len = 8;
	assert_true(vcpu_exit_handle(&f->vcpu));
	assert_true(load_le64(f->run.mmio.data) == UINT64_MAX);
	f->run.mmio.is_write = 1;
	f->run.mmio.len = 0xffffffff;
	assert_true(vcpu_exit_handle(&f->vcpu));
	assert_int_equal(f->nseen, 0);
}

static void faults_with(struct exit_fx *f, enum vm_reason reason, const char *part)
{
	atomic_store(&f->set.stop_requested, false);
	f->run.immediate_exit = 0;
	f->faults = 0;
	assert_false(vcpu_exit_handle(&f->vcpu));
	assert_int_equal(f->faults, 1);
	assert_int_equal(f->reason, reason);
	if (!strstr(f->detail, part))
		fail_msg("\"%s\" does not have \"%s\"", f->detail, part);
	/* A stop of all vCPUs has been requested by then. */
	assert_true(atomic_load(&f->set.stop_requested));
	assert_int_equal(f->run.immediate_exit, 1);
}

static void test_fatal_exits_report_faults(void **state)
{
	struct exit_fx *f = *state;

	f->run.exit_reason = KVM_EXIT_SHUTDOWN;
	faults_with(f, VM_REASON_TRIPLE_FAULT, "vCPU 3, RIP 0x");
	f->run.exit_reason = KVM_EXIT_FAIL_ENTRY;
	f->run.fail_entry.hardware_entry_failure_reason = 0x80000021;
	faults_with(f, VM_REASON_HOST_ERROR, "0x80000021");
	f->run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
	f->run.internal.suberror = 3;
	faults_with(f, VM_REASON_HOST_ERROR, "internal error 3");
	f->run.exit_reason = KVM_EXIT_DEBUG; /* no breakpoint is set */
	faults_with(f, VM_REASON_HOST_ERROR, "exit 4");
	f->run.exit_reason = KVM_EXIT_X86_WRMSR;
	faults_with(f, VM_REASON_HOST_ERROR, "exit 30");
	f->run.exit_reason = 9999;
	faults_with(f, VM_REASON_HOST_ERROR, "exit 9999");
	f->run.exit_reason = KVM_EXIT_INTR;
	assert_true(vcpu_exit_handle(&f->vcpu));
}

static void test_emulation_failure_says_which_instruction(void **state)
{
	struct exit_fx *f = *state;

	f->run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
	f->run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	f->run.emulation_failure.ndata = 4;
	f->run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
	f->run.emulation_failure.insn_size = 3;
	memcpy(f->run.emulation_failure.insn_bytes, "\x0f\xae\x15", 3);
	faults_with(f, VM_REASON_EMULATION_FAILURE, "instruction bytes 0f ae 15");
	f->run.emulation_failure.insn_size = 255; /* more than the array has */
	faults_with(f, VM_REASON_EMULATION_FAILURE, "instruction bytes 0f ae 15 00");
	f->run.emulation_failure.flags = 0;
	faults_with(f, VM_REASON_EMULATION_FAILURE, "vCPU 3, RIP 0x");
	assert_null(strstr(f->detail, "bytes"));
	f->run.emulation_failure.ndata = 0;
	faults_with(f, VM_REASON_EMULATION_FAILURE, "vCPU 3, RIP 0x");
}

int main(void)
{
#define EXIT_TEST(t) cmocka_unit_test_setup_teardown(t, fx_setup, fx_teardown)
	const struct CMUnitTest tests[] = {
		EXIT_TEST(test_out_reaches_bus),
		EXIT_TEST(test_string_io),
		EXIT_TEST(test_unclaimed_port_reads_all_ones),
		EXIT_TEST(test_mmio_of_every_length),
		EXIT_TEST(test_unclaimed_mmio_reads_all_ones),
		EXIT_TEST(test_fatal_exits_report_faults),
		EXIT_TEST(test_emulation_failure_says_which_instruction),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
