#include "base/program.h"
#include "base/err.h"
#include "base/lockdown.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

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

	if (!r && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = -errno;
	if (!r)
		r = death_signal_set();
	return r < 0 ? err_set_errno(e, r, "cannot give up root's rights") : 0;
}
