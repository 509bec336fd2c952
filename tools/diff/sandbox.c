#include "base/err.h"
#include "base/lockdown.h"
#include "base/loop.h"
#include "base/util.h"
#include "tools/diff/diff.h"

#include <errno.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define MEMORY_BYTES (1 * GIB)
#define CPU_SECONDS 120

static const int allowed[] = {
	/* open files */
	SYS_read, SYS_write, SYS_readv, SYS_pread64, SYS_preadv, SYS_lseek, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_fstatfs, SYS_close,
	SYS_poll, SYS_ppoll,
	/* threads and time */
	SYS_futex, SYS_sched_yield, SYS_sched_getaffinity, SYS_exit, SYS_exit_group, SYS_gettid, SYS_getpid, SYS_getuid, SYS_geteuid,
	SYS_getgid, SYS_getegid, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_restart_syscall, SYS_clock_gettime, SYS_nanosleep,
	SYS_clock_nanosleep, SYS_rseq, SYS_set_robust_list,
	/* memory */
	SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_getrandom, SYS_sysinfo,
};

/* Sizes of a block device and of its sectors; isatty() uses TCGETS. */
static const uint32_t ioctls[] = { BLKGETSIZE64, BLKSSZGET, TCGETS };

int diff_sandbox(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_DATA, MEMORY_BYTES }, { RLIMIT_FSIZE, 0 }, { RLIMIT_CPU, CPU_SECONDS } };
	struct call_filter f;
	int r = lockdown_begin(LOCKDOWN_OUTSIDE, limits, LOCKDOWN_SANITIZED ? 0 : ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	call_filter_init(&f);
	lockdown_allow_ioctls(&f, ioctls, ARRAY_SIZE(ioctls));
	lockdown_allow_threads(&f);
	lockdown_allow_fcntl(&f);
	lockdown_allow_memory(&f);
	lockdown_allow_loops(&f, loop_kinds());
	/* libext2fs of Debian 13 asks this before it reads a variable of the environment */
	call_filter_value(&f, SYS_prctl, SECCOMP_RET_ALLOW, 0, PR_GET_DUMPABLE);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	/* openat() fails instead of ending the process: the C library looks for tables that it can do without */
	call_filter_rule(&f, SYS_openat, SECCOMP_RET_ERRNO | EACCES, NULL, 0);
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}
