#include "vmm/sandbox.h"
#include "base/lockdown.h"
#include "base/loop.h"
#include "base/util.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* Allowed with any arguments. */
static const int allowed[] = {
	/* files that are already open */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(fstatfs),
	SCMP_SYS(newfstatat), SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fsync),
	SCMP_SYS(fdatasync), SCMP_SYS(sync_file_range), SCMP_SYS(close), SCMP_SYS(poll), SCMP_SYS(ppoll),
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
};

/* Allow ioctls by their type byte: KVM, block devices (discard, zero out), userfaultfd. */
static const unsigned ioctl_types[] = { KVMIO, 0x12, UFFDIO };
/* Allow these ioctls one by one: of terminals, to restore the terminal of `cairn run`, but not
 * TIOCSTI, which types input; of taps, to set which checksums and segments the guest's driver
 * completes; of file systems, to clone files for a clone's disk (vmm/snapshot/fork_disks.h). */
static const scmp_datum_t ioctls[] = { TCGETS, TCSETSW, TUNSETOFFLOAD, FICLONE, FICLONERANGE };

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

static int rules_add(scmp_filter_ctx ctx, void *opaque)
{
	const struct loop *l = opaque;
	int r = thread_rules_add(ctx);

	if (!r)
		r = lockdown_allow(ctx, allowed, ARRAY_SIZE(allowed));
	if (!r)
		r = lockdown_allow_loop(ctx, loop_kind(l));
	if (!r)
		r = lockdown_allow_fcntl(ctx);
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

int sandbox_seal(struct loop *l, struct err *e)
{
	tzset(); /* otherwise gmtime_r() would open /etc/localtime at the first log line */
	return lockdown_calls(SCMP_ACT_KILL_PROCESS, true, rules_add, l, e);
}
