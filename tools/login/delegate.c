#include "tools/login/delegate.h"
#include "base/cleanup.h"
#include "base/program.h"
#include "tools/login/check.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHANNEL_FD 3

static __attribute__((noreturn)) void process_main(int program, const char *socket, const struct check_result *user, int channel, pid_t parent)
{
	char death[64], uid[16];
	char *const argv[] = { (char *)"cairn-delegate", (char *)(uintptr_t)socket, uid, NULL };
	char *const env[] = { (char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char *)"LC_ALL=C.UTF-8", death, NULL };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	sigemptyset(&none);
	snprintf(uid, sizeof(uid), "%u", (unsigned)user->uid);
	snprintf(death, sizeof(death), PROGRAM_DEATH "=%d:%d", SIGKILL, (int)parent);
	/* The program goes to the highest number, so that no number below is its. */
	program = fcntl(program, F_DUPFD_CLOEXEC, 16);
	channel = fcntl(channel, F_DUPFD_CLOEXEC, 16);
	if (null < 0 || program < 0 || channel < 0 || chdir("/") < 0 || setpgid(0, 0) < 0)
		_exit(1);
	for (int i = 0; i < CHANNEL_FD; i++)
		dup2(null, i);
	dup2(channel, CHANNEL_FD);
	/* The real ids, too: this process has no_new_privs, with which older kernels make the real user the effective
	 * one in execve(). So the user may trace the process until program_begin(), and finds only his own channel. */
	if (setgroups(user->ngroups, user->groups) < 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
		setresuid(user->uid, user->uid, user->uid) < 0)
		_exit(1);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execveat(program, "", argv, env, AT_EMPTY_PATH);
	_exit(1);
}

int delegate_start(int program, const char *socket, const struct check_result *user, pid_t *ret_pid, int *ret_fd)
{
	CLEANUP_CLOSE int here = -1, there = -1;
	int sv[2];
	pid_t parent = getpid(), pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return -errno;
	here = sv[0];
	there = sv[1];
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		process_main(program, socket, user, there, parent);
	*ret_pid = pid;
	*ret_fd = steal_fd(&here);
	return 0;
}
