/* A vCPU's state as a section of the VM state. All vCPUs are parked.
 *
 * Section "vcpu", instance = vCPU number, fields in this order: MP state, registers, special registers, events, debug
 * registers, XCRs, XSAVE area, LAPIC page, MSRs. Version 2 also has the state of nested virtualization, and version 3
 * an INIT that waits and the PDPTEs. A vCPU without these is written as an earlier version, which older Cairns load. */
#include "base/err.h"
#include "base/util.h"
#include "snapshot/state.h"
#include "vmm/kvm/assist.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vcpu_nested.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MSRS_MAX 256
#define MSRS_AT_ONCE 255u /* KVM's limit for a call */
#define MSR_TSC 0x10u
#define MSR_TSC_ADJUST 0x3bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_UCODE_REV 0x8bu
#define MSR_PLATFORM_INFO 0xceu
#define MSR_CORE_CAPABILITIES 0xcfu
#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_PERF_CAPABILITIES 0x345u
#define MSR_VMX_BASIC 0x480u
#define MSR_VMX_VMFUNC 0x491u
#define MSR_WALL_CLOCK_OLD 0x11u
#define MSR_WALL_CLOCK 0x4b564d00u
/* If the new TSC is within a second of the VM's present TSC, KVM takes this for an attempt to synchronize vCPUs, and
 * keeps the present TSC (since Linux 6.7, not for the first TSC that is set). So first set the TSC of the first vCPU to
 * a value that is minutes away. */
#define TSC_FAR (1ULL << 40)
#define XSAVE_MAX_BYTES (64 * 1024)
#define CR0_PE 1ULL
#define CR0_PG (1ULL << 31)
#define CR4_PAE (1ULL << 5)
#define EFER_LMA (1ULL << 10)
#define PDPTES 4
#define FCW_INIT 0x37fu
#define MXCSR_INIT 0x1f80u
#define XSAVE_MXCSR 6 /* words of the area */
#define XSAVE_HEADER 128
#define XCR0_X87 1u
#define XCR0_SSE 2u

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry e[MSRS_MAX];
	char refused[40]; /* names the MSR whose value the host refused */
};

/* The state of a vCPU that its section has. */
struct vcpu_image {
	struct kvm_mp_state mp;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_xcrs xcrs;
	struct kvm_lapic_state lapic;
	struct msr_list msrs;
	union nested_state nested;
	uint8_t has_pdptes;
	__u64 pdptes[PDPTES];
	size_t xsave_bytes;
	union {
		struct kvm_xsave x;
		uint8_t raw[XSAVE_MAX_BYTES];
	} xsave;
};

/* Use a separate mapping: most of it is room for an area that few processors need. calloc() would write all of it,
 * which took a clone 18 page faults and 72 KiB. */
static struct vcpu_image *image_new(void)
{
	void *p = mmap(NULL, sizeof(struct vcpu_image), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void image_free(struct vcpu_image *s)
{
	if (s)
		munmap(s, sizeof(*s));
}

/* ---- to and from KVM ---- */

/* MSRs that a guest can set and that KVM does not list. A state has the first one, and those of the others that are not
 * 0, as in a vCPU that KVM has created. */
static const struct {
	uint32_t first, count;
} unlisted_msrs[] = {
	{ MSR_MTRR_DEF_TYPE, 1 },
	{ 0x250, 1 }, { 0x258, 2 }, { 0x268, 8 }, { 0x200, 16 }, /* the fixed and the variable MTRRs */
	{ 0x1d9, 1 },						 /* DEBUGCTL */
	{ 0xc0011029, 1 },					 /* AMD's DE_CFG */
};

static void list_append(struct msr_list *m, uint32_t index, uint64_t v)
{
	if (m->head.nmsrs < MSRS_MAX)
		m->e[m->head.nmsrs++] = (struct kvm_msr_entry){ .index = index, .data = v };
}

static bool list_has(const struct msr_list *m, uint32_t index)
{
	for (uint32_t i = 0; i < m->head.nmsrs; i++)
		if (m->e[i].index == index)
			return true;
	return false;
}

/* Read the listed MSRs, and drop from the list those that KVM cannot read. */
static int list_read(struct vcpu *v, struct msr_list *m)
{
	int r;

	for (;;) {
		r = kvm_ioctl(v->fd, KVM_GET_MSRS, m);
		if (r < 0 || (uint32_t)r >= m->head.nmsrs)
			return r < 0 ? r : 0;
		memmove(&m->e[r], &m->e[r + 1], (m->head.nmsrs - (uint32_t)r - 1) * sizeof(m->e[0]));
		m->head.nmsrs--;
	}
}

static int unlisted_read(struct vcpu *v, struct msr_list *m)
{
	m->head.nmsrs = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(unlisted_msrs); i++)
		for (uint32_t k = 0; k < unlisted_msrs[i].count; k++)
			list_append(m, unlisted_msrs[i].first + k, 0);
	return list_read(v, m);
}

/* Read all MSRs that a state has. */
static int msrs_read(struct vcpu *v, struct msr_list *m)
{
	struct {
		struct kvm_msr_list head;
		uint32_t index[MSRS_MAX];
	} list = { .head.nmsrs = MSRS_MAX };
	struct msr_list more = { 0 };
	int r = kvm_ioctl(v->set->cfg.kvm->sys_fd, KVM_GET_MSR_INDEX_LIST, &list);

	if (r < 0)
		return r;
	m->head.nmsrs = 0;
	for (uint32_t i = 0; i < list.head.nmsrs; i++)
		list_append(m, list.index[i], 0);
	r = list_read(v, m);
	if (!r)
		r = unlisted_read(v, &more);
	for (uint32_t i = 0; !r && i < more.head.nmsrs; i++)
		if ((more.e[i].data || more.e[i].index == MSR_MTRR_DEF_TYPE) && !list_has(m, more.e[i].index))
			list_append(m, more.e[i].index, more.e[i].data);
	return r;
}

/* Add, with the value 0, the MSRs that are not 0 in this vCPU and that the state lacks: they were 0 when the state was
 * saved. An earlier Cairn saved none of these MSRs; then the vCPU keeps its own. */
static int msrs_complete(struct vcpu *v, struct msr_list *m)
{
	struct msr_list more = { 0 };
	int r = list_has(m, MSR_MTRR_DEF_TYPE) ? unlisted_read(v, &more) : 0;

	for (uint32_t i = 0; !r && i < more.head.nmsrs; i++)
		if (more.e[i].data && !list_has(m, more.e[i].index))
			list_append(m, more.e[i].index, 0);
	return r;
}

static int xsave_read(struct vcpu *v, struct vcpu_image *s)
{
	int size = kvm_ioctl(v->set->cfg.kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_XSAVE2);

	s->xsave_bytes = MAX((size_t)MAX(size, 0), sizeof(s->xsave.x));
	if (s->xsave_bytes > sizeof(s->xsave))
		return -E2BIG;
	return kvm_ioctl(v->fd, size > 0 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, &s->xsave);
}

/* Read the entries that the processor keeps since the guest has loaded CR3. Memory may have others by now. */
static void pdptes_read(struct vcpu *v, struct vcpu_image *s)
{
	const struct kvm_sregs *r = &s->sregs;
	struct kvm_sregs2 all = { 0 };

	if (!(r->cr0 & CR0_PG) || !(r->cr4 & CR4_PAE) || (r->efer & EFER_LMA))
		return;
	s->has_pdptes = !kvm_ioctl(v->fd, KVM_GET_SREGS2, &all) && (all.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID); /* since Linux 5.14 */
	memcpy(s->pdptes, all.pdptrs, sizeof(s->pdptes));
}

static int image_read(struct vcpu *v, struct vcpu_image *s, const char **what)
{
	int r;

	/* Set first the parts that change others: the MP state performs a pending INIT, and the events set CR2 and
	 * DR6 to the values of a pending exception. */
	*what = "KVM_GET_MP_STATE";
	r = kvm_ioctl(v->fd, KVM_GET_MP_STATE, &s->mp);
	if (!r && (*what = "KVM_GET_VCPU_EVENTS"))
		r = kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &s->events);
	if (!r && (*what = "KVM_GET_REGS"))
		r = kvm_ioctl(v->fd, KVM_GET_REGS, &s->regs);
	if (!r && (*what = "KVM_GET_SREGS"))
		r = kvm_ioctl(v->fd, KVM_GET_SREGS, &s->sregs);
	if (!r)
		pdptes_read(v, s);
	if (!r && (*what = "KVM_GET_DEBUGREGS"))
		r = kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &s->debug);
	if (!r && (*what = "KVM_GET_XCRS"))
		r = kvm_ioctl(v->fd, KVM_GET_XCRS, &s->xcrs);
	if (!r && (*what = "KVM_GET_XSAVE"))
		r = xsave_read(v, s);
	if (!r && (*what = "KVM_GET_LAPIC"))
		r = kvm_ioctl(v->fd, KVM_GET_LAPIC, &s->lapic);
	if (!r && (*what = "KVM_GET_MSRS"))
		r = msrs_read(v, &s->msrs);
	if (!r && (*what = "KVM_GET_NESTED_STATE"))
		r = vcpu_nested_read(v, &s->nested);
	return r;
}

static bool msr_read(struct vcpu *v, uint32_t index, uint64_t *ret)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} one = { .head.nmsrs = 1, .e[0].index = index };
	bool can = kvm_ioctl(v->fd, KVM_GET_MSRS, &one) == 1;

	*ret = one.e[0].data;
	return can;
}

static bool msr_is(struct vcpu *v, const struct kvm_msr_entry *e)
{
	uint64_t now;

	return msr_read(v, e->index, &now) && now == e->data;
}

/* Accept that this host refuses to write an MSR only if the saved value is 0 or the vCPU's MSR already has the saved
 * value; otherwise the guest would see a change. */
static int msr_refused(struct vcpu *v, const struct kvm_msr_entry *e)
{
	return !e->data || msr_is(v, e) ? 0 : -EINVAL;
}

/* KVM answers a write of these MSRs by writing the time of the guest's start to the memory that they point to. The
 * guest has read it there, and may use the memory for something else since. */
static bool msr_is_wall_clock(uint32_t index)
{
	return index == MSR_WALL_CLOCK || index == MSR_WALL_CLOCK_OLD;
}

/* Write all MSRs except the TSC deadline and the wall clock; deadline: write only the TSC deadline. It arms a timer in
 * the LAPIC, so the LAPIC state has to be loaded before it, or the guest hangs at its next timer.
 * The TSC goes before all state that is relative to it.
 * Write as many MSRs as possible per call: KVM loads the vCPU for each call, which costs more than
 * one MSR. */
static int msrs_write(struct vcpu *v, struct msr_list *all, bool deadline)
{
	struct msr_list m = { 0 };
	bool moved = v->index != 0 || all->head.nmsrs == MSRS_MAX; /* one more has no room */
	int r = 0;

	for (uint32_t i = 0; i < all->head.nmsrs; i++) {
		if ((all->e[i].index == MSR_TSC_DEADLINE) != deadline || (msr_is_wall_clock(all->e[i].index) && all->e[i].data))
			continue;
		if (all->e[i].index == MSR_TSC && !moved) {
			m.e[m.head.nmsrs] = all->e[i];
			m.e[m.head.nmsrs++].data += TSC_FAR;
			moved = true; /* once only, also if a hostile state has several */
		}
		m.e[m.head.nmsrs++] = all->e[i];
	}
	while (!r && m.head.nmsrs) {
		uint32_t left = m.head.nmsrs, n;

		m.head.nmsrs = MIN(left, MSRS_AT_ONCE);
		r = kvm_ioctl(v->fd, KVM_SET_MSRS, &m);
		if (r < 0)
			break;
		n = (uint32_t)r; /* number of MSRs written before the refused one */
		if (n < m.head.nmsrs)
			snprintf(all->refused, sizeof(all->refused), "KVM_SET_MSRS, MSR 0x%x", m.e[n].index);
		r = n < m.head.nmsrs ? msr_refused(v, &m.e[n++]) : 0;
		m.head.nmsrs = left - n;
		memmove(m.e, m.e + n, m.head.nmsrs * sizeof(m.e[0]));
	}
	return r;
}

/* ---- reset ---- */

/* Note the MSRs that a new vCPU has with its CPUID, which are those of each vCPU of the set. Does nothing if they
 * were probed before, or if v has run or been loaded. Returns 0 or -errno. */
static int msrs_note(struct vcpu *v)
{
	struct msr_list *m;
	int r;

	if (v->set->new_msrs || v->ran || v->loaded)
		return 0;
	m = calloc(1, sizeof(*m));
	r = m ? msrs_read(v, m) : -ENOMEM;
	if (r < 0)
		free(m);
	else
		v->set->new_msrs = m;
	return r;
}

/* MSRs that no guest can change: they describe the processor, as CPUID does. */
static bool msr_is_constant(uint32_t index)
{
	return index == MSR_UCODE_REV || index == MSR_PLATFORM_INFO || index == MSR_CORE_CAPABILITIES ||
	       index == MSR_ARCH_CAPABILITIES || index == MSR_PERF_CAPABILITIES ||
	       (index >= MSR_VMX_BASIC && index <= MSR_VMX_VMFUNC);
}

/* Undo the guest's changes of its TSC. */
static void tsc_reset(struct vcpu *v)
{
	uint64_t offset, adjust;
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };

	if (!msr_read(v, MSR_TSC_ADJUST, &adjust) || !adjust || kvm_ioctl(v->fd, KVM_GET_DEVICE_ATTR, &a))
		return;
	offset -= adjust;
	kvm_ioctl(v->fd, KVM_SET_DEVICE_ATTR, &a);
}

static int msrs_reset(struct vcpu *v)
{
	struct msr_list m = { 0 };
	int r;

	tsc_reset(v);
	for (uint32_t i = 0; i < v->set->new_msrs->head.nmsrs; i++) {
		const struct kvm_msr_entry *e = &v->set->new_msrs->e[i];

		if (e->index != MSR_TSC && !msr_is_constant(e->index))
			list_append(&m, e->index, e->data);
	}
	r = msrs_complete(v, &m);
	return r ? r : msrs_write(v, &m, false);
}

int vcpu_registers_reset(struct vcpu *v)
{
	static const struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = XCR0_X87 };
	static const struct kvm_debugregs debug = { .dr6 = 0xffff0ff0, .dr7 = 0x400 };
	struct vcpu_image *s;
	int r;

	if (!v->ran && !v->loaded)
		return msrs_note(v); /* it has these values */
	s = image_new();
	if (!s)
		return -ENOMEM;
	s->xsave.x.region[0] = FCW_INIT;
	s->xsave.x.region[XSAVE_MXCSR] = MXCSR_INIT;
	s->xsave.x.region[XSAVE_HEADER] = XCR0_X87 | XCR0_SSE;
	r = kvm_ioctl(v->fd, KVM_SET_XSAVE, &s->xsave);
	image_free(s);
	kvm_ioctl(v->fd, KVM_SET_XCRS, (void *)&xcrs); /* refused by a processor without XSAVE */
	if (!r)
		r = kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, (void *)&debug);
	return r ? r : msrs_reset(v);
}

/* ---- loading ---- */

/* State of a new vCPU, and of a vCPU after a reset before it runs. Each ioctl of a vCPU takes KVM 4 us on a virtual
 * machine, where it reads MSRs that trap. */
static bool mp_is_fresh(const struct vcpu *v, const struct vcpu_image *s)
{
	return s->mp.mp_state == (v->index ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE);
}

static bool debug_is_fresh(const struct vcpu_image *s)
{
	const struct kvm_debugregs *d = &s->debug;

	return !(d->db[0] | d->db[1] | d->db[2] | d->db[3]) && d->dr6 == 0xffff0ff0 && d->dr7 == 0x400;
}

static bool events_are_fresh(const struct vcpu_image *s)
{
	struct kvm_vcpu_events none = { .flags = s->events.flags };

	return !memcmp(&s->events, &none, sizeof(none));
}

static uint64_t msr_value(const struct msr_list *m, uint32_t index)
{
	for (uint32_t i = 0; i < m->head.nmsrs; i++)
		if (m->e[i].index == index)
			return m->e[i].data;
	return 0;
}

/* Without the PDPTEs of the state, KVM reads them from memory. */
static int sregs_write(struct vcpu *v, struct vcpu_image *s)
{
	struct kvm_sregs2 all = { .flags = KVM_SREGS2_FLAGS_PDPTRS_VALID };

	/* On SVM, KVM has the privilege level of before an INIT until the vCPU runs. In real mode it is always 0. */
	if (!(s->sregs.cr0 & CR0_PE))
		s->sregs.ss.dpl = 0;
	memcpy(&all, &s->sregs, offsetof(struct kvm_sregs, interrupt_bitmap));
	memcpy(all.pdptrs, s->pdptes, sizeof(all.pdptrs));
	if (s->has_pdptes && !kvm_ioctl(v->fd, KVM_SET_SREGS2, &all))
		return 0;
	return kvm_ioctl(v->fd, KVM_SET_SREGS, &s->sregs);
}

/* Set the TSC as far from vCPU 0's as the guest has set it. KVM has taken the write of the TSC for an attempt to
 * synchronize it, but IA32_TSC_ADJUST has the difference. A KVM without this attribute (before Linux 5.16) leaves the
 * TSCs equal. */
static void tsc_set_apart(struct vcpu *v, uint64_t adjust)
{
	struct vcpus *s = v->set;
	uint64_t offset;
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };

	if (!v->index) {
		s->tsc_adjust = adjust;
		s->tscs_differ = false;
	}
	s->tscs_differ |= adjust != s->tsc_adjust;
	if (!s->tscs_differ || kvm_ioctl(s->vcpu[0].fd, KVM_GET_DEVICE_ATTR, &a))
		return;
	offset += adjust - s->tsc_adjust;
	kvm_ioctl(v->fd, KVM_SET_DEVICE_ATTR, &a);
}

static int image_write(struct vcpu *v, struct vcpu_image *s, const char **what)
{
	bool fresh = !v->ran && !v->loaded;
	int r;

	*what = "KVM_GET_MSRS";
	r = msrs_note(v);
	v->loaded = true;
	if (!r && !fresh && (*what = "KVM_SET_NESTED_STATE"))
		r = vcpu_nested_leave(v);
	if (!r && (*what = "KVM_SET_SREGS"))
		r = sregs_write(v, s);
	if (!r && s->xcrs.nr_xcrs && (*what = "KVM_SET_XCRS")) /* none on a CPU without XSAVE */
		r = kvm_ioctl(v->fd, KVM_SET_XCRS, &s->xcrs);
	if (!r && (*what = "KVM_SET_XSAVE"))
		r = kvm_ioctl(v->fd, KVM_SET_XSAVE, &s->xsave);
	if (!r && !fresh && (*what = "KVM_GET_MSRS"))
		r = msrs_complete(v, &s->msrs);
	if (!r && (*what = "KVM_SET_MSRS"))
		r = msrs_write(v, &s->msrs, false);
	if (!r)
		tsc_set_apart(v, msr_value(&s->msrs, MSR_TSC_ADJUST));
	/* Follow EFER.SVME and the MSRs of VMX, which cannot change later; precede the registers of the guest's
	 * guest. */
	if (!r && s->nested.head.size && (*what = "KVM_SET_NESTED_STATE"))
		r = kvm_ioctl(v->fd, KVM_SET_NESTED_STATE, &s->nested);
	if (!r && (*what = "KVM_SET_REGS"))
		r = kvm_ioctl(v->fd, KVM_SET_REGS, &s->regs);
	if (!r && (*what = "KVM_SET_LAPIC"))
		r = kvm_ioctl(v->fd, KVM_SET_LAPIC, &s->lapic);
	if (!r && !(fresh && mp_is_fresh(v, s)) && (*what = "KVM_SET_MP_STATE"))
		r = kvm_ioctl(v->fd, KVM_SET_MP_STATE, &s->mp);
	if (!r && !(fresh && debug_is_fresh(s)) && (*what = "KVM_SET_DEBUGREGS"))
		r = kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &s->debug);
	if (!r && !(fresh && !msr_value(&s->msrs, MSR_TSC_DEADLINE)) && (*what = "KVM_SET_MSRS (TSC deadline)"))
		r = msrs_write(v, &s->msrs, true);
	if (!r && !(fresh && events_are_fresh(s)) && (*what = "KVM_SET_VCPU_EVENTS"))
		r = kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &s->events);
	return r;
}

/* ---- encoding a vCPU's section ---- */

/* One list of fields for saving and loading, so that both have the same order: a field is written
 * when w is set, read otherwise. */
struct coder {
	struct state_writer *w;
	struct state_reader *r;
};

#define CODE(bits)                                                                                 \
	static void code##bits(struct coder *c, uint##bits##_t *v)                                 \
	{                                                                                          \
		if (c->w)                                                                          \
			state_put_u##bits(c->w, *v);                                               \
		else                                                                               \
			*v = state_u##bits(c->r);                                                  \
	}
CODE(8)
CODE(16)
CODE(32)
#undef CODE

/* A function of its own, since KVM's __u64 is unsigned long long, not uint64_t. */
static void state_code_u64(struct coder *c, __u64 *v)
{
	if (c->w)
		state_put_u64(c->w, *v);
	else
		*v = state_u64(c->r);
}

static void code_bytes(struct coder *c, void *p, size_t n)
{
	if (c->w)
		state_put_bytes(c->w, p, n);
	else
		state_bytes(c->r, p, n);
}

static void code_regs(struct coder *c, struct kvm_regs *r)
{
	__u64 *const all[] = { &r->rax, &r->rbx, &r->rcx, &r->rdx, &r->rsi, &r->rdi, &r->rsp, &r->rbp,
		&r->r8, &r->r9, &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15, &r->rip,
		&r->rflags };

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		state_code_u64(c, all[i]);
}

static void code_segment(struct coder *c, struct kvm_segment *s)
{
	state_code_u64(c, &s->base);
	code32(c, &s->limit);
	code16(c, &s->selector);
	code8(c, &s->type);
	code8(c, &s->present);
	code8(c, &s->dpl);
	code8(c, &s->db);
	code8(c, &s->s);
	code8(c, &s->l);
	code8(c, &s->g);
	code8(c, &s->avl);
	code8(c, &s->unusable);
}

static void code_sregs(struct coder *c, struct kvm_sregs *s)
{
	struct kvm_segment *const segments[] = { &s->cs, &s->ds, &s->es, &s->fs, &s->gs, &s->ss, &s->tr,
		&s->ldt };
	__u64 *const rest[] = { &s->cr0, &s->cr2, &s->cr3, &s->cr4, &s->cr8, &s->efer, &s->apic_base };

	for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
		code_segment(c, segments[i]);
	state_code_u64(c, &s->gdt.base);
	code16(c, &s->gdt.limit);
	state_code_u64(c, &s->idt.base);
	code16(c, &s->idt.limit);
	for (size_t i = 0; i < ARRAY_SIZE(rest); i++)
		state_code_u64(c, rest[i]);
	for (size_t i = 0; i < ARRAY_SIZE(s->interrupt_bitmap); i++)
		state_code_u64(c, &s->interrupt_bitmap[i]);
}

static void code_events(struct coder *c, struct kvm_vcpu_events *e)
{
	code8(c, &e->exception.injected);
	code8(c, &e->exception.nr);
	code8(c, &e->exception.has_error_code);
	code8(c, &e->exception.pending);
	code32(c, &e->exception.error_code);
	code8(c, &e->interrupt.injected);
	code8(c, &e->interrupt.nr);
	code8(c, &e->interrupt.soft);
	code8(c, &e->interrupt.shadow);
	code8(c, &e->nmi.injected);
	code8(c, &e->nmi.pending);
	code8(c, &e->nmi.masked);
	code32(c, &e->sipi_vector);
	code32(c, &e->flags);
	code8(c, &e->exception_has_payload);
	state_code_u64(c, &e->exception_payload);
}

static void code_debug(struct coder *c, struct kvm_debugregs *d)
{
	for (size_t i = 0; i < ARRAY_SIZE(d->db); i++)
		state_code_u64(c, &d->db[i]);
	state_code_u64(c, &d->dr6);
	state_code_u64(c, &d->dr7);
}

static void code_xcrs(struct coder *c, struct kvm_xcrs *x)
{
	code32(c, &x->nr_xcrs);
	x->nr_xcrs = MIN(x->nr_xcrs, (uint32_t)KVM_MAX_XCRS);
	for (uint32_t i = 0; i < x->nr_xcrs; i++) {
		code32(c, &x->xcrs[i].xcr);
		state_code_u64(c, &x->xcrs[i].value);
	}
}

static void code_xsave(struct coder *c, struct vcpu_image *s)
{
	uint32_t n = (uint32_t)s->xsave_bytes;

	code32(c, &n);
	s->xsave_bytes = n;
	if (n > sizeof(s->xsave)) {
		c->r->failed = true; /* only a reader can exceed the limit */
		return;
	}
	code_bytes(c, &s->xsave, n);
}

static void code_msrs(struct coder *c, struct msr_list *m)
{
	code32(c, &m->head.nmsrs);
	if (m->head.nmsrs > MSRS_MAX) {
		c->r->failed = true;
		return;
	}
	for (uint32_t i = 0; i < m->head.nmsrs; i++) {
		code32(c, &m->e[i].index);
		state_code_u64(c, &m->e[i].data);
	}
}

/* KVM's structure as it is; its size comes before it. */
static void code_nested(struct coder *c, union nested_state *n, bool optional)
{
	uint32_t bytes = n->head.size;

	code32(c, &bytes);
	if (optional && !bytes)
		return;
	if (bytes < sizeof(n->head) || bytes > sizeof(*n)) {
		c->r->failed = true;
		return;
	}
	code_bytes(c, n, bytes);
	if (n->head.size != bytes)
		c->r->failed = true;
}

static void code_pdptes(struct coder *c, struct vcpu_image *s)
{
	code8(c, &s->has_pdptes);
	for (unsigned i = 0; i < PDPTES && s->has_pdptes; i++)
		state_code_u64(c, &s->pdptes[i]);
}

static void code_image(struct coder *c, struct vcpu_image *s, uint16_t version)
{
	code32(c, &s->mp.mp_state);
	code_regs(c, &s->regs);
	code_sregs(c, &s->sregs);
	code_events(c, &s->events);
	code_debug(c, &s->debug);
	code_xcrs(c, &s->xcrs);
	code_xsave(c, s);
	code_bytes(c, s->lapic.regs, sizeof(s->lapic.regs));
	code_msrs(c, &s->msrs);
	if (version > 1)
		code_nested(c, &s->nested, version > 2);
	if (version > 2) {
		code8(c, &s->events.smi.latched_init);
		code_pdptes(c, s);
		if (c->r && (s->events.smi.latched_init | s->has_pdptes) > 1)
			c->r->failed = true;
	}
}

int vcpu_save(struct vcpu *v, struct state_writer *w, struct err *e)
{
	struct vcpu_image *s = image_new();
	struct coder c = { .w = w };
	const char *what = "";
	char instance[16];
	uint16_t version;
	int r = s ? image_read(v, s, &what) : -ENOMEM;

	if (!r) {
		version = s->has_pdptes || s->events.smi.latched_init ? VCPU_STATE_VERSION : s->nested.head.size ? 2 : 1;
		snprintf(instance, sizeof(instance), "%u", v->index);
		state_section_begin(w, "vcpu", instance, version);
		code_image(&c, s, version);
		state_section_end(w);
	}
	image_free(s);
	return r < 0 ? err_set(e, r, ERR_HOST, "vCPU %u: %s: %s", v->index, what, strerror(-r)) : 0;
}

int vcpu_load(struct vcpu *v, struct state_reader *reader, uint16_t version, struct err *e)
{
	struct vcpu_image *s = image_new();
	struct coder c = { .r = reader };
	const char *what = "";
	int r = 0;

	if (!s)
		return err_set_errno(e, -ENOMEM, "vCPU %u", v->index);
	code_image(&c, s, version);
	if (!version || version > VCPU_STATE_VERSION || !state_reader_complete(reader))
		r = err_set(e, -EINVAL, ERR_CORRUPT, "VM state: vCPU %u's section is malformed", v->index);
	if (!r) {
		r = image_write(v, s, &what);
		if (r < 0)
			err_set(e, r, ERR_HOST,
				"VM state: this host refuses the state of vCPU %u (%s: %s)", v->index,
				s->msrs.refused[0] && !strncmp(what, "KVM_SET_MSRS", 12) ? s->msrs.refused : what,
				strerror(-r));
	}
	if (!r && v->set->cfg.assist)
		assist_vcpu_loaded(v->set->cfg.assist, v, &s->sregs, msr_value(&s->msrs, MSR_LSTAR));
	image_free(s);
	return r;
}
