/* guest_cpu: a guest gets exactly the processor that its state recorded, or the load is refused with the names of what
 * this host lacks. Needs /dev/kvm; each test is skipped with a message without it. */
#include "vmm/kvm/guest_cpu.h"
#include "fixture_kvm.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/kvm_host.h"
#include "snapshot/cpu_state.h"
#include "snapshot/state.h"
#include "vmm/kvm/cpu_probe.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cmocka.h>

#define VCPUS 2
#define CX16 (1u << 13) /* of leaf 1 ECX: each KVM offers it */

struct fixture {
	struct kvm kvm;
	struct vcpus set;
	struct cpu_state state; /* the record of guest_cpu_save() */
	struct err e;
};

/* A KVM that scales the TSC, or does not, whatever the host's KVM does. */
static struct {
	enum { REAL, SCALES, DOES_NOT_SCALE } kind;
	uint32_t set[VCPUS]; /* frequency of each vCPU; 0: the host's */
	unsigned refused;    /* the vCPU for which KVM refuses a frequency; VCPUS: none */
} fake = { .refused = VCPUS };
static struct fixture *faked; /* whose vCPUs these are */

int __real_kvm_ioctl(int fd, unsigned long req, void *arg);
int __wrap_kvm_ioctl(int fd, unsigned long req, void *arg);

int __wrap_kvm_ioctl(int fd, unsigned long req, void *arg)
{
	unsigned i = 0;

	if (fake.kind == REAL)
		return __real_kvm_ioctl(fd, req, arg);
	if (req == KVM_CHECK_EXTENSION && (uintptr_t)arg == KVM_CAP_TSC_CONTROL)
		return fake.kind == SCALES;
	while (faked && i < VCPUS && faked->set.vcpu[i].fd != fd)
		i++;
	if (req == KVM_GET_TSC_KHZ && faked && i < VCPUS && fake.set[i])
		return (int)fake.set[i];
	if (req != KVM_SET_TSC_KHZ)
		return __real_kvm_ioctl(fd, req, arg);
	assert_true(faked && i < VCPUS && fake.kind == SCALES);
	if (i == fake.refused)
		return -EINVAL;
	fake.set[i] = (uint32_t)(uintptr_t)arg;
	return 0;
}

static void recorded_read(struct fixture *f)
{
	struct state_section s;
	struct state_writer w;
	size_t pos = 0;

	cpu_state_done(&f->state);
	state_writer_init(&w);
	must(guest_cpu_save(&f->set, &w, &f->e), &f->e);
	assert_int_equal(state_section_next(w.buf, w.len, &pos, &s, &f->e), 1);
	must(cpu_state_take(&s.content, &f->state, &f->e), &f->e);
	state_writer_done(&w);
}

static struct fixture *fixture_new(void)
{
	struct fixture *f = kvm_fx_new(sizeof(*f));
	struct vcpus_config c = { .kvm = &f->kvm, .count = VCPUS, .sockets = 1, .cores = VCPUS, .threads = 1 };

	must(kvm_create_irqchip(&f->kvm, &f->e), &f->e);
	must(vcpus_init(&f->set, &c, &f->e), &f->e);
	recorded_read(f);
	return f;
}

static void fixture_free(struct fixture *f)
{
	memset(&fake, 0, sizeof(fake));
	faked = NULL;
	cpu_state_done(&f->state);
	vcpus_done(&f->set);
	kvm_done(&f->kvm);
	free(f);
}

static uint32_t *reg_of(struct cpuid *c, uint32_t function, uint32_t index, enum cpuid_reg reg)
{
	struct cpuid_leaf *l = (struct cpuid_leaf *)(uintptr_t)cpuid_find(c, function, index);

	assert_non_null(l);
	return &l->reg[reg];
}

/* The leaves that user mode of the guest depends on: masks do nothing on a host that does not virtualise CPUID. */
static struct cpuid *user_leaves(struct cpu_state *c)
{
	return c->kind == CPU_KIND_PROCESSOR ? c->own : c->guest;
}

static void assert_refused(struct fixture *f, int r, enum err_class cls, const char *part)
{
	assert_int_equal(guest_cpu_check(&f->set, &f->state, &f->e), r);
	if (f->e.cls != cls || !strstr(f->e.msg, part))
		fail_msg("class %d: %s", f->e.cls, f->e.msg);
}

/* Return the register that KVM has for a vCPU. */
static uint32_t kvm_reg(struct fixture *f, unsigned vcpu, uint32_t function, enum cpuid_reg reg)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + CPUID_LEAVES_MAX * sizeof(c->entries[0]));
	uint32_t found = 0;

	c->nent = CPUID_LEAVES_MAX;
	assert_int_equal(kvm_ioctl(f->set.vcpu[vcpu].fd, KVM_GET_CPUID2, c), 0);
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && !c->entries[i].index)
			found = reg == CPUID_EAX ? c->entries[i].eax : reg == CPUID_EBX ? c->entries[i].ebx : c->entries[i].ecx;
	free(c);
	return found;
}

static void test_host_with_vmx_or_svm_virtualises_cpuid(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	/* A later kvm-pvm may virtualise CPUID, too. */
	assert_in_range(f->kvm.cpu_kind, CPU_KIND_VIRTUAL, f->kvm.host_kind == VM_HOST_PVM ? CPU_KIND_PROCESSOR : CPU_KIND_VIRTUAL);
	assert_int_equal(f->kvm.own != NULL, f->kvm.cpu_kind == CPU_KIND_PROCESSOR);
	print_message("this host's KVM %s CPUID\n", f->kvm.own ? "does not virtualise" : "virtualises");
	fixture_free(f);
}

static int probes, probe_is_confined; /* counts of probes; whether the last one's thread can gain no privileges */

int __real_kvm_cpuid_guest_run(struct kvm_cpuid_guest *g, int kvm_fd, const struct cpuid *supported);
int __wrap_kvm_cpuid_guest_run(struct kvm_cpuid_guest *g, int kvm_fd, const struct cpuid *supported);

int __wrap_kvm_cpuid_guest_run(struct kvm_cpuid_guest *g, int kvm_fd, const struct cpuid *supported)
{
	probes++;
	probe_is_confined = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	return __real_kvm_cpuid_guest_run(g, kvm_fd, supported);
}

/* A probe may begin before the process drops its privileges. */
static void test_probe_drops_privileges_of_its_thread(void **state)
{
	int was_confined = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); /* 1 in some containers */
	struct kvm *k = kvm_fx_new(sizeof(*k));

	probes = 0;
	cpu_probe_result(k);
	assert_int_equal(probes, 1);
	assert_int_equal(probe_is_confined, 1);
	assert_int_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), was_confined);
	kvm_done(k);
	free(k);
	(void)state;
}

static void test_own_state_is_accepted(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	assert_true(f->state.tsc_khz > 0);
	assert_true(!f->state.xcr0 || f->state.xcr0 & 1); /* 0 without XSAVE */
	must(guest_cpu_check(&f->set, &f->state, &f->e), &f->e);
	assert_int_equal(guest_cpu_more(&f->set, &f->state, NULL, 0), 0);
	atomic_store(&f->set.vcpu[0].ran, true);
	must(guest_cpu_check(&f->set, &f->state, &f->e), &f->e);
	must(guest_cpu_load(&f->set, &f->state, &f->e), &f->e);
	assert_null(f->kvm.guest);
	fixture_free(f);
}

/* No processor has all of these bits. */
static void test_missing_features_are_named(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	*reg_of(user_leaves(&f->state), 7, 0, CPUID_EBX) |= 1u << 26 | 1u << 14;
	*reg_of(user_leaves(&f->state), 7, 0, CPUID_EDX) |= 1u << 2;
	assert_refused(f, -ENOTSUP, ERR_UNSUPPORTED, "the guest uses processor features that this host lacks: ");
	assert_non_null(strstr(f->e.msg, "avx512pf"));
	assert_non_null(strstr(f->e.msg, "avx512_4vnniw"));
	assert_non_null(strstr(f->e.msg, "; load the state on a host with them, or start the VM without it"));
	recorded_read(f);
	*reg_of(user_leaves(&f->state), 7, 0, CPUID_EDX) |= 1u << 17;
	assert_refused(f, -ENOTSUP, ERR_UNSUPPORTED, "CPUID 7.0 EDX bit 17");
	fixture_free(f);
}

static void test_features_that_kvm_does_not_support_are_named(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	*reg_of(f->state.guest, 7, 0, CPUID_EBX) |= 1u << 26;
	assert_refused(f, -ENOTSUP, ERR_UNSUPPORTED, "avx512pf");
	fixture_free(f);
}

/* The guest gets the recorded leaves, with the recorded topology, on each vCPU. */
static void test_guest_gets_recorded_leaves(void **state)
{
	struct fixture *f = fixture_new();
	struct cpuid *want;

	(void)state;
	*reg_of(f->state.guest, 1, 0, CPUID_EAX) = 0x12340;
	*reg_of(f->state.guest, 1, 0, CPUID_ECX) &= ~CX16;
	f->state.cores = 1;
	f->state.threads = 2;
	must(guest_cpu_check(&f->set, &f->state, &f->e), &f->e);
	want = f->state.guest;
	must(guest_cpu_load(&f->set, &f->state, &f->e), &f->e);
	assert_ptr_equal(f->kvm.guest, want);
	for (unsigned i = 0; i < VCPUS; i++) {
		assert_int_equal(kvm_reg(f, i, 1, CPUID_EAX), 0x12340);
		if (f->kvm.cpu_kind == CPU_KIND_VIRTUAL) /* else KVM answers with the processor's bits */
			assert_int_equal(kvm_reg(f, i, 1, CPUID_ECX) & CX16, 0);
		assert_int_equal(kvm_reg(f, i, 0x8000001e, CPUID_EBX) >> 8 & 0xff,
			cpuid_find(want, 0x8000001e, 0) ? 1 : 0);
	}
	recorded_read(f);
	assert_int_equal(f->state.threads, 2);
	assert_int_equal(*reg_of(f->state.guest, 1, 0, CPUID_EAX), 0x12340);
	fixture_free(f);
}

/* KVM's leaves hold counts of the host's processors, which the guest never sees; their order means nothing. */
static void test_vcpu_that_ran_accepts_what_looks_the_same(void **state)
{
	struct fixture *f = fixture_new();
	struct cpuid_leaf first = f->state.guest->leaf[0], *last = &f->state.guest->leaf[f->state.guest->n - 1];

	(void)state;
	atomic_store(&f->set.vcpu[0].ran, true);
	for (struct cpuid_leaf *l = f->state.guest->leaf; l <= last; l++)
		if (l->function == 0xb)
			l->reg[CPUID_EBX] ^= 0xff;
	*reg_of(f->state.guest, 1, 0, CPUID_EBX) ^= 1u << 16; /* the number of threads in a package */
	f->state.guest->leaf[0] = *last;
	*last = first;
	must(guest_cpu_check(&f->set, &f->state, &f->e), &f->e);
	must(guest_cpu_load(&f->set, &f->state, &f->e), &f->e);
	fixture_free(f);
}

static void test_vcpu_that_ran_keeps_its_processor(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	*reg_of(f->state.guest, 1, 0, CPUID_ECX) &= ~CX16;
	must(guest_cpu_check(&f->set, &f->state, &f->e), &f->e);
	atomic_store(&f->set.vcpu[1].ran, true);
	assert_refused(f, -EBUSY, ERR_WRONG_STATE, "lacks features of the running one: cx16; a running VM keeps its processor: "
		"destroy the VM, then do this again");
	recorded_read(f);
	*reg_of(f->state.guest, 1, 0, CPUID_EAX) = 0x12340;
	assert_refused(f, -EBUSY, ERR_WRONG_STATE, "differs in its model or caches");
	recorded_read(f);
	f->state.sockets = VCPUS;
	f->state.cores = 1;
	assert_refused(f, -EBUSY, ERR_WRONG_STATE, "differs in its topology");
	f->state.sockets = 1;
	assert_refused(f, -EINVAL, ERR_CORRUPT, "topology");
	fixture_free(f);
}

static void test_state_of_other_kind_of_host_is_refused(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	if (f->state.kind == CPU_KIND_PROCESSOR) {
		f->state.kind = CPU_KIND_VIRTUAL;
		*reg_of(f->state.guest, 7, 0, CPUID_EBX) = 0;
		assert_refused(f, -ENOTSUP, ERR_UNSUPPORTED, "saved on a host whose KVM virtualises CPUID; this host's does not, and "
			"the guest would see the processor itself (more than it knows: ");
		assert_non_null(strstr(f->e.msg, "load the state on a host with VMX or SVM, or start the VM without it"));
	} else {
		f->state.kind = CPU_KIND_PROCESSOR;
		f->state.own = cpuid_read_processor();
		assert_refused(f, -ENOTSUP, ERR_UNSUPPORTED, "saved on a host whose KVM does not virtualise CPUID");
	}
	fixture_free(f);
}

static void test_features_that_cannot_be_hidden_are_told(void **state)
{
	struct fixture *f = fixture_new();
	char text[128];

	(void)state;
	if (f->state.kind == CPU_KIND_PROCESSOR) {
		*reg_of(f->state.own, 1, 0, CPUID_EDX) &= ~(1u << 26); /* sse2 */
		must(guest_cpu_check(&f->set, &f->state, &f->e), &f->e);
		assert_int_equal(guest_cpu_more(&f->set, &f->state, text, sizeof(text)), 1);
		assert_string_equal(text, "sse2");
		f->state.xcr0 |= 1ULL << 62;
		assert_refused(f, -ENOTSUP, ERR_UNSUPPORTED, "XCR0");
	} else {
		*reg_of(f->state.guest, 1, 0, CPUID_ECX) &= ~CX16;
		must(guest_cpu_check(&f->set, &f->state, &f->e), &f->e);
		assert_int_equal(guest_cpu_more(&f->set, &f->state, text, sizeof(text)), 0);
	}
	fixture_free(f);
}

static struct fixture *fixture_with_fake_tsc(int kind)
{
	fake.kind = kind;
	fake.refused = VCPUS;
	return faked = fixture_new();
}

static void tsc_is(struct fixture *f, uint32_t khz)
{
	for (unsigned i = 0; i < VCPUS; i++)
		assert_int_equal(kvm_ioctl(f->set.vcpu[i].fd, KVM_GET_TSC_KHZ, NULL), khz);
}

static void tsc_load(struct fixture *f, uint32_t khz)
{
	f->state.tsc_khz = khz;
	must(guest_cpu_check(&f->set, &f->state, &f->e), &f->e);
	must(guest_cpu_load(&f->set, &f->state, &f->e), &f->e);
}

static void test_near_tsc_frequency_is_not_scaled(void **state)
{
	struct fixture *f = fixture_new();
	uint32_t khz = f->state.tsc_khz;

	(void)state;
	print_message("this host's KVM %s the TSC\n", f->kvm.scales_tsc ? "scales" : "does not scale");
	tsc_load(f, khz + khz / 5000); /* 200 ppm */
	tsc_is(f, khz);
	recorded_read(f); /* differences do not add up from load to load */
	assert_int_equal(f->state.tsc_khz, khz + khz / 5000);
	fixture_free(f);
}

static void test_other_tsc_frequency_is_refused_without_scaling(void **state)
{
	struct fixture *f = fixture_with_fake_tsc(DOES_NOT_SCALE);
	uint32_t khz = f->state.tsc_khz;

	(void)state;
	f->state.tsc_khz = khz / 2;
	assert_refused(f, -ENOTSUP, ERR_UNSUPPORTED, "its KVM cannot scale it");
	f->state.tsc_khz = khz + khz / 2000; /* 500 ppm */
	assert_refused(f, -ENOTSUP, ERR_UNSUPPORTED, "load the state on a host with that frequency or with TSC scaling");
	tsc_load(f, 0); /* unknown */
	tsc_is(f, khz);
	fixture_free(f);
}

static void test_other_tsc_frequency_is_scaled(void **state)
{
	struct fixture *f = fixture_with_fake_tsc(SCALES);
	uint32_t khz = f->state.tsc_khz;

	(void)state;
	assert_true(f->kvm.scales_tsc);
	tsc_load(f, khz / 2);
	tsc_is(f, khz / 2);
	recorded_read(f);
	assert_int_equal(f->state.tsc_khz, khz / 2);
	tsc_load(f, khz * 2);
	tsc_is(f, khz * 2);
	tsc_load(f, khz);
	tsc_is(f, khz);
	fixture_free(f);
}

/* KVM refuses a frequency for the second vCPU only: the next load sets all vCPUs, also to the first one's frequency. */
static void test_refused_tsc_frequency_leaves_no_vcpu_behind(void **state)
{
	struct fixture *f = fixture_with_fake_tsc(SCALES);
	uint32_t khz = f->state.tsc_khz;

	(void)state;
	f->state.tsc_khz = khz / 2;
	fake.refused = 1;
	assert_int_equal(guest_cpu_load(&f->set, &f->state, &f->e), -EINVAL);
	assert_non_null(strstr(f->e.msg, "KVM does not scale its TSC of "));
	assert_non_null(strstr(f->e.msg, "Invalid argument; load the state on a host with that frequency"));
	fake.refused = VCPUS;
	tsc_load(f, khz / 2);
	tsc_is(f, khz / 2);
	fake.refused = 1;
	f->state.tsc_khz = khz;
	assert_int_equal(guest_cpu_load(&f->set, &f->state, &f->e), -EINVAL);
	fake.refused = VCPUS;
	tsc_load(f, khz);
	tsc_is(f, khz);
	fixture_free(f);
}

/* KVM without TSC control accepts a higher frequency, too, and keeps pace by writing the TSC at each entry. That is no
 * use for guests, but shows on such a host that each vCPU gets the recorded frequency, and the host's again later. */
static void test_recorded_tsc_frequency_is_set_on_each_vcpu(void **state)
{
	struct fixture *f = fixture_new();
	uint32_t khz = f->state.tsc_khz;

	(void)state;
	if (!f->kvm.scales_tsc && kvm_ioctl(f->set.vcpu[0].fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)(khz * 2)) < 0) {
		print_message("skipped: this host's KVM sets no TSC frequency\n");
		fixture_free(f);
		skip();
	}
	f->kvm.scales_tsc = true;
	tsc_load(f, khz * 2);
	tsc_is(f, khz * 2);
	recorded_read(f);
	assert_int_equal(f->state.tsc_khz, khz * 2);
	tsc_load(f, khz);
	tsc_is(f, khz);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_host_with_vmx_or_svm_virtualises_cpuid),
		cmocka_unit_test(test_probe_drops_privileges_of_its_thread),
		cmocka_unit_test(test_own_state_is_accepted),
		cmocka_unit_test(test_missing_features_are_named),
		cmocka_unit_test(test_features_that_kvm_does_not_support_are_named),
		cmocka_unit_test(test_guest_gets_recorded_leaves),
		cmocka_unit_test(test_vcpu_that_ran_accepts_what_looks_the_same),
		cmocka_unit_test(test_vcpu_that_ran_keeps_its_processor),
		cmocka_unit_test(test_state_of_other_kind_of_host_is_refused),
		cmocka_unit_test(test_features_that_cannot_be_hidden_are_told),
		cmocka_unit_test(test_near_tsc_frequency_is_not_scaled),
		cmocka_unit_test(test_other_tsc_frequency_is_refused_without_scaling),
		cmocka_unit_test(test_other_tsc_frequency_is_scaled),
		cmocka_unit_test(test_refused_tsc_frequency_leaves_no_vcpu_behind),
		cmocka_unit_test(test_recorded_tsc_frequency_is_set_on_each_vcpu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
