/* monitor: the part of cairn-web --pam that has root's rights. It checks logins (check.h), and starts a delegate
 * (cairn-delegate) for each user who has logged in. One thread, which never waits for a process. */
#ifndef CAIRN_TOOLS_LOGIN_MONITOR_H
#define CAIRN_TOOLS_LOGIN_MONITOR_H

#include "tools/login/check.h"
#include "tools/login/limits.h"
#include "tools/login/message.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct monitor_check {
	uint64_t session; /* 0: the row is free */
	bool waits;	  /* for the end of another check */
	pid_t pid;	  /* 0: none, or it has ended */
	int out;	  /* the process writes its result to it; -1: closed */
	uint64_t asked_ns, begin_ns;
	size_t got;
	struct check_result result;
	struct login_ask ask; /* the password is cleared when the process has it */
};

struct monitor_delegate {
	uint64_t session; /* 0: the row is free */
	pid_t pid;
	bool ending; /* it was killed */
};

struct monitor {
	int channel;  /* to cairn-web */
	int signals;  /* signalfd */
	pid_t web;    /* cairn-web, a child */
	int program;  /* cairn-delegate, opened */
	const char *socket; /* the daemon's */
	bool allow_root;
	int notify; /* the service manager; -1: none */
	int ended; /* exit status; -1: not yet */
	struct limits limits;
	struct monitor_check checks[LOGIN_WAITS_MAX];
	struct monitor_delegate delegates[LOGIN_SESSIONS_MAX];
};

/* Run until cairn-web or a signal ends it. Returns the exit status. */
int monitor_run(struct monitor *m);

#endif
