/* sandbox: confines cairn-img before it reads a byte of an image. Afterwards it can open only files that the command
 * line allows; an image's names of backing and data files open no others. */
#include "img.h"

#include "base/cleanup.h"
#include "base/lockdown.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX 4096
#define LOOPS_MAX 2

#define READS LANDLOCK_ACCESS_FS_READ_FILE
#define WRITES LANDLOCK_ACCESS_FS_WRITE_FILE
/* Root keeps the right to open files of other users, below the folders that landlock allows, until img_seal(). */
#define FILE_CAPABILITIES (CAP_TO_MASK(CAP_DAC_OVERRIDE) | CAP_TO_MASK(CAP_DAC_READ_SEARCH))
#define MAKES (READS | WRITES | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE)

/* Files named on the command line so far, and the state of img_confine(). Global, because one process runs one verb. */
static struct {
	int rules, error; /* landlock's; 0: none yet. The first error of a rule, for img_confine() */
	bool network;	  /* a disk may be an export of a server */
	struct loop *loops[LOOPS_MAX];
} sandbox;

/* With any arguments. */
static const int allowed[] = {
	/* open files */
	SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_lseek, SYS_fstat,
	SYS_fstatfs, SYS_statx, SYS_ftruncate, SYS_fallocate, SYS_fsync, SYS_fdatasync, SYS_sync_file_range, SYS_fadvise64,
	SYS_close, SYS_dup, SYS_poll, SYS_ppoll, SYS_eventfd2, SYS_memfd_create, SYS_flistxattr, SYS_fgetxattr, SYS_fsetxattr,
	/* names */
	SYS_openat, SYS_newfstatat, SYS_readlink, SYS_getcwd, SYS_access, SYS_faccessat2, SYS_rename, SYS_unlink,
	/* threads, signals and time */
	SYS_futex, SYS_sched_yield, SYS_sched_getaffinity, SYS_exit, SYS_exit_group, SYS_gettid, SYS_getpid, SYS_rt_sigreturn,
	SYS_rt_sigprocmask, SYS_restart_syscall, SYS_clock_gettime, SYS_nanosleep, SYS_clock_nanosleep, SYS_rseq,
	SYS_set_robust_list,
	/* memory */
	SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_getrandom, SYS_sysinfo,
	/* img_seal() */
	SYS_capset, SYS_seccomp,
};

/* libnbd and the resolver of the C library. */
static const int allowed_network[] = {
	SYS_connect, SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_recvfrom, SYS_recvmsg, SYS_shutdown, SYS_getsockname,
	SYS_getpeername, SYS_getsockopt, SYS_setsockopt, SYS_uname,
};

/* Sizes of block devices; isatty(); unread bytes, for the resolver. */
static const uint32_t ioctls[] = { BLKGETSIZE64, BLKSSZGET, TCGETS, FIONREAD };

/* ---- files ---- */

/* path: NULL: none. file, folder: rights, if it is a file or a folder. A missing file needs no rights. */
static void path_allow(const char *path, uint64_t file, uint64_t folder)
{
	CLEANUP_CLOSE int fd = path ? open(path, O_PATH | O_CLOEXEC) : -1;
	struct lockdown_folder row = { .fd = fd };
	struct stat st;
	int r;

	if (!sandbox.rules)
		sandbox.rules = lockdown_rules_new();
	if (path && img_fd_given(path) >= 0) /* it is open, and its path may lead elsewhere */
		return;
	if (fd < 0 || fstat(fd, &st) < 0 || sandbox.rules < 0)
		return;
	row.rights = S_ISDIR(st.st_mode) ? folder : file;
	r = row.rights ? lockdown_rules_allow(sandbox.rules, &row) : 0;
	if (r < 0 && r != -EBADFD && !sandbox.error) /* landlock does not restrict pipes and the like */
		sandbox.error = r;
}

static void folder_allow(const char *file, uint64_t rights)
{
	char dir[PATH_MAX];

	img_folder_of(file, dir, sizeof(dir));
	path_allow(dir, 0, rights);
}

/* The backing file that options of the image choose. */
static void chosen_allow(const struct img_open *o)
{
	struct img_open sub = { 0 };
	char text[IMG_URL_BYTES];
	struct err e;

	snprintf(text, sizeof(text), "%s", o->backing);
	if (o->take(&sub, text, &e) < 0)
		return; /* the verb finds the same */
	sub.trust = o->trust;
	if (sub.path)
		img_sandbox_image(&sub);
}

void img_sandbox_image(const struct img_open *o)
{
	bool others = o->writable && (o->format || o->keeps_data); /* see img_probed_refuse() */
	uint64_t below = READS | (others ? WRITES : 0);

	sandbox.network |= o->protocol || o->trust;
	if (o->trust)
		path_allow("/", 0, below);
	for (unsigned i = 0; i < o->nallow; i++)
		path_allow(o->allow[i], 0, below);
	if (o->protocol)
		return;
	path_allow(o->path, READS | (o->writable ? WRITES : 0), 0);
	path_allow(o->data_path, READS | (o->writable ? WRITES : 0), 0);
	if (!o->no_backing)
		folder_allow(o->path, below);
	if (o->backing && *o->backing && !o->no_backing)
		chosen_allow(o);
}

void img_sandbox_backing(const char *image, const char *name, const struct img_open *like, bool anywhere)
{
	struct img_open o = { .trust = like->trust };
	char path[2 * PATH_MAX];
	struct err e;

	if (img_backing_take(&o, image, name, path, &e) < 0)
		return; /* the verb finds the same */
	if (!anywhere)
		o.nallow = 0;
	img_sandbox_image(&o);
}

void img_sandbox_target(const char *path)
{
	char real[2 * PATH_MAX];

	path_allow(path, READS | WRITES, 0);
	if (img_fd_given(path) >= 0)
		return;
	img_path_follow(path, real);
	folder_allow(real, MAKES);
}

static int files_lock(struct err *e)
{
	int r = sandbox.rules == -ENOSYS ? 0 : sandbox.error;

	if (!r && sandbox.rules != -ENOSYS)
		r = sandbox.rules < 0 ? sandbox.rules : lockdown_rules_apply(sandbox.rules);
	if (sandbox.rules > 0)
		close(sandbox.rules);
	return r < 0 ? err_set_errno(e, r, "sandbox: landlock") : 0;
}

/* ---- system calls ---- */

/* May run in a signal handler. */
static void forbidden_print(int sig, siginfo_t *info, void *context)
{
	static const char words[] = ": a forbidden system call; the image is an attack, or cairn-img has a bug: number ";
	const char *name = program_invocation_short_name;
	char number[8], *at = number + sizeof(number);

	(void)sig;
	(void)context;
	*--at = '\n';
	for (int n = info->si_syscall; at > number && (n || at[0] == '\n'); n /= 10)
		*--at = (char)('0' + n % 10);
	(void)!write(STDERR_FILENO, name, strlen(name));
	(void)!write(STDERR_FILENO, words, sizeof(words) - 1);
	(void)!write(STDERR_FILENO, at, (size_t)(number + sizeof(number) - at));
	_exit(1);
}

static void network_allow(struct call_filter *f)
{
	static const uint32_t families[] = { AF_UNIX, AF_INET, AF_INET6 };
	static const struct call_filter_argument executable = { 2, PROT_EXEC, PROT_EXEC };

	path_allow("/etc/resolv.conf", READS, 0);
	path_allow("/etc/hosts", READS, 0);
	path_allow("/etc/nsswitch.conf", READS, 0);
	path_allow("/etc/host.conf", READS, 0);
	path_allow("/etc/gai.conf", READS, 0);
	path_allow("/etc/services", READS, 0);
	call_filter_values(f, SYS_socket, SECCOMP_RET_ALLOW, 0, families, ARRAY_SIZE(families));
	/* The resolver does without the host's addresses, and without modules that it would load now. */
	call_filter_rule(f, SYS_socket, SECCOMP_RET_ERRNO | EACCES, NULL, 0);
	call_filter_rule(f, SYS_mmap, SECCOMP_RET_ERRNO | EACCES, &executable, 1);
	call_filter_calls(f, SECCOMP_RET_ALLOW, allowed_network, ARRAY_SIZE(allowed_network));
}

static void rules_add(struct call_filter *f)
{
	const struct call_filter_argument interrupt_self[] = { CALL_FILTER_IS(0, getpid()), CALL_FILTER_IS(2, SIGINT) };

	call_filter_init(f);
	lockdown_allow_ioctls(f, ioctls, ARRAY_SIZE(ioctls));
	lockdown_allow_threads(f);
	lockdown_allow_fcntl(f);
	lockdown_allow_memory(f);
	if (sandbox.network)
		network_allow(f);
	call_filter_value(f, SYS_rt_sigaction, SECCOMP_RET_TRAP, 0, SIGSYS);
	call_filter_rule(f, SYS_rt_sigaction, SECCOMP_RET_ALLOW, NULL, 0);
	call_filter_rule(f, SYS_tgkill, SECCOMP_RET_ALLOW, interrupt_self, ARRAY_SIZE(interrupt_self)); /* signals_end_process() */
	call_filter_value(f, SYS_prctl, SECCOMP_RET_ALLOW, 0, PR_SET_NO_NEW_PRIVS);
	call_filter_calls(f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	lockdown_allow_loops(f, loop_kinds());
}

struct loop *img_loop(unsigned i)
{
	return sandbox.loops[i];
}

int img_confine(unsigned nloops, unsigned entries, struct err *e)
{
	const struct lockdown_limit limits[] = { { RLIMIT_CORE, 0 }, { RLIMIT_NOFILE, FILES_MAX } };
	struct sigaction report = { .sa_sigaction = forbidden_print, .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER };
	struct call_filter f;
	int r = 0;

	for (unsigned i = 0; i < nloops && !r; i++)
		r = loop_new(entries, &sandbox.loops[i], e);
	if (!r && sandbox.network)
		img_nbd_load();
	tzset(); /* otherwise localtime() would open a file */
	rules_add(&f);
	if (!r)
		r = lockdown_limits(limits, ARRAY_SIZE(limits), e);
	if (!r)
		r = lockdown_drop_but(FILE_CAPABILITIES, e);
	if (!r)
		r = files_lock(e);
	if (r < 0)
		return r;
	sigaction(SIGSYS, &report, NULL);
	return lockdown_calls(&f, SECCOMP_RET_TRAP, false, e);
}

int img_seal(bool renames, struct err *e)
{
	static const int opens[] = { SYS_openat, SYS_socket, SYS_connect, SYS_memfd_create, SYS_capset }, names[] = { SYS_rename, SYS_unlink };
	struct call_filter f;
	int r = renames ? 0 : lockdown_drop(e);

	if (r < 0)
		return r;
	call_filter_init(&f);
	call_filter_calls(&f, SECCOMP_RET_TRAP, opens, ARRAY_SIZE(opens));
	if (!renames)
		call_filter_calls(&f, SECCOMP_RET_TRAP, names, ARRAY_SIZE(names));
	return lockdown_calls(&f, SECCOMP_RET_ALLOW, true, e);
}
