#include "api/vm/vm_sandbox.h"
#include "api/store/paths.h"
#include "api/vm/child_spawn.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/spaces.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Above the fds that vm_process_spawn() gives its processes. */
#define SPACE_FD 16
#define LACKS_BYTES 700

static const struct {
	const char *name;
	int flag;
} spaces[VM_SANDBOX_SPACES] = {
	[VM_SANDBOX_USER] = { "user", CLONE_NEWUSER },
	[VM_SANDBOX_MNT] = { "mnt", CLONE_NEWNS },
	[VM_SANDBOX_NET] = { "net", CLONE_NEWNET },
	[VM_SANDBOX_IPC] = { "ipc", CLONE_NEWIPC },
	[VM_SANDBOX_UTS] = { "uts", CLONE_NEWUTS },
	[VM_SANDBOX_PID] = { "pid", 0 },
};

const char *vm_sandbox_space_name(enum vm_sandbox_space space)
{
	return spaces[space].name;
}

bool vm_sandbox_space_is_needed(enum vm_sandbox_space space)
{
	return space == VM_SANDBOX_USER ? geteuid() : space == VM_SANDBOX_PID ? !geteuid() : true;
}

bool vm_sandbox_has_spaces(const struct vm_sandbox *s)
{
	for (unsigned i = 0; i < VM_SANDBOX_PID; i++)
		if (vm_sandbox_space_is_needed(i) && !s->errors[i])
			return true;
	return false;
}

bool vm_sandbox_makes_pids(const struct vm_sandbox *s)
{
	return vm_sandbox_space_is_needed(VM_SANDBOX_PID) && !s->errors[VM_SANDBOX_PID];
}

const char *vm_sandbox_space_lack(const struct vm_sandbox *s, enum vm_sandbox_space space)
{
	return s->errors[space] ? strerror(-s->errors[space]) : NULL;
}

const char *vm_sandbox_uid_lack(const struct vm_sandbox *s)
{
	if (s->uid_error == -EINVAL)
		return "the daemon's user namespace lacks these ids; see --uid-range";
	if (s->uid_error)
		return strerror(-s->uid_error);
	return s->uid_first ? NULL : "cairnd runs with --uid-range none";
}

const char *vm_sandbox_cgroup_lack(const struct vm_sandbox *s)
{
	return s->cgroups.lack[0] ? s->cgroups.lack : NULL;
}

/* ---- the process that makes the namespaces ---- */

/* Take the ids at both ends of the range: those between them have a meaning, too, unless somebody made a user namespace
 * with a hole. */
static int user_change(uid_t first, uid_t last)
{
	return setgroups(0, NULL) < 0 || setresgid(first, last, last) < 0 || setresuid(first, last, last) < 0 ? -errno : 0;
}

static int space_make(unsigned space)
{
	if (!vm_sandbox_space_is_needed(space))
		return 0;
	if (space == VM_SANDBOX_USER)
		return spaces_enter_user();
	if (space == VM_SANDBOX_MNT)
		return spaces_enter_empty_root();
	return unshare(spaces[space].flag) < 0 ? -errno : 0;
}

static _Noreturn void child_main(int sock, uid_t first, uid_t last)
{
	int errors[VM_SANDBOX_PID], r;
	char next;

	for (unsigned i = 0; i < VM_SANDBOX_PID; i++)
		errors[i] = space_make(i);
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
	const size_t len = VM_SANDBOX_PID * sizeof(*s->errors);
	ssize_t n = recv(sock, s->errors, len, MSG_WAITALL);

	for (unsigned i = 0; i < VM_SANDBOX_PID && n != (ssize_t)len; i++)
		s->errors[i] = n < 0 ? -errno : -ECHILD;
	for (unsigned i = 0; i < VM_SANDBOX_SHARED; i++)
		if (vm_sandbox_space_is_needed(i) && !s->errors[i])
			space_open(s, i, child);
}

/* The daemon must also be able to end processes of these users, which takes CAP_KILL. The child changes its ids last,
 * because the daemon opens its namespaces without a capability before. */
static void uids_try(struct vm_sandbox *s, int sock, pid_t child, uid_t first, uid_t last)
{
	int r;

	/* Without a signal: if somebody killed the child, the daemon continues. */
	if (send(sock, "", 1, MSG_NOSIGNAL) < 0 || recv(sock, &r, sizeof(r), MSG_WAITALL) != sizeof(r))
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
	int pair[2], r;
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	child = fork();
	if (child == 0) {
		close(pair[0]);
		child_main(pair[1], first, last);
	}
	r = child < 0 ? -errno : 0;
	ours = pair[0];
	close(pair[1]);
	if (r < 0)
		return r;
	spaces_take(s, ours, child);
	uids_try(s, ours, child, first, last);
	shutdown(ours, SHUT_RDWR);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

/* Print the missing parts, as a list with the reasons. Returns whether there is anything. */
static bool lacks_print(const struct vm_sandbox *s, char *buf, size_t size)
{
	const char *why = vm_sandbox_uid_lack(s);
	size_t n = 0;

	buf[0] = 0;
	for (unsigned i = 0; i < VM_SANDBOX_SPACES; i++)
		if (s->errors[i] && n < size)
			n += (size_t)snprintf(buf + n, size - n, "%s%s namespace (%s)", n ? ", " : "", spaces[i].name,
				strerror(-s->errors[i]));
	/* No daemon of a plain user has other ids to give. */
	if (why && !geteuid() && n < size)
		n += (size_t)snprintf(buf + n, size - n, "%sown user id (%s)", n ? ", " : "", why);
	if (s->cgroups.lack[0] && n < size)
		snprintf(buf + n, size - n, "%scontrol group (%s)", n ? ", " : "", s->cgroups.lack);
	return buf[0];
}

void vm_sandbox_prepare(const struct daemon_paths *p, bool managed, struct vm_sandbox *ret)
{
	char text[LACKS_BYTES];
	int r;

	*ret = (struct vm_sandbox){ .fds = { -1, -1, -1 }, .required = p->require_sandbox, .numbers = child_files_new() };
	cgroup_tree_open(p, managed, &ret->cgroups);
	r = processes_try(ret, p->uid_first, p->uid_last);
	for (unsigned i = 0; i < VM_SANDBOX_PID && r < 0; i++)
		ret->errors[i] = r;
	if (vm_sandbox_space_is_needed(VM_SANDBOX_PID))
		ret->errors[VM_SANDBOX_PID] = child_spawn_try(-1, true);
	if (r < 0 || geteuid())
		ret->uid_error = r < 0 ? r : -EPERM;
	/* Some hosts forbid plain users to make namespaces, and nothing is wrong with them. */
	if (lacks_print(ret, text, sizeof(text)))
		log_write(ret->required ? LOG_LEVEL_ERROR : geteuid() ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, "sandbox",
			"the sandboxes of VMs lack %s%s", text, ret->required ? "; no VM starts, because of --require-sandbox" : "");
}

int vm_sandbox_check(const struct vm_sandbox *s, struct err *e)
{
	char text[LACKS_BYTES];

	if (!s->required || !lacks_print(s, text, sizeof(text)))
		return 0;
	return err_set(e, -EPERM, ERR_HOST, "cairnd runs with --require-sandbox, and the sandbox would lack %s", text);
}

void vm_sandbox_done(struct vm_sandbox *s)
{
	for (unsigned i = 0; i < VM_SANDBOX_SHARED; i++)
		if (s->fds[i] >= 0)
			close(s->fds[i]);
	cgroup_tree_close(&s->cgroups);
	child_files_free(s->numbers);
}
