#include "tools/webhook/sandbox.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/program.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOOK_USER "cairn-hook"
#define NOBODY 65534
#define FDS_MAX 64
#define MEMORY_BYTES (512 * MIB)
#define CPU_SECONDS 10
#define READS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE)

/* The name service loads libraries, so the filter lists the forbidden calls. */
static const int forbidden[] = {
	SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_getfd,
	SYS_pidfd_open, SYS_pidfd_send_signal, SYS_kcmp, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_unshare, SYS_setns,
	SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsmount, SYS_mount_setattr, SYS_open_by_handle_at, SYS_name_to_handle_at, SYS_bpf,
	SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_keyctl, SYS_add_key,
	SYS_request_key, SYS_listen, SYS_accept, SYS_accept4, SYS_mknod, SYS_mknodat, SYS_personality, SYS_shmget, SYS_msgget,
	SYS_semget, SYS_inotify_init1, SYS_fanotify_init,
};

static int user_become(struct err *e)
{
	const struct passwd *user;
	uid_t uid = NOBODY;
	gid_t gid = NOBODY;

	if (geteuid() != 0)
		return 0;
	user = getpwnam(HOOK_USER);
	if (user && user->pw_uid) {
		uid = user->pw_uid;
		gid = user->pw_gid;
	}
	if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return err_set_errno(e, -errno, "cannot give up root's rights");
	return program_hide();
}

static int files_restrict(struct err *e)
{
	static const char *const paths[] = { "/etc", "/usr", "/lib", "/lib64", "/run/systemd/resolve" };
	struct lockdown_folder folders[ARRAY_SIZE(paths)];
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		folders[i] = (struct lockdown_folder){ open(paths[i], O_PATH | O_DIRECTORY | O_CLOEXEC), READS };
	r = lockdown_files(folders, ARRAY_SIZE(folders));
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		if (folders[i].fd >= 0)
			close(folders[i].fd);
	return r < 0 ? err_set_errno(e, r, "sandbox: landlock") : 0;
}

int webhook_sandbox(struct err *e)
{
	/* Name services use local sockets and netlink. */
	static const uint32_t families[] = { AF_INET, AF_INET6, AF_UNIX, AF_NETLINK };
	const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FDS_MAX }, { RLIMIT_FSIZE, 0 }, { RLIMIT_CPU, CPU_SECONDS },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = user_become(e);

	if (!r)
		r = lockdown_begin(0, limits, ARRAY_SIZE(limits), e);
	if (!r)
		r = files_restrict(e);
	if (r < 0)
		return r;
	call_filter_init(&f);
	call_filter_values(&f, SYS_socket, SECCOMP_RET_ALLOW, 0, families, ARRAY_SIZE(families));
	call_filter_rule(&f, SYS_socket, SECCOMP_RET_ERRNO | EPERM, NULL, 0);
	call_filter_calls(&f, SECCOMP_RET_ERRNO | EPERM, forbidden, ARRAY_SIZE(forbidden));
	return lockdown_calls(&f, SECCOMP_RET_ALLOW, false, e);
}
