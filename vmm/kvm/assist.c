#include "vmm/kvm/assist.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MSR_STAR 0xc0000081u
#define MSR_FMASK 0xc0000084u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define PAGE_FAULT_VECTOR 14
#define GATE_BYTES 16
#define PROTECTION_VECTOR 13
#define XSAVE_ALIGN 64
#define CR4_OSXSAVE (1ULL << 18)
#define RFLAGS_DF (1ULL << 10)
#define RFLAGS_RF (1ULL << 16)
/* Interval at which VM exits re-read the guest's IDT. Long enough to cost nothing measurable, short
 * enough that a stale breakpoint is replaced soon. */
#define RECHECK_NS 20000000ULL

/* Repeat a counter on the page. Several threads may do this at once: each exchange is a barrier, so whoever stores an
 * older value sees the newer one, and stores that. */
static void counter_show(const atomic_ulong *c, _Atomic uint64_t *shown)
{
	do
		atomic_exchange(shown, atomic_load(c));
	while (atomic_load(shown) != atomic_load(c));
}

static void assist_count(struct assist *a, atomic_ulong *c)
{
	_Atomic uint64_t *shown = atomic_load(&a->shown);

	atomic_fetch_add(c, 1);
	if (shown)
		counter_show(c, shown + (c == &a->instructions));
}

void assist_show(struct assist *a, _Atomic uint64_t *shown)
{
	atomic_store(&a->shown, shown);
	if (shown) {
		counter_show(&a->syscalls, shown);
		counter_show(&a->instructions, shown + 1);
	}
}

/* ---- guest memory by linear address ---- */

/* ret_gpa: NULL: not wanted. */
static uint8_t *linear_to_host(struct assist *a, struct vcpu *v, uint64_t linear, uint64_t len, uint64_t *ret_gpa)
{
	struct kvm_translation t = { .linear_address = linear };

	if (kvm_ioctl(v->fd, KVM_TRANSLATE, &t) < 0 || !t.valid)
		return NULL;
	if (ret_gpa)
		*ret_gpa = t.physical_address;
	return dev_ram(a->host, t.physical_address, len);
}

static size_t linear_read(struct assist *a, struct vcpu *v, uint64_t linear, uint8_t *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		size_t n = MIN(len - done, 4096 - (linear + done) % 4096);
		const uint8_t *p = linear_to_host(a, v, linear + done, n, NULL);

		if (!p)
			break;
		memcpy(buf + done, p, n);
		done += n;
	}
	return done;
}

void assist_instruction_text(struct vcpu *v, uint64_t rip, char *buf, size_t len)
{
	struct assist *a = v->set->cfg.assist;
	uint8_t bytes[15];
	size_t n, at;

	buf[0] = 0;
	n = a ? linear_read(a, v, rip, bytes, sizeof(bytes)) : 0;
	at = n ? (size_t)snprintf(buf, len, ", instruction bytes") : 0;
	for (size_t i = 0; i < n && at + 4 < len; i++)
		at += (size_t)snprintf(buf + at, len - at, " %02x", bytes[i]);
}

/* ---- reading and setting MSRs ---- */

static int msr_set(struct vcpu *v, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} m = { .head.nmsrs = 1, .e = { { .index = index, .data = value } } };

	return kvm_ioctl(v->fd, KVM_SET_MSRS, &m) == 1 ? 0 : -EINVAL;
}

static bool msrs_get(struct vcpu *v, struct assist_msrs *ret)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[4];
	} m = { .head.nmsrs = 4,
		.e = { { .index = MSR_STAR }, { .index = MSR_LSTAR }, { .index = MSR_FMASK },
			{ .index = MSR_KERNEL_GS_BASE } } };

	if (kvm_ioctl(v->fd, KVM_GET_MSRS, &m) != 4)
		return false;
	ret->star = m.e[0].data;
	ret->lstar = m.e[1].data;
	ret->fmask = m.e[2].data;
	ret->kernel_gs_base = m.e[3].data;
	return true;
}

int assist_filter_set(int vm_fd)
{
	/* One clear bit denies writes to LSTAR; KVM turns each denied write into an exit to
	 * userspace. */
	static uint8_t bitmap[8];
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_FILTER } };
	struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges = { { .flags = KVM_MSR_FILTER_WRITE, .base = MSR_LSTAR, .nmsrs = 1,
			.bitmap = bitmap } } };
	int r = kvm_ioctl(vm_fd, KVM_ENABLE_CAP, &cap);

	return r < 0 ? r : kvm_ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, &filter);
}

int assist_init(struct assist *a, struct kvm *k, struct dev_host *h, struct err *e)
{
	int r;

	memset(a, 0, sizeof(*a));
	a->kvm = k;
	a->host = h;
	if (!k->has_msr_filter)
		return err_set(e, -ENOTSUP, ERR_HOST, "the assist needs KVM_CAP_X86_MSR_FILTER");
	r = k->made_filter ? 0 : assist_filter_set(k->vm_fd);
	return r < 0 ? err_set(e, r, ERR_HOST, "the assist's MSR filter: %s", strerror(-r)) : 0;
}

/* ---- the breakpoint on the page-fault handler ---- */

static void debug_set(struct vcpu *v)
{
	struct kvm_guest_debug d = { 0 };

	if (v->assist.stepping) {
		d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
	} else if (v->assist.breakpoint) {
		d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
		d.arch.debugreg[0] = v->assist.breakpoint;
		/* DR7: global enable of DR0, break on execution, length of one byte. */
		d.arch.debugreg[7] = 0x402;
	}
	kvm_ioctl(v->fd, KVM_SET_GUEST_DEBUG, &d);
}

/* SeaBIOS' memset(), compiled by gcc: test %ecx,%ecx; je; dec %ecx; mov %dl,(%eax,%ecx); jmp; ret */
static const uint8_t memset_code[] = { 0x85, 0xc9, 0x74, 0x06, 0x49, 0x88, 0x14, 0x08, 0xeb, 0xf6, 0xc3 };
#define CR0_PE 1u
#define CR0_PG 0x80000000u
/* Pausing the vCPUs waits for the end of a step of memset(), whose length the guest chooses. */
#define MEMSET_STEP (1u << 20)

uint64_t assist_find_memset(const uint8_t *rom, size_t bytes)
{
	const uint8_t *at = rom ? memmem(rom, bytes, memset_code, sizeof(memset_code)) : NULL;
	size_t rest = at ? bytes - (size_t)(at - rom) : 0;

	if (!at || memmem(at + 1, rest - 1, memset_code, sizeof(memset_code)))
		return 0;
	return MEM_SHADOW_END - rest;
}

void assist_vcpu_reset(struct assist *a, struct vcpu *v)
{
	bool debugs = v->assist.breakpoint || v->assist.stepping;

	memset(&v->assist, 0, sizeof(v->assist));
	v->assist.breakpoint = v->assist.memset_at = assist_find_memset(a->rom, a->rom_bytes);
	if (debugs || v->assist.breakpoint)
		debug_set(v);
}

/* Carry out at most MEMSET_STEP bytes of a call of memset(), and move the guest to the call's end when all is done.
 * Returns false if the guest has other code there, or the memory is no RAM: then the breakpoint is removed, and the
 * guest runs the code itself. */
static bool memset_do(struct assist *a, struct vcpu *v)
{
	uint8_t code[sizeof(memset_code)];
	struct kvm_sregs s;
	struct kvm_regs r;
	uint32_t at, n;
	uint8_t *to;

	if (kvm_ioctl(v->fd, KVM_GET_REGS, &r) < 0 || kvm_ioctl(v->fd, KVM_GET_SREGS, &s) < 0 ||
		(s.cr0 & (CR0_PE | CR0_PG)) != CR0_PE || !s.cs.db || s.cs.base || s.ds.base ||
		linear_read(a, v, r.rip, code, sizeof(code)) != sizeof(code) || memcmp(code, memset_code, sizeof(code)))
		return false;
	n = MIN((uint32_t)r.rcx, MEMSET_STEP);
	at = (uint32_t)r.rax + (uint32_t)r.rcx - n; /* downwards and modulo 4 GiB, as the code does */
	to = dev_ram(a->host, at, n);
	if (!to && n)
		return false;
	if (n) {
		memset(to, (uint8_t)r.rdx, n);
		if (a->host->ops->ram_dirty)
			a->host->ops->ram_dirty(a->host, at, n);
	}
	r.rcx = (uint32_t)r.rcx - n;
	if (!r.rcx)
		r.rip += sizeof(memset_code) - 1; /* its ret */
	r.rflags &= ~RFLAGS_RF; /* the rest hits the breakpoint again */
	assist_count(a, &a->instructions);
	return kvm_ioctl(v->fd, KVM_SET_REGS, &r) == 0;
}

static void breakpoint_update(struct assist *a, struct vcpu *v, const struct kvm_sregs *s)
{
	uint8_t gate[GATE_BYTES];
	uint64_t handler = 0, at = s->idt.base + PAGE_FAULT_VECTOR * GATE_BYTES;

	v->assist.checked_ns = loop_now_ns();
	if (!v->assist.lstar)
		return;
	if (s->idt.limit + 1u >= (PAGE_FAULT_VECTOR + 1) * GATE_BYTES &&
		linear_read(a, v, at, gate, sizeof(gate)) == sizeof(gate))
		handler = assist_gate_handler(gate);
	if (handler && handler != v->assist.breakpoint) {
		v->assist.breakpoint = handler;
		debug_set(v);
	}
}

void assist_vcpu_loaded(struct assist *a, struct vcpu *v, const struct kvm_sregs *s, uint64_t lstar)
{
	assist_vcpu_reset(a, v);
	v->assist.lstar = lstar;
	breakpoint_update(a, v, s);
}

void assist_recheck(struct assist *a, struct vcpu *v)
{
	struct kvm_sregs s;

	if (!v->assist.lstar || loop_now_ns() - v->assist.checked_ns < RECHECK_NS)
		return;
	if (kvm_ioctl(v->fd, KVM_GET_SREGS, &s) == 0)
		breakpoint_update(a, v, &s);
}

void assist_wrmsr(struct assist *a, struct vcpu *v)
{
	struct kvm_run *run = v->run;
	struct kvm_sregs s;

	run->msr.error = msr_set(v, run->msr.index, run->msr.data) < 0;
	if (run->msr.error || run->msr.index != MSR_LSTAR)
		return;
	v->assist.lstar = run->msr.data;
	if (kvm_ioctl(v->fd, KVM_GET_SREGS, &s) == 0)
		breakpoint_update(a, v, &s);
}

/* Emulate the first instruction of the page-fault handler, so that the breakpoint can stay set.
 * Single-step when the instruction is not one that assist_entry_step() knows. */
static void insn_step_over(struct assist *a, struct vcpu *v, struct kvm_regs *r)
{
	uint8_t bytes[4];
	bool clears_df;
	unsigned len = assist_entry_step(bytes, linear_read(a, v, r->rip, bytes, sizeof(bytes)),
		&clears_df);

	if (!len) {
		v->assist.stepping = true;
		debug_set(v);
		return;
	}
	r->rip += len;
	r->rflags &= ~RFLAGS_RF;
	if (clears_df)
		r->rflags &= ~RFLAGS_DF;
	kvm_ioctl(v->fd, KVM_SET_REGS, r);
}

/* Inject the guest's own debug exception, which the breakpoint on memset() intercepted. There is no breakpoint any
 * more afterwards. */
static bool debug_give_back(struct vcpu *v)
{
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_INJECT_DB };
	struct kvm_debugregs regs;

	v->assist.breakpoint = v->assist.memset_at = 0;
	if (kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &regs) < 0)
		return false;
	regs.dr6 = v->run->debug.arch.dr6;
	return kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &regs) == 0 && kvm_ioctl(v->fd, KVM_SET_GUEST_DEBUG, &d) == 0;
}

bool assist_debug(struct assist *a, struct vcpu *v)
{
	struct assist_msrs msrs;
	struct kvm_sregs s;
	struct kvm_regs r;
	uint64_t frame[6];

	if (v->assist.stepping) {
		v->assist.stepping = false;
		debug_set(v);
		return true;
	}
	if (v->assist.breakpoint && v->assist.breakpoint == v->assist.memset_at && v->run->debug.arch.pc != v->assist.breakpoint)
		return debug_give_back(v);
	if (!v->assist.breakpoint || v->run->debug.arch.pc != v->assist.breakpoint)
		return false;
	if (v->assist.breakpoint == v->assist.memset_at) {
		if (!memset_do(a, v)) {
			v->assist.breakpoint = v->assist.memset_at = 0;
			debug_set(v);
		}
		return true;
	}
	if (kvm_ioctl(v->fd, KVM_GET_REGS, &r) < 0 || kvm_ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
		return false;
	if (linear_read(a, v, r.rsp, (uint8_t *)frame, sizeof(frame)) == sizeof(frame) &&
		frame[1] == v->assist.lstar && msrs_get(v, &msrs) &&
		assist_finish_syscall(frame, &msrs, &r, &s)) {
		assist_count(a, &a->syscalls);
		return kvm_ioctl(v->fd, KVM_SET_SREGS, &s) == 0 &&
			kvm_ioctl(v->fd, KVM_SET_REGS, &r) == 0;
	}
	breakpoint_update(a, v, &s);
	insn_step_over(a, v, &r);
	return true;
}

/* ---- instructions that KVM's emulator refuses ---- */

static bool int3_inject(struct vcpu *v)
{
	struct kvm_vcpu_events ev;

	if (kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &ev) < 0)
		return false;
	ev.exception.injected = 1;
	ev.exception.nr = 3;
	ev.exception.has_error_code = 0;
	ev.exception.error_code = 0;
	return kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &ev) == 0;
}

static bool swapgs_do(struct vcpu *v, struct kvm_sregs *s)
{
	struct assist_msrs m;
	uint64_t old = s->gs.base;

	if (!msrs_get(v, &m))
		return false;
	s->gs.base = m.kernel_gs_base;
	return msr_set(v, MSR_KERNEL_GS_BASE, old) == 0 && kvm_ioctl(v->fd, KVM_SET_SREGS, s) == 0;
}

static bool sysret_do(struct vcpu *v, struct kvm_regs *r, struct kvm_sregs *s)
{
	struct assist_msrs m;

	if (!msrs_get(v, &m))
		return false;
	assist_sysret(&m, r, s);
	return kvm_ioctl(v->fd, KVM_SET_SREGS, s) == 0;
}

static bool cmpxchg16b_do(struct assist *a, struct vcpu *v, const struct assist_insn *i,
	struct kvm_regs *r, const struct kvm_sregs *s)
{
	uint64_t linear = assist_operand(i, r, s), gpa;
	uint8_t *mem = linear % 16 ? NULL : linear_to_host(a, v, linear, 16, &gpa);

	if (!mem)
		return false;
	assist_cmpxchg16b(mem, r);
	if (a->host->ops->ram_dirty)
		a->host->ops->ram_dirty(a->host, gpa, 16);
	return true;
}

/* Raise an exception with an error code at the instruction. */
static bool fault_inject(struct vcpu *v, uint8_t vector, uint32_t error)
{
	struct kvm_vcpu_events ev;

	if (kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &ev) < 0)
		return false;
	ev.exception.injected = 1;
	ev.exception.nr = vector;
	ev.exception.has_error_code = 1;
	ev.exception.error_code = error;
	return kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &ev) == 0;
}

/* Copy between a buffer and the guest's memory at a linear address, or raise the exception that the processor would.
 * writable: the guest may have to write there, also if this only reads.
 * Returns 0; 1: the guest has an exception; -ENOTSUP. */
static int area_copy(struct assist *a, struct vcpu *v, struct kvm_sregs *s, uint64_t linear, uint8_t *buf, size_t len, bool write, bool writable)
{
	for (size_t done = 0, n; done < len; done += n) {
		uint64_t gpa;
		int code = assist_walk(a->host, s, linear + done, writable, &gpa);
		uint8_t *p;

		n = MIN(len - done, 4096 - (linear + done) % 4096);
		if (code < 0)
			return code;
		if (code == ASSIST_NOT_CANONICAL)
			return fault_inject(v, PROTECTION_VECTOR, 0) ? 1 : -ENOTSUP;
		if (code != ASSIST_WALKED) {
			s->cr2 = linear + done;
			return kvm_ioctl(v->fd, KVM_SET_SREGS, s) == 0 && fault_inject(v, PAGE_FAULT_VECTOR, (uint32_t)code) ? 1 : -ENOTSUP;
		}
		p = dev_ram(a->host, gpa, n);
		if (!p)
			return -ENOTSUP;
		memcpy(write ? p : buf + done, write ? buf + done : p, n);
		if (write && a->host->ops->ram_dirty)
			a->host->ops->ram_dirty(a->host, gpa, n);
	}
	return 0;
}

/* Return the layout, which few VMs need, and which takes some eight CPUID; NULL: out of memory. */
static const struct assist_xlayout *xlayout_get(struct vcpu *v)
{
	struct assist_xlayout *l = v->xlayout;

	if (!l && (l = malloc(sizeof(*l))))
		assist_xlayout_read(l);
	return v->xlayout = l;
}

/* Save the registers to the guest's memory, or load them from it. The area is read in both cases: XSAVE leaves all but
 * its components as it is.
 * Returns 0; 1: the guest has an exception instead; -ENOTSUP. */
static int xsave_do(struct assist *a, struct vcpu *v, const struct assist_insn *i, const struct kvm_regs *r, struct kvm_sregs *s)
{
	uint64_t linear = assist_operand(i, r, s), xcr0, rfbm;
	const struct assist_xlayout *l = xlayout_get(v);
	bool saves = i->kind == ASSIST_XSAVE;
	struct kvm_xsave state, area;
	struct kvm_xcrs xcrs;
	size_t n;
	int code;

	if (!l || !(s->cr4 & CR4_OSXSAVE) || kvm_ioctl(v->fd, KVM_GET_XCRS, &xcrs) < 0 || xcrs.nr_xcrs != 1 ||
		kvm_ioctl(v->fd, KVM_GET_XSAVE, &state) < 0)
		return -ENOTSUP;
	xcr0 = xcrs.xcrs[0].value;
	rfbm = ((uint64_t)(uint32_t)r->rdx << 32 | (uint32_t)r->rax) & xcr0;
	n = assist_xbytes(l, rfbm);
	if (n > sizeof(area) || rfbm >> ASSIST_XPARTS)
		return -ENOTSUP;
	if (linear % XSAVE_ALIGN)
		return fault_inject(v, PROTECTION_VECTOR, 0) ? 1 : -ENOTSUP;
	code = area_copy(a, v, s, linear, (uint8_t *)&area, n, false, saves);
	if (code)
		return code;
	if (saves) {
		assist_xsave(l, (uint8_t *)&state, (uint8_t *)&area, rfbm);
		return area_copy(a, v, s, linear, (uint8_t *)&area, n, true, true);
	}
	/* KVM refuses the bits of MXCSR that the processor lacks. */
	if (assist_xrstor(l, (uint8_t *)&state, (uint8_t *)&area, rfbm, xcr0) < 0 || kvm_ioctl(v->fd, KVM_SET_XSAVE, &state) < 0)
		return fault_inject(v, PROTECTION_VECTOR, 0) ? 1 : -ENOTSUP;
	return 0;
}

bool assist_emulate(struct assist *a, struct vcpu *v)
{
	struct assist_insn i;
	struct kvm_regs r;
	struct kvm_sregs s;
	uint8_t bytes[15];
	bool ok = true;
	int fault = 0;

	if (kvm_ioctl(v->fd, KVM_GET_REGS, &r) < 0 || kvm_ioctl(v->fd, KVM_GET_SREGS, &s) < 0 ||
		s.cs.dpl != 0)
		return false;
	assist_decode(bytes, linear_read(a, v, s.cs.base + r.rip, bytes, sizeof(bytes)), &i);
	if (i.kind == ASSIST_NONE)
		return false;
	if (i.kind == ASSIST_SWAPGS)
		ok = swapgs_do(v, &s);
	else if (i.kind == ASSIST_SYSRET)
		ok = sysret_do(v, &r, &s);
	else if (i.kind == ASSIST_CMPXCHG16B)
		ok = cmpxchg16b_do(a, v, &i, &r, &s);
	else if (i.kind == ASSIST_XSAVE || i.kind == ASSIST_XRSTOR)
		fault = xsave_do(a, v, &i, &r, &s);
	if (fault > 0)
		assist_count(a, &a->instructions);
	if (fault)
		return fault > 0;
	if (i.kind != ASSIST_SYSRET)
		r.rip += i.len;
	if (!ok || kvm_ioctl(v->fd, KVM_SET_REGS, &r) < 0)
		return false;
	assist_count(a, &a->instructions);
	/* Inject #BP last: KVM_SET_REGS drops a pending exception. */
	return i.kind == ASSIST_INT3 ? int3_inject(v) : true;
}
