#include "base/signals.h"

#include <errno.h>
#include <sys/signalfd.h>

const int signals_of_end[] = { SIGTERM, SIGINT, SIGHUP, 0 };

void signals_end_process(int sig)
{
	sigset_t set;

	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
}

int signals_open(const int *signals, sigset_t *before)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	for (; *signals; signals++)
		sigaddset(&set, *signals);
	pthread_sigmask(SIG_BLOCK, &set, before);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}
