/* thread_filter: the system calls of each kind of thread of a running VM. Each thread installs a filter of its own when
 * it begins, narrower than the filters of the process (vmm/sandbox.h). The main thread has only those. */
#ifndef CAIRN_VMM_KVM_THREAD_FILTER_H
#define CAIRN_VMM_KVM_THREAD_FILTER_H

struct kvm;
struct loop;

enum thread_kind {
	THREAD_VCPU,	/* runs one vCPU, and the devices' registers that are not on another thread */
	THREAD_DISK,	/* a disk's requests and its image */
	THREAD_NET,	/* a tap, or the socket to cairn-slirp */
	THREAD_TRACKER, /* answers faults on guest memory from a saved state's file or image */
	THREAD_WORKER,	/* snapshots, forks, saves, dumps; starts threads of the other kinds */
	THREAD_THROTTLE /* slows vCPUs down */
};

/* Restrict the calling thread, and threads that it creates later, unless the process is unconfined.
 * l: the loop that the thread runs; NULL: none.
 * vcpu_fd: of THREAD_VCPU, which may run only this vCPU.
 * If the kernel has no memory for the filter, log it and continue: the process's filters are in effect. */
void thread_filter_enter(const struct kvm *k, enum thread_kind kind, const struct loop *l, int vcpu_fd);

#endif
