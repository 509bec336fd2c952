#include "vmm/sandbox.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/program.h"
#include "base/spaces.h"
#include "base/unix_socket.h"
#include "base/utf8.h"
#include "base/util.h"
#include "vmm/kvm/end_file.h"
#include "vmm/kvm/host_files.h"
#include "vmm/kvm/prefault.h"
#include "vmm/vm_msg.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <linux/vhost.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define FILES_MAX 4096
/* Threads of a user id of its own: VM_DISKS_MAX loops have up to 256 threads of the kernel each, and a process that
 * takes the VM over has the same id. Without an id of its own, the VM's threads would count with those of others. */
#define THREADS_MAX 16384
/* The first pthread_create() of glibc installs a handler for this signal. */
#define LIBC_SETXID_SIGNAL 33

/* Allowed with any arguments. Threads other than the main one need a row in vmm/kvm/thread_filter.c as well. */
static const int allowed[] = {
	/* files that are already open */
	SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_lseek, SYS_fstat,
	SYS_fstatfs, SYS_newfstatat, SYS_fallocate, SYS_ftruncate, SYS_fsync, SYS_fdatasync, SYS_sync_file_range,
	SYS_fadvise64, SYS_close, SYS_poll, SYS_ppoll,
	/* open sockets, and fds received over them */
	SYS_recvmsg, SYS_sendmsg, SYS_recvfrom, SYS_sendto, SYS_accept4, SYS_shutdown, SYS_eventfd2,
	/* threads and time */
	SYS_futex, SYS_sched_yield, SYS_exit, SYS_exit_group, SYS_gettid, SYS_getpid, SYS_rt_sigreturn, SYS_rt_sigprocmask,
	SYS_restart_syscall, SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep, SYS_rseq, SYS_set_robust_list,
	SYS_sigaltstack, SYS_wait4,
	/* memory */
	SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_getrandom,
	SYS_sysinfo, /* qsort() asks for the host's memory when it sorts 1 KiB or more */
};

/* The ioctls of this process, the most frequent first: of KVM and userfaultfd; of block devices, for their sizes; of
 * taps, to set which checksums and segments the guest's driver completes, and to attach and detach their queues; of
 * vhost-net, to lend it rings in this process's memory; of file systems, to clone files for a clone's disk
 * (vmm/snapshot/fork_disks.h); of terminals, for `cairn run`, but not TIOCSTI, which types input. */
static const unsigned ioctls[] = { KVM_RUN, KVM_SIGNAL_MSI, KVM_IRQ_LINE, UFFDIO_COPY, UFFDIO_WRITEPROTECT, UFFDIO_WAKE,
	UFFDIO_ZEROPAGE, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_API, USERFAULTFD_IOC_NEW,
	KVM_GET_API_VERSION, KVM_CHECK_EXTENSION, KVM_ENABLE_CAP, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE,
	KVM_GET_SUPPORTED_CPUID, KVM_GET_MSR_INDEX_LIST, KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR,
	KVM_SET_USER_MEMORY_REGION, KVM_X86_SET_MSR_FILTER, KVM_CREATE_IRQCHIP, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP,
	KVM_CREATE_PIT2, KVM_GET_PIT2, KVM_SET_PIT2, KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_IOEVENTFD, KVM_IRQFD, KVM_SET_GSI_ROUTING,
	KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO, KVM_GET_DIRTY_LOG,
	KVM_CLEAR_DIRTY_LOG, KVM_CREATE_VCPU, KVM_SET_CPUID2, KVM_GET_STATS_FD, KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ,
	KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_MSRS, KVM_SET_MSRS,
	KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS,
	KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_PRE_FAULT_MEMORY,
	KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE, KVM_GET_SREGS2, KVM_SET_SREGS2, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR,
	KVM_SET_SIGNAL_MASK, KVM_SET_GUEST_DEBUG, KVM_TRANSLATE, KVM_KVMCLOCK_CTRL,
	BLKGETSIZE64, BLKSSZGET, TUNSETOFFLOAD, TUNSETQUEUE,
	VHOST_NET_SET_BACKEND, VHOST_GET_VRING_BASE, VHOST_SET_OWNER, VHOST_GET_FEATURES, VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE,
	VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL,
	VHOST_SET_VRING_ERR, FICLONE, FICLONERANGE, TCGETS, TCGETS2, TCSETS, TCSETS2, TCSETSW, TCSETSW2 };

/* Allowed until the VM is built: loops (a ring could open files, which landlock forbids), files in memory, and the
 * signal calls that `cairn run` needs. */
static const int for_building[] = { SYS_io_uring_setup, SYS_io_uring_register, SYS_epoll_create1,
	SYS_memfd_create, SYS_signalfd4, SYS_capset };
/* The same for a process that was made ahead. */
static const int for_spares[] = { SYS_dup2 };
/* The same, by the first argument. */
static const struct {
	int call;
	uint32_t argument;
} for_building_by_argument[] = {
	{ SYS_socketpair, AF_UNIX }, /* for the agent's port */
	{ SYS_prctl, PR_SET_NO_NEW_PRIVS }, /* for lockdown_drop() */
	{ SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY }, /* for prefault_init() */
	{ SYS_prlimit64, 0 }, /* limits of this process, for sandbox_limit_files() */
};

/* Of the terminal of `cairn run`, while the VM is built; TCSETS2 is glibc's from 2.42 on. */
static const uint32_t terminal_ioctls[] = { TCSETS, TCSETS2 };

static void building_rules_add(struct call_filter *f, uint32_t answer)
{
	for (size_t i = 0; i < ARRAY_SIZE(for_building_by_argument); i++)
		call_filter_value(f, for_building_by_argument[i].call, answer, 0, for_building_by_argument[i].argument);
	call_filter_value(f, SYS_getsockopt, answer, 2, SO_PEERPIDFD); /* for first_messages_receive() */
	call_filter_calls(f, answer, for_building, ARRAY_SIZE(for_building));
}

/* An interface's thread moves itself between two policies (base/batch_sched.h). A thread that others wait for takes a
 * short slice (base/short_slice.h). All other effects of this call need a privilege, or only slow the thread down. */
static void policies_allow(struct call_filter *f)
{
	static const int policies[] = { SCHED_OTHER, SCHED_BATCH };

	call_filter_value(f, SYS_sched_getscheduler, SECCOMP_RET_ALLOW, 0, 0);
	call_filter_value(f, SYS_sched_getattr, SECCOMP_RET_ALLOW, 0, 0);
	call_filter_value(f, SYS_sched_setattr, SECCOMP_RET_ALLOW, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++) {
		const struct call_filter_argument own[] = { CALL_FILTER_IS(0, 0), CALL_FILTER_IS(1, policies[i]) };

		call_filter_rule(f, SYS_sched_setscheduler, SECCOMP_RET_ALLOW, own, ARRAY_SIZE(own));
	}
}

static void rules_add(struct call_filter *f, const struct sandbox_options *o)
{
	static const uint32_t outputs[] = { STDOUT_FILENO, STDERR_FILENO };
	static const uint32_t names[] = { PR_SET_NAME, PR_GET_NAME /* for violation_report() */ };

	call_filter_ioctls(f, &(struct call_filter_ioctls){ -1, ioctls, ARRAY_SIZE(ioctls) }, 1);
	/* Some threads are created later (a snapshot's tracker), and set their names. */
	lockdown_allow_threads(f);
	call_filter_values(f, SYS_prctl, SECCOMP_RET_ALLOW, 0, names, ARRAY_SIZE(names));
	call_filter_value(f, SYS_tgkill, SECCOMP_RET_ALLOW, 0, (uint32_t)getpid()); /* signals to threads of this process only */
	lockdown_allow_fcntl(f);
	policies_allow(f);
	/* Direct I/O queries its alignment with statx() on an open file: a clone's disk is opened
	 * later (vmm/snapshot/clone_disk.h). */
	call_filter_value(f, SYS_statx, SECCOMP_RET_ALLOW, 2, AT_EMPTY_PATH);
	lockdown_allow_memory(f);
	call_filter_value(f, SYS_rt_sigaction, SECCOMP_RET_TRAP, 0, SIGSYS); /* nobody replaces the handler of violations */
	call_filter_rule(f, SYS_rt_sigaction, SECCOMP_RET_ALLOW, NULL, 0);
	/* for sandbox_seal() and the filters of threads (vmm/kvm/thread_filter.h) */
	call_filter_value(f, SYS_seccomp, SECCOMP_RET_ALLOW, 0, SECCOMP_SET_MODE_FILTER);
	building_rules_add(f, SECCOMP_RET_ALLOW);
	if (o->spare)
		call_filter_values(f, SYS_dup2, SECCOMP_RET_ALLOW, 1, outputs, ARRAY_SIZE(outputs));
	call_filter_calls(f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	lockdown_allow_loops(f, LOOP_KINDS_ALL); /* the loops of disks and interfaces are still to come */
}

/* Forbid the further calls that the first filter, which stays in effect, has allowed until now. */
static void seal_rules_add(struct call_filter *f)
{
	call_filter_values(f, SYS_ioctl, SECCOMP_RET_TRAP, 1, terminal_ioctls, ARRAY_SIZE(terminal_ioctls));
	call_filter_value(f, SYS_rt_sigaction, SECCOMP_RET_ALLOW, 0, LIBC_SETXID_SIGNAL);
	call_filter_rule(f, SYS_rt_sigaction, SECCOMP_RET_TRAP, NULL, 0);
	/* A thread may install a filter for itself, which can only forbid more; not for others, and none that somebody
	 * else answers. */
	call_filter_value(f, SYS_seccomp, SECCOMP_RET_ALLOW, 1, 0);
	call_filter_rule(f, SYS_seccomp, SECCOMP_RET_TRAP, NULL, 0);
	building_rules_add(f, SECCOMP_RET_TRAP);
	call_filter_calls(f, SECCOMP_RET_TRAP, for_spares, ARRAY_SIZE(for_spares));
	lockdown_forbid_other_loops(f, SECCOMP_RET_TRAP, loop_kinds());
}

/* Open the pagemap before, and without capabilities: after the change, the process's files in /proc belong to root. */
static int user_change(uid_t uid, struct host_files *host, struct err *e)
{
	int r = lockdown_effective(false);

	host_files_open_pagemap(host);
	if (!r)
		r = lockdown_effective(true);
	return r < 0 ? err_set_errno(e, r, "sandbox: capabilities") : lockdown_become(uid, e);
}

/* The rings of all VMs of a user count against the limit of locked memory, unless a process has CAP_IPC_LOCK when it
 * makes its rings. Where root may not raise the limit, for example in a container, the process keeps the capability
 * until then; it permits nothing else that the filter does not forbid. */
static int privileges_drop(const struct sandbox_options *o, struct host_files *host, struct err *e)
{
	static const struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };
	/* The capabilities of a plain user's namespace permit no more memory. */
	bool limited = setrlimit(RLIMIT_MEMLOCK, &none) < 0 && !geteuid();
	int r = o->uid ? user_change(o->uid, host, e) : 0;
	int dropped = limited ? lockdown_drop_but(CAP_TO_MASK(CAP_IPC_LOCK), e) : lockdown_drop(e);

	if (!o->uid)
		host_files_open_pagemap(host);
	return r ? r : dropped;
}

static void lack_add(struct sandbox_report *report, const char *what, int r)
{
	size_t at = strlen(report->lacks);

	snprintf(report->lacks + at, sizeof(report->lacks) - at, "%s%s: %s", at ? "; " : "", what, strerror(-r));
}

static int space_make(int flag)
{
	if (flag == CLONE_NEWUSER)
		return spaces_enter_user();
	if (flag == CLONE_NEWNS)
		return spaces_enter_empty_root();
	return unshare(flag) < 0 ? -errno : 0;
}

/* A plain user needs a user namespace to make the others. */
static bool space_is_wanted(const struct sandbox_options *o, int flag)
{
	if (flag == CLONE_NEWIPC || flag == CLONE_NEWUTS)
		return o->own_ipc_uts || o->own_all;
	return o->own_all && (flag != CLONE_NEWUSER || geteuid());
}

/* Leave the host's file systems and network, which takes capabilities. A host may reach a limit of namespaces at any
 * time (user.max_ipc_namespaces); the process continues without the namespace. */
static void spaces_change(const struct sandbox_options *o, struct sandbox_report *report)
{
	static const struct {
		int flag;
		const char *name;
	} own[] = { { CLONE_NEWUSER, "own user namespace, and thereby any other" }, { CLONE_NEWNS, "own mount namespace" },
		{ CLONE_NEWNET, "own network namespace" }, { CLONE_NEWIPC, "own IPC namespace" },
		{ CLONE_NEWUTS, "own UTS namespace" } };
	int r = 0;

	for (unsigned i = 0; i < o->spaces; i++) {
		if (!LOCKDOWN_SANITIZED && setns(o->spaces_fd + (int)i, 0) < 0)
			lack_add(report, "the daemon's namespace", -errno);
		close(o->spaces_fd + (int)i);
	}
	for (size_t i = 0; i < ARRAY_SIZE(own) && !LOCKDOWN_SANITIZED; i++) {
		if (!space_is_wanted(o, own[i].flag))
			continue;
		r = space_make(own[i].flag);
		if (r < 0)
			lack_add(report, own[i].name, r);
		if (r < 0 && own[i].flag == CLONE_NEWUSER)
			return;
	}
}

/* ---- violations and faults of this program ---- */

#define DETAIL_BYTES sizeof(((struct vm_event *)NULL)->detail)

/* Say in the log why the process ends, and in the end file, too, unless the signal alone says as much. */
static void end_report(const char *detail, bool in_file)
{
	struct vm_event ev = { .kind = VM_EVENT_PHASE, .phase = VM_PHASE_ENDED, .reason = VM_REASON_KILLED };

	snprintf(ev.detail, sizeof(ev.detail), "%s", detail);
	ev.realtime_ns = clock_realtime_ns();
	if (in_file)
		end_file_write(&ev);
	log_line(ev.detail);
}

static void thread_name(char name[16])
{
	prctl(PR_GET_NAME, name);
	utf8_clean(name); /* a definition names threads of disks and interfaces */
}

/* Handle SIGSYS, which a filter raises instead of making a forbidden system call: record the call in the end file and
 * in the log, and end the process. The kernel has withdrawn the handler (SA_RESETHAND), so the next forbidden call
 * kills the process, even if its memory is corrupted. Each thread's filter allows prctl(PR_GET_NAME) and write(). The
 * functions called here take no locks. */
static void violation_report(int sig, siginfo_t *si, void *context)
{
	static const char forbidden[] = "made a forbidden system call";
	const ucontext_t *at = context;
	char thread[16] = "", detail[DETAIL_BYTES];

	(void)sig;
	thread_name(thread);
	if (si->si_syscall == SYS_ioctl)
		snprintf(detail, sizeof(detail), "its thread '%s' %s: %d (ioctl 0x%x)", thread, forbidden,
			si->si_syscall, (unsigned)at->uc_mcontext.gregs[REG_RSI]);
	else
		snprintf(detail, sizeof(detail), "its thread '%s' %s: %d", thread, forbidden, si->si_syscall);
	end_report(detail, true);
	for (;;)
		syscall(SYS_tkill, 0, 0);
}

static void signal_exit(int sig)
{
	syscall(SYS_exit_group, VM_EXIT_SIGNAL + sig);
}

/* Handle a fault of this program, or abort(): log the thread and the place, and end the process by the signal. The
 * place is an offset that addr2line(1) understands: addresses would tell where the program lies in memory. A signal
 * that a program has sent, as abort() does, has no place, and the end file needs no entry for it. The kernel has
 * withdrawn the handler. */
static void fault_report(int sig, siginfo_t *si, void *context)
{
	extern const char __executable_start[], etext[];
	const ucontext_t *at = context;
	uintptr_t from = (uintptr_t)__executable_start, pc = (uintptr_t)at->uc_mcontext.gregs[REG_RIP];
	char thread[16] = "", detail[DETAIL_BYTES], place[40] = "";
	bool of_code = si->si_code > 0;

	thread_name(thread);
	if (of_code && pc >= from && pc < (uintptr_t)etext)
		snprintf(place, sizeof(place), " at cairn-vm+0x%llx", (unsigned long long)(pc - from));
	else if (of_code)
		snprintf(place, sizeof(place), " outside of cairn-vm's code");
	snprintf(detail, sizeof(detail), "its thread '%s' was killed by signal %d (%s)%s", thread, sig, sigdescr_np(sig), place);
	end_report(detail, of_code);
	if (getpid() == 1) /* the kernel ignores a signal that the init of a pid namespace sends to itself */
		signal_exit(sig);
	syscall(SYS_tgkill, getpid(), gettid(), sig);
}

/* The kernel ignores these signals in the init of a pid namespace, which has no handler for them. */
static int ends_catch(void)
{
	static const int ends[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };
	struct sigaction act = { .sa_handler = signal_exit };

	for (size_t i = 0; i < ARRAY_SIZE(ends) && getpid() == 1; i++)
		if (sigaction(ends[i], &act, NULL) < 0)
			return -errno;
	return 0;
}

static int faults_catch(void)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct sigaction act = { .sa_sigaction = fault_report,
		.sa_flags = SA_SIGINFO | SA_NODEFER | (int)SA_RESETHAND };

	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		if (sigaction(faults[i], &act, NULL) < 0)
			return -errno;
	return 0;
}

static int violations_catch(void)
{
	struct sigaction act = { .sa_sigaction = violation_report, .sa_flags = SA_SIGINFO | (int)SA_RESETHAND };

	if (LOCKDOWN_SANITIZED)
		return 0;
	return sigaction(SIGSYS, &act, NULL) < 0 ? -errno : faults_catch();
}

int sandbox_enter(struct host_files *host, const struct sandbox_options *o, struct sandbox_report *ret, struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_CORE, 0 }, { RLIMIT_NOFILE, FILES_MAX },
		{ RLIMIT_NPROC, THREADS_MAX } };
	struct call_filter f;
	int r;

	tzset(); /* otherwise gmtime_r() would open /etc/localtime at the first log line */
	spaces_change(o, ret);
	host_files_make_ram(host);
	r = lockdown_limits(limits, o->uid ? ARRAY_SIZE(limits) : ARRAY_SIZE(limits) - 1, e);
	if (!r)
		r = privileges_drop(o, host, e);
	if (r < 0)
		return r;
	r = program_hide();
	if (r < 0)
		return err_set_errno(e, r, "sandbox: dumpable");
	r = ret->landlock = lockdown_outside();
	if (r < 0)
		return err_set_errno(e, r, "sandbox: landlock");
	r = violations_catch();
	if (!r)
		r = ends_catch();
	if (r < 0)
		return err_set_errno(e, r, "sandbox: signals");
	call_filter_init(&f);
	rules_add(&f, o);
	return lockdown_calls(&f, SECCOMP_RET_TRAP, false, e);
}

int sandbox_limit_files(uint64_t bytes, struct err *e)
{
	const struct lockdown_limit limit = { RLIMIT_FSIZE, bytes };

	return lockdown_limits(&limit, 1, e);
}

int sandbox_seal(struct err *e)
{
	struct call_filter f;

	call_filter_init(&f);
	seal_rules_add(&f);
	return lockdown_calls(&f, SECCOMP_RET_ALLOW, true, e);
}
