/* login: has cairn-login check users and passwords (tools/login/message.h). Any thread, except where it says so. */
#ifndef CAIRN_TOOLS_WEB_LOGIN_H
#define CAIRN_TOOLS_WEB_LOGIN_H

#include "tools/login/message.h"

#include <pthread.h>
#include <stdbool.h>

struct err;

struct logins {
	int channel; /* to cairn-login; -1: one user, who has the address of the page */
	pthread_mutex_t lock;
	pthread_cond_t answered;
	struct login_wait {
		int session; /* 0: the row is free */
		bool done;
		struct login_answer answer;
		int delegate; /* -1: none; owned */
	} waits[LOGIN_WAITS_MAX];
};

void logins_init(struct logins *l);
/* Fork. The new process continues, to serve the page; this one becomes cairn-login, and ends with the other. Call it
 * before there are threads, as root. socket: the daemon's. Returns 0 in the new process; -errno with a sentence. */
int logins_begin(struct logins *l, const char *socket, bool allow_root, struct err *e);
/* Drop root's rights permanently: become the user cairn-web, or nobody on a host without it. */
int logins_drop_root(struct err *e);
/* Tell cairn-login that the page is served. */
void logins_ready(struct logins *l);

/* Have a login checked, and wait for the answer.
 * session: a new number.
 * ret_delegate: the delegate's socket if the answer's verdict is LOGIN_OK; the caller owns it. */
void login_check(struct logins *l, int session, const struct login_ask *a, struct login_answer *ret, int *ret_delegate);
/* Have the delegate of a session killed. */
void login_end(struct logins *l, int session);
/* Take the answers that come within a second. When cairn-login has ended, this process ends. For one thread. */
void logins_run(struct logins *l);

#endif
