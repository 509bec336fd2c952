#include "api/opener.h"
#include "api/config.h"
#include "api/definition.h"
#include "api/rights.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIMEOUT_NS (10 * 1000000000ULL)
#define VERSION 1
#define OPENED 1 /* the one message: a struct answer, and the fds in the order of the list */

struct answer {
	int32_t r; /* 0, or -errno */
	struct err e;
};

struct opener {
	struct loop *loop;
	/* NULL: told already; it waits for its process only. */
	void (*done)(void *opaque, int r, struct config *c, const struct err *e);
	void *opaque;
	struct config config; /* complete but for its fds */
	unsigned nfiles;
	int sock, pidfd;
	struct loop_watch *watch;
	struct loop_timer *timer;
};

/* ---- the process ---- */

/* Whoever starts the VM may do more than who defined it. */
static void err_append(struct err *e, uid_t uid)
{
	size_t n = strlen(e->msg);

	snprintf(e->msg + n, sizeof(e->msg) - n, " (for user %u, who defined the VM)", uid);
}

static void helper_open(const struct config_files *files, const struct rights *rights, pid_t parent,
	int *fds, struct answer *a)
{
	a->r = rights_assume(rights);
	/* After the ids: a change of them clears it. */
	if (!a->r && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		a->r = -errno;
	if (a->r < 0)
		err_set_errno(&a->e, a->r, "cannot open files as user %u", rights->uid);
	else if (getppid() != parent)
		_exit(0);
	for (unsigned i = 0; i < files->n && !a->r; i++) {
		fds[i] = config_open_file(&files->list[i], &a->e);
		a->r = MIN(fds[i], 0);
	}
	if (a->r == -EACCES || a->r == -EPERM)
		err_append(&a->e, rights->uid);
}

static _Noreturn void helper_main(int sock, const struct config_files *files,
	const struct rights *rights, pid_t parent)
{
	struct answer a = { 0 };
	int fds[CHANNEL_FDS_MAX];
	int at = 3;

	/* Of the daemon's files it keeps none: not one of them is that user's. */
	if (dup2(sock, at) < 0 || close_range((unsigned)at + 1, ~0U, 0) < 0)
		_exit(1);
	helper_open(files, rights, parent, fds, &a);
	_exit(channel_send(at, VERSION, OPENED, 0, &a, sizeof(a), fds, a.r ? 0 : files->n) < 0);
}

/* ---- its end ---- */

static void release(struct opener *o)
{
	loop_unwatch(o->watch);
	loop_timer_free(o->timer);
	if (o->sock >= 0)
		close(o->sock);
	if (o->pidfd >= 0)
		close(o->pidfd);
	config_done(&o->config);
	free(o);
}

static void tell(struct opener *o, int r, const struct err *e)
{
	void (*done)(void *opaque, int r, struct config *c, const struct err *e) = o->done;

	o->done = NULL;
	if (done)
		done(o->opaque, r, &o->config, e);
}

/* The one message, which was sent before the process ended. */
static int answer_take(struct opener *o, struct err *e)
{
	static const struct channel_type types[] = {
		[OPENED] = { sizeof(struct answer), sizeof(struct answer), CHANNEL_FDS_MAX, true } };
	CLEANUP_FREE char *buf = malloc(CHANNEL_BODY_MAX);
	struct channel_msg m;
	struct answer a;

	if (!buf)
		return err_set_errno(e, -ENOMEM, "opening its files");
	if (channel_recv(o->sock, VERSION, types, ARRAY_SIZE(types), buf, &m) != 1)
		return err_set(e, -EIO, ERR_HOST, "the process that opens its files ended early");
	memcpy(&a, m.body, sizeof(a));
	if (a.r < 0) {
		*e = a.e;
		return a.r;
	}
	if (m.nfds != o->nfiles) {
		channel_msg_close_fds(&m);
		return err_set(e, -EIO, ERR_HOST, "its files did not all come");
	}
	config_take_fds(&o->config, m.fds, m.nfds);
	return 0;
}

static void gone(void *opaque, unsigned revents)
{
	struct opener *o = opaque;
	siginfo_t si;
	struct err e;
	int r;

	(void)revents;
	if (waitid(P_PIDFD, (id_t)o->pidfd, &si, WEXITED | WNOHANG) < 0)
		log_warn("start", "the process that opens files: %s", strerror(errno));
	if (o->done) {
		r = answer_take(o, &e);
		tell(o, r, &e);
		o->config.nfds = 0; /* the callee's now */
	}
	release(o);
}

static void late(void *opaque)
{
	struct opener *o = opaque;
	struct err e;

	pidfd_send_signal(o->pidfd, SIGKILL, NULL, 0);
	err_set(&e, -ETIMEDOUT, ERR_TIMEOUT,
		"its files could not be opened in time: a file system does not answer");
	tell(o, -ETIMEDOUT, &e);
}

void opener_free(struct opener *o)
{
	if (!o)
		return;
	o->done = NULL;
	pidfd_send_signal(o->pidfd, SIGKILL, NULL, 0);
	/* The rest when it is gone: gone(). */
}

/* ---- asking ---- */

static int helper_start(struct opener *o, const struct config_files *files,
	const struct rights *rights)
{
	pid_t parent = getpid(), pid;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	o->sock = pair[0];
	pid = fork();
	if (pid == 0)
		helper_main(pair[1], files, rights, parent);
	close(pair[1]);
	if (pid < 0)
		return -errno;
	o->pidfd = pidfd_open(pid, 0);
	return o->pidfd < 0 ? -errno : 0;
}

static int opener_start(struct opener *o, const struct config_files *files,
	const struct rights *rights, struct err *e)
{
	int r = loop_timer_new(o->loop, late, o, &o->timer);

	if (!r)
		r = helper_start(o, files, rights);
	if (!r)
		r = loop_watch(o->loop, o->pidfd, POLLIN, gone, o, &o->watch);
	if (r < 0)
		return err_set_errno(e, r, "cannot start a process to open its files");
	o->nfiles = files->n;
	loop_timer_arm(o->timer, loop_now_ns() + TIMEOUT_NS);
	return 0;
}

void opener_open(struct loop *l, const struct definition *d, bool images_only,
	void (*done)(void *opaque, int r, struct config *c, const struct err *e), void *opaque,
	struct opener **ret_o)
{
	struct config_files files;
	struct opener *o;
	struct config c;
	struct err e;
	int r = config_prepare(d, images_only, &c, &files, &e);

	if (!r && !d->rights)
		r = config_open_files(&c, &files, &e);
	if (r < 0 || !d->rights) {
		done(opaque, r, &c, &e);
		return;
	}
	o = calloc(1, sizeof(*o));
	if (!o)
		abort(); /* a call that is never answered would be worse */
	*o = (struct opener){ .loop = l, .done = done, .opaque = opaque, .config = c, .sock = -1,
		.pidfd = -1 };
	r = opener_start(o, &files, d->rights, &e);
	if (r < 0) {
		release(o);
		done(opaque, r, &c, &e);
		return;
	}
	*ret_o = o;
}
