#include "tools/xml/sandbox.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* What the largest input takes is a fraction of each. */
#define CPU_SECONDS 10
#define MEMORY_BYTES (512 * MIB)

/* A sanitizer's shadow is larger, and its report needs calls of its own. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#else
#define SANITIZED false
#endif

static const int allowed[] = {
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(lseek),
	SCMP_SYS(close), SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
	SCMP_SYS(futex), SCMP_SYS(getrandom), SCMP_SYS(sysinfo), SCMP_SYS(exit_group),
};

static int rules_add(scmp_filter_ctx ctx)
{
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
		SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	for (size_t i = 0; i < ARRAY_SIZE(allowed) && !r; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	return r;
}

static int limits_set(void)
{
	const struct {
		int what;
		rlim_t most;
	} limits[] = { { RLIMIT_CPU, CPU_SECONDS }, { RLIMIT_CORE, 0 },
		{ RLIMIT_AS, SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		const struct rlimit l = { limits[i].most, limits[i].most };

		if (setrlimit(limits[i].what, &l) < 0 && limits[i].most != RLIM_INFINITY)
			return -errno;
	}
	return 0;
}

int xml_sandbox(struct err *e)
{
	scmp_filter_ctx ctx;
	int r = limits_set();

	if (r < 0)
		return err_set_errno(e, r, "sandbox: limits");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_set_errno(e, -errno, "sandbox");
	if (SANITIZED)
		return 0;
	/* Refused, not killed: a library that looks for a table in a file finds none, and goes on. */
	ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	r = ctx ? rules_add(ctx) : -ENOMEM;
	if (!r)
		r = seccomp_load(ctx);
	seccomp_release(ctx);
	return r < 0 ? err_set(e, r, ERR_HOST, "sandbox: seccomp: %s", strerror(-r)) : 0;
}
