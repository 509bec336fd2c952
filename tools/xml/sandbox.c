#include "tools/xml/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"

#include <errno.h>

/* The largest input needs a fraction of each limit. */
#define CPU_SECONDS 10
#define MEMORY_BYTES (512 * MIB)

static const int allowed[] = {
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(lseek),
	SCMP_SYS(close), SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
	SCMP_SYS(futex), SCMP_SYS(getrandom), SCMP_SYS(sysinfo), SCMP_SYS(exit_group),
};

static int rules_add(scmp_filter_ctx ctx, void *opaque)
{
	int r = lockdown_allow(ctx, allowed, ARRAY_SIZE(allowed));

	(void)opaque;
	return r ? r : lockdown_allow_memory(ctx);
}

int xml_sandbox(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_CPU, CPU_SECONDS }, { RLIMIT_CORE, 0 },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	int r = lockdown_limits(limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	r = lockdown_drop(e);
	if (r)
		return r;
	/* Refuse system calls instead of killing the process: a library that looks for a table in a file finds none
	 * and continues. */
	return lockdown_calls(SCMP_ACT_ERRNO(EPERM), false, rules_add, NULL, e);
}
