#include "tools/archive/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/landlock.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IN_FOLDER                                                                                  \
	(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_DIR | \
		LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | \
		LANDLOCK_ACCESS_FS_MAKE_DIR)

static const int allowed[] = {
	/* open files */
	SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64,
	SYS_pwrite64, SYS_lseek, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_fstatfs, SYS_ftruncate,
	SYS_fsync, SYS_fdatasync, SYS_close, SYS_flock,
	SYS_poll, SYS_ppoll, SYS_memfd_create,
	/* threads and time */
	SYS_futex, SYS_sched_yield, SYS_sched_getaffinity, SYS_exit,
	SYS_exit_group, SYS_gettid, SYS_getpid, SYS_geteuid,
	SYS_rt_sigreturn,
	SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_restart_syscall,
	SYS_clock_gettime, SYS_nanosleep, SYS_clock_nanosleep, SYS_rseq,
	SYS_set_robust_list,
	/* memory */
	SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_getrandom,
	SYS_sysinfo,
};

/* BLKGETSIZE64 and BLKSSZGET return the sizes of a block device and of its sectors; isatty() uses TCGETS. */
static const uint32_t ioctls[] = { BLKGETSIZE64, BLKSSZGET, TCGETS };

static const int in_folder[] = {
	SYS_openat, SYS_mkdirat, SYS_unlinkat,
	SYS_renameat, SYS_renameat2, SYS_getdents64,
};

/* folder: files may be created in the folder of an import. */
static void rules_add(struct call_filter *f, bool folder)
{
	lockdown_allow_ioctls(f, ioctls, ARRAY_SIZE(ioctls));
	lockdown_allow_threads(f);
	lockdown_allow_fcntl(f);
	/* allow only limits of this process itself */
	call_filter_value(f, SYS_prlimit64, SECCOMP_RET_ALLOW, 0, 0);
	lockdown_allow_memory(f);
	call_filter_calls(f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	lockdown_allow_loops(f, loop_kinds());
	if (folder)
		call_filter_calls(f, SECCOMP_RET_ALLOW, in_folder, ARRAY_SIZE(in_folder));
	else /* openat() fails instead of ending the process: the C library looks for tables that it can do without */
		call_filter_rule(f, SYS_openat, SECCOMP_RET_ERRNO | EACCES, NULL, 0);
}

/* If root runs this process, chroot into the folder, because without landlock root could open any path. File
 * permissions limit other users. */
static int root_lock_in(int folder)
{
	if (geteuid() != 0 || folder < 0)
		return 0;
	return fchdir(folder) < 0 || (!LOCKDOWN_SANITIZED && chroot(".") < 0) ? -errno : 0;
}

int archive_sandbox(int folder, struct err *e)
{
	const struct lockdown_folder files = { folder, IN_FOLDER };
	struct call_filter f;
	int r = root_lock_in(folder);

	if (r < 0)
		return err_set_errno(e, r, "sandbox: the folder");
	r = lockdown_begin(0, NULL, 0, e);
	if (r < 0)
		return r;
	r = lockdown_files(&files, 1);
	if (r < 0)
		return err_set_errno(e, r, "sandbox: landlock");
	call_filter_init(&f);
	rules_add(&f, folder >= 0);
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}
