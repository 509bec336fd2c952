#include "base/lockdown.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/program.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NOBODY 65534

/* The bounding set stays as it is: clearing it takes CAP_SETPCAP, and with no_new_privs it grants nothing. */
static int caps_set(const struct __user_cap_data_struct *caps, struct err *e)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };

	if (syscall(SYS_capset, &head, caps) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_set(e, -EPERM, ERR_HOST, "sandbox: cannot drop capabilities");
	return 0;
}

int lockdown_drop(struct err *e)
{
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return caps_set(none, e);
}

int lockdown_drop_but(uint32_t keep, struct err *e)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &head, caps) < 0)
		return err_set(e, -EPERM, ERR_HOST, "sandbox: cannot read capabilities");
	keep &= caps[0].permitted;
	memset(caps, 0, sizeof(caps));
	caps[0] = (struct __user_cap_data_struct){ .effective = keep, .permitted = keep };
	return caps_set(caps, e);
}

int lockdown_effective(bool on)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &head, caps) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(caps); i++)
		caps[i].effective = on ? caps[i].permitted : 0;
	return syscall(SYS_capset, &head, caps) < 0 ? -errno : 0;
}

int lockdown_become(uid_t uid, struct err *e)
{
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 ||
		setresuid(uid, uid, uid) < 0 || prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
		return err_set_errno(e, -errno, "sandbox: cannot become user %u", (unsigned)uid);
	return 0;
}

int lockdown_limits(const struct lockdown_limit *limits, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		struct rlimit l;

		if (getrlimit(limits[i].what, &l) < 0)
			return err_set_errno(e, -errno, "sandbox: limits");
		l.rlim_cur = l.rlim_max = MIN(l.rlim_max, limits[i].most);
		if (setrlimit(limits[i].what, &l) < 0)
			return err_set_errno(e, -errno, "sandbox: limits");
	}
	return 0;
}

/* If the user namespace maps no other user, the process stays root, and landlock and seccomp remain. */
static int root_leave(void)
{
	if (geteuid() != 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return errno == EINVAL || errno == EPERM ? 0 : -errno;
	return program_hide();
}

int lockdown_rules_new(void)
{
	const struct landlock_ruleset_attr all = { .handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1 };
	int rules = LOCKDOWN_SANITIZED ? -1 : (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);

	if (rules >= 0)
		return rules;
	/* EPERM: of a container's seccomp profile */
	return LOCKDOWN_SANITIZED || errno == EOPNOTSUPP || errno == EPERM ? -ENOSYS : -errno;
}

int lockdown_rules_allow(int rules, const struct lockdown_folder *f)
{
	const struct landlock_path_beneath_attr rule = { .allowed_access = f->rights, .parent_fd = f->fd };

	if (f->fd < 0)
		return 0;
	return syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

int lockdown_rules_apply(int rules)
{
	return syscall(SYS_landlock_restrict_self, rules, 0) < 0 ? -errno : 0;
}

int lockdown_files(const struct lockdown_folder *folders, size_t n)
{
	CLEANUP_CLOSE int rules = lockdown_rules_new();
	int r = 0;

	if (rules < 0)
		return rules == -ENOSYS ? 0 : rules;
	for (size_t i = 0; i < n && !r; i++)
		r = lockdown_rules_allow(rules, &folders[i]);
	return r ? r : lockdown_rules_apply(rules);
}

/* Version 6 of struct landlock_ruleset_attr; an older kernel takes its first bytes. */
struct ruleset {
	uint64_t files, ports, scopes;
};

/* Rights that each version added, and the size of its struct (Documentation/userspace-api/landlock.rst). */
static const struct {
	uint64_t files, ports, scopes;
	size_t bytes;
} landlock_versions[] = {
	{ (1 << 13) - 1, 0, 0, 8 }, { 1 << 13, 0, 0, 8 }, { 1 << 14, 0, 0, 8 }, /* open, link between folders, truncate */
	{ 0, 3, 0, 16 }, { 1 << 15, 0, 0, 16 }, { 0, 0, 3, 24 }, /* TCP, ioctl, abstract sockets and signals */
};

int lockdown_outside(void)
{
	return lockdown_inside(-1, 0);
}

int lockdown_inside(int folder, uint64_t rights)
{
	struct landlock_path_beneath_attr rule = { .parent_fd = folder };
	struct ruleset all = { 0 };
	CLEANUP_CLOSE int rules = -1;
	size_t bytes = 0;
	long version;

	if (LOCKDOWN_SANITIZED)
		return 0;
	version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (version < 0)
		return errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM ? 0 : -errno;
	for (long i = 0; i < MIN(version, (long)ARRAY_SIZE(landlock_versions)); i++) {
		all.files |= landlock_versions[i].files;
		all.ports |= landlock_versions[i].ports;
		all.scopes |= landlock_versions[i].scopes;
		bytes = landlock_versions[i].bytes;
	}
	rules = (int)syscall(SYS_landlock_create_ruleset, &all, bytes, 0);
	rule.allowed_access = rights & all.files;
	if (rules < 0 || (folder >= 0 && syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0) ||
		syscall(SYS_landlock_restrict_self, rules, 0) < 0)
		return -errno;
	return (int)version;
}

int lockdown_begin(unsigned flags, const struct lockdown_limit *limits, size_t n, struct err *e)
{
	static const struct lockdown_limit no_core = { RLIMIT_CORE, 0 };
	int r = lockdown_limits(&no_core, 1, e);

	if (!r)
		r = lockdown_limits(limits, n, e);
	if (r < 0)
		return r;
	tzset(); /* otherwise a log line would open /etc/localtime */
	r = flags & LOCKDOWN_NOBODY ? root_leave() : 0;
	if (r < 0)
		return err_set_errno(e, r, "sandbox: nobody");
	r = lockdown_drop(e);
	if (r < 0 || !(flags & LOCKDOWN_OUTSIDE))
		return r;
	r = lockdown_outside();
	return r < 0 ? err_set_errno(e, r, "sandbox: landlock") : 0;
}

/* F_SETOWN and F_SETSIG stay forbidden: with them, the kernel would send any signal to any process
 * of the same user. */
void lockdown_allow_fcntl(struct call_filter *f)
{
	static const uint32_t commands[] = { F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_OFD_GETLK,
		F_OFD_SETLK, F_GET_SEALS, F_ADD_SEALS };

	call_filter_values(f, SYS_fcntl, SECCOMP_RET_ALLOW, 1, commands, ARRAY_SIZE(commands));
}

void lockdown_allow_ioctls(struct call_filter *f, const uint32_t *ioctls, size_t n)
{
	call_filter_values(f, SYS_ioctl, SECCOMP_RET_ALLOW, 1, ioctls, n);
}

void lockdown_allow_memory(struct call_filter *f)
{
	static const struct call_filter_argument not_executable = { 2, PROT_EXEC, 0 };

	call_filter_rule(f, SYS_mmap, SECCOMP_RET_ALLOW, &not_executable, 1);
	call_filter_rule(f, SYS_mprotect, SECCOMP_RET_ALLOW, &not_executable, 1);
}

/* pthread_create() sets these flags of clone(). Without them, clone() would create a process. */
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

/* clone3() has its flags in memory, which a filter cannot read. So the filter answers ENOSYS, and
 * glibc falls back to clone(). */
void lockdown_allow_threads(struct call_filter *f)
{
	static const struct call_filter_argument is_thread = { 0, THREAD_FLAGS, THREAD_FLAGS };

	call_filter_rule(f, SYS_clone3, SECCOMP_RET_ERRNO | ENOSYS, NULL, 0);
	call_filter_rule(f, SYS_clone, SECCOMP_RET_ALLOW, &is_thread, 1);
}

static const int only_uring[] = { SYS_io_uring_enter };
/* A context of io_setup() works only on open files. */
static const int only_epoll[] = { SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_epoll_ctl, SYS_io_setup,
	SYS_io_destroy, SYS_io_submit, SYS_io_getevents, SYS_preadv2 };

/* io_uring_setup() stays forbidden: a process that can create a ring could open files through it (see loop_uring.c).
 * PR_SET_NAME is allowed because the threads of a loop on epoll set their names. */
void lockdown_allow_loops(struct call_filter *f, unsigned kinds)
{
	/* The loop itself reads and writes files in memory (loop_file_in_memory()), and repeats operations that the
	 * kernel returns unfinished (op_repeat() in loop_uring.c). */
	static const int uring[] = { SYS_preadv, SYS_pwritev, SYS_fdatasync, SYS_fallocate };
	static const int with_epoll[] = { SYS_ppoll, SYS_eventfd2, SYS_preadv, SYS_pwritev, SYS_fallocate };

	if (kinds & LOOP_KIND(LOOP_IO_URING)) {
		call_filter_calls(f, SECCOMP_RET_ALLOW, only_uring, ARRAY_SIZE(only_uring));
		call_filter_calls(f, SECCOMP_RET_ALLOW, uring, ARRAY_SIZE(uring));
	}
	if (kinds & LOOP_KIND(LOOP_EPOLL)) {
		call_filter_calls(f, SECCOMP_RET_ALLOW, only_epoll, ARRAY_SIZE(only_epoll));
		call_filter_calls(f, SECCOMP_RET_ALLOW, with_epoll, ARRAY_SIZE(with_epoll));
		call_filter_value(f, SYS_prctl, SECCOMP_RET_ALLOW, 0, PR_SET_NAME);
	}
}

void lockdown_forbid_other_loops(struct call_filter *f, uint32_t answer, unsigned kinds)
{
	if (!(kinds & LOOP_KIND(LOOP_IO_URING)))
		call_filter_calls(f, answer, only_uring, ARRAY_SIZE(only_uring));
	if (!(kinds & LOOP_KIND(LOOP_EPOLL)))
		call_filter_calls(f, answer, only_epoll, ARRAY_SIZE(only_epoll));
}

int lockdown_calls(struct call_filter *f, uint32_t otherwise, bool all_threads, struct err *e)
{
	int r = LOCKDOWN_SANITIZED ? 0 : call_filter_install(f, otherwise, all_threads);

	return r < 0 ? err_set(e, r, ERR_HOST, "sandbox: seccomp: %s", strerror(-r)) : 0;
}
