#include "tools/slirp/sandbox.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/program.h"
#include "base/util.h"
#include "tools/slirp/options.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/landlock.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define NOBODY 65534
/* FDS_MAX connections with full buffers take a third of this. */
#define MEMORY_BYTES (768 * MIB)
#define RESOLV_CONF "/etc/resolv.conf"

/* System calls with any arguments. No bind() and listen(): the daemon has made all listening sockets. */
static const int allowed[] = {
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(close), SCMP_SYS(poll),
	SCMP_SYS(ppoll), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(newfstatat),
	SCMP_SYS(connect), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(shutdown), SCMP_SYS(sendto),
	SCMP_SYS(sendmsg), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(getsockname),
	SCMP_SYS(getpeername), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(futex),
	SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn),
	SCMP_SYS(restart_syscall),
};

/* Give up root, which owns the host's files even without capabilities. If the user namespace has no other user, root
 * stays, and landlock and seccomp remain. */
static int root_leave(void)
{
	if (geteuid() != 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return errno == EINVAL || errno == EPERM ? 0 : -errno;
	return program_hide();
}

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
static int socket_rules_add(scmp_filter_ctx ctx)
{
	static const int families[] = { AF_INET, AF_INET6 };
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM };
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(families) && !r; i++) {
		for (size_t j = 0; j < ARRAY_SIZE(types) && !r; j++)
			r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
				SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i], 0),
				SCMP_A1(SCMP_CMP_MASKED_EQ, 15, (scmp_datum_t)types[j]));
		if (!r)
			r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(socket), 2,
				SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i], 0),
				SCMP_A1(SCMP_CMP_MASKED_EQ, 15, SOCK_RAW));
	}
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(socket), 1,
			SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0));
	return r;
}

static int rules_add(scmp_filter_ctx ctx, void *opaque)
{
	static const scmp_datum_t ioctls[] = { FIONREAD, SIOCGIFINDEX };
	int r = socket_rules_add(ctx);

	(void)opaque;
	if (!r)
		r = lockdown_allow(ctx, allowed, ARRAY_SIZE(allowed));
	if (!r)
		r = lockdown_allow_fcntl(ctx);
	if (!r)
		r = lockdown_allow_ioctls(ctx, ioctls, ARRAY_SIZE(ioctls));
	/* Files may be opened for reading only. */
	if (!r)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC | O_TMPFILE, O_RDONLY));
	return r ? r : lockdown_allow_memory(ctx);
}

int slirp_sandbox(struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FDS_MAX }, { RLIMIT_CORE, 0 },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	int r = lockdown_limits(limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	tzset(); /* otherwise a log line would open /etc/localtime */
	r = root_leave();
	if (r < 0)
		return err_set_errno(e, r, "sandbox: nobody");
	r = lockdown_drop(e);
	if (r)
		return r;
	r = files_lock();
	if (r < 0)
		return err_set_errno(e, r, "sandbox: landlock");
	return lockdown_calls(SCMP_ACT_KILL_PROCESS, false, rules_add, NULL, e);
}
