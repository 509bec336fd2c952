#include "base/program.h"
#include "base/err.h"
#include "base/lockdown.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

static void on_file_limit(int sig)
{
	(void)sig;
}

/* execve() resets a handler, but keeps an ignored signal ignored. */
void program_outlive_file_limit(void)
{
	if (signal(SIGXFSZ, on_file_limit) == SIG_IGN)
		signal(SIGXFSZ, SIG_IGN);
}

int program_end(const char *who, int status)
{
	struct err e;

	if (!fflush(stdout) && !ferror(stdout))
		return status;
	err_set_errno(&e, -errno, "cannot write the output");
	fprintf(stderr, "%s: %s\n", who, e.msg);
	return status ? status : 1;
}

int program_hide(void)
{
	/* A leak finder traces its own process, which has to be dumpable for that. */
	return prctl(PR_SET_DUMPABLE, LOCKDOWN_SANITIZED) < 0 ? -errno : 0;
}

/* Call it after the last change of ids, which clears the signal. */
static int death_signal_set(void)
{
	const char *text = getenv(PROGRAM_DEATH);
	int sig, parent;

	if (!text)
		return 0;
	if (sscanf(text, "%d:%d", &sig, &parent) != 2)
		return -EINVAL;
	if (prctl(PR_SET_PDEATHSIG, sig) < 0)
		return -errno;
	return getppid() == parent ? 0 : -ESRCH;
}

int program_begin(struct err *e)
{
	uid_t uid = geteuid();
	int r = getuid() != uid && setresuid(uid, uid, uid) < 0 ? -errno : program_hide();

	program_outlive_file_limit();
	if (!r && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = -errno;
	if (!r)
		r = death_signal_set();
	return r < 0 ? err_set_errno(e, r, "cannot give up root's rights") : 0;
}
