#include "tools/slirp/sandbox.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"
#include "tools/slirp/options.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/landlock.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* FDS_MAX connections with full buffers take a third of this. */
#define MEMORY_BYTES (768 * MIB)
#define RESOLV_CONF "/etc/resolv.conf"

/* System calls with any arguments. No bind() and listen(): the daemon has made all listening sockets. */
static const int allowed[] = {
	SYS_read, SYS_write, SYS_close, SYS_poll,
	SYS_ppoll, SYS_lseek, SYS_fstat, SYS_newfstatat,
	SYS_connect, SYS_accept, SYS_accept4, SYS_shutdown, SYS_sendto,
	SYS_sendmsg, SYS_recvfrom, SYS_recvmsg, SYS_getsockname,
	SYS_getpeername, SYS_getsockopt, SYS_setsockopt, SYS_dup3,
	SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_futex,
	SYS_getrandom, SYS_clock_gettime, SYS_exit_group, SYS_rt_sigreturn, SYS_rt_sigprocmask,
	SYS_restart_syscall, SYS_sched_yield,
};

/* Open the folder that holds the real resolv.conf. Landlock needs the folder, because an update replaces the file.
 * Returns -1 if there is no such file. */
static int resolv_conf_folder(void)
{
	char path[PATH_MAX], *slash;

	if (!realpath(RESOLV_CONF, path))
		return -1;
	slash = strrchr(path, '/');
	*slash = 0;
	return slash == path ? -1 : open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* Allow reading files below /etc and below the folder to which the link /etc/resolv.conf leads. */
static int files_lock(void)
{
	CLEANUP_CLOSE int etc = open("/etc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	CLEANUP_CLOSE int target = resolv_conf_folder();
	const struct lockdown_folder folders[] = { { etc, LANDLOCK_ACCESS_FS_READ_FILE },
		{ target, LANDLOCK_ACCESS_FS_READ_FILE } };

	return lockdown_files(folders, ARRAY_SIZE(folders));
}

/* Allow TCP and UDP sockets. Raw and Unix sockets fail with an errno instead of ending the process: libslirp tries raw
 * ones if ping sockets are not allowed, and the C library a Unix one to find the number of an interface. */
static void socket_rules_add(struct call_filter *f)
{
	static const int families[] = { AF_INET, AF_INET6 };
	static const struct {
		uint32_t type, answer;
	} types[] = { { SOCK_STREAM, SECCOMP_RET_ALLOW }, { SOCK_DGRAM, SECCOMP_RET_ALLOW },
		{ SOCK_RAW, SECCOMP_RET_ERRNO | EACCES } };

	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		for (size_t j = 0; j < ARRAY_SIZE(types); j++) {
			const struct call_filter_argument args[] = { CALL_FILTER_IS(0, families[i]), { 1, 15, types[j].type } };

			call_filter_rule(f, SYS_socket, types[j].answer, args, ARRAY_SIZE(args));
		}
	call_filter_value(f, SYS_socket, SECCOMP_RET_ERRNO | EACCES, 0, AF_UNIX);
}

static void rules_add(struct call_filter *f)
{
	static const uint32_t ioctls[] = { FIONREAD, SIOCGIFINDEX };
	/* Files may be opened for reading only. */
	static const struct call_filter_argument reads = { 2, O_ACCMODE | O_CREAT | O_TRUNC | O_TMPFILE, O_RDONLY };

	lockdown_allow_ioctls(f, ioctls, ARRAY_SIZE(ioctls));
	socket_rules_add(f);
	lockdown_allow_fcntl(f);
	call_filter_rule(f, SYS_openat, SECCOMP_RET_ALLOW, &reads, 1);
	lockdown_allow_memory(f);
	call_filter_calls(f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
}

int slirp_sandbox(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FDS_MAX },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = lockdown_begin(LOCKDOWN_NOBODY, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	r = files_lock();
	if (r < 0)
		return err_set_errno(e, r, "sandbox: landlock");
	call_filter_init(&f);
	rules_add(&f);
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}
