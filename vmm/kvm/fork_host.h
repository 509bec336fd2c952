/* fork_host: passes facts about the host's processor from a fork's source to its clones, in the fork's state file. The
 * clones run on the same host before its next boot, so the facts still hold. Asking KVM takes 0.4 ms on a host that is
 * a guest itself, because each CPUID leaf is an exit there, and a probe takes 1 ms. The CPUID of the guest itself is in
 * the state (snapshot/cpu_state.h). */
#ifndef CAIRN_VMM_KVM_FORK_HOST_H
#define CAIRN_VMM_KVM_FORK_HOST_H

#include "base/util.h"

#include <stdint.h>

struct cpuid;
struct err;
struct kvm;
struct vmstate_file;

/* End of the facts in the state file. */
#define FORK_HOST_END (14 * MIB + 65536)

struct fork_host {
	struct cpuid *supported; /* CPUID leaves that KVM supports; NULL: unknown */
	uint32_t kind;		 /* enum cpu_kind */
	uint64_t xcr0;		 /* with CPU_KIND_PROCESSOR: struct kvm.xcr0 and struct kvm.own */
	struct cpuid *own;
};

/* Write the facts into a fork's state file, between the definition and the checksums, and extend the file to
 * total_bytes, because clones map all of RAM from it. Probes the processor if there is no result yet.
 * k: k->supported is NULL in a process that only works on images; then no facts are written.
 * Returns 0 or -errno. */
int fork_host_write(struct vmstate_file *f, struct kvm *k, uint64_t total_bytes, struct err *e);
/* Read the facts from a fork's state file.
 * fd: borrowed. ret: the caller frees its lists with fork_host_done(); all 0 when the file has no
 * facts or they are malformed. */
void fork_host_read(int fd, struct fork_host *ret);
void fork_host_done(struct fork_host *h);

#endif
