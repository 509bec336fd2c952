/* cairn-login WEB CHANNEL SOCKET DELEGATE ALLOW_ROOT: the part of cairn-web --pam that has root's rights. cairn-web
 * becomes it after it has forked the process that serves the page, without rights.
 * WEB: pid of that process. CHANNEL: fd of the socket to it (message.h). SOCKET: the daemon's. DELEGATE: path of
 * cairn-delegate. ALLOW_ROOT: 1: root may log in, else 0. */
#include "base/err.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/program.h"
#include "base/signals.h"
#include "tools/login/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static int monitor_begin(char **argv, struct monitor *m, struct err *e)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGCHLD, 0 };
	uint64_t seed;

	m->web = (pid_t)atoi(argv[1]);
	m->channel = atoi(argv[2]);
	m->socket = argv[3];
	m->allow_root = !strcmp(argv[5], "1");
	m->notify = notify_open();
	m->program = open(argv[4], O_PATH | O_CLOEXEC);
	if (m->program < 0)
		return err_set_errno(e, -errno, "%s", argv[4]);
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		return err_set_errno(e, -errno, "getrandom");
	limits_init(&m->limits, seed);
	if (fcntl(m->channel, F_SETFD, FD_CLOEXEC) < 0 || fcntl(m->channel, F_SETFL, O_NONBLOCK) < 0)
		return err_set_errno(e, -errno, "the channel to cairn-web");
	m->signals = signals_open(signals, NULL);
	return m->signals < 0 ? err_set_errno(e, m->signals, "signals") : 0;
}

int main(int argc, char **argv)
{
	static struct monitor m;
	struct err e;
	int r = program_begin(&e);

	signal(SIGPIPE, SIG_IGN);
	log_set_owner("cairn-login");
	if (!r && argc != 6)
		r = err_set(&e, -EINVAL, ERR_INVALID, "cairn-web --pam starts this program; see cairn-web(1)");
	if (!r)
		r = monitor_begin(argv, &m, &e);
	if (r < 0) {
		fprintf(stderr, "cairn-login: %s\n", e.msg);
		return 1;
	}
	return monitor_run(&m);
}
