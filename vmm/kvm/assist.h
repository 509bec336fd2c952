/* assist: completes the emulation of a KVM without hardware virtualization (kvm-pvm), so that an
 * unmodified 64-bit Linux boots. On VMX and SVM hosts the assist is off unless the configuration turns it on.
 *
 * 1. KVM's emulator refuses some instructions at CPL 0. The assist decodes and executes them.
 * 2. On a system call from CPL 3, this KVM sets RIP (to LSTAR), RCX and R11 correctly but stays at CPL 3. So the
 *    instruction fetch causes a page fault. The assist sets an execute breakpoint on the guest's page-fault handler,
 *    undoes the exception there and completes the system call.
 * 3. SeaBIOS' memset() clears 880 KiB before it boots, four emulated instructions a byte. Until a kernel sets LSTAR,
 *    the breakpoint is on that function, and the assist fills the memory.
 *
 * Threading: assist_init(), assist_vcpu_reset() and assist_vcpu_loaded() on the main thread, while the
 * vCPUs are parked; all others on the vCPU's own thread. */
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

#define MSR_LSTAR 0xc0000082u
#define ASSIST_XPARTS 32u /* state components, from x87 (0) on */

/* Where the standard format of XSAVE has its components from 2 on; no bytes: the processor has no such component. */
struct assist_xlayout {
	struct {
		unsigned at, bytes;
	} part[ASSIST_XPARTS];
};

struct assist {
	struct kvm *kvm;	  /* borrowed */
	struct dev_host *host; /* borrowed: guest RAM */
	atomic_ulong syscalls, instructions;
	_Atomic uint64_t *_Atomic shown; /* two counters on the page (vmm/vm_page.h); borrowed; NULL: none */
	const uint8_t *rom; /* of a firmware, below 1 MiB up to its end; borrowed; NULL: none */
	size_t rom_bytes;
};

/* Make KVM exit to userspace on writes to LSTAR. Returns 0; -errno of the ioctl. */
int assist_filter_set(int vm_fd);
/* Initialize the assist, with that filter. Call before the first vCPU runs.
 * k, h: borrowed for the lifetime of the assist.
 * Returns 0; -ENOTSUP when KVM has no MSR filter; -errno of the ioctl. */
int assist_init(struct assist *a, struct kvm *k, struct dev_host *h, struct err *e);
void assist_vcpu_reset(struct assist *a, struct vcpu *v);
/* Set the breakpoint from the registers s and the MSR LSTAR, which were just loaded from a saved state. */
void assist_vcpu_loaded(struct assist *a, struct vcpu *v, const struct kvm_sregs *s, uint64_t lstar);

/* Emulate the instruction that KVM's emulator refused (KVM_EXIT_INTERNAL_ERROR, suberror
 * emulation). Returns true when the vCPU can resume. */
bool assist_emulate(struct assist *a, struct vcpu *v);
/* Handle KVM_EXIT_DEBUG. Returns true when the assist's own breakpoint or single step caused the
 * exit. */
bool assist_debug(struct assist *a, struct vcpu *v);
/* Handle KVM_EXIT_X86_WRMSR of LSTAR. */
void assist_wrmsr(struct assist *a, struct vcpu *v);
/* Move the breakpoint when the guest has loaded another IDT. Call after every exit; reads the IDT
 * at most once in 20 ms. */
void assist_recheck(struct assist *a, struct vcpu *v);
/* Write both counters to an array of two, which must stay valid until this is called again or the vCPUs end. */
void assist_show(struct assist *a, _Atomic uint64_t *shown);
/* Write ", instruction bytes 0f ae 15" into buf, for a fault report; empty when the bytes at rip
 * cannot be read or the VM has no assist. */
void assist_instruction_text(struct vcpu *v, uint64_t rip, char *buf, size_t len);

/* Return the address of SeaBIOS' memset() in a ROM that ends at 1 MiB; 0: this ROM has none, or several. */
uint64_t assist_find_memset(const uint8_t *rom, size_t bytes);

/* ---- decoder and rules without KVM, testable as pure functions ---- */

enum assist_kind {
	ASSIST_NONE = 0, /* not an instruction that the assist emulates */
	ASSIST_SKIP,	 /* fwait, fnclex, fninit, emms, clac, stac: skip the instruction */
	ASSIST_INT3,
	ASSIST_SWAPGS,
	ASSIST_SYSRET,
	ASSIST_CMPXCHG16B,
	ASSIST_XSAVE, /* and XRSTOR: with REX.W, in the standard format */
	ASSIST_XRSTOR,
};

struct assist_insn {
	enum assist_kind kind;
	unsigned len;		/* bytes, prefixes included */
	/* memory operand of CMPXCHG16B, XSAVE and XRSTOR */
	bool has_base, has_index, rip_relative;
	unsigned base, index, scale; /* register numbers; scale as a shift */
	int32_t disp;
	uint8_t segment; /* prefix byte 0x64 (FS) or 0x65 (GS); 0: none */
};

/* Decode the instruction at the start of bytes (n is at most 15). Sets ret->kind to ASSIST_NONE
 * when the assist does not emulate the instruction. */
void assist_decode(const uint8_t *bytes, size_t n, struct assist_insn *ret);
/* Return the linear address of the memory operand. */
uint64_t assist_operand(const struct assist_insn *i, const struct kvm_regs *r,
	const struct kvm_sregs *s);
/* Compare RDX:RAX with the 16 bytes at mem. When equal, store RCX:RBX there and set ZF; otherwise
 * load them into RDX:RAX and clear ZF. mem is 16-byte aligned. */
void assist_cmpxchg16b(uint8_t *mem, struct kvm_regs *r);

/* ---- XSAVE and XRSTOR ---- */

/* Read the layout of this machine's processor. */
void assist_xlayout_read(struct assist_xlayout *l);
/* Return the size of an area with the components rfbm. */
size_t assist_xbytes(const struct assist_xlayout *l, uint64_t rfbm);
/* Do as XSAVE does: write the components rfbm of the registers to area, and leave all else there.
 * state: the registers, as KVM_GET_XSAVE gives them.
 * rfbm: components, which XCR0 must have. Both areas have assist_xbytes() bytes. */
void assist_xsave(const struct assist_xlayout *l, const uint8_t *state, uint8_t *area, uint64_t rfbm);
/* Do as XRSTOR does: change the components rfbm of the registers in state, for KVM_SET_XSAVE.
 * Returns 0; -EINVAL: the area's header is wrong (#GP), with state unchanged. */
int assist_xrstor(const struct assist_xlayout *l, uint8_t *state, const uint8_t *area, uint64_t rfbm, uint64_t xcr0);

/* no error codes of a page fault */
#define ASSIST_WALKED 256
#define ASSIST_NOT_CANONICAL 257 /* #GP */
/* Find the guest physical address of a linear one by four-level page tables, as for an access at CPL 0, and set the
 * entries' accessed and dirty bits.
 * Returns ASSIST_WALKED; ASSIST_NOT_CANONICAL; the error code of a page fault; -ENOTSUP: paging is off, or has five
 * levels. */
int assist_walk(struct dev_host *h, const struct kvm_sregs *s, uint64_t linear, bool write, uint64_t *ret_gpa);

struct assist_msrs {
	uint64_t star, lstar, fmask, kernel_gs_base;
};
/* Complete a system call that stopped at CPL 3: set r and s to the state at the first kernel
 * instruction.
 * frame: the six words that the page fault pushed (error code, RIP, CS, RFLAGS, RSP, SS).
 * Returns false, with r and s unchanged, when the page fault does not come from such a system
 * call. */
bool assist_finish_syscall(const uint64_t frame[6], const struct assist_msrs *m,
	struct kvm_regs *r, struct kvm_sregs *s);
void assist_sysret(const struct assist_msrs *m, struct kvm_regs *r, struct kvm_sregs *s);
/* Return the handler's address in a 16-byte IDT gate; 0 when the gate is not a present interrupt or
 * trap gate. */
uint64_t assist_gate_handler(const uint8_t gate[16]);
/* Return the length of an instruction that the assist can execute for the CPU; 0 for any other.
 * *ret_clears_df: set to true when the instruction is CLD. */
unsigned assist_entry_step(const uint8_t *bytes, size_t n, bool *ret_clears_df);

#endif
