/* cairn-delegate SOCKET UID: connects to the daemon for a user who has logged in at cairn-web. cairn-login starts it
 * with this user's ids and groups, so the daemon sees the user; with other ids it ends at once. On fd 3, cairn-web asks
 * it for connections (link.h). When it ends, so do all of them. A thread serves each connection. */
#include "base/err.h"
#include "base/lockdown.h"
#include "base/program.h"
#include "base/util.h"
#include "tools/delegate/link.h"
#include "tools/delegate/pass.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHANNEL_FD 3
#define FILES_MAX (4 * LINKS_MAX + 32)
#define STACK_BYTES (256 * KIB)
#define MEMORY_BYTES (512 * MIB)

struct work {
	const char *daemon;
	struct link_open open;
	int browser; /* the side of cairn-web; owned */
};

static atomic_uint links;

/* ---- the sandbox ---- */

static const int allowed[] = {
	SYS_read, SYS_write, SYS_close, SYS_poll, SYS_ppoll, SYS_connect, SYS_shutdown, SYS_sendto, SYS_sendmsg, SYS_recvfrom, SYS_recvmsg,
	SYS_getsockopt, SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_futex, SYS_clock_gettime, SYS_gettimeofday, SYS_exit, SYS_exit_group,
	SYS_rt_sigreturn, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_restart_syscall, SYS_getrandom, SYS_set_robust_list, SYS_rseq, SYS_sched_yield, SYS_gettid,
	SYS_fstat, SYS_newfstatat, SYS_sched_getaffinity,
};

static int sandbox(struct err *e)
{
	static const struct lockdown_limit limits[] = { { RLIMIT_NOFILE, FILES_MAX }, { RLIMIT_FSIZE, 0 },
		{ RLIMIT_AS, LOCKDOWN_SANITIZED ? RLIM_INFINITY : MEMORY_BYTES } };
	struct call_filter f;
	int r = lockdown_begin(LOCKDOWN_OUTSIDE, limits, ARRAY_SIZE(limits), e);

	if (r < 0)
		return r;
	mallopt(M_ARENA_MAX, 1); /* with more arenas, malloc() reads files */
	call_filter_init(&f);
	lockdown_allow_memory(&f);
	lockdown_allow_threads(&f);
	lockdown_allow_fcntl(&f);
	call_filter_calls(&f, SECCOMP_RET_ALLOW, allowed, ARRAY_SIZE(allowed));
	call_filter_value(&f, SYS_socket, SECCOMP_RET_ALLOW, 0, AF_UNIX);
	return lockdown_calls(&f, SECCOMP_RET_KILL_PROCESS, false, e);
}

/* ---- connections ---- */

static void answer_send(int browser, int r, const struct err *e)
{
	struct link_answer a = { .r = r, .cls = r < 0 ? (uint32_t)e->cls : 0 };

	if (r < 0)
		snprintf(a.why, sizeof(a.why), "%s", e->msg);
	send(browser, &a, sizeof(a), MSG_NOSIGNAL);
}

static void *link_run(void *opaque)
{
	struct work *w = opaque;
	struct err e;
	int fd = -1, r = link_connect(w->daemon, w->open.kind, w->open.vm, &fd, &e);

	answer_send(w->browser, r, &e);
	if (!r) {
		bytes_pass(w->browser, fd);
		close(fd);
	}
	close(w->browser);
	free(w);
	atomic_fetch_sub(&links, 1);
	return NULL;
}

/* m: its fd is taken. */
static void link_begin(const char *daemon, const pthread_attr_t *attr, const struct channel_msg *m)
{
	struct work *w;
	pthread_t thread;
	struct err e;

	if (m->nfds != 1)
		return;
	w = must_alloc(malloc(sizeof(*w)));
	*w = (struct work){ .daemon = daemon, .browser = m->fds[0] };
	memcpy(&w->open, m->body, sizeof(w->open));
	w->open.vm[sizeof(w->open.vm) - 1] = 0;
	if (atomic_fetch_add(&links, 1) < LINKS_MAX && pthread_create(&thread, attr, link_run, w) == 0)
		return;
	atomic_fetch_sub(&links, 1);
	err_set(&e, -EBUSY, ERR_BUSY, "this login has %d connections open; close a page, a console or a screen", LINKS_MAX);
	answer_send(w->browser, -EBUSY, &e);
	close(w->browser);
	free(w);
}

/* Return whether this process is the user's in every respect. */
static bool is_user(const char *text)
{
	char mine[16];
	uid_t real, effective, saved;

	snprintf(mine, sizeof(mine), "%u", (unsigned)getuid());
	return !strcmp(mine, text) && getresuid(&real, &effective, &saved) == 0 && real == effective && real == saved;
}

int main(int argc, char **argv)
{
	static _Alignas(16) char buf[CHANNEL_BODY_MAX];
	pthread_attr_t attr;
	struct channel_msg m;
	struct err e;
	int r = program_begin(&e);

	signal(SIGPIPE, SIG_IGN);
	if (r < 0 || argc != 3 || !is_user(argv[2]) || sandbox(&e) < 0)
		return 1;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	while ((r = channel_recv(CHANNEL_FD, LINK_VERSION, link_messages, ARRAY_SIZE(link_messages), buf, &m)) != 0) {
		if (r > 0)
			link_begin(argv[1], &attr, &m);
		else if (r != -EINTR)
			return 1;
	}
	_exit(0);
}
