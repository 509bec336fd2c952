/* vcpu: real vCPUs with a few bytes of guest code: stopping and resuming at any moment loses
 * nothing and repeats nothing. Needs /dev/kvm; each test is skipped with a message without it. */
#include "fixture_kvm.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/bus.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/port_ring.h"
#include "vmm/kvm/vcpu.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MS 1000000ULL
#define CODE_GPA 0x1000
#define MMIO_GPA 0xd0000000ULL
#define GDT_GPA 0x500

struct vcpu_fx {
	struct kvm kvm;
	struct memory mem;
	struct bus *pio, *mmio;
	struct vcpus set;
	struct port_ring ring;
	struct boot_entry entry;
	/* Set by the device at port 0 and at MMIO_GPA, on vCPU threads. */
	_Atomic uint32_t accesses, wrong;
	_Atomic uint32_t stop_at; /* number of the access that requests a stop; 0: none */
	/* Set by fault(). */
	atomic_uint faults;
	_Atomic int reason;
	char detail[VM_DETAIL_MAX];
};

static void access_count(struct vcpu_fx *f)
{
	if (atomic_fetch_add(&f->accesses, 1) + 1 == atomic_load(&f->stop_at))
		vcpus_request_stop(&f->set);
}

static uint64_t dev_read(void *opaque, uint64_t off, unsigned size)
{
	struct vcpu_fx *f = opaque;
	uint32_t n = atomic_load(&f->accesses);

	(void)off, (void)size;
	access_count(f);
	return n;
}

/* The guest writes 0, 1, 2, …: a value out of sequence was lost or repeated. */
static void dev_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct vcpu_fx *f = opaque;

	(void)off, (void)size;
	if (value != atomic_load(&f->accesses))
		atomic_fetch_add(&f->wrong, 1);
	access_count(f);
}

static void fault(void *opaque, unsigned vcpu, enum vm_reason reason, const char *detail)
{
	struct vcpu_fx *f = opaque;

	(void)vcpu;
	snprintf(f->detail, sizeof(f->detail), "%s", detail);
	atomic_store(&f->reason, (int)reason);
	atomic_fetch_add(&f->faults, 1); /* set last, because the test waits for it */
}

static void guest_write(struct vcpu_fx *f, const void *code, size_t n)
{
	uint8_t *gdt = f->mem.host + GDT_GPA;

	store_le64(gdt + BOOT_CS32, 0x00cf9b000000ffffULL);
	store_le64(gdt + BOOT_DS, 0x00cf93000000ffffULL);
	memcpy(f->mem.host + CODE_GPA, code, n);
	f->entry = (struct boot_entry){ .mode = BOOT_PROTECTED_32, .cs = BOOT_CS32,
		.rip = CODE_GPA,
		.gdt_gpa = GDT_GPA,
		.gdt_limit = BOOT_TSS + 15 };
}

/* Create a VM with `count` vCPUs, parked before the first instruction of the code. */
static struct vcpu_fx *fx_new(unsigned count, const void *code, size_t n)
{
	static const struct bus_ops ops = { .read = dev_read, .write = dev_write };
	struct vcpu_fx *f = kvm_fx_new(sizeof(*f));
	struct vcpus_config c = { .kvm = &f->kvm,
		.count = count,
		.sockets = 1,
		.cores = count,
		.threads = 1,
		.fault = fault,
		.opaque = f,
		.port_ring = &f->ring };
	struct err e = { 0 };

	kvm_fx_memory(&f->kvm, &f->mem, 4 * MIB);
	must(kvm_create_irqchip(&f->kvm, &e), &e);
	f->pio = c.pio = bus_new();
	f->mmio = c.mmio = bus_new();
	assert_int_equal(bus_add(f->pio, 0, 4, &ops, f), 0);
	assert_int_equal(bus_add(f->mmio, MMIO_GPA, 4, &ops, f), 0);
	must(vcpus_init(&f->set, &c, &e), &e);
	must(vcpus_start_threads(&f->set, &e), &e);
	guest_write(f, code, n);
	must(vcpus_reset(&f->set, &f->entry, &e), &e);
	return f;
}

static void fx_free(struct vcpu_fx *f)
{
	vcpus_done(&f->set);
	port_ring_done(&f->ring);
	bus_free(f->pio);
	bus_free(f->mmio);
	memory_done(&f->mem);
	kvm_done(&f->kvm);
	free(f);
}

static struct kvm_regs regs_of(struct vcpu_fx *f, unsigned vcpu)
{
	struct kvm_regs r;

	assert_int_equal(kvm_ioctl(f->set.vcpu[vcpu].fd, KVM_GET_REGS, &r), 0);
	return r;
}

/* Wait until the guest has made more than n accesses. Returns false after 25 s. */
static bool wait_beyond(struct vcpu_fx *f, uint32_t n)
{
	uint64_t end = loop_now_ns() + 25000 * MS;

	while (atomic_load(&f->accesses) <= n && !atomic_load(&f->faults) && loop_now_ns() < end)
		usleep(50);
	return atomic_load(&f->accesses) > n;
}

static bool wait_fault(struct vcpu_fx *f)
{
	uint64_t end = loop_now_ns() + 25000 * MS;

	while (!atomic_load(&f->faults) && loop_now_ns() < end)
		usleep(50);
	return atomic_load(&f->faults) > 0;
}

/* ---- stop and resume ---- */

/* Stop and resume repeatedly; after every stop, `check` compares the guest's registers with the
 * device's count. */
static void stop_resume_race(const uint8_t *code, size_t n, unsigned rounds,
	void (*check)(struct vcpu_fx *f, const struct kvm_regs *r))
{
	struct vcpu_fx *f = fx_new(1, code, n);
	unsigned seed = 31, moved = 0;
	uint32_t before = 0;

	/* More rounds where the vCPU's thread seldom reaches the guest. */
	for (unsigned i = 0; i < rounds || moved <= rounds / 100; i++) {
		struct kvm_regs r;
		uint32_t now;

		vcpus_resume(&f->set);
		/* Wait from zero up to a few dozen guest instructions. */
		for (unsigned spin = (unsigned)rand_r(&seed) % 4000; spin; spin--)
			__asm__ volatile("pause");
		if (i % 16 == 0)
			usleep((unsigned)rand_r(&seed) % 300);
		vcpus_stop(&f->set);
		assert_int_equal(atomic_load(&f->faults), 0);
		now = atomic_load(&f->accesses);
		r = regs_of(f, 0);
		check(f, &r);
		assert_int_equal(atomic_load(&f->accesses), now); /* the guest is stopped */
		moved += now != before;
		before = now;
	}
	assert_int_equal(atomic_load(&f->wrong), 0);
	fx_free(f);
}

/* 1000: out %eax,(%dx)   1001: inc %eax   1002: jmp 1000 */
static const uint8_t out_loop[] = { 0xef, 0x40, 0xeb, 0xfc };

static void out_check(struct vcpu_fx *f, const struct kvm_regs *r)
{
	uint32_t n = atomic_load(&f->accesses);

	assert_in_range(r->rip, CODE_GPA, CODE_GPA + 2);
	assert_int_equal((uint32_t)r->rax, r->rip == CODE_GPA + 1 ? n - 1 : n);
}

static void test_stop_resume_while_writing_a_port(void **state)
{
	(void)state;
	stop_resume_race(out_loop, sizeof(out_loop), 2000, out_check);
}

/* 1000: in (%dx),%eax   1001: add %eax,%ebx   1003: jmp 1000 */
static const uint8_t in_loop[] = { 0xed, 0x01, 0xc3, 0xeb, 0xfb };

static void in_check(struct vcpu_fx *f, const struct kvm_regs *r)
{
	uint32_t n = atomic_load(&f->accesses);
	uint32_t sum = (uint32_t)((uint64_t)n * (n - 1ULL) / 2); /* 0 + 1 + … + n - 1 */

	assert_in_range(r->rip, CODE_GPA, CODE_GPA + 3);
	if (r->rip == CODE_GPA + 1) {
		assert_int_equal((uint32_t)r->rax, n - 1); /* the read has completed */
		sum -= n - 1;
	}
	assert_int_equal((uint32_t)r->rbx, n ? sum : 0);
}

static void test_stop_resume_while_reading_a_port(void **state)
{
	(void)state;
	stop_resume_race(in_loop, sizeof(in_loop), 500, in_check);
}

/* 1000: mov %eax,0xd0000000   1005: inc %eax   1006: jmp 1000 */
static const uint8_t mmio_write_loop[] = { 0xa3, 0, 0, 0, 0xd0, 0x40, 0xeb, 0xf8 };

static void mmio_write_check(struct vcpu_fx *f, const struct kvm_regs *r)
{
	uint32_t n = atomic_load(&f->accesses);

	assert_in_range(r->rip, CODE_GPA, CODE_GPA + 6);
	assert_int_equal((uint32_t)r->rax, r->rip == CODE_GPA + 5 ? n - 1 : n);
}

static void test_stop_resume_while_writing_mmio(void **state)
{
	(void)state;
	stop_resume_race(mmio_write_loop, sizeof(mmio_write_loop), 500, mmio_write_check);
}

/* 1000: mov 0xd0000000,%eax   1005: add %eax,%ebx   1007: jmp 1000 */
static const uint8_t mmio_read_loop[] = { 0xa1, 0, 0, 0, 0xd0, 0x01, 0xc3, 0xeb, 0xf7 };

static void mmio_read_check(struct vcpu_fx *f, const struct kvm_regs *r)
{
	uint32_t n = atomic_load(&f->accesses);
	uint32_t sum = (uint32_t)((uint64_t)n * (n - 1ULL) / 2);

	assert_in_range(r->rip, CODE_GPA, CODE_GPA + 7);
	if (r->rip == CODE_GPA + 5)
		sum -= n - 1;
	assert_int_equal((uint32_t)r->rbx, n ? sum : 0);
}

static void test_stop_resume_while_reading_mmio(void **state)
{
	(void)state;
	stop_resume_race(mmio_read_loop, sizeof(mmio_read_loop), 500, mmio_read_check);
}

/* The device requests the stop on the vCPU's own thread, as for a power-off. */
static void test_stop_requested_by_handler_is_exact(void **state)
{
	struct vcpu_fx *f = fx_new(1, out_loop, sizeof(out_loop));

	(void)state;
	for (uint32_t n = 1; n <= 50; n++) {
		struct kvm_regs r;

		atomic_store(&f->stop_at, n);
		vcpus_resume(&f->set);
		assert_true(wait_beyond(f, n - 1));
		vcpus_stop(&f->set);                            /* waits until it is parked */
		assert_int_equal(atomic_load(&f->accesses), n); /* no further access */
		r = regs_of(f, 0);
		out_check(f, &r);
	}
	assert_int_equal(atomic_load(&f->wrong), 0);
	fx_free(f);
}

/* A stop that is withdrawn before every vCPU has seen it must not leave any of them stopped. */
static void test_withdrawn_stop_leaves_no_vcpu_stopped(void **state)
{
	struct vcpu_fx *f = fx_new(1, out_loop, sizeof(out_loop));

	(void)state;
	vcpus_resume(&f->set);
	for (unsigned i = 0; i < 300; i++) {
		uint32_t n = atomic_load(&f->accesses);

		vcpus_request_stop(&f->set);
		vcpus_resume(&f->set);
		if (!wait_beyond(f, n + 10))
			fail_msg("the guest stands still after %u rounds", i);
	}
	vcpus_stop(&f->set);
	assert_int_equal(atomic_load(&f->wrong), 0);
	fx_free(f);
}

static void *stopper(void *opaque)
{
	struct vcpu_fx *f = opaque;

	for (unsigned i = 0; i < 2000; i++) {
		vcpus_request_stop(&f->set);
		usleep(10);
	}
	return NULL;
}

/* Another thread keeps requesting stops, as devices may. The main thread's stop and resume work
 * meanwhile, and the guest runs at the end. */
static void test_stops_from_two_threads_do_not_hang(void **state)
{
	struct vcpu_fx *f = fx_new(1, out_loop, sizeof(out_loop));
	pthread_t th;
	uint32_t n;

	(void)state;
	assert_int_equal(pthread_create(&th, NULL, stopper, f), 0);
	for (unsigned i = 0; i < 500; i++) {
		struct kvm_regs r;

		vcpus_resume(&f->set);
		vcpus_stop(&f->set);
		r = regs_of(f, 0);
		out_check(f, &r);
	}
	pthread_join(th, NULL);
	vcpus_stop(&f->set);
	n = atomic_load(&f->accesses);
	vcpus_resume(&f->set);
	assert_true(wait_beyond(f, n + 10));
	fx_free(f); /* while it runs */
}

/* ---- several vCPUs ---- */

static void test_unstarted_vcpus_execute_nothing(void **state)
{
	struct vcpu_fx *f = fx_new(8, out_loop, sizeof(out_loop));

	(void)state;
	for (unsigned i = 0; i < 50; i++) {
		vcpus_resume(&f->set);
		usleep(i * 20);
		vcpus_stop(&f->set);
	}
	vcpus_resume(&f->set);
	assert_true(wait_beyond(f, 0));
	vcpus_stop(&f->set);
	/* Without INIT and SIPI they have not executed an instruction. */
	for (unsigned i = 1; i < 8; i++) {
		struct kvm_mp_state mp;

		assert_int_equal(kvm_ioctl(f->set.vcpu[i].fd, KVM_GET_MP_STATE, &mp), 0);
		assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	}
	assert_int_equal(atomic_load(&f->wrong), 0);
	fx_free(f);
}

static void test_64_vcpus(void **state)
{
	struct vcpu_fx *f = fx_new(VM_VCPUS_MAX, out_loop, sizeof(out_loop));

	(void)state;
	vcpus_resume(&f->set);
	assert_true(wait_beyond(f, 10));
	vcpus_stop(&f->set);
	for (unsigned i = 0; i < VM_VCPUS_MAX; i++)
		assert_true(vcpu_cpu_ns(&f->set, i) < 60000 * MS);
	assert_true(vcpu_cpu_ns(&f->set, 0) > 0);
	fx_free(f);
}

static void test_halted_vcpu_stops_at_once(void **state)
{
	static const uint8_t code[] = { 0xf4, 0xeb, 0xfd }; /* hlt; jmp */
	struct vcpu_fx *f = fx_new(1, code, sizeof(code));
	uint64_t t0;

	(void)state;
	/* Repeat, however late the thread runs. */
	for (unsigned i = 0; i < 20 || regs_of(f, 0).rip == CODE_GPA; i++) {
		vcpus_resume(&f->set);
		usleep(2000);
		t0 = loop_now_ns();
		vcpus_stop(&f->set);
		assert_in_range(loop_now_ns() - t0, 0, 20000 * MS);
	}
	/* The vCPU has halted once: a stop is not an interrupt. */
	assert_int_equal(regs_of(f, 0).rip, CODE_GPA + 1);
	if (f->set.vcpu[0].stats_blocking_off) {
		vcpus_resume(&f->set);
		while (vcpus_halted(&f->set) != 1)
			usleep(100);
		vcpus_stop(&f->set);
	}
	fx_free(f);
}

/* ---- faults and resets ---- */

static void test_triple_fault_is_reported_and_reset_recovers(void **state)
{
	static const uint8_t code[] = { 0x0f, 0x0b }; /* ud2, and no IDT */
	struct vcpu_fx *f = fx_new(1, code, sizeof(code));
	struct err e = { 0 };
	struct kvm_sregs s;
	char where[40];

	(void)state;
	vcpus_resume(&f->set);
	assert_true(wait_fault(f));
	assert_int_equal(atomic_load(&f->reason), VM_REASON_TRIPLE_FAULT);
	vcpus_stop(&f->set);
	/* With SVM, the processor leaves no registers after a triple fault, and KVM has reset the vCPU. */
	assert_int_equal(kvm_ioctl(f->set.vcpu[0].fd, KVM_GET_SREGS, &s), 0);
	snprintf(where, sizeof(where), "vCPU 0, RIP 0x%x", s.cs.base == 0xffff0000 ? 0xfff0 : CODE_GPA);
	assert_non_null(strstr(f->detail, where));
	assert_int_equal(atomic_load(&f->faults), 1);
	/* A reset restores the VM. */
	guest_write(f, out_loop, sizeof(out_loop));
	must(vcpus_reset(&f->set, &f->entry, &e), &e);
	atomic_store(&f->faults, 0);
	vcpus_resume(&f->set);
	assert_true(wait_beyond(f, 10));
	vcpus_stop(&f->set);
	assert_int_equal(atomic_load(&f->wrong), 0);
	assert_int_equal(atomic_load(&f->faults), 0);
	fx_free(f);
}

/* An instruction fetch from unmapped memory: a reported fault, not a hang. */
static void test_fetch_from_unmapped_memory_is_a_fault(void **state)
{
	static const uint8_t code[] = { 0xea, 0, 0, 0, 0xd1, 0x08, 0 }; /* ljmp $8,$0xd1000000 */
	struct vcpu_fx *f = fx_new(1, code, sizeof(code));

	(void)state;
	vcpus_resume(&f->set);
	assert_true(wait_fault(f));
	assert_in_range(atomic_load(&f->reason), VM_REASON_TRIPLE_FAULT, VM_REASON_HOST_ERROR);
	vcpus_stop(&f->set);
	fx_free(f);
}

static void test_reset_clears_registers_and_debug_state(void **state)
{
	/* mov $-1 to all; mov %eax,%dr3; loop */
	static const uint8_t code[] = { 0xb8, 0x00, 0x40, 0, 0, 0x0f, 0x23, 0xd8, 0x31, 0xc0, 0x31,
		0xd2, 0xbb, 0xff, 0xff, 0xff, 0xff, 0xbd, 1, 2, 3, 4, 0xef, 0x40, 0xeb, 0xfc };
	struct vcpu_fx *f = fx_new(1, code, sizeof(code));
	struct kvm_debugregs d;
	struct kvm_regs r;
	struct err e = { 0 };

	(void)state;
	vcpus_resume(&f->set);
	assert_true(wait_beyond(f, 3));
	vcpus_stop(&f->set);
	assert_int_equal(kvm_ioctl(f->set.vcpu[0].fd, KVM_GET_DEBUGREGS, &d), 0);
	assert_int_equal(d.db[3], 0x4000);
	must(vcpus_reset(&f->set, &f->entry, &e), &e);
	r = regs_of(f, 0);
	assert_true(r.rip == CODE_GPA);
	assert_true((r.rax | r.rbx | r.rcx | r.rdx | r.rbp | r.rsp | r.rdi) == 0);
	assert_true(r.rflags == 2);
	assert_int_equal(kvm_ioctl(f->set.vcpu[0].fd, KVM_GET_DEBUGREGS, &d), 0);
	assert_true((d.db[0] | d.db[1] | d.db[2] | d.db[3]) == 0);
	fx_free(f);
}

static uint64_t msr_get(struct vcpu_fx *f, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} m = { .head.nmsrs = 1, .e = { { .index = index } } };

	assert_int_equal(kvm_ioctl(f->set.vcpu[0].fd, KVM_GET_MSRS, &m), 1);
	return m.e[0].data;
}

static bool msr_set(struct vcpu_fx *f, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} m = { .head.nmsrs = 1, .e = { { .index = index, .data = value } } };

	return kvm_ioctl(f->set.vcpu[0].fd, KVM_SET_MSRS, &m) == 1;
}

/* KVM writes to guest memory through these MSRs: if they stayed enabled, KVM would overwrite memory
 * of the next kernel. */
static void test_reset_disables_kvm_writes_to_memory(void **state)
{
	static const struct {
		uint32_t index;
		uint64_t on;
	} rows[] = {
		{ 0x4b564d01, 0x2001 }, /* kvm-clock */
		{ 0x12, 0x2041 },       /* the same, old number */
		{ 0x4b564d02, 0x2081 }, /* asynchronous page faults */
		{ 0x4b564d03, 0x20c1 }, /* stolen time */
		{ 0x4b564d04, 0x2101 }, /* PV end of interrupt */
	};
	struct vcpu_fx *f = fx_new(1, out_loop, sizeof(out_loop));
	struct err e = { 0 };
	bool was_set[ARRAY_SIZE(rows)];

	(void)state;
	atomic_store(&f->set.vcpu->ran, true); /* as its thread would */
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		was_set[i] = msr_set(f, rows[i].index, rows[i].on);
	must(vcpus_reset(&f->set, &f->entry, &e), &e);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (was_set[i])
			assert_int_equal(msr_get(f, rows[i].index) & 1, 0);
	memset(f->mem.host + 0x2000, 0, 0x1000);
	vcpus_resume(&f->set);
	assert_true(wait_beyond(f, 100));
	vcpus_stop(&f->set);
	for (size_t i = 0; i < 0x1000; i++)
		assert_int_equal(f->mem.host[0x2000 + i], 0);
	fx_free(f);
}

/* Reset during an interrupt, with a timer running: the next kernel gets a LAPIC as after power-on,
 * without a vector in service, which would block lower vectors. */
static void test_reset_gives_a_fresh_local_apic(void **state)
{
	struct vcpu_fx *f = fx_new(2, out_loop, sizeof(out_loop));
	struct err e = { 0 };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_lapic_state fresh, l;
		struct kvm_sregs s;
		int fd = f->set.vcpu[i].fd;

		assert_int_equal(kvm_ioctl(fd, KVM_GET_LAPIC, &fresh), 0);
		l = fresh;
		store_le32(l.regs + 0x80, 0x20);        /* task priority */
		store_le32(l.regs + 0xf0, 0x1ff);       /* on */
		store_le32(l.regs + 0x170, 0x80000000); /* vector 0xff in service */
		store_le32(l.regs + 0x320, 0x200ef);    /* periodic timer */
		store_le32(l.regs + 0x380, 0x100000);
		assert_int_equal(kvm_ioctl(fd, KVM_SET_LAPIC, &l), 0);
		assert_int_equal(kvm_ioctl(fd, KVM_GET_SREGS, &s), 0);
		s.apic_base |= 1 << 10; /* x2APIC, where the host has it */
		kvm_ioctl(fd, KVM_SET_SREGS, &s);
		must(vcpus_reset(&f->set, &f->entry, &e), &e);
		assert_int_equal(kvm_ioctl(fd, KVM_GET_LAPIC, &l), 0);
		assert_memory_equal(l.regs, fresh.regs, sizeof(l.regs));
		assert_int_equal(kvm_ioctl(fd, KVM_GET_SREGS, &s), 0);
		assert_int_equal(s.apic_base, i ? 0xfee00800 : 0xfee00900);
		assert_int_equal(s.cr8, 0);
	}
	vcpus_resume(&f->set);
	assert_true(wait_beyond(f, 100));
	fx_free(f);
}

/* ---- bytes that KVM collects ---- */

#define COLLECTED 100u

/* Create a VM whose guest writes COLLECTED bytes to port 0, which KVM collects, and halts for ever. */
static struct vcpu_fx *collecting_new(struct loop **ret_loop)
{
	/* xor eax,eax; 1: out 0,al; inc eax; cmp al,COLLECTED; jne 1b; cli; 2: hlt; jmp 2b */
	static const uint8_t code[] = { 0x31, 0xc0, 0xe6, 0x00, 0x40, 0x3c, COLLECTED, 0x75, 0xf9, 0xfa, 0xf4, 0xeb, 0xfd };
	struct vcpu_fx *f = fx_new(1, code, sizeof(code));
	struct err e = { 0 };

	must(loop_new(8, ret_loop, &e), &e);
	port_ring_init(&f->ring, &f->kvm, *ret_loop, 0);
	if (!f->ring.timer) {
		print_message("skipped: this host's KVM lacks KVM_CAP_COALESCED_PIO\n");
		fx_free(f);
		loop_free(*ret_loop);
		skip();
	}
	port_ring_attach(&f->ring, f->pio, f->set.vcpu[0].run);
	port_ring_collect(&f->ring);
	assert_true(f->ring.collects);
	return f;
}

/* Return the number of bytes that the guest has written. */
static uint64_t written(struct vcpu_fx *f)
{
	return atomic_load(&f->set.vcpu[0].counters[VCPU_EXITS_IO]) + __atomic_load_n(&f->ring.ring->last, __ATOMIC_ACQUIRE);
}

/* Run the guest, and wait until it has written all bytes. KVM before Linux 6.12 takes the ring for full after 85 bytes
 * (coalesced_mmio_has_room()), so that one byte exits. */
static void collecting_run(struct vcpu_fx *f)
{
	uint64_t end = loop_now_ns() + 25000 * MS;

	vcpus_resume(&f->set);
	while (written(f) != COLLECTED && loop_now_ns() < end)
		usleep(50);
	assert_int_equal(written(f), COLLECTED);
	assert_in_range(f->ring.ring->last, COLLECTED - 1, COLLECTED);
}

static void test_stop_delivers_collected_bytes(void **state)
{
	struct loop *l;
	struct vcpu_fx *f = collecting_new(&l);

	(void)state;
	collecting_run(f);
	vcpus_stop(&f->set);
	assert_int_equal(f->accesses, COLLECTED);
	assert_int_equal(f->wrong, 0);
	fx_free(f);
	loop_free(l);
}

/* The timer delivers what a halted guest has written, and at last lets KVM stop collecting. Then each byte exits. */
static void test_timer_delivers_collected_bytes(void **state)
{
	struct loop *l;
	struct vcpu_fx *f = collecting_new(&l);
	uint64_t end = loop_now_ns() + 60000 * MS;
	struct err e = { 0 };
	uint64_t exits;

	(void)state;
	port_ring_resume(&f->ring);
	collecting_run(f);
	while (atomic_load(&f->accesses) < COLLECTED && loop_now_ns() < end)
		loop_run_once(l, 1000 * MS);
	assert_int_equal(f->accesses, COLLECTED);
	f->ring.quiet = 45; /* nearly 10 s */
	while (f->ring.collects && loop_now_ns() < end)
		loop_run_once(l, 1000 * MS);
	assert_false(f->ring.collects);
	vcpus_stop(&f->set);
	exits = atomic_load(&f->set.vcpu[0].counters[VCPU_EXITS_IO]);
	atomic_store(&f->accesses, 0);
	must(vcpus_reset(&f->set, &f->entry, &e), &e);
	vcpus_resume(&f->set);
	assert_true(wait_beyond(f, COLLECTED - 1));
	vcpus_stop(&f->set);
	assert_int_equal(atomic_load(&f->set.vcpu[0].counters[VCPU_EXITS_IO]) - exits, COLLECTED);
	assert_int_equal(f->wrong, 0);
	fx_free(f);
	loop_free(l);
}

static void test_done_accepts_empty_set(void **state)
{
	struct vcpus s, zeroes;

	(void)state;
	memset(&s, 0, sizeof(s));
	memset(&zeroes, 0, sizeof(zeroes));
	vcpus_done(&s);
	assert_memory_equal(&s, &zeroes, sizeof(s));
	assert_true(fcntl(0, F_GETFD) >= 0); /* 0 is no fd of its own */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stop_resume_while_writing_a_port),
		cmocka_unit_test(test_stop_resume_while_reading_a_port),
		cmocka_unit_test(test_stop_resume_while_writing_mmio),
		cmocka_unit_test(test_stop_resume_while_reading_mmio),
		cmocka_unit_test(test_stop_requested_by_handler_is_exact),
		cmocka_unit_test(test_withdrawn_stop_leaves_no_vcpu_stopped),
		cmocka_unit_test(test_stops_from_two_threads_do_not_hang),
		cmocka_unit_test(test_unstarted_vcpus_execute_nothing),
		cmocka_unit_test(test_64_vcpus),
		cmocka_unit_test(test_halted_vcpu_stops_at_once),
		cmocka_unit_test(test_triple_fault_is_reported_and_reset_recovers),
		cmocka_unit_test(test_fetch_from_unmapped_memory_is_a_fault),
		cmocka_unit_test(test_reset_clears_registers_and_debug_state),
		cmocka_unit_test(test_reset_disables_kvm_writes_to_memory),
		cmocka_unit_test(test_reset_gives_a_fresh_local_apic),
		cmocka_unit_test(test_stop_delivers_collected_bytes),
		cmocka_unit_test(test_timer_delivers_collected_bytes),
		cmocka_unit_test(test_done_accepts_empty_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
