/* cpu_probe: finds out whether this host's KVM virtualises CPUID, by running the instruction in a
 * guest. A KVM that emulates kernel mode (docs/ARCHITECTURE.md) does not: user mode runs on the
 * processor itself, which executes CPUID and ignores the values of KVM_SET_CPUID2.
 *
 * The guest is a VM of its own, with one vCPU and no devices, because KVM does not change the CPUID
 * of a vCPU that has run. The probe takes about 1 ms, and its teardown up to 3 ms more, on a thread. */
#ifndef CAIRN_VMM_KVM_CPU_PROBE_H
#define CAIRN_VMM_KVM_CPU_PROBE_H

#include <stdint.h>

struct kvm;

/* Begin the probe on a thread, if its result is not known yet. Privileges belong to a thread: unless k->confined is
 * set, the probe's thread drops its own first. */
void cpu_probe_begin(struct kvm *k);
/* If a probe is in progress, wait until its thread has dropped its privileges. */
void cpu_probe_confined(struct kvm *k);
/* Wait for the result, or probe now, and keep it in k: cpu_kind and, with CPU_KIND_PROCESSOR, own and
 * xcr0. Any thread, but one at a time. Call it before a pause, which would otherwise get longer. Returns the kind. */
uint32_t cpu_probe_result(struct kvm *k);
/* If a probe is in progress, wait for its result, store the result in k->cpu_kind and free the probe. Its thread may
 * still tear its guest down afterwards. */
void cpu_probe_end(struct kvm *k);

#endif
