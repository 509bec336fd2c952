/* cpu_state: the section "cpu" of a VM state: the processor that the guest sees.
 *
 *   u32  kind, enum cpu_kind
 *   u32  sockets, u32 cores, u32 threads: the topology
 *   u32  frequency of the TSC in kHz; 0: unknown
 *   u64  XCR0: the states that XSAVE may handle
 *   u32  n, n leaves: the guest's CPUID, to which topology, APIC id and other values of each vCPU are added
 *        before KVM_SET_CPUID2
 *   u32  n, n leaves: the processor's own answers (CPU_KIND_PROCESSOR; otherwise n is 0)
 *
 * A leaf is u32 function, index, flags, eax, ebx, ecx, edx. */
#ifndef CAIRN_SNAPSHOT_CPU_STATE_H
#define CAIRN_SNAPSHOT_CPU_STATE_H

#include <stdint.h>

struct cpuid;
struct err;
struct state_reader;
struct state_writer;

#define CPU_STATE_SECTION "cpu"
#define CPU_STATE_VERSION 1

enum cpu_kind {
	CPU_KIND_UNKNOWN = 0,
	CPU_KIND_VIRTUAL = 1,	/* the guest's CPUID returns the values of KVM_SET_CPUID2 */
	CPU_KIND_PROCESSOR = 2, /* the processor itself answers a guest's user mode, and ignores KVM_SET_CPUID2 */
};

struct cpu_state {
	uint32_t kind;
	uint32_t sockets, cores, threads;
	uint32_t tsc_khz;
	uint64_t xcr0;
	struct cpuid *guest; /* owned */
	struct cpuid *own;   /* owned; NULL unless kind is CPU_KIND_PROCESSOR */
};

/* Write the section. */
void cpu_state_put(struct state_writer *w, const struct cpu_state *c);
/* Read the section's content. The caller calls cpu_state_done(), also after a failure.
 * Returns 0; -EINVAL (ERR_CORRUPT) if it is malformed or memory is lacking. */
int cpu_state_take(struct state_reader *r, struct cpu_state *ret, struct err *e);
void cpu_state_done(struct cpu_state *c);

/* Write or read a list of leaves: u32 n, n leaves. cpuid_take() returns leaves that the caller
 * frees; NULL if n is 0 or above CPUID_LEAVES_MAX, the list ends early, or memory is lacking. */
void cpuid_put(struct state_writer *w, const struct cpuid *c);
struct cpuid *cpuid_take(struct state_reader *r);

#endif
