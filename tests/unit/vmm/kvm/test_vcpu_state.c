/* States of a vCPU that are loaded. A state may come from anybody. */
#include "fixture_kvm.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/state.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vcpu_nested.h"
#include "vmm/vm_msg.h"

#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MSR_TSC 0x10u
#define MSR_TSC_ADJUST 0x3bu
#define MSR_LSTAR 0xc0000082u
#define MSR_MTRR_BASE0 0x200u
#define MSR_PAT 0x277u
#define STATE_MSRS_MAX 256u /* of a vCPU's state */

static const struct boot_entry reset_entry = { .mode = BOOT_RESET, .rip = BOOT_RESET_RIP };

struct vcpu_fx {
	struct kvm kvm;
	struct memory mem;
	struct vcpus set;
};

/* Create a VM with that many vCPUs, which never run. */
static struct vcpu_fx *fx_new_with(unsigned vcpus)
{
	struct vcpu_fx *f = kvm_fx_new(sizeof(*f));
	struct vcpus_config c = { .kvm = &f->kvm, .count = vcpus, .sockets = 1, .cores = vcpus, .threads = 1 };
	struct err e = { 0 };

	kvm_fx_memory(&f->kvm, &f->mem, 4 * MIB);
	must(kvm_create_irqchip(&f->kvm, &e), &e);
	must(vcpus_init(&f->set, &c, &e), &e);
	return f;
}

static struct vcpu_fx *fx_new(void)
{
	return fx_new_with(1);
}

static void fx_free(struct vcpu_fx *f)
{
	vcpus_done(&f->set);
	memory_done(&f->mem);
	kvm_done(&f->kvm);
	free(f);
}

/* State that a new vCPU has already, so that vcpu_load() need not write it. */
struct kept_state {
	struct kvm_mp_state mp;
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
};

static void kept_get(struct vcpu *v, struct kept_state *k)
{
	memset(k, 0, sizeof(*k));
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_MP_STATE, &k->mp), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &k->debug), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &k->events), 0);
}

static void kept_change(struct vcpu *v)
{
	struct kept_state k;

	kept_get(v, &k);
	k.mp.mp_state = KVM_MP_STATE_HALTED;
	k.debug.db[0] = 0x1234;
	k.debug.dr7 |= 2;
	k.events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
	k.events.nmi.masked = 1;
	k.events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
	k.events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_MP_STATE, &k.mp), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &k.debug), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &k.events), 0);
}

static void state_load(struct vcpu *v, const struct state_writer *w, const struct kept_state *want)
{
	struct state_section s;
	struct kept_state now;
	struct err e = { 0 };
	size_t pos = 0;

	assert_int_equal(state_section_next(w->buf, w->len, &pos, &s, &e), 1);
	must(vcpu_load(v, &s.content, s.version, &e), &e);
	kept_get(v, &now);
	assert_int_equal(now.mp.mp_state, want->mp.mp_state);
	assert_memory_equal(&now.debug, &want->debug, sizeof(now.debug));
	assert_memory_equal(&now.events, &want->events, sizeof(now.events));
}

/* A VM that is paused since its start may be reverted several times. */
static void test_load_replaces_a_state_that_was_loaded_before(void **state)
{
	struct vcpu_fx *f = fx_new();
	struct kept_state first, changed;
	struct state_writer a, b;
	struct vcpu_fx *other;
	struct err e = { 0 };

	(void)state;
	state_writer_init(&a);
	state_writer_init(&b);
	kept_get(f->set.vcpu, &first);
	must(vcpu_save(f->set.vcpu, &a, &e), &e);
	kept_change(f->set.vcpu);
	kept_get(f->set.vcpu, &changed);
	must(vcpu_save(f->set.vcpu, &b, &e), &e);
	fx_free(f);

	other = fx_new();
	state_load(other->set.vcpu, &a, &first);
	state_load(other->set.vcpu, &b, &changed);
	state_load(other->set.vcpu, &a, &first);
	fx_free(other);
	state_writer_done(&a);
	state_writer_done(&b);
}

/* Return where the MSRs are in a vCPU's state: their number, then 12 bytes for each, up to the end. */
static size_t msrs_find(const struct vcpu_fx *f, const struct state_reader *r)
{
	struct {
		struct kvm_msr_list head;
		uint32_t index[STATE_MSRS_MAX];
	} list = { .head.nmsrs = STATE_MSRS_MAX };

	assert_int_equal(kvm_ioctl(f->kvm.sys_fd, KVM_GET_MSR_INDEX_LIST, &list), 0);
	for (uint32_t n = STATE_MSRS_MAX; n; n--) {
		size_t at = r->len - 4 - (size_t)n * 12;

		if (load_le32(r->buf + at) == n && load_le32(r->buf + at + 4) == list.index[0])
			return at;
	}
	fail_msg("the state has no MSRs");
	return 0;
}

static void test_load_of_many_equal_msrs_stays_in_bounds(void **state)
{
	struct vcpu_fx *f = fx_new();
	struct state_section s;
	struct state_writer a, b;
	struct err e = { 0 };
	size_t pos = 0;

	(void)state;
	state_writer_init(&a);
	must(vcpu_save(f->set.vcpu, &a, &e), &e);
	assert_int_equal(state_section_next(a.buf, a.len, &pos, &s, &e), 1);
	for (uint32_t n = STATE_MSRS_MAX - 1; n <= STATE_MSRS_MAX; n++) {
		struct state_section t;

		state_writer_init(&b);
		state_section_begin(&b, s.name, s.instance, s.version);
		state_put_bytes(&b, s.content.buf, msrs_find(f, &s.content));
		state_put_u32(&b, n);
		for (uint32_t i = 0; i < n; i++) {
			state_put_u32(&b, MSR_TSC);
			state_put_u64(&b, 1ULL << 50);
		}
		state_section_end(&b);
		pos = 0;
		assert_int_equal(state_section_next(b.buf, b.len, &pos, &t, &e), 1);
		must(vcpu_load(f->set.vcpu, &t.content, t.version, &e), &e);
		state_writer_done(&b);
	}
	state_writer_done(&a);
	fx_free(f);
}

/* Load a vCPU's state followed by n bytes of nested virtualization that say that they are size. */
static int nested_load(struct vcpu_fx *f, const struct state_section *s, uint32_t n, uint32_t size, struct err *e)
{
	uint8_t bytes[NESTED_MAX_BYTES + 1] = { 0 };
	struct kvm_nested_state head = { .format = UINT16_MAX, .size = size };
	struct state_section t;
	struct state_writer w;
	size_t pos = 0;
	int r;

	memcpy(bytes, &head, sizeof(head));
	state_writer_init(&w);
	state_section_begin(&w, s->name, s->instance, 2);
	state_put_bytes(&w, s->content.buf, s->content.len);
	state_put_u32(&w, n);
	state_put_bytes(&w, bytes, n);
	state_section_end(&w);
	assert_int_equal(state_section_next(w.buf, w.len, &pos, &t, e), 1);
	r = vcpu_load(f->set.vcpu, &t.content, t.version, e);
	state_writer_done(&w);
	return r;
}

static void test_wrong_nested_state_is_refused(void **state)
{
	static const uint32_t wrong[][2] = { { 0, 0 }, { 127, 127 }, { 128, 0 }, { 128, 129 }, { 4096, 128 },
		{ NESTED_MAX_BYTES + 1, NESTED_MAX_BYTES + 1 } };
	struct vcpu_fx *f = fx_new();
	struct state_section s;
	struct state_writer a;
	struct err e = { 0 };
	size_t pos = 0;

	(void)state;
	state_writer_init(&a);
	must(vcpu_save(f->set.vcpu, &a, &e), &e);
	assert_int_equal(state_section_next(a.buf, a.len, &pos, &s, &e), 1);
	assert_int_equal(s.version, 1); /* this guest uses no virtualization */
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_true(nested_load(f, &s, wrong[i][0], wrong[i][1], &e) < 0);
		assert_string_equal(e.msg, "VM state: vCPU 0's section is malformed");
		e = (struct err){ 0 };
	}
	assert_true(nested_load(f, &s, 128, 128, &e) < 0); /* of no processor */
	assert_non_null(strstr(e.msg, "this host refuses the state of vCPU 0 (KVM_SET_NESTED_STATE"));
	state_writer_done(&a);
	fx_free(f);
}

/* ---- what KVM would replace at a load ---- */

/* Have the vCPU use PAE, with PDPTEs that memory does not have any more. */
static bool pae_enter(struct vcpu *v, struct kvm_sregs2 *ret)
{
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_SREGS2, ret), 0);
	ret->cr0 = 1ULL << 31 | 1ULL << 5 | 1ULL << 4 | 1; /* PG, NE, ET, PE */
	ret->cr3 = 0x1000;
	ret->cr4 = 1ULL << 5;
	ret->efer = 0;
	ret->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	for (unsigned i = 0; i < 4; i++)
		ret->pdptrs[i] = 0x2000 * (i + 1) + 1;
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_SREGS2, ret), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_SREGS2, ret), 0);
	if (!(ret->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID)) {
		print_message("skipped: this KVM has no 32-bit paging with PAE\n");
		return false;
	}
	return true;
}

/* Save the vCPU, whose section has that version, and load it in another VM. Ends f, and returns the other VM. */
static struct vcpu_fx *through_another_vm(struct vcpu_fx *f, uint16_t version)
{
	struct state_section s;
	struct state_writer a;
	struct err e = { 0 };
	size_t pos = 0;

	state_writer_init(&a);
	must(vcpu_save(f->set.vcpu, &a, &e), &e);
	fx_free(f);
	f = fx_new();
	assert_int_equal(state_section_next(a.buf, a.len, &pos, &s, &e), 1);
	assert_int_equal(s.version, version);
	must(vcpu_load(f->set.vcpu, &s.content, s.version, &e), &e);
	state_writer_done(&a);
	return f;
}

static void test_pdptes_that_memory_lacks_come_back(void **state)
{
	struct vcpu_fx *f = fx_new();
	struct kvm_sregs2 want, is = { 0 };

	(void)state;
	if (!pae_enter(f->set.vcpu, &want)) {
		fx_free(f);
		skip();
	}
	f = through_another_vm(f, 3);
	assert_int_equal(kvm_ioctl(f->set.vcpu->fd, KVM_GET_SREGS2, &is), 0);
	assert_memory_equal(is.pdptrs, want.pdptrs, sizeof(is.pdptrs));
	fx_free(f);
}

/* KVM on SVM saves the level that a processor had before an INIT. */
static void test_real_mode_has_privilege_level_0(void **state)
{
	struct vcpu_fx *f = fx_new();
	struct kvm_sregs r;

	(void)state;
	assert_int_equal(kvm_ioctl(f->set.vcpu->fd, KVM_GET_SREGS, &r), 0);
	assert_int_equal(r.cr0 & 1, 0);
	r.ss.dpl = 3;
	assert_int_equal(kvm_ioctl(f->set.vcpu->fd, KVM_SET_SREGS, &r), 0);
	f = through_another_vm(f, 1);
	assert_int_equal(kvm_ioctl(f->set.vcpu->fd, KVM_GET_SREGS, &r), 0);
	assert_int_equal(r.ss.dpl, 0);
	fx_free(f);
}

/* Have SVM's global interrupt flag block an INIT. */
static bool init_latch(struct vcpu *v)
{
	struct kvm_nested_state blocked = { .format = KVM_STATE_NESTED_FORMAT_SVM, .size = sizeof(blocked) };
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;

	if (v->set->cfg.kvm->host_kind != VM_HOST_SVM || !v->set->cfg.kvm->has_nested) {
		print_message("skipped: this KVM gives guests no SVM\n");
		return false;
	}
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_SREGS, &sregs), 0);
	sregs.efer |= 1ULL << 12; /* SVME */
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_NESTED_STATE, &blocked), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &events), 0);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.latched_init = 1;
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &events), 0);
	return true;
}

static void test_init_that_waits_still_waits(void **state)
{
	struct vcpu_fx *f = fx_new();
	struct kvm_vcpu_events is = { 0 };

	(void)state;
	if (!init_latch(f->set.vcpu)) {
		fx_free(f);
		skip();
	}
	f = through_another_vm(f, 3);
	assert_int_equal(kvm_ioctl(f->set.vcpu->fd, KVM_GET_VCPU_EVENTS, &is), 0);
	assert_int_equal(is.smi.latched_init, 1);
	fx_free(f);
}

static int64_t tsc_offset(struct vcpu *v)
{
	int64_t offset = 0;
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };

	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_DEVICE_ATTR, &a), 0);
	return offset;
}

static bool tscs_are_virtual(struct vcpus *set)
{
	int64_t offset = 1LL << 40;
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };

	for (unsigned i = 0; i < set->cfg.count; i++)
		if (kvm_ioctl(set->vcpu[i].fd, KVM_SET_DEVICE_ATTR, &a) || tsc_offset(&set->vcpu[i]) != offset)
			return false;
	return true;
}

static void msr_set(struct vcpu *v, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} one = { .head.nmsrs = 1, .e[0] = { .index = index, .data = value } };

	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_MSRS, &one), 1);
}

static uint64_t msr_get(struct vcpu *v, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} one = { .head.nmsrs = 1, .e[0].index = index };

	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_MSRS, &one), 1);
	return one.e[0].data;
}

/* KVM makes TSCs equal that are written with less than a second's difference. */
static void test_tscs_are_as_far_apart_as_the_guest_set_them(void **state)
{
	static const int64_t adjust[3] = { 1000, 50001000, 1000 };
	struct vcpu_fx *f = fx_new_with(ARRAY_SIZE(adjust));
	struct state_section s;
	struct state_writer a;
	struct err e = { 0 };
	size_t pos = 0;

	(void)state;
	if (!tscs_are_virtual(&f->set)) {
		print_message("skipped: this KVM gives guests the host's TSC\n");
		fx_free(f);
		skip();
	}
	state_writer_init(&a);
	for (unsigned i = 0; i < ARRAY_SIZE(adjust); i++) {
		msr_set(&f->set.vcpu[i], MSR_TSC_ADJUST, (uint64_t)adjust[i]);
		must(vcpu_save(&f->set.vcpu[i], &a, &e), &e);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(adjust); i++) {
		assert_int_equal(state_section_next(a.buf, a.len, &pos, &s, &e), 1);
		must(vcpu_load(&f->set.vcpu[i], &s.content, s.version, &e), &e);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(adjust); i++)
		assert_int_equal(tsc_offset(&f->set.vcpu[i]) - tsc_offset(&f->set.vcpu[0]), adjust[i] - adjust[0]);
	must(vcpus_reset(&f->set, &reset_entry, &e), &e);
	for (unsigned i = 0; i < ARRAY_SIZE(adjust); i++)
		assert_int_equal(tsc_offset(&f->set.vcpu[i]), tsc_offset(&f->set.vcpu[0]));
	state_writer_done(&a);
	fx_free(f);
}

/* ---- reset ---- */

/* The parts of a vCPU's state that a reset clears. */
struct cleared {
	uint64_t lstar, mtrr, pat, tsc_adjust, xcr0;
	uint32_t vector[4]; /* XMM3 */
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
};

static void cleared_get(struct vcpu *v, struct cleared *c)
{
	struct kvm_xcrs x = { 0 };
	struct kvm_xsave *area = calloc(1, 64 * 1024);

	memset(c, 0, sizeof(*c));
	c->lstar = msr_get(v, MSR_LSTAR);
	c->mtrr = msr_get(v, MSR_MTRR_BASE0);
	c->pat = msr_get(v, MSR_PAT);
	c->tsc_adjust = msr_get(v, MSR_TSC_ADJUST);
	if (!kvm_ioctl(v->fd, KVM_GET_XCRS, &x))
		c->xcr0 = x.xcrs[0].value;
	assert_non_null(area);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_XSAVE2, area), 0);
	memcpy(c->vector, &area->region[(160 + 3 * 16) / 4], sizeof(c->vector));
	free(area);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &c->debug), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &c->events), 0);
}

static void cleared_change(struct vcpu *v)
{
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0].value = 3 };
	struct kvm_vcpu_events events = { .flags = KVM_VCPUEVENT_VALID_SHADOW, .interrupt.shadow = KVM_X86_SHADOW_INT_STI };
	struct kvm_debugregs debug = { .db[1] = 0x1234, .dr6 = 0xffff0ff1, .dr7 = 0x404 };
	struct kvm_xsave *area = calloc(1, 64 * 1024);

	assert_non_null(area);
	area->region[128] = 3; /* XSTATE_BV */
	area->region[(160 + 3 * 16) / 4] = 0x5678;
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_XSAVE, area), 0);
	free(area);
	kvm_ioctl(v->fd, KVM_SET_XCRS, &x);
	msr_set(v, MSR_LSTAR, 0xffffffff81000000);
	msr_set(v, MSR_MTRR_BASE0, 0xc0000000);
	msr_set(v, MSR_PAT, 0x0407050600070106);
	msr_set(v, MSR_TSC_ADJUST, 1000);
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &debug), 0);
	assert_int_equal(kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &events), 0);
}

static void test_reset_clears_each_vcpu(void **state)
{
	struct vcpu_fx *f = fx_new_with(2);
	struct cleared before[2], changed, after;
	struct err e = { 0 };

	(void)state;
	must(vcpus_reset(&f->set, &reset_entry, &e), &e);
	for (unsigned i = 0; i < 2; i++) {
		cleared_get(&f->set.vcpu[i], &before[i]);
		cleared_change(&f->set.vcpu[i]);
		cleared_get(&f->set.vcpu[i], &changed);
		assert_int_not_equal(changed.lstar, before[i].lstar);
		assert_int_equal(changed.vector[0], 0x5678);
		atomic_store(&f->set.vcpu[i].ran, true); /* as its thread would */
	}
	must(vcpus_reset(&f->set, &reset_entry, &e), &e);
	for (unsigned i = 0; i < 2; i++) {
		cleared_get(&f->set.vcpu[i], &after);
		assert_memory_equal(&after, &before[i], sizeof(after));
	}
	fx_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pdptes_that_memory_lacks_come_back),
		cmocka_unit_test(test_real_mode_has_privilege_level_0),
		cmocka_unit_test(test_init_that_waits_still_waits),
		cmocka_unit_test(test_tscs_are_as_far_apart_as_the_guest_set_them),
		cmocka_unit_test(test_reset_clears_each_vcpu),
		cmocka_unit_test(test_load_replaces_a_state_that_was_loaded_before),
		cmocka_unit_test(test_load_of_many_equal_msrs_stays_in_bounds),
		cmocka_unit_test(test_wrong_nested_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
