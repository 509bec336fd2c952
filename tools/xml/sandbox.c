#include "tools/xml/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"

#include <errno.h>
#include <sys/syscall.h>

/* The largest input needs a fraction of each limit. */
#define CPU_SECONDS 10
#define MEMORY_BYTES (512 * MIB)

static const int allowed[] = {
	SYS_read, SYS_write, SYS_fstat, SYS_newfstatat, SYS_lseek,
	SYS_close, SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise,
	SYS_futex, SYS_getrandom, SYS_sysinfo, SYS_exit_group,
	SYS_rt_sigreturn, /* program_outlive_file_limit() */
};

int xml_sandbox(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_CPU, CPU_SECONDS },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = lockdown_begin(0, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	/* Refuse system calls instead of killing the process: a library that looks for a table in a file finds none
	 * and continues. */
	call_filter_init(&f);
	lockdown_allow_memory(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	return lockdown_calls(&f, SECCOMP_RET_ERRNO | EPERM, false, e);
}
