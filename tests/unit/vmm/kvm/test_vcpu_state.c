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

#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MSR_TSC 0x10u
#define STATE_MSRS_MAX 256u /* of a vCPU's state */

struct vcpu_fx {
	struct kvm kvm;
	struct memory mem;
	struct vcpus set;
};

/* Create a VM with one vCPU, which never runs. */
static struct vcpu_fx *fx_new(void)
{
	struct vcpu_fx *f = kvm_fx_new(sizeof(*f));
	struct vcpus_config c = { .kvm = &f->kvm, .count = 1, .sockets = 1, .cores = 1, .threads = 1 };
	struct err e = { 0 };

	kvm_fx_memory(&f->kvm, &f->mem, 4 * MIB);
	must(kvm_create_irqchip(&f->kvm, &e), &e);
	must(vcpus_init(&f->set, &c, &e), &e);
	return f;
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_load_replaces_a_state_that_was_loaded_before),
		cmocka_unit_test(test_load_of_many_equal_msrs_stays_in_bounds),
		cmocka_unit_test(test_wrong_nested_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
