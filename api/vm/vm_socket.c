#include "api/vm/vm_socket.h"
#include "api/vm/child_spawn.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/vm/vm_sandbox.h"
#include "api/wire/close_async.h"
#include "api/wire/listen.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PART_MAX 72 /* "/proc/self/fd/2147483647/" and ".sock" fit beside it */
#define FILE_BYTES (PART_MAX + 8)
/* Connections that a process has not accepted. A stopped one accepts none, and each daemon that begins meanwhile makes
 * one more. */
#define BACKLOG 64
#define CHANNEL_FD 3 /* of a VM process; fds of namespaces follow */

/* ---- names of files ---- */

/* Each PART_MAX bytes of a longer name are a folder, and the rest is the file, so two names never share a file. The
 * suffixes differ, so no file takes the name of a folder. */
static bool is_split(const char *name)
{
	return strlen(name) > PART_MAX;
}

/* Print the name of the socket, or, if `name` is split, of its first folder. */
static void part_name(const char *name, char buf[FILE_BYTES])
{
	snprintf(buf, FILE_BYTES, is_split(name) ? "%.*s.d" : "%.*s.sock", PART_MAX, name);
}

/* Print the name that older daemons gave the socket of a VM. */
static void old_file_name(const char *name, char buf[FILE_BYTES])
{
	if (is_split(name))
		snprintf(buf, FILE_BYTES, "%016llx.vm", (unsigned long long)hash_add(HASH_BEGIN, name, strlen(name)));
	else
		snprintf(buf, FILE_BYTES, "%s.vm", name);
}

bool vm_socket_old_name_is_hash(const char *name)
{
	return is_split(name) || (strlen(name) == 16 && strspn(name, "0123456789abcdef") == 16);
}

bool vm_socket_old_names_meet(const char *a, const char *b)
{
	char old_a[FILE_BYTES], old_b[FILE_BYTES];

	old_file_name(a, old_a);
	old_file_name(b, old_b);
	return !strcmp(old_a, old_b);
}

/* Open the folder of a VM's socket.
 * make:  create missing folders.
 * *name: moves to the part of the name that is left for the file.
 * Returns the fd, which the caller owns; -errno. */
static int folder_open(int run_dir, bool make, const char **name)
{
	CLEANUP_CLOSE int dir = fcntl(run_dir, F_DUPFD_CLOEXEC, 3);
	char folder[FILE_BYTES];

	for (; dir >= 0 && is_split(*name); *name += PART_MAX) {
		int next;

		part_name(*name, folder);
		if (make && mkdirat(dir, folder, 0700) < 0 && errno != EEXIST)
			return -errno;
		next = openat(dir, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return -errno;
		close(dir);
		dir = next;
	}
	return dir < 0 ? -errno : steal_fd(&dir);
}

/* Remove the socket, and the folders of its name that no other socket needs. */
static void socket_remove(int dir, const char *name)
{
	CLEANUP_CLOSE int next = -1;
	char part[FILE_BYTES];

	part_name(name, part);
	if (!is_split(name)) {
		unlinkat(dir, part, 0);
		return;
	}
	next = openat(dir, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (next >= 0)
		socket_remove(next, name + PART_MAX);
	unlinkat(dir, part, AT_REMOVEDIR);
}

void vm_socket_remove(int run_dir, const char *name)
{
	char old[FILE_BYTES];

	socket_remove(run_dir, name);
	if (vm_socket_old_name_is_hash(name))
		return; /* the path may be the socket of another running VM */
	old_file_name(name, old);
	unlinkat(run_dir, old, 0);
}

int vm_socket_link(int run_dir, const char *from, const char *to, struct err *e)
{
	const char *old_rest = from, *new_rest = to;
	CLEANUP_CLOSE int old_dir = folder_open(run_dir, false, &old_rest), new_dir = folder_open(run_dir, true, &new_rest);
	char old[FILE_BYTES], new[FILE_BYTES];
	struct stat st;
	bool there;

	part_name(old_rest, old);
	part_name(new_rest, new);
	there = old_dir >= 0 && !fstatat(old_dir, old, &st, AT_SYMLINK_NOFOLLOW);
	if (new_dir >= 0 && there)
		unlinkat(new_dir, new, 0);
	if (new_dir >= 0 && (there ? !linkat(old_dir, old, new_dir, new, 0) : !fstatat(new_dir, new, &st, AT_SYMLINK_NOFOLLOW)))
		return 0;
	return err_set_errno(e, new_dir < 0 ? new_dir : -errno, "the socket of VM '%s'", from);
}

/* ---- sockets ---- */

static void socket_address(int dir, const char *file, struct sockaddr_un *sa)
{
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	snprintf(sa->sun_path, sizeof(sa->sun_path), "/proc/self/fd/%d/%.79s", dir, file);
}

static int file_connect(int dir, const char *file, int *ret_fd)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa;
	int on = 1;

	socket_address(dir, file, &sa);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
		connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	*ret_fd = steal_fd(&fd);
	return 0;
}

bool vm_socket_exists(int run_dir, const char *name)
{
	char file[FILE_BYTES];
	const char *rest = name;
	CLEANUP_CLOSE int dir = folder_open(run_dir, false, &rest);

	if (dir < 0)
		return false;
	part_name(rest, file);
	return faccessat(dir, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int vm_socket_connect(int run_dir, const char *name, bool owns_hash, int *ret_fd)
{
	char file[FILE_BYTES];
	const char *rest = name;
	CLEANUP_CLOSE int dir = folder_open(run_dir, false, &rest);
	int r = dir;

	if (dir >= 0) {
		part_name(rest, file);
		r = file_connect(dir, file, ret_fd);
	}
	if (r != -ENOENT || (vm_socket_old_name_is_hash(name) && !owns_hash))
		return r;
	old_file_name(name, file);
	return file_connect(run_dir, file, ret_fd);
}

void vm_socket_close(int sock, struct closer *c)
{
	int off = 0;

	/* closer_drop() takes credentials for files. */
	if (setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &off, sizeof(off)) < 0)
		log_warn("process", "SO_PASSCRED: %s", strerror(errno));
	closer_drop(c, sock);
}

int vm_socket_listen(int run_dir, const char *name, int *ret_fd, struct err *e)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CLEANUP_CLOSE int dir = -1;
	const char *rest = name;
	char file[FILE_BYTES];
	struct sockaddr_un sa;

	if (fd < 0)
		return err_set_errno(e, -errno, "cannot create the socket of VM '%s'", name);
	/* Do not check whether a process still listens on the old socket: the io_urings of a killed process hold its
	 * socket open for a moment after the process's end. */
	vm_socket_remove(run_dir, name);
	dir = folder_open(run_dir, true, &rest);
	if (dir < 0)
		return err_set_errno(e, dir, "cannot create the socket of VM '%s'", name);
	part_name(rest, file);
	socket_address(dir, file, &sa);
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, BACKLOG) < 0)
		return err_set_errno(e, -errno, "cannot create the socket of VM '%s'", name);
	*ret_fd = steal_fd(&fd);
	return 0;
}

int vm_socket_peek_pid(int sock, pid_t *ret_pid)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control) };
	struct ucred cred;
	struct cmsghdr *c;
	ssize_t n = recvmsg(sock, &m, MSG_PEEK | MSG_CMSG_CLOEXEC);

	if (n < 0 && errno == ECONNRESET) /* reported once, before the messages (channel_recv()) */
		n = recvmsg(sock, &m, MSG_PEEK | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return -errno;
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS)
		return -ENOMSG;
	memcpy(&cred, CMSG_DATA(c), sizeof(cred));
	if (cred.pid <= 0)
		return -ESRCH;
	*ret_pid = cred.pid;
	return 0;
}

/* Add an fd of a namespace, or the end file. *n: their number, so far. */
static int space_add(posix_spawn_file_actions_t *fa, int fd, unsigned *n)
{
	int r = fd < 0 ? 0 : posix_spawn_file_actions_adddup2(fa, fd, CHANNEL_FD + 1 + (int)*n);

	*n += fd >= 0;
	return r;
}

static unsigned spaces_count(const struct vm_sandbox *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < VM_SANDBOX_SHARED; i++)
		n += s->fds[i] >= 0;
	return n;
}

/* The end file that the process inherits; -1: none. Others get it with the configuration. A successor's comes from the
 * process that hands the VM over, which has closed its own (vmm/kvm/end_file.h). */
static int end_file_of(const struct vm_process_paths *paths, const char *option)
{
	return strcmp(option, VM_PROCESS_TAKE_OVER) ? -1 : paths->end_fd;
}

static int spawn_setup(posix_spawn_file_actions_t *fa, posix_spawnattr_t *attr, const struct vm_process_paths *paths, int sock,
	int end_file)
{
	sigset_t none, all;
	unsigned spaces = 0;
	int r = posix_spawn_file_actions_addopen(fa, 0, "/dev/null", O_RDWR, 0);

	sigemptyset(&none);
	sigfillset(&all);
	if (!r)
		r = posix_spawn_file_actions_adddup2(fa, paths->log_fd, 1);
	if (!r)
		r = posix_spawn_file_actions_adddup2(fa, paths->log_fd, 2);
	if (!r)
		r = posix_spawn_file_actions_adddup2(fa, sock, CHANNEL_FD);
	for (unsigned i = 0; i < VM_SANDBOX_SHARED && paths->sandbox && !r; i++)
		r = space_add(fa, paths->sandbox->fds[i], &spaces);
	if (!r)
		r = space_add(fa, end_file, &spaces);
	/* Close-on-exec alone would keep clients' sockets and the daemon's locks open while the program is loaded. */
	if (!r)
		r = posix_spawn_file_actions_addclosefrom_np(fa, CHANNEL_FD + 1 + (int)spaces);
	if (!r)
		r = posix_spawnattr_setsigmask(attr, &none);
	if (!r)
		r = posix_spawnattr_setsigdefault(attr, &all);
	if (!r)
		r = posix_spawnattr_setflags(attr,
			POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	return r;
}

/* Return r with a sentence. group, pids: where the process would have been, or "". */
static int start_failed(struct err *e, int r, const char *program, const char *group, const char *pids)
{
	err_set_errno(e, r, "cannot start %s%s%s", program, group, pids);
	if (e)
		e->cls = ERR_HOST;
	return r;
}

static int spawn_plain(const struct vm_process_paths *paths, char *const *argv, int sock, int end_file, pid_t *ret_pid, struct err *e)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	int r;

	if (posix_spawn_file_actions_init(&fa))
		return err_set_errno(e, -ENOMEM, "cannot start %s", paths->program);
	if (posix_spawnattr_init(&attr)) {
		posix_spawn_file_actions_destroy(&fa);
		return err_set_errno(e, -ENOMEM, "cannot start %s", paths->program);
	}
	r = spawn_setup(&fa, &attr, paths, sock, end_file);
	if (!r)
		r = posix_spawn(ret_pid, paths->program, &fa, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&fa);
	return r ? start_failed(e, -r, paths->program, "", "") : 0;
}

/* The parts of the sandbox that a process has from its first moment on. */
enum {
	APART_GROUP = 1,
	APART_PIDS = 2,
};

static unsigned apart_wanted(const struct vm_process_paths *paths)
{
	return (paths->place.name[0] ? APART_GROUP : 0u) | (paths->sandbox && vm_sandbox_makes_pids(paths->sandbox) ? APART_PIDS : 0u);
}

/* Spawn the process in its control group and in a pid namespace of its own, or in one of them. Returns 0; -errno with a
 * sentence. */
static int spawn_apart(const struct vm_process_paths *paths, char *const *argv, int sock, int end_file, unsigned parts, pid_t *ret_pid,
	struct err *e)
{
	int files[CHANNEL_FD + 2 + VM_SANDBOX_SHARED] = { -1, paths->log_fd, paths->log_fd, sock };
	struct child_spawn s = { .cgroup = -1, .own_pids = parts & APART_PIDS, .program = paths->program, .argv = argv, .files = files,
		.nfiles = CHANNEL_FD + 1, .numbers = paths->sandbox ? paths->sandbox->numbers : NULL };
	CLEANUP_CLOSE int group = -1;
	int r;

	if (parts & APART_GROUP) {
		s.cgroup = group = cgroup_tree_enter(paths->place.tree, &paths->place, e);
		if (group < 0)
			return group;
	}
	for (unsigned i = 0; i < VM_SANDBOX_SHARED; i++)
		if (paths->sandbox->fds[i] >= 0)
			files[s.nfiles++] = paths->sandbox->fds[i];
	if (end_file >= 0)
		files[s.nfiles++] = end_file;
	r = child_spawn(&s, ret_pid);
	if (r == 0)
		return 0;
	if (parts & APART_PIDS && r == -ENOSPC)
		return err_set(e, r, ERR_HOST, "cannot start %s%s in a pid namespace of its own: %s (the limit is the sysctl user.max_pid_namespaces)",
			paths->program, parts & APART_GROUP ? " in the VM's control group" : "", strerror(-r));
	return start_failed(e, r, paths->program, parts & APART_GROUP ? " in the VM's control group" : "",
		parts & APART_PIDS ? " in a pid namespace of its own" : "");
}

/* Spawn the process after all parts together have failed: the host may have reached its limit of pid namespaces or of
 * control groups. e: why they failed; set again on errors. Returns 0; -errno. */
static int spawn_less_apart(const struct vm_process_paths *paths, char *const *argv, int sock, int end_file, unsigned wanted, pid_t *ret_pid,
	struct err *e)
{
	static const unsigned fewer[] = { APART_GROUP, APART_PIDS };
	const struct err why = *e;
	char vm[64] = "a VM";
	unsigned got = 0;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(fewer) && wanted == (APART_GROUP | APART_PIDS) && !got; i++)
		if (!spawn_apart(paths, argv, sock, end_file, fewer[i], ret_pid, e))
			got = fewer[i];
	r = got ? 0 : spawn_plain(paths, argv, sock, end_file, ret_pid, e);
	if (r < 0)
		return r;
	if (paths->place.name[0])
		snprintf(vm, sizeof(vm), "VM %s", paths->place.name);
	if (wanted & ~got & APART_GROUP)
		log_warn("sandbox", "%s runs without limits: %s", vm, why.msg);
	if (wanted & ~got & APART_PIDS)
		log_warn("sandbox", "%s runs without a pid namespace of its own: %s", vm, why.msg);
	return 0;
}

static void arg_add(char **argv, unsigned *nargs, const char *name, char number[16], unsigned n)
{
	snprintf(number, 16, "%u", n);
	argv[(*nargs)++] = (char *)name;
	argv[(*nargs)++] = number;
}

int vm_process_spawn(const struct vm_process_paths *paths, const char *option, int sock, pid_t *ret_pid, struct err *e)
{
	char channel[16], number[16], uid[16], end[16];
	char *argv[] = { (char *)"cairn-vm", (char *)option, channel, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL };
	int end_file = end_file_of(paths, option), r;
	unsigned spaces = paths->sandbox ? spaces_count(paths->sandbox) : 0, wanted = apart_wanted(paths), nargs = 3;

	snprintf(channel, sizeof(channel), "%d", CHANNEL_FD);
	if (paths->sandbox && vm_sandbox_has_spaces(paths->sandbox))
		arg_add(argv, &nargs, "--namespaces", number, spaces);
	if (paths->uid)
		arg_add(argv, &nargs, "--user", uid, (unsigned)paths->uid);
	if (end_file >= 0)
		arg_add(argv, &nargs, "--end-file", end, CHANNEL_FD + 1 + spaces);
	if (paths->sandbox && paths->sandbox->required)
		argv[nargs] = (char *)"--require-sandbox";
	if (!wanted)
		return spawn_plain(paths, argv, sock, end_file, ret_pid, e);
	r = spawn_apart(paths, argv, sock, end_file, wanted, ret_pid, e);
	if (r == 0 || paths->sandbox->required || paths->whole)
		return r;
	return spawn_less_apart(paths, argv, sock, end_file, wanted, ret_pid, e);
}

/* ---- the VM's QMP socket ---- */

/* Encode as base64url without padding (RFC 4648, section 5). */
static void qmp_name_of(const uint8_t uuid[16], char name[VM_QMP_NAME_CHARS + 1])
{
	for (unsigned i = 0; i < VM_QMP_NAME_CHARS; i++) {
		unsigned bit = 6 * i, at = bit / 8;
		unsigned two = (unsigned)uuid[at] << 8 | (at < 15 ? uuid[at + 1] : 0);

		name[i] = VM_QMP_NAME_ALPHABET[two >> (10 - bit % 8) & 63];
	}
	name[VM_QMP_NAME_CHARS] = 0;
}

int vm_qmp_path(const struct vm *vm, char *buf, size_t size, struct err *e)
{
	const char *dir = vm->host->paths->qmp_dir;
	char name[VM_QMP_NAME_CHARS + 1];
	int n;

	qmp_name_of(vm->def->uuid, name);
	n = snprintf(buf, size, "%s/%s", dir, name);

	if (n <= LISTEN_PATH_MAX && (size_t)n < size)
		return 0;
	return err_set(e, -ENAMETOOLONG, ERR_INVALID,
		"the path of the VM's own socket, %.300s, is %d bytes too long; start cairnd with a shorter --socket",
		dir, n - LISTEN_PATH_MAX);
}
