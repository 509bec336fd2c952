#include "tools/root/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"

#include <errno.h>
#include <sys/syscall.h>

#define MEMORY_BYTES (2 * GIB)

static const int allowed[] = {
	SYS_read, SYS_write, SYS_writev, SYS_pread64, SYS_lseek, SYS_fstat, SYS_newfstatat, SYS_close,
	SYS_futex, SYS_sched_yield, SYS_exit, SYS_exit_group, SYS_gettid, SYS_getpid, SYS_getuid, SYS_getgid, SYS_rt_sigreturn,
	SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_restart_syscall, SYS_clock_gettime, SYS_rseq,
	SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_getrandom, SYS_sched_getaffinity, SYS_sysinfo,
};

int root_sandbox(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_DATA, MEMORY_BYTES }, { RLIMIT_FSIZE, 0 }, { RLIMIT_NPROC, 0 } };
	struct call_filter f;
	int r = lockdown_begin(0, limits, LOCKDOWN_SANITIZED ? 0 : ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	r = lockdown_outside();
	if (r < 0 && r != -ENOSYS)
		return err_set_errno(e, r, "sandbox: landlock");
	call_filter_init(&f);
	lockdown_allow_memory(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	/* openat() fails instead of ending the process: the C library looks for tables that it can do without */
	call_filter_rule(&f, SYS_openat, SECCOMP_RET_ERRNO | EACCES, NULL, 0);
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}
