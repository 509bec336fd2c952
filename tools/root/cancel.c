#include "tools/root/cancel.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t is_cancelled;

/* Ends a wait; the work folder is removed on the way out. The signal may come before the wait begins, so it comes again
 * each second. */
static void on_signal(int sig)
{
	(void)sig;
	is_cancelled = 1;
	alarm(1);
}

void cancel_begin(void)
{
	static const int cancels[] = { SIGINT, SIGTERM, SIGHUP, SIGALRM };

	for (size_t i = 0; i < ARRAY_SIZE(cancels); i++)
		sigaction(cancels[i], &(struct sigaction){ .sa_handler = on_signal }, NULL);
}

bool cancel_with_parent(int sock)
{
	struct ucred peer = { .pid = 0 };
	socklen_t len = sizeof(peer);

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && getppid() == peer.pid;
}

int cancel_check(struct err *e)
{
	return is_cancelled ? err_set(e, -EINTR, ERR_CANCELLED, "cancelled") : 0;
}
