#include "api/access/spawn.h"
#include "api/access/rights.h"
#include "base/program.h"
#include "base/oom.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* Greatest number of fds in a spawn_spec, and smallest number of their duplicates in fds_place(). */
#define FD_ASIDE 512

/* Give the fds their numbers, and close all others. First duplicate each fd to FD_ASIDE or above, because its present
 * number may be the target of another one. */
static int fds_place(const struct spawn_spec *p)
{
	int aside[FD_ASIDE];

	if (p->nfds > FD_ASIDE)
		return -EMFILE;
	for (size_t i = 0; i < p->nfds; i++) {
		aside[i] = p->fds[i] < 0 ? -1 : fcntl(p->fds[i], F_DUPFD_CLOEXEC, FD_ASIDE);
		if (p->fds[i] >= 0 && aside[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < p->nfds; i++)
		if (aside[i] >= 0 && dup2(aside[i], (int)i) < 0)
			return -errno;
	return close_range((unsigned)p->nfds, ~0U, 0) < 0 ? -errno : 0;
}

static _Noreturn void process_main(const struct spawn_spec *p, pid_t parent)
{
	char death[64];
	char *envp[] = { (char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char *)"LC_ALL=C.UTF-8", p->death_signal ? death : NULL, NULL };
	sigset_t none;

	sigemptyset(&none);
	oom_protection_drop();
	if (fds_place(p) < 0 || (p->rights && rights_assume_for_exec(p->rights, p->with_groups) < 0) || setpgid(0, 0) < 0)
		_exit(1);
	/* The program sets the signal itself (program_begin()), because execve() clears it when the ids differ. */
	snprintf(death, sizeof(death), PROGRAM_DEATH "=%d:%d", p->death_signal, (int)parent);
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
