#include "tools/publish/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FDS_MAX 1024
/* All connections with full buffers take half of this. */
#define MEMORY_BYTES (128 * MIB)

static const int allowed[] = {
	SYS_read, SYS_write, SYS_close, SYS_poll, SYS_ppoll, SYS_connect, SYS_accept4, SYS_shutdown, SYS_sendto,
	SYS_sendmsg, SYS_recvfrom, SYS_recvmsg, SYS_getsockname, SYS_getsockopt, SYS_setsockopt, SYS_fstat,
	SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_futex, SYS_getrandom, SYS_clock_gettime, SYS_exit_group,
	SYS_rt_sigreturn, SYS_restart_syscall,
};

static void rules_add(struct call_filter *f)
{
	static const uint32_t ioctls[] = { SIOCGIFINDEX };
	static const uint32_t types[] = { SOCK_STREAM, SOCK_DGRAM };

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		const struct call_filter_argument args[] = { CALL_FILTER_IS(0, AF_INET), { 1, 15, types[i] } };

		call_filter_rule(f, SYS_socket, SECCOMP_RET_ALLOW, args, ARRAY_SIZE(args));
	}
	lockdown_allow_ioctls(f, ioctls, ARRAY_SIZE(ioctls));
	lockdown_allow_fcntl(f);
	lockdown_allow_memory(f);
	call_filter_calls(f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
}

int publish_sandbox(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FDS_MAX },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = lockdown_begin(LOCKDOWN_NOBODY, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	r = lockdown_files(NULL, 0);
	if (r < 0)
		return err_set_errno(e, r, "sandbox: landlock");
	call_filter_init(&f);
	rules_add(&f);
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}
