/* fork_host: what a fork tells its clones of the host, beside the state: what KVM supports. They run on the same host,
 * in the same life of it; to ask KVM takes 0.4 ms where the host is a guest itself, as every CPUID leaf is an exit. */
#ifndef CAIRN_VMM_KVM_FORK_HOST_H
#define CAIRN_VMM_KVM_FORK_HOST_H

#include <stdint.h>

struct err;
struct kvm;
struct kvm_cpuid2;
struct vmstate_file;

/* The end of a fork's file: what k knows, which in a process for images alone is nothing, and room: what is absent at
 * its end is part of it, as clones map it. Returns 0 or -errno with a sentence. */
int fork_host_write(struct vmstate_file *f, const struct kvm *k, uint64_t total_bytes, struct err *e);
/* fd: such a file; borrowed. The caller frees; NULL: it says nothing that can be used. */
struct kvm_cpuid2 *fork_host_read(int fd);

#endif
