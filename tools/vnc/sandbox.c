#include "tools/vnc/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"

#include <sys/syscall.h>
#include <unistd.h>

/* The libraries take 20 MiB, framebuffer and picture up to 24, each of the clients a few. */
#define MEMORY_BYTES (192 * MIB)

static const int allowed[] = {
	SYS_read, SYS_write, SYS_writev, SYS_close, SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_accept4, SYS_shutdown,
	SYS_sendto, SYS_recvfrom, SYS_recvmsg, SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt, SYS_fstat,
	SYS_newfstatat, SYS_uname, SYS_getpid, SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_futex, SYS_getrandom,
	SYS_clock_gettime, SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall, SYS_sched_yield,
};

int vnc_sandbox(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, VNC_FDS_MAX }, { RLIMIT_FSIZE, 0 },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = lockdown_begin(LOCKDOWN_NOBODY | LOCKDOWN_OUTSIDE, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	call_filter_init(&f);
	lockdown_allow_fcntl(&f);
	lockdown_allow_memory(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}
