#include "tools/web/login.h"
#include "api/store/paths.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/program.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define WEB_USER "cairn-web"
#define NOBODY 65534

void logins_init(struct logins *l)
{
	*l = (struct logins){ .channel = -1 };
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->answered, NULL);
	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
		l->waits[i].delegate = -1;
}

/* ---- two processes ---- */

static _Noreturn void login_become(const char *program, const char *delegate, const char *socket, int channel, pid_t web, bool allow_root)
{
	char web_text[16], channel_text[16];

	snprintf(web_text, sizeof(web_text), "%d", (int)web);
	snprintf(channel_text, sizeof(channel_text), "%d", channel);
	if (fcntl(channel, F_SETFD, 0) == 0)
		execl(program, "cairn-login", web_text, channel_text, socket, delegate, allow_root ? "1" : "0", NULL);
	fprintf(stderr, "cairn-web: %s: %s\n", program, strerror(errno));
	kill(web, SIGKILL);
	_exit(1);
}

int logins_begin(struct logins *l, const char *socket, bool allow_root, struct err *e)
{
	char program[PATH_MAX], delegate[PATH_MAX];
	int sv[2], r;
	pid_t web;

	if (geteuid() != 0)
		return err_set(e, -EPERM, ERR_PERMISSION, "--pam needs root, to check passwords and to act for users; run it as root, or: systemctl enable --now cairn-web.socket");
	r = paths_helper("cairn-login", program, sizeof(program), e);
	if (!r)
		r = paths_helper("cairn-delegate", delegate, sizeof(delegate), e);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0 || (web = fork()) < 0)
		return err_set_errno(e, -errno, "--pam");
	if (web) {
		close(sv[1]);
		login_become(program, delegate, socket, sv[0], web, allow_root);
	}
	close(sv[0]);
	l->channel = sv[1];
	return 0;
}

int logins_drop_root(struct err *e)
{
	const struct passwd *p = getpwnam(WEB_USER);
	uid_t uid = p ? p->pw_uid : NOBODY;
	gid_t gid = p ? p->pw_gid : NOBODY;

	if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0 || program_hide() < 0)
		return err_set_errno(e, -errno, "cannot become user " WEB_USER);
	/* A change of ids clears the signal, so it comes last. The channel shows if cairn-login has ended before. */
	return prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ? err_set_errno(e, -errno, "prctl") : 0;
}

void logins_ready(struct logins *l)
{
	if (l->channel >= 0)
		channel_send(l->channel, LOGIN_VERSION, LOGIN_READY, 0, NULL, 0, NULL, 0);
}

/* ---- logins ---- */

static struct login_wait *wait_find(struct logins *l, int session)
{
	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
		if (l->waits[i].session == session)
			return &l->waits[i];
	return NULL;
}

void login_check(struct logins *l, int session, const struct login_ask *a, struct login_answer *ret, int *ret_delegate)
{
	LOCK_GUARD(&l->lock);
	struct login_wait *w = wait_find(l, 0);

	*ret = (struct login_answer){ .verdict = LOGIN_BUSY };
	*ret_delegate = -1;
	if (!w)
		return;
	w->session = session;
	w->done = false;
	if (channel_send(l->channel, LOGIN_VERSION, LOGIN_ASK, (uint64_t)session, a, sizeof(*a), NULL, 0) == 0) {
		while (!w->done)
			pthread_cond_wait(&l->answered, &l->lock);
		*ret = w->answer;
		*ret_delegate = steal_fd(&w->delegate);
	}
	w->session = 0;
}

void login_end(struct logins *l, int session)
{
	if (l->channel >= 0)
		channel_send(l->channel, LOGIN_VERSION, LOGIN_END, (uint64_t)session, NULL, 0, NULL, 0);
}

static void answer_take(struct logins *l, struct channel_msg *m)
{
	struct login_wait *w;
	LOCK_GUARD(&l->lock);

	w = m->head.seq && m->head.seq <= INT_MAX ? wait_find(l, (int)m->head.seq) : NULL;
	if (w && !w->done && m->head.type == LOGIN_ANSWER) {
		memcpy(&w->answer, m->body, sizeof(w->answer));
		w->answer.user[LOGIN_USER_BYTES - 1] = 0;
		w->delegate = m->nfds ? m->fds[--m->nfds] : -1;
		w->done = true;
		pthread_cond_broadcast(&l->answered);
	}
	channel_msg_close_fds(m);
}

void logins_run(struct logins *l)
{
	static _Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct pollfd p = { .fd = l->channel, .events = POLLIN };
	struct channel_msg m;
	int r;

	if (poll(&p, 1, 1000) <= 0)
		return;
	r = channel_recv(l->channel, LOGIN_VERSION, login_messages, ARRAY_SIZE(login_messages), buf, &m);
	if (r > 0)
		answer_take(l, &m);
	else if (r != -EINTR)
		_exit(1); /* cairn-login has ended, and so have all sessions */
}
