/* fork_host: passes the CPUID leaves that KVM supports from a fork's source to its clones, in the
 * fork's state file. The clones run on the same host before its next boot, so the leaves still
 * hold. Asking KVM takes 0.4 ms on a host that is a guest itself, because each CPUID leaf is an
 * exit there. */
#ifndef CAIRN_VMM_KVM_FORK_HOST_H
#define CAIRN_VMM_KVM_FORK_HOST_H

#include <stdint.h>

struct err;
struct kvm;
struct kvm_cpuid2;
struct vmstate_file;

/* Write the supported CPUID leaves near the end of a fork's state file and extend the file to
 * total_bytes, as clones map it whole.
 * k: k->supported is NULL in a process that only works on images; then no leaves are written.
 * Returns 0 or -errno. */
int fork_host_write(struct vmstate_file *f, const struct kvm *k, uint64_t total_bytes, struct err *e);
/* Read the supported CPUID leaves from a fork's state file.
 * fd: borrowed. Returns leaves that the caller frees; NULL when the file has none or they are
 * malformed. */
struct kvm_cpuid2 *fork_host_read(int fd);

#endif
