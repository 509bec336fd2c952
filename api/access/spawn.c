#include "api/access/spawn.h"
#include "api/access/rights.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/program.h"
#include "base/oom.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define FDS_MAX 512 /* fds in a spawn_spec */

/* First duplicate each fd to n or above, because its present number may be the target of another one. */
int spawn_place_fds(const int *fds, size_t n)
{
	int aside[FDS_MAX];

	if (n > FDS_MAX)
		return -EMFILE;
	for (size_t i = 0; i < n; i++) {
		aside[i] = fds[i] < 0 ? -1 : fcntl(fds[i], F_DUPFD_CLOEXEC, (int)n);
		if (fds[i] >= 0 && aside[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < n; i++)
		if (aside[i] >= 0 && dup2(aside[i], (int)i) < 0)
			return -errno;
	return close_range((unsigned)n, ~0U, 0) < 0 ? -errno : 0;
}

/* Return "NAME=VALUE"; NULL: there is no such variable. */
static char *variable_find(const char *name)
{
	size_t n = strlen(name);

	for (char **at = environ; *at; at++)
		if (!strncmp(*at, name, n) && (*at)[n] == '=')
			return *at;
	return NULL;
}

static _Noreturn void process_main(const struct spawn_spec *p, pid_t parent)
{
	char death[64];
	char *envp[5] = { (char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char *)"LC_ALL=C.UTF-8" };
	unsigned n = 2;
	sigset_t none;

	sigemptyset(&none);
	oom_protection_drop();
	if (spawn_place_fds(p->fds, p->nfds) < 0 || (p->rights && rights_assume_for_exec(p->rights, p->with_groups) < 0) || setpgid(0, 0) < 0)
		_exit(1);
	/* The program sets the signal itself (program_begin()), because execve() clears it when the ids differ. */
	snprintf(death, sizeof(death), PROGRAM_DEATH "=%d:%d", p->death_signal, (int)parent);
	if (p->death_signal)
		envp[n++] = death;
	if (p->variable)
		envp[n] = variable_find(p->variable);
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(p->path, p->argv, envp);
	_exit(SPAWN_NO_PROGRAM);
}

int spawn_program(const struct spawn_spec *p, pid_t *ret_pid)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0)
		process_main(p, parent);
	if (pid < 0)
		return -errno;
	*ret_pid = pid;
	return 0;
}

int spawn_watched(struct loop *l, const struct spawn_spec *p, void (*ended)(void *opaque, unsigned revents), void *opaque,
	int *ret_pidfd, struct loop_watch **ret_watch)
{
	CLEANUP_CLOSE int pidfd = -1;
	pid_t pid = 0;
	int r = spawn_program(p, &pid);

	if (r < 0)
		return r;
	pidfd = pidfd_open(pid, 0);
	r = pidfd < 0 ? -errno : loop_watch(l, pidfd, POLLIN, ended, opaque, ret_watch);
	if (r < 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		return r;
	}
	*ret_pidfd = steal_fd(&pidfd);
	return 0;
}
