#include "tools/share/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/util.h"

#include <errno.h>
#include <linux/landlock.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define MEMORY_BYTES (64 * MIB)
#define FDS_OWN 64 /* standard files, the socket, the folder, those of one operation */
#define FDS_LEAST 256

#define READS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
/* The headers of the oldest kernel lack the last two; lockdown_inside() drops those that the kernel lacks. */
#define CHANGES (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
	LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | \
	LANDLOCK_ACCESS_FS_MAKE_SYM | 1ULL << 13 /* REFER: renames between folders */ | 1ULL << 14 /* TRUNCATE */)

static const int reads[] = {
	SYS_recvfrom, SYS_sendmsg, SYS_sendto, SYS_read, SYS_write, SYS_close, SYS_openat, SYS_fstat, SYS_newfstatat, SYS_fstatfs,
	SYS_readlinkat, SYS_getdents64, SYS_pread64, SYS_lseek, SYS_fsync, SYS_fdatasync, SYS_brk, SYS_munmap, SYS_mremap, SYS_futex,
	SYS_clock_gettime, SYS_getpid, SYS_exit_group, SYS_rt_sigreturn, SYS_restart_syscall,
};
static const int changes[] = {
	SYS_pwrite64, SYS_ftruncate, SYS_fallocate, SYS_mkdirat, SYS_mknodat, SYS_symlinkat, SYS_linkat, SYS_unlinkat,
	SYS_renameat, SYS_renameat2 /* glibc takes the other one without flags */, SYS_fchmodat, SYS_fchownat, SYS_utimensat,
};

int share_limit_files(uint32_t *ret_nodes, uint32_t *ret_handles, struct err *e)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return err_set_errno(e, -errno, "limits");
	l.rlim_cur = l.rlim_max = MIN(l.rlim_max, SHARE_NODES_MAX + SHARE_HANDLES_MAX + FDS_OWN);
	if (l.rlim_max < FDS_LEAST)
		return err_set(e, -EMFILE, ERR_HOST, "the limit of open files is %llu, too low for a shared folder; raise it (ulimit -n)",
			(unsigned long long)l.rlim_max);
	if (setrlimit(RLIMIT_NOFILE, &l) < 0)
		return err_set_errno(e, -errno, "limits");
	*ret_handles = MIN((uint32_t)l.rlim_max / 4, SHARE_HANDLES_MAX);
	*ret_nodes = (uint32_t)l.rlim_max - FDS_OWN - *ret_handles;
	return 0;
}

int share_sandbox(int folder, bool read_only, struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = lockdown_begin(0, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	r = lockdown_inside(folder, READS | (read_only ? 0 : CHANGES));
	if (r < 0)
		return err_set_errno(e, r, "sandbox: landlock");
	call_filter_init(&f);
	lockdown_allow_fcntl(&f);
	lockdown_allow_memory(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, reads, ARRAY_SIZE(reads));
	if (!read_only)
		call_filter_calls(&f, SECCOMP_RET_ALLOW, changes, ARRAY_SIZE(changes));
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}
