/* guest_cpu: saves, checks and loads the processor that the guest sees: CPUID, topology, XCR0 and the TSC's
 * frequency (snapshot/cpu_state.h). A load gives the guest exactly the recorded processor, or is refused.
 *
 * A KVM that does not virtualise CPUID (CPU_KIND_PROCESSOR) cannot hide a feature: there, a load
 * needs each recorded feature, and the guest may see more features.
 *
 * Threading: main thread, unless a comment says otherwise. */
#ifndef CAIRN_VMM_KVM_GUEST_CPU_H
#define CAIRN_VMM_KVM_GUEST_CPU_H

#include <stddef.h>

struct cpu_state;
struct err;
struct kvm;
struct state_writer;
struct vcpus;

/* A host's TSC whose frequency differs by at most this needs no scaling: KVM's own tolerance. */
#define TSC_TOLERANCE_PPM 250u

/* Choose the guest's processor by its text (base/cpu_model.h), before the vCPUs are created.
 * Returns 0; -ENOTSUP (ERR_UNSUPPORTED) when this host's KVM does not virtualise CPUID or lacks a feature;
 * -EINVAL; -ENOMEM. */
int guest_cpu_choose(struct kvm *k, const char *text, struct err *e);
/* Write the section. Takes 1 ms more if cpu_probe_result() was not called before. */
int guest_cpu_save(struct vcpus *s, struct state_writer *w, struct err *e);
/* Check whether this host can give the guest the recorded processor, without changing anything. Any
 * thread.
 * Returns 0; -ENOTSUP (ERR_UNSUPPORTED) with the missing features and a remedy; -EBUSY
 * (ERR_WRONG_STATE) when the vCPUs have run with another CPUID, which KVM does not change then;
 * -EINVAL (ERR_CORRUPT) for a topology that does not fit the vCPUs. */
int guest_cpu_check(struct vcpus *s, const struct cpu_state *c, struct err *e);
/* Give the guest the recorded processor, which guest_cpu_check() has accepted. If it differs from the current one,
 * takes c->guest and sets it to NULL. Call before vcpu_load(). Returns 0 or -errno. */
int guest_cpu_load(struct vcpus *s, struct cpu_state *c, struct err *e);
/* List the features that the guest sees on this host and did not see where c was saved.
 * text: may be NULL with size 0. Returns their number; always 0 with CPU_KIND_VIRTUAL. */
unsigned guest_cpu_more(struct vcpus *s, const struct cpu_state *c, char *text, size_t size);

#endif
