#include "vmm/sandbox.h"
#include "base/call_filter.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/program.h"
#include "base/utf8.h"
#include "base/util.h"
#include "vmm/kvm/host_files.h"
#include "vmm/vm_msg.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
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

/* Allowed with any arguments; ioctls_filter() checks those of ioctl(). Threads other than the main one need a row in
 * vmm/kvm/thread_filter.c as well. */
static const int allowed[] = {
	/* files that are already open */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(fstatfs),
	SCMP_SYS(newfstatat), SCMP_SYS(ioctl), SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fsync),
	SCMP_SYS(fdatasync), SCMP_SYS(sync_file_range), SCMP_SYS(fadvise64), SCMP_SYS(close), SCMP_SYS(poll), SCMP_SYS(ppoll),
	/* open sockets, and fds received over them */
	SCMP_SYS(recvmsg), SCMP_SYS(sendmsg), SCMP_SYS(recvfrom), SCMP_SYS(sendto), SCMP_SYS(accept4),
	SCMP_SYS(shutdown), SCMP_SYS(eventfd2),
	/* threads and time */
	SCMP_SYS(futex), SCMP_SYS(sched_yield), SCMP_SYS(exit), SCMP_SYS(exit_group),
	SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(restart_syscall), SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep), SCMP_SYS(rseq), SCMP_SYS(set_robust_list), SCMP_SYS(sigaltstack),
	/* memory */
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(getrandom),
	SCMP_SYS(sysinfo), /* qsort() asks for the host's memory when it sorts 1 KiB or more */
};

/* The ioctls of this process, the most frequent first: of KVM and userfaultfd; of block devices, for their sizes; of
 * taps, to set which checksums and segments the guest's driver completes; of file systems, to clone files for a clone's
 * disk (vmm/snapshot/fork_disks.h); of terminals, for `cairn run`, but not TIOCSTI, which types input. */
static const unsigned ioctls[] = { KVM_RUN, KVM_SIGNAL_MSI, KVM_IRQ_LINE, UFFDIO_COPY, UFFDIO_WRITEPROTECT, UFFDIO_WAKE,
	UFFDIO_ZEROPAGE, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_API, USERFAULTFD_IOC_NEW,
	KVM_GET_API_VERSION, KVM_CHECK_EXTENSION, KVM_ENABLE_CAP, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE,
	KVM_GET_SUPPORTED_CPUID, KVM_GET_MSR_INDEX_LIST, KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR,
	KVM_SET_USER_MEMORY_REGION, KVM_X86_SET_MSR_FILTER, KVM_CREATE_IRQCHIP, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP,
	KVM_CREATE_PIT2, KVM_GET_PIT2, KVM_SET_PIT2, KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_IOEVENTFD, KVM_GET_DIRTY_LOG,
	KVM_CLEAR_DIRTY_LOG, KVM_CREATE_VCPU, KVM_SET_CPUID2, KVM_GET_STATS_FD, KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ,
	KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_MSRS, KVM_SET_MSRS, KVM_SET_FPU,
	KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS,
	KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS,
	KVM_SET_SIGNAL_MASK, KVM_SET_GUEST_DEBUG, KVM_TRANSLATE, BLKGETSIZE64, BLKSSZGET, TUNSETOFFLOAD, FICLONE,
	FICLONERANGE, TCGETS, TCGETS2, TCSETS, TCSETS2, TCSETSW, TCSETSW2 };

/* Allowed until the VM is built: loops (a ring could open files, which landlock forbids), files in memory, and what
 * `cairn run` needs of its signals. */
static const int for_building[] = { SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_register), SCMP_SYS(epoll_create1),
	SCMP_SYS(memfd_create), SCMP_SYS(signalfd4), SCMP_SYS(capset) };
/* The same, by the first or second argument. */
static const struct {
	int call;
	unsigned at;
	scmp_datum_t argument;
} for_building_by_argument[] = {
	{ SCMP_SYS(socketpair), 0, AF_UNIX }, /* for the agent's port */
	{ SCMP_SYS(prctl), 0, PR_SET_NO_NEW_PRIVS }, /* for lockdown_drop() */
};

/* Of the terminal of `cairn run`, while the VM is built; TCSETS2 is glibc's from 2.42 on. */
static const scmp_datum_t terminal_ioctls[] = { TCSETS, TCSETS2 };

/* Allow creating threads, because some are created later (a snapshot's tracker), and setting their names. */
static int thread_rules_add(scmp_filter_ctx ctx)
{
	int r = lockdown_allow_threads(ctx);

	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
			SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME, 0));
	/* For violation_say(). */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
			SCMP_A0(SCMP_CMP_EQ, PR_GET_NAME, 0));
	/* Allow signals to threads of this process only. */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
			SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
	return r;
}

/* Calls whose arguments decide, except ioctl(). */
static int arguments_check(scmp_filter_ctx ctx)
{
	int r = lockdown_allow_fcntl(ctx);

	/* Direct I/O queries its alignment with statx() on an open file: a clone's disk is opened
	 * later (vmm/snapshot/clone_disk.h). */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(statx), 1, SCMP_A2(SCMP_CMP_EQ, AT_EMPTY_PATH, 0));
	/* Nobody replaces the handler of violations. */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(rt_sigaction), 1, SCMP_A0(SCMP_CMP_NE, SIGSYS, 0));
	return r ? r : lockdown_allow_memory(ctx);
}

static int building_rules_add(scmp_filter_ctx ctx, uint32_t action)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(for_building) && !r; i++)
		r = seccomp_rule_add(ctx, action, for_building[i], 0);
	for (size_t i = 0; i < ARRAY_SIZE(for_building_by_argument) && !r; i++)
		r = seccomp_rule_add(ctx, action, for_building_by_argument[i].call, 1,
			(struct scmp_arg_cmp){ .arg = for_building_by_argument[i].at, .op = SCMP_CMP_EQ,
				.datum_a = for_building_by_argument[i].argument });
	return r;
}

static int rules_add(scmp_filter_ctx ctx, void *opaque)
{
	const struct loop *l = opaque;
	int r = thread_rules_add(ctx);

	if (!r)
		r = lockdown_allow(ctx, allowed, ARRAY_SIZE(allowed));
	if (!r)
		r = lockdown_allow_loop(ctx, loop_kind(l));
	if (!r)
		r = arguments_check(ctx);
	if (!r) /* for sandbox_seal() and the filters of threads (vmm/kvm/thread_filter.h) */
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(seccomp), 1,
			SCMP_A0(SCMP_CMP_EQ, SECCOMP_SET_MODE_FILTER, 0));
	return r ? r : building_rules_add(ctx, SCMP_ACT_ALLOW);
}

/* A list of what is forbidden from now on: the first filter stays in force and is not compiled again. */
static int seal_rules_add(scmp_filter_ctx ctx, void *opaque)
{
	int r = building_rules_add(ctx, SCMP_ACT_TRAP);

	(void)opaque;
	for (size_t i = 0; i < ARRAY_SIZE(terminal_ioctls) && !r; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_TRAP, SCMP_SYS(ioctl), 1,
			SCMP_A1(SCMP_CMP_EQ, terminal_ioctls[i], 0));
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_TRAP, SCMP_SYS(rt_sigaction), 1,
			SCMP_A0(SCMP_CMP_NE, LIBC_SETXID_SIGNAL, 0));
	/* A thread may install a filter for itself, which can only forbid more; not for others, and none that somebody
	 * else answers. */
	return r ? r : seccomp_rule_add(ctx, SCMP_ACT_TRAP, SCMP_SYS(seccomp), 1, SCMP_A1(SCMP_CMP_NE, 0, 0));
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
	bool limited = setrlimit(RLIMIT_MEMLOCK, &none) < 0;
	int r = o->uid ? user_change(o->uid, host, e) : 0;
	int dropped = limited ? lockdown_drop_but_memory(e) : lockdown_drop(e);

	if (!o->uid)
		host_files_open_pagemap(host);
	return r ? r : dropped;
}

static void lack_add(struct sandbox_report *report, const char *what)
{
	size_t at = strlen(report->lacks);

	snprintf(report->lacks + at, sizeof(report->lacks) - at, "%s%s: %s", at ? "; " : "", what, strerror(errno));
}

/* Leave the host's file systems and network, which takes capabilities. A host may reach a limit of namespaces at any
 * time (user.max_ipc_namespaces); the process goes on without the namespace. */
static void spaces_change(const struct sandbox_options *o, struct sandbox_report *report)
{
	static const struct {
		int flag;
		const char *name;
	} own[] = { { CLONE_NEWIPC, "own IPC namespace" }, { CLONE_NEWUTS, "own UTS namespace" } };

	for (unsigned i = 0; i < o->spaces; i++) {
		if (!LOCKDOWN_SANITIZED && setns(o->spaces_fd + (int)i, 0) < 0)
			lack_add(report, "the daemon's namespace");
		close(o->spaces_fd + (int)i);
	}
	for (size_t i = 0; i < ARRAY_SIZE(own) && o->own_spaces && !LOCKDOWN_SANITIZED; i++)
		if (unshare(own[i].flag) < 0)
			lack_add(report, own[i].name);
}

/* Check ioctls in a filter of their own: libseccomp would compare the requests in an order of its own, and each exit of
 * a vCPU is an ioctl. */
static int ioctls_filter(void)
{
	struct call_filter f;

	if (LOCKDOWN_SANITIZED)
		return 0;
	call_filter_init(&f);
	call_filter_ioctls(&f, &(struct call_filter_ioctls){ -1, ioctls, ARRAY_SIZE(ioctls) }, 1);
	return call_filter_install(&f, true);
}

/* ---- violations ---- */

/* Where a process says which forbidden system call it has made. Global, because a signal handler uses it. */
static volatile int violation_end_fd = -1;

void sandbox_say_violations(int end_fd)
{
	violation_end_fd = end_fd;
}

/* Handle SIGSYS, which a filter raises instead of making a forbidden system call: say which it was, in the end
 * file and in the log, and end the process. The kernel has withdrawn the handler (SA_RESETHAND), so the next
 * forbidden call kills the process, whatever its memory contains. Each thread's filter allows prctl(PR_GET_NAME) and
 * write(). The functions called here take no locks. */
static void violation_say(int sig, siginfo_t *si, void *context)
{
	static const char forbidden[] = "made a forbidden system call";
	const ucontext_t *at = context;
	struct vm_event ev = { .kind = VM_EVENT_PHASE, .phase = VM_PHASE_ENDED, .reason = VM_REASON_KILLED };
	char thread[16] = "";

	(void)sig;
	prctl(PR_GET_NAME, thread);
	utf8_clean(thread); /* a definition names threads of disks and interfaces */
	if (si->si_syscall == SYS_ioctl)
		snprintf(ev.detail, sizeof(ev.detail), "its thread '%s' %s: %d (ioctl 0x%x)", thread, forbidden,
			si->si_syscall, (unsigned)at->uc_mcontext.gregs[REG_RSI]);
	else
		snprintf(ev.detail, sizeof(ev.detail), "its thread '%s' %s: %d", thread, forbidden, si->si_syscall);
	ev.realtime_ns = clock_realtime_ns();
	/* Not every thread may call pwrite(). Nobody else uses the file's position, so it is 0. */
	if (violation_end_fd >= 0 && write(violation_end_fd, &ev, sizeof(ev)) < 0)
		log_line("error: cannot write the reason into the end file");
	log_line(ev.detail);
	for (;;)
		syscall(SYS_tkill, 0, 0);
}

static int violations_catch(void)
{
	struct sigaction act = { .sa_sigaction = violation_say, .sa_flags = SA_SIGINFO | (int)SA_RESETHAND };

	if (LOCKDOWN_SANITIZED)
		return 0;
	return sigaction(SIGSYS, &act, NULL) < 0 ? -errno : 0;
}

int sandbox_enter(struct loop *l, struct host_files *host, const struct sandbox_options *o, struct sandbox_report *ret,
	struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_CORE, 0 }, { RLIMIT_NOFILE, FILES_MAX },
		{ RLIMIT_NPROC, THREADS_MAX } };
	int r;

	tzset(); /* otherwise gmtime_r() would open /etc/localtime at the first log line */
	spaces_change(o, ret);
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
		r = ioctls_filter();
	if (r < 0)
		return err_set_errno(e, r, "sandbox: seccomp");
	return lockdown_calls(SCMP_ACT_TRAP, false, rules_add, l, e);
}

int sandbox_seal(struct err *e)
{
	return lockdown_calls(SCMP_ACT_ALLOW, true, seal_rules_add, NULL, e);
}
