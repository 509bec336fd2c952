#include "vmm/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/loop.h"
#include "base/program.h"
#include "base/util.h"
#include "vmm/kvm/host_files.h"

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
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX 4096

/* Allowed with any arguments. */
static const int allowed[] = {
	/* files that are already open */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(fstatfs),
	SCMP_SYS(newfstatat), SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fsync),
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

/* Allow ioctls by their type byte: KVM, block devices (discard, zero out), userfaultfd. */
static const unsigned ioctl_types[] = { KVMIO, 0x12, UFFDIO };
/* Allow these ioctls one by one: of terminals, to restore the terminal of `cairn run`, but not
 * TIOCSTI, which types input; of taps, to set which checksums and segments the guest's driver
 * completes; of file systems, to clone files for a clone's disk (vmm/snapshot/fork_disks.h). */
static const scmp_datum_t ioctls[] = { TCGETS, TCGETS2, TCSETSW, TCSETSW2, TUNSETOFFLOAD, FICLONE, FICLONERANGE };

/* Allowed until the VM is built: loops (a ring could open files, which landlock forbids), files in memory, and what
 * `cairn run` needs of its signals. */
static const int for_building[] = { SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_register), SCMP_SYS(epoll_create1),
	SCMP_SYS(memfd_create), SCMP_SYS(signalfd4), SCMP_SYS(rt_sigaction), SCMP_SYS(capset) };
/* The same, by the first or second argument. */
static const struct {
	int call;
	unsigned at;
	scmp_datum_t argument;
} for_building_by_argument[] = {
	{ SCMP_SYS(socketpair), 0, AF_UNIX }, /* for the agent's port */
	{ SCMP_SYS(ioctl), 1, TCSETS }, /* for the terminal of `cairn run` */
	{ SCMP_SYS(ioctl), 1, TCSETS2 }, /* the same, from glibc 2.42 on */
	{ SCMP_SYS(prctl), 0, PR_SET_NO_NEW_PRIVS }, /* for lockdown_drop_rest() */
	{ SCMP_SYS(seccomp), 0, SECCOMP_SET_MODE_FILTER }, /* for sandbox_seal() */
};

/* Allow creating threads, because some are created later (a snapshot's tracker), and setting their names. */
static int thread_rules_add(scmp_filter_ctx ctx)
{
	int r = lockdown_allow_threads(ctx);

	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
			SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME, 0));
	/* Allow signals to threads of this process only. */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
			SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
	return r;
}

/* Ioctls and other calls whose arguments decide. */
static int arguments_check(scmp_filter_ctx ctx)
{
	int r = lockdown_allow_fcntl(ctx);

	for (size_t i = 0; i < ARRAY_SIZE(ioctl_types) && !r; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
			SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, ioctl_types[i] << 8));
	if (!r)
		r = lockdown_allow_ioctls(ctx, ioctls, ARRAY_SIZE(ioctls));
	/* Direct I/O queries its alignment with statx() on an open file: a clone's disk is opened
	 * later (vmm/snapshot/clone_disk.h). */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(statx), 1, SCMP_A2(SCMP_CMP_EQ, AT_EMPTY_PATH, 0));
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
	return r ? r : building_rules_add(ctx, SCMP_ACT_ALLOW);
}

/* A list of what is forbidden from now on: the first filter stays in force and is not compiled again. */
static int seal_rules_add(scmp_filter_ctx ctx, void *opaque)
{
	(void)opaque;
	return building_rules_add(ctx, SCMP_ACT_KILL_PROCESS);
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

int sandbox_enter(struct loop *l, struct host_files *host, const struct sandbox_options *o, struct sandbox_report *ret,
	struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_CORE, 0 }, { RLIMIT_NOFILE, FILES_MAX } };
	int r;

	tzset(); /* otherwise gmtime_r() would open /etc/localtime at the first log line */
	spaces_change(o, ret);
	r = lockdown_limits(limits, ARRAY_SIZE(limits), e);
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
	return lockdown_calls(SCMP_ACT_KILL_PROCESS, false, rules_add, l, e);
}

int sandbox_seal(struct err *e)
{
	return lockdown_calls(SCMP_ACT_ALLOW, true, seal_rules_add, NULL, e);
}
