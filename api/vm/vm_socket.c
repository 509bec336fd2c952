#include "api/vm/vm_socket.h"
#include "api/vm/vm.h"
#include "api/wire/listen.h"
#include "base/cleanup.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define NAME_IN_ADDRESS_MAX 72 /* "/proc/self/fd/2147483647/" and ".vm" fit beside it */

/* Return the 64-bit FNV-1a hash of a name. */
static uint64_t name_hash(const char *name)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 0x100000001b3ULL;
	return h;
}

static void file_name(const char *name, char buf[NAME_IN_ADDRESS_MAX + 8])
{
	if (strlen(name) <= NAME_IN_ADDRESS_MAX)
		snprintf(buf, NAME_IN_ADDRESS_MAX + 8, "%s.vm", name);
	else
		snprintf(buf, NAME_IN_ADDRESS_MAX + 8, "%016llx.vm",
			(unsigned long long)name_hash(name));
}

static void socket_address(int run_dir, const char *name, struct sockaddr_un *sa)
{
	char file[NAME_IN_ADDRESS_MAX + 8];

	file_name(name, file);
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	snprintf(sa->sun_path, sizeof(sa->sun_path), "/proc/self/fd/%d/%.79s", run_dir, file);
}

void vm_socket_remove(int run_dir, const char *name)
{
	char file[NAME_IN_ADDRESS_MAX + 8];

	file_name(name, file);
	unlinkat(run_dir, file, 0);
}

int vm_socket_connect(int run_dir, const char *name, int *ret_fd)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa;
	int on = 1;

	socket_address(run_dir, name, &sa);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ||
		connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	*ret_fd = steal_fd(&fd);
	return 0;
}

int vm_socket_listen(int run_dir, const char *name, int *ret_fd, struct err *e)
{
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un sa;

	/* Do not check whether a process still listens on the old socket: the io_urings of a killed process hold its
	 * socket open for a moment after the process's end. */
	vm_socket_remove(run_dir, name);
	socket_address(run_dir, name, &sa);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 4) < 0)
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

	if (recvmsg(sock, &m, MSG_PEEK | MSG_CMSG_CLOEXEC) < 0)
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

static int spawn_setup(posix_spawn_file_actions_t *fa, posix_spawnattr_t *attr, int sock, int log_fd)
{
	sigset_t none, all;
	int r = posix_spawn_file_actions_addopen(fa, 0, "/dev/null", O_RDWR, 0);

	sigemptyset(&none);
	sigfillset(&all);
	if (!r)
		r = posix_spawn_file_actions_adddup2(fa, log_fd, 1);
	if (!r)
		r = posix_spawn_file_actions_adddup2(fa, log_fd, 2);
	if (!r)
		r = posix_spawn_file_actions_adddup2(fa, sock, 3);
	if (!r)
		r = posix_spawnattr_setsigmask(attr, &none);
	if (!r)
		r = posix_spawnattr_setsigdefault(attr, &all);
	if (!r)
		r = posix_spawnattr_setflags(attr,
			POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	return r;
}

int vm_process_spawn(const char *program, const char *option, int sock, int log_fd, pid_t *ret_pid, struct err *e)
{
	char *argv[] = { (char *)"cairn-vm", (char *)option, (char *)"3", NULL };
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	extern char **environ;
	int r;

	if (posix_spawn_file_actions_init(&fa))
		return err_set_errno(e, -ENOMEM, "cannot start %s", program);
	if (posix_spawnattr_init(&attr)) {
		posix_spawn_file_actions_destroy(&fa);
		return err_set_errno(e, -ENOMEM, "cannot start %s", program);
	}
	r = spawn_setup(&fa, &attr, sock, log_fd);
	if (!r)
		r = posix_spawn(ret_pid, program, &fa, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&fa);
	return r ? err_set(e, -r, ERR_HOST, "cannot start %s: %s", program, strerror(r)) : 0;
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
