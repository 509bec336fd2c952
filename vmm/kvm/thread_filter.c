#include "vmm/kvm/thread_filter.h"
#include "base/call_filter.h"
#include "base/lockdown.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/prefault.h"

#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <linux/vhost.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#define KIND(k) (1u << (k))
#define EACH_KIND (~0u)

/* System calls that every thread may make: eventfds and the log; locks, time and exit; memory; abort(). The
 * process's filters check the arguments: no executable memory, no signals to others. */
static const int common[] = { SYS_write, SYS_futex, SYS_read, SYS_close, SYS_writev, SYS_exit, SYS_exit_group,
	SYS_gettid, SYS_getpid, SYS_tgkill, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_sigaltstack, SYS_restart_syscall,
	SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep, SYS_sched_yield, SYS_rseq, SYS_set_robust_list,
	SYS_prctl, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk, SYS_sysinfo, SYS_getrandom };
static const int files[] = { SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_readv, SYS_fdatasync,
	SYS_fallocate, SYS_ftruncate, SYS_fsync, SYS_sync_file_range, SYS_fadvise64, SYS_lseek, SYS_fstat, SYS_newfstatat,
	SYS_fstatfs, SYS_statx, SYS_fcntl };
static const int waits[] = { SYS_poll, SYS_ppoll };
/* The tracker has a thread close the saved state's file; the worker starts several to write and sync files. */
static const int threads[] = { SYS_clone, SYS_clone3 };
/* The worker sends a VM's state to the process that takes it over, and starts threads of other kinds, which install
 * their filters. */
static const int hands_over[] = { SYS_sendmsg, SYS_recvmsg, SYS_sendto, SYS_recvfrom, SYS_shutdown, SYS_eventfd2,
	SYS_seccomp };
/* base/batch_sched.h; the process's filter lets a thread change its own policy only, and to one of two. */
static const int policy[] = { SYS_sched_getscheduler, SYS_sched_setscheduler };
/* base/short_slice.h, for the tracker's thread, which inherits the filter if the worker starts it; the process's filter
 * lets a thread change itself only. */
static const int slice[] = { SYS_sched_getattr, SYS_sched_setattr };
static const int uring_loop[] = { SYS_io_uring_enter };
/* The threads of a loop on epoll, which make its calls on files, inherit the filter. */
static const int epoll_loop[] = { SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_epoll_ctl, SYS_ppoll,
	SYS_eventfd2, SYS_io_setup, SYS_io_destroy, SYS_io_submit, SYS_io_getevents, SYS_readv, SYS_preadv, SYS_preadv2,
	SYS_pwritev, SYS_fdatasync, SYS_fallocate, SYS_fcntl, SYS_clone, SYS_clone3 };

static const struct {
	unsigned kinds;
	const int *calls;
	size_t n;
} allowed[] = {
	{ EACH_KIND, common, ARRAY_SIZE(common) },
	{ KIND(THREAD_DISK) | KIND(THREAD_TRACKER) | KIND(THREAD_WORKER), files, ARRAY_SIZE(files) },
	{ KIND(THREAD_TRACKER) | KIND(THREAD_WORKER), waits, ARRAY_SIZE(waits) },
	{ KIND(THREAD_TRACKER) | KIND(THREAD_WORKER), threads, ARRAY_SIZE(threads) },
	{ KIND(THREAD_NET), policy, ARRAY_SIZE(policy) },
	{ KIND(THREAD_WORKER), hands_over, ARRAY_SIZE(hands_over) },
	{ KIND(THREAD_WORKER), slice, ARRAY_SIZE(slice) },
	/* The worker runs the loops of disks whose threads are stopped. The process's filter allows what they need. */
	{ KIND(THREAD_WORKER), uring_loop, ARRAY_SIZE(uring_loop) },
	{ KIND(THREAD_WORKER), epoll_loop, ARRAY_SIZE(epoll_loop) },
};

static const unsigned vcpu_ioctls[] = { KVM_RUN, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_MSRS,
	KVM_SET_MSRS, KVM_TRANSLATE, KVM_SET_GUEST_DEBUG, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_SET_SIGNAL_MASK,
	KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, KVM_PRE_FAULT_MEMORY, KVM_GET_XCRS, KVM_GET_XSAVE, KVM_SET_XSAVE };
static const unsigned device_ioctls[] = { KVM_SIGNAL_MSI, KVM_IRQ_LINE, KVM_IOEVENTFD };
static const unsigned screen_ioctls[] = { KVM_SET_USER_MEMORY_REGION };
static const unsigned vhost_ioctls[] = { VHOST_SET_OWNER, VHOST_GET_FEATURES, VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE,
	VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_CALL, VHOST_SET_VRING_ERR };
/* A vCPU's thread resets the device, which takes the queues back. */
static const unsigned vhost_stop_ioctls[] = { VHOST_NET_SET_BACKEND, VHOST_SET_VRING_KICK, VHOST_GET_VRING_BASE };
/* Links vhost's eventfds to interrupts. A vCPU's thread masks vectors. */
static const unsigned vhost_kvm_ioctls[] = { KVM_IRQFD, KVM_SET_GSI_ROUTING };
static const unsigned tap_ioctls[] = { TUNSETOFFLOAD, TUNSETQUEUE };
/* A disk's thread makes room for a request during a snapshot: fault_tracker_make_room(). */
static const unsigned disk_ioctls[] = { UFFDIO_WRITEPROTECT, BLKGETSIZE64, BLKSSZGET };
static const unsigned tracker_ioctls[] = { UFFDIO_COPY, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE, UFFDIO_WAKE };

enum { VCPU_FD = -3, VM_FD = -2, ANY_FD = -1 };

static const struct {
	unsigned kinds;
	struct call_filter_ioctls of;
} allowed_ioctls[] = {
	{ KIND(THREAD_VCPU), { VCPU_FD, vcpu_ioctls, ARRAY_SIZE(vcpu_ioctls) } },
	{ KIND(THREAD_VCPU) | KIND(THREAD_DISK) | KIND(THREAD_NET),
		{ VM_FD, device_ioctls, ARRAY_SIZE(device_ioctls) } },
	{ KIND(THREAD_NET), { ANY_FD, tap_ioctls, ARRAY_SIZE(tap_ioctls) } },
	{ KIND(THREAD_DISK), { ANY_FD, disk_ioctls, ARRAY_SIZE(disk_ioctls) } },
	{ KIND(THREAD_TRACKER), { ANY_FD, tracker_ioctls, ARRAY_SIZE(tracker_ioctls) } },
};

static void ioctls_add(struct call_filter *f, const struct kvm *k, enum thread_kind kind, int vcpu_fd)
{
	struct call_filter_ioctls groups[ARRAY_SIZE(allowed_ioctls) + 4];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(allowed_ioctls); i++) {
		if (!(allowed_ioctls[i].kinds & KIND(kind)))
			continue;
		groups[n] = allowed_ioctls[i].of;
		if (groups[n].fd != ANY_FD)
			groups[n].fd = groups[n].fd == VM_FD ? k->vm_fd : vcpu_fd;
		n++;
	}
	if (kind == THREAD_NET && k->has_vhost)
		groups[n++] = (struct call_filter_ioctls){ ANY_FD, vhost_ioctls, ARRAY_SIZE(vhost_ioctls) };
	if ((kind == THREAD_VCPU || kind == THREAD_NET) && k->has_vhost) {
		groups[n++] = (struct call_filter_ioctls){ ANY_FD, vhost_stop_ioctls, ARRAY_SIZE(vhost_stop_ioctls) };
		groups[n++] = (struct call_filter_ioctls){ k->vm_fd, vhost_kvm_ioctls, ARRAY_SIZE(vhost_kvm_ioctls) };
	}
	if (kind == THREAD_VCPU && k->has_screen)
		groups[n++] = (struct call_filter_ioctls){ k->vm_fd, screen_ioctls, ARRAY_SIZE(screen_ioctls) };
	call_filter_ioctls(f, groups, n);
}

/* Threads are made with all signals blocked. The kernel kills the process without a report if SIGSYS or the signal of a
 * fault is (vmm/sandbox.c). */
static void reports_unblock(void)
{
	static const int reported[] = { SIGSYS, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(reported); i++)
		sigaddset(&set, reported[i]);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* System calls of devices/legacy/flash_file.h, on its file only. */
static void flash_allow(struct call_filter *f, int fd)
{
	call_filter_value(f, SYS_pwrite64, SECCOMP_RET_ALLOW, 0, (uint32_t)fd);
	call_filter_value(f, SYS_fdatasync, SECCOMP_RET_ALLOW, 0, (uint32_t)fd);
}

void thread_filter_enter(const struct kvm *k, enum thread_kind kind, const struct loop *l, int vcpu_fd)
{
	static const int all_ioctls[] = { SYS_ioctl };
	struct call_filter f;
	int r;

	if (!k->filters_threads || LOCKDOWN_SANITIZED)
		return;
	reports_unblock();
	call_filter_init(&f);
	/* The worker may do everything that the main thread does with KVM, memory and images (vmm/sandbox.c). */
	if (kind == THREAD_WORKER)
		call_filter_calls(&f, SECCOMP_RET_ALLOW, all_ioctls, ARRAY_SIZE(all_ioctls));
	else
		ioctls_add(&f, k, kind, vcpu_fd);
	if (l && loop_kind(l) == LOOP_IO_URING)
		call_filter_calls(&f, SECCOMP_RET_ALLOW, uring_loop, ARRAY_SIZE(uring_loop));
	else if (l)
		call_filter_calls(&f, SECCOMP_RET_ALLOW, epoll_loop, ARRAY_SIZE(epoll_loop));
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
		if (allowed[i].kinds & KIND(kind))
			call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed[i].calls, allowed[i].n);
	if (kind == THREAD_VCPU && k->flash_fd > 0)
		flash_allow(&f, k->flash_fd);
	r = call_filter_install(&f, SECCOMP_RET_TRAP, false);
	if (r < 0)
		log_error(NULL, "this thread has no filter but those of the process: %s", strerror(-r));
}
