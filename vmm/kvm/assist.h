/* assist: what a KVM that emulates kernel mode (kvm-pvm) leaves undone, so that unmodified
 * 64-bit Linux boots. Not made at all on VMX and SVM hosts.
 *
 * 1. An instruction at CPL 0 that KVM's emulator refuses is decoded and done here.
 * 2. A system call from CPL 3: that KVM sets RIP to LSTAR, RCX and R11 rightly but stays at
 *    CPL 3, so the guest takes a page fault on the fetch. An execute breakpoint on the
 *    guest's page-fault entry catches it; the exception is undone and the call finished.
 *
 * Everything runs on the vCPU's own thread. */
#ifndef CAIRN_VMM_KVM_ASSIST_H
#define CAIRN_VMM_KVM_ASSIST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dev_host;
struct err;
struct kvm;
struct kvm_regs;
struct kvm_sregs;
struct vcpu;

struct assist {
	struct kvm *kvm;	  /* borrowed */
	const struct dev_host *host; /* borrowed: guest RAM */
	atomic_ulong syscalls, instructions;
};

/* Ask KVM to tell us of writes to LSTAR. Before the first vCPU runs.
 * Returns 0; -ENOTSUP with a sentence when KVM has no MSR filter. */
int assist_init(struct assist *a, struct kvm *k, const struct dev_host *h, struct err *e);
void assist_vcpu_reset(struct assist *a, struct vcpu *v);
/* The vCPU has got its registers from a saved state. */
void assist_vcpu_loaded(struct assist *a, struct vcpu *v);

/* KVM_EXIT_INTERNAL_ERROR, emulation. True: done, go on. */
bool assist_emulate(struct assist *a, struct vcpu *v);
/* KVM_EXIT_DEBUG. True: it was ours. */
bool assist_debug(struct assist *a, struct vcpu *v);
/* KVM_EXIT_X86_WRMSR of LSTAR. */
void assist_wrmsr(struct assist *a, struct vcpu *v);
/* After every exit: has the guest moved its IDT? */
void assist_recheck(struct assist *a, struct vcpu *v);
/* ", instruction bytes 0f ae 15": for reports; works without an assist (a may be NULL). */
void assist_instruction_text(struct vcpu *v, uint64_t rip, char *buf, size_t len);

/* ---- the decoder and the rules, without KVM: for unit tests ---- */

enum assist_kind {
	ASSIST_NONE = 0, /* not ours */
	ASSIST_SKIP,	 /* fwait, fnclex, fninit, emms, clac, stac: nothing to do here */
	ASSIST_INT3,
	ASSIST_SWAPGS,
	ASSIST_SYSRET,
	ASSIST_CMPXCHG16B,
};

struct assist_insn {
	enum assist_kind kind;
	unsigned len;		/* bytes, prefixes included */
	/* CMPXCHG16B's operand */
	bool has_base, has_index, rip_relative;
	unsigned base, index, scale; /* register numbers; scale as a shift */
	int32_t disp;
	uint8_t segment; /* 0x64, 0x65 for FS, GS; 0 */
};

/* bytes: what lies at RIP, up to 15. */
void assist_decode(const uint8_t *bytes, size_t n, struct assist_insn *ret);
/* Linear address of a CMPXCHG16B's operand. */
uint64_t assist_operand(const struct assist_insn *i, const struct kvm_regs *r,
	const struct kvm_sregs *s);
/* Compare RDX:RAX with the 16 bytes at mem; swap in RCX:RBX or load; ZF says which. */
void assist_cmpxchg16b(uint8_t *mem, struct kvm_regs *r);

struct assist_msrs {
	uint64_t star, lstar, fmask, kernel_gs_base;
};
/* frame: the six words the page fault pushed (error code, RIP, CS, RFLAGS, RSP, SS). True when
 * it is a system call that stopped halfway; registers are then those of its first
 * instruction in the kernel. */
bool assist_finish_syscall(const uint64_t frame[6], const struct assist_msrs *m,
	struct kvm_regs *r, struct kvm_sregs *s);
void assist_sysret(const struct assist_msrs *m, struct kvm_regs *r, struct kvm_sregs *s);
/* The handler's address in a 16-byte gate; 0 when it is not a present interrupt or trap gate. */
uint64_t assist_gate_handler(const uint8_t gate[16]);
/* Length of a first instruction that the breakpoint can step over without the CPU; 0: none.
 * *ret_clears_df: it is CLD. */
unsigned assist_entry_step(const uint8_t *bytes, size_t n, bool *ret_clears_df);

#endif
