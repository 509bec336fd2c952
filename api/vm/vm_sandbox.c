#include "api/vm/vm_sandbox.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Above the fds that vm_process_spawn() gives its processes. */
#define SPACE_FD 16

static const struct {
	const char *name;
	int flag;
} spaces[VM_SANDBOX_SPACES] = {
	[VM_SANDBOX_MNT] = { "mnt", CLONE_NEWNS },
	[VM_SANDBOX_NET] = { "net", CLONE_NEWNET },
	[VM_SANDBOX_IPC] = { "ipc", CLONE_NEWIPC },
	[VM_SANDBOX_UTS] = { "uts", CLONE_NEWUTS },
};

const char *vm_sandbox_space_name(enum vm_sandbox_space space)
{
	return spaces[space].name;
}

bool vm_sandbox_has_spaces(const struct vm_sandbox *s)
{
	for (unsigned i = 0; i < VM_SANDBOX_SPACES; i++)
		if (!s->errors[i])
			return true;
	return false;
}

/* ---- the process that makes the namespaces ---- */

/* Replace all file systems of the calling process's own mount namespace by an empty one. The folder for that is /proc,
 * which every host has. Then enter the namespace again, as VM processes do: they get its root, which would still be
 * another one if this process had been started in a chroot. Returns 0; -errno. */
static int root_replace(void)
{
	CLEANUP_CLOSE int own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	struct stat empty, root;

	if (own < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("none", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0555,size=4k,nr_inodes=1") < 0 ||
		chdir("/proc") < 0 || stat(".", &empty) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
		umount2(".", MNT_DETACH) < 0 || setns(own, CLONE_NEWNS) < 0 || stat("/", &root) < 0)
		return -errno;
	return root.st_dev == empty.st_dev ? 0 : -EXDEV;
}

/* Take the ids at both ends of the range: those between them have a meaning, too, unless somebody made a user namespace
 * with a hole. */
static int user_change(uid_t first, uid_t last)
{
	return setgroups(0, NULL) < 0 || setresgid(first, last, last) < 0 || setresuid(first, last, last) < 0 ? -errno : 0;
}

static _Noreturn void child_main(int sock, uid_t first, uid_t last)
{
	int errors[VM_SANDBOX_SPACES], r;
	char next;

	for (unsigned i = 0; i < VM_SANDBOX_SPACES; i++)
		errors[i] = unshare(spaces[i].flag) < 0 ? -errno : 0;
	if (!errors[VM_SANDBOX_MNT])
		errors[VM_SANDBOX_MNT] = root_replace();
	if (write_full(sock, errors, sizeof(errors)) < 0 || read(sock, &next, 1) != 1)
		_exit(1);
	r = first ? user_change(first, last) : 0;
	_exit(write_full(sock, &r, sizeof(r)) < 0 || read(sock, &next, 1) < 0);
}

/* ---- the daemon ---- */

static void space_open(struct vm_sandbox *s, unsigned i, pid_t child)
{
	char path[64];
	CLEANUP_CLOSE int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)child, spaces[i].name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	s->fds[i] = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, SPACE_FD);
	if (s->fds[i] < 0)
		s->errors[i] = -errno;
}

static void spaces_take(struct vm_sandbox *s, int sock, pid_t child)
{
	ssize_t n = recv(sock, s->errors, sizeof(s->errors), MSG_WAITALL);

	for (unsigned i = 0; i < VM_SANDBOX_SPACES && n != sizeof(s->errors); i++)
		s->errors[i] = n < 0 ? -errno : -ECHILD;
	for (unsigned i = 0; i < VM_SANDBOX_SHARED; i++)
		if (!s->errors[i])
			space_open(s, i, child);
}

/* The daemon must also be able to end processes of these users, which takes CAP_KILL. The child changes its ids last,
 * because the daemon opens its namespaces without a capability before. */
static void uids_try(struct vm_sandbox *s, int sock, pid_t child, uid_t first, uid_t last)
{
	int r = -ECHILD;

	if (write_full(sock, "", 1) < 0 || recv(sock, &r, sizeof(r), MSG_WAITALL) != sizeof(r))
		r = -ECHILD;
	if (!r && first && kill(child, 0) < 0)
		r = -errno;
	s->uid_error = r;
	s->uid_first = r ? 0 : first;
	s->uid_last = r ? 0 : last;
}

static int processes_try(struct vm_sandbox *s, uid_t first, uid_t last)
{
	CLEANUP_CLOSE int ours = -1;
	int pair[2];
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	child = fork();
	if (child == 0) {
		close(pair[0]);
		child_main(pair[1], first, last);
	}
	ours = pair[0];
	close(pair[1]);
	if (child < 0)
		return -errno;
	spaces_take(s, ours, child);
	uids_try(s, ours, child, first, last);
	shutdown(ours, SHUT_RDWR);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

void vm_sandbox_prepare(uid_t first, uid_t last, struct vm_sandbox *ret)
{
	char text[VM_SANDBOX_SPACES * 80];
	int r, n = 0;

	*ret = (struct vm_sandbox){ .fds = { -1, -1 } };
	r = processes_try(ret, first, last);
	if (r < 0)
		ret->uid_error = r;
	for (unsigned i = 0; i < VM_SANDBOX_SPACES; i++) {
		if (r < 0)
			ret->errors[i] = r;
		if (ret->errors[i])
			n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%s (%s)", n ? ", " : "", spaces[i].name,
				strerror(-ret->errors[i]));
	}
	if (ret->uid_error)
		log_warn("sandbox", "VM processes run as root: the daemon cannot use the user ids of --uid-range, %u to %u: %s",
			(unsigned)first, (unsigned)last, strerror(-ret->uid_error));
	/* A plain user may make no namespaces, and nothing is wrong with that host. */
	if (n)
		log_write(geteuid() ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, "sandbox", "VM processes keep these namespaces of the host: %s",
			text);
}

void vm_sandbox_done(struct vm_sandbox *s)
{
	for (unsigned i = 0; i < VM_SANDBOX_SHARED; i++)
		if (s->fds[i] >= 0)
			close(s->fds[i]);
}
