#include "tools/archive/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define IN_FOLDER                                                                                  \
	(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_DIR | \
		LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | \
		LANDLOCK_ACCESS_FS_MAKE_DIR)

static const int allowed[] = {
	/* open files */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(fstatfs), SCMP_SYS(ftruncate),
	SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(close), SCMP_SYS(flock),
	SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(memfd_create),
	/* threads and time */
	SCMP_SYS(futex), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(exit),
	SCMP_SYS(exit_group), SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(geteuid),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigaction), SCMP_SYS(restart_syscall),
	SCMP_SYS(clock_gettime), SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep), SCMP_SYS(rseq),
	SCMP_SYS(set_robust_list),
	/* memory */
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(getrandom),
	SCMP_SYS(sysinfo),
};

/* BLKGETSIZE64 and BLKSSZGET return the sizes of a block device and of its sectors; isatty() uses TCGETS. */
static const scmp_datum_t ioctls[] = { BLKGETSIZE64, BLKSSZGET, TCGETS };

static const int in_folder[] = {
	SCMP_SYS(openat), SCMP_SYS(mkdirat), SCMP_SYS(unlinkat),
	SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(getdents64),
};

struct needs {
	bool folder; /* files may be created in the folder of an import */
	const struct loop *loop; /* the loop that reads qcow2 images; NULL: none */
};

static int rules_add(scmp_filter_ctx ctx, void *opaque)
{
	const struct needs *n = opaque;
	int r = lockdown_allow_threads(ctx);

	if (!r)
		r = lockdown_allow(ctx, allowed, ARRAY_SIZE(allowed));
	if (!r && n->loop)
		r = lockdown_allow_loop(ctx, loop_kind(n->loop));
	if (!r)
		r = lockdown_allow_fcntl(ctx);
	if (!r)
		r = lockdown_allow_ioctls(ctx, ioctls, ARRAY_SIZE(ioctls));
	if (!r) /* allow only limits of this process itself */
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A0(SCMP_CMP_EQ, 0, 0));
	if (!r && n->folder)
		r = lockdown_allow(ctx, in_folder, ARRAY_SIZE(in_folder));
	if (!r && !n->folder) /* openat() fails instead of ending the process: the C library looks for tables that it
	                       * can do without */
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
	return r ? r : lockdown_allow_memory(ctx);
}

/* If root runs this process, chroot into the folder, because without landlock root could open any path. File
 * permissions limit other users. */
static int root_lock_in(int folder)
{
	if (geteuid() != 0 || folder < 0)
		return 0;
	return fchdir(folder) < 0 || (!LOCKDOWN_SANITIZED && chroot(".") < 0) ? -errno : 0;
}

int archive_sandbox(int folder, const struct loop *l, struct err *e)
{
	struct needs needs = { folder >= 0, l };
	const struct lockdown_folder files = { folder, IN_FOLDER };
	int r = root_lock_in(folder);

	if (r < 0)
		return err_set_errno(e, r, "sandbox: the folder");
	r = lockdown_drop(e);
	if (r)
		return r;
	r = lockdown_files(&files, 1);
	if (r < 0)
		return err_set_errno(e, r, "sandbox: landlock");
	return lockdown_calls(SCMP_ACT_KILL_PROCESS, false, rules_add, &needs, e);
}
