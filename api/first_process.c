#include "api/first_process.h"
#include "base/util.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const int passed_on[] = { SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 };

/* The service manager has named this process in variables that are for the daemon. */
static void variable_move(const char *name)
{
	const char *value = getenv(name);
	char own[16];

	snprintf(own, sizeof(own), "%d", getpid());
	if (value && !strcmp(value, "1"))
		setenv(name, own, 1);
}

/* Reap processes that have ended. Exits when the daemon is one of them. */
static void reap(pid_t daemon)
{
	pid_t pid;
	int status;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == daemon)
			_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

void first_process_stay(void)
{
	sigset_t set, before;
	pid_t daemon;
	int sig;

	if (getpid() != 1)
		return;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (size_t i = 0; i < ARRAY_SIZE(passed_on); i++)
		sigaddset(&set, passed_on[i]);
	sigprocmask(SIG_BLOCK, &set, &before);
	daemon = fork();
	if (daemon <= 0) { /* without a second process, the first one is the daemon */
		sigprocmask(SIG_SETMASK, &before, NULL);
		variable_move("LISTEN_PID");
		variable_move("WATCHDOG_PID");
		return;
	}
	for (;;)
		if (!sigwait(&set, &sig)) {
			if (sig == SIGCHLD)
				reap(daemon);
			else
				kill(daemon, sig);
		}
}
