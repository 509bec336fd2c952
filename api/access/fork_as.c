#include "api/access/fork_as.h"
#include "api/access/file_thread.h"
#include "api/access/groups.h"
#include "api/access/rights.h"
#include "api/wire/peer.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/oom.h"
#include "base/relay.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define END_NS (10 * 1000000000ULL) /* after it, a process with nothing left to do is overdue */

#define VERSION 1
/* Types of messages. */
#define DONE 1 /* from the process, once: a struct answer and the fds */
#define RIGHTS 2 /* to a process that waits for the user's groups: a struct rights_message */

struct answer {
	int32_t r; /* 0, or -errno */
	uint32_t count;
	uint64_t bytes;
	uint8_t notes[CHANNEL_FDS_MAX];
	uint64_t sizes[FORK_AS_SIZES_MAX];
	uint32_t nheld;
	struct fork_as_file files[CHANNEL_FDS_MAX];
	struct err e;
	char data[FORK_AS_DATA_MAX]; /* the message ends behind the used part */
};

struct rights_message {
	uint32_t gid;
	char note[GROUPS_NOTE_BYTES];
	gid_t groups[GROUPS_MAX]; /* the message ends behind the used part */
};

enum state {
	WORKING,
	SERVING, /* the process has answered and still holds files for other callers */
	ENDING,	 /* the process has no request left */
	OVERDUE, /* only a file system keeps it: SIGKILL did not end it */
};

struct helpers {
	struct loop *loop;
	struct closer *closer;
	struct groups *groups;
	struct file_threads *threads;
	struct fork_as *list;
};

/* Rights that are known when the process is started. */
struct known {
	struct rights *rights; /* owned */
	char note[GROUPS_NOTE_BYTES];
};

struct fork_as {
	struct helpers *all;
	struct fork_as *next; /* in all->list */
	uid_t uid;
	enum state state;
	bool keep; /* fork_as_free() has not been called for a process with spec->keep */
	bool reaped; /* its pid may be another process's */
	bool ended;
	/* NULL: already called, or not to be called any more; only the process's end is awaited. */
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e);
	void *opaque;
	const char *what;
	struct groups_ask *ask; /* NULL: the process does not wait for groups */
	struct known *known;	/* borrowed; NULL unless rights_found() runs before the process is started */
	uint64_t timeout_ns;
	struct file_job *job; /* of the thread in place of a process; NULL: none, or it has answered */
	pid_t pid;
	int sock, pidfd;
	struct loop_watch *watch, *answered; /* answered: NULL without a relay. Both: NULL once the process has ended */
	struct loop_timer *timer;
};

/* ---- functions that run in the forked process ---- */

/* The rights of the process. */
struct ids {
	const struct rights *rights; /* NULL: the daemon's own */
	const char *note; /* groups_ask()'s */
};

/* Add the uid to the error's text: the user who reads the error may have more rights than the user who defined the
 * VM. */
static void err_append(struct err *e, const struct ids *ids, const char *who)
{
	size_t n = strlen(e->msg);

	snprintf(e->msg + n, sizeof(e->msg) - n, " (for user %u, %s%s)", ids->rights->uid, who ? who : "who defined the VM",
		ids->note);
}

/* Wait for the user's groups. The memory is static because the process may take no lock. uid: the user's. */
static int rights_await(int sock, uid_t uid, struct ids *ret)
{
	static const struct channel_type types[] = {
		[RIGHTS] = { offsetof(struct rights_message, groups), sizeof(struct rights_message), 0, true } };
	static _Alignas(struct rights_message) char buf[CHANNEL_BODY_MAX];
	static _Alignas(struct rights) char rights[sizeof(struct rights) + GROUPS_MAX * sizeof(gid_t)];
	const struct rights_message *got = (const void *)buf;
	struct rights *r = (void *)rights;
	struct pollfd p = { .fd = sock, .events = POLLIN };
	struct channel_msg m;

	while (poll(&p, 1, -1) < 0)
		if (errno != EINTR)
			return -errno;
	if (channel_recv(sock, VERSION, types, ARRAY_SIZE(types), buf, &m) != 1)
		_exit(0); /* the daemon has ended */
	r->uid = uid;
	r->gid = got->gid;
	r->ngroups = (m.head.body_bytes - offsetof(struct rights_message, groups)) / sizeof(gid_t);
	memcpy(r->groups, got->groups, r->ngroups * sizeof(gid_t));
	*ret = (struct ids){ r, got->note };
	return 0;
}

int fork_as_identify(struct fork_as_result *out, struct err *e)
{
	for (unsigned i = 0; i < out->nheld; i++) {
		int flags = fcntl(out->held[i], F_GETFL);
		struct file_id id;
		struct stat st;

		if (flags < 0 || fstat(out->held[i], &st) < 0 || file_identify(out->held[i], &id) < 0)
			return err_set_errno(e, -errno, "the file");
		out->files[i] = (struct fork_as_file){ id, (uint64_t)st.st_size, st.st_mode, flags };
	}
	return 0;
}

static void child_work(const struct fork_as_spec *s, const struct ids *ids, pid_t parent, struct fork_as_result *out,
	struct answer *a)
{
	oom_protection_drop();
	a->r = ids->rights ? rights_assume(ids->rights) : 0;
	/* Set the death signal after the ids, because changing the ids clears the signal. */
	if (!a->r && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		a->r = -errno;
	if (a->r < 0) {
		err_set_errno(&a->e, a->r, "%s as user %u", s->what, ids->rights ? ids->rights->uid : geteuid());
		return;
	}
	if (getppid() != parent)
		_exit(0);
	/* A path of the user's could begin with /proc/self/cwd, and lead into a folder that is closed to the user. */
	if (ids->rights && chdir("/") < 0) {
		a->r = err_set_errno(&a->e, -errno, "/");
		return;
	}
	a->r = s->run(s->arg, out, &a->e);
	if (!a->r)
		a->r = fork_as_identify(out, &a->e);
	a->nheld = out->nheld;
	memcpy(a->files, out->files, out->nheld * sizeof(*a->files));
	a->count = out->count;
	a->bytes = out->bytes;
	memcpy(a->notes, out->notes, sizeof(a->notes));
	memcpy(a->sizes, out->sizes, sizeof(a->sizes));
	if (ids->rights && (a->r == -EACCES || a->r == -EPERM))
		err_append(&a->e, ids, s->who);
}

/* Give the sockets the numbers from 3 on, and close all other fds behind them. 0: no socket has that number. First move
 * each socket out of the way, because its number may be another one's. */
static int sockets_place(int *socks, int n)
{
	for (int i = 0; i < n; i++)
		if (socks[i] && (socks[i] = fcntl(socks[i], F_DUPFD, 3 + n)) < 0)
			return -errno;
	for (int i = 0; i < n; i++) {
		if (!socks[i])
			close(3 + i);
		else if (dup2(socks[i], 3 + i) < 0)
			return -errno;
	}
	return close_range((unsigned)(3 + n), ~0U, 0);
}

/* From now on, the process continues when the daemon ends. Its name tells that to a daemon that takes over from a stuck
 * one and kills the other helper processes (api/store/store_lock.h). */
static int serving_begin(void)
{
	return prctl(PR_SET_PDEATHSIG, 0) < 0 || prctl(PR_SET_NAME, "cairnd-files") < 0 ? -errno : 0;
}

/* ids: NULL: the process waits for them. */
static _Noreturn void process_main(int sock, const struct fork_as_spec *s, const struct ids *ids, pid_t parent)
{
	int at = 3, relay = 4, r, socks[] = { sock, s->relay, s->input };
	struct fork_as_result out = { .input = 5 };
	struct ids later;
	struct answer a = { 0 };
	size_t n;

	/* Keep only fds 0 to 2 and the sockets, because the user whose rights this process takes may use none of the
	 * daemon's other fds. The process gets its own process group, so that the daemon can kill it together with its
	 * children. */
	if (sockets_place(socks, ARRAY_SIZE(socks)) < 0 || setpgid(0, 0) < 0)
		_exit(1);
	if (!ids && rights_await(at, s->rights->uid, &later) < 0)
		_exit(1);
	child_work(s, ids ? ids : &later, parent, &out, &a);
	n = a.r ? 0 : out.ndata;
	if (n)
		memcpy(a.data, out.data, n);
	r = channel_send(at, VERSION, DONE, 0, &a, offsetof(struct answer, data) + n, out.fds, a.r ? 0 : out.nfds);
	/* Without the daemon, the end of the relay ends this process. */
	if (!r && !a.r && s->relay && !(r = serving_begin()))
		r = relay_serve(relay, out.held, out.held_at, out.nheld, s->keep);
	/* Tell the daemon that only the files' own close, which may hang, is left to do. */
	close(at);
	_exit(r < 0);
}

/* ---- the end of the process ---- */

static void child_release(struct fork_as *x)
{
	for (struct fork_as **at = &x->all->list; *at; at = &(*at)->next) {
		if (*at == x) {
			*at = x->next;
			break;
		}
	}
	groups_ask_free(x->ask);
	file_job_free(x->job);
	loop_unwatch(x->watch);
	loop_unwatch(x->answered);
	loop_timer_free(x->timer);
	if (x->sock >= 0)
		close(x->sock);
	if (x->pidfd >= 0)
		close(x->pidfd);
	free(x);
}

static void result_deliver(struct fork_as *x, int r, const struct fork_as_result *res, const struct err *e)
{
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e) = x->done;

	x->done = NULL;
	if (done)
		done(x->opaque, r, res, e);
}

/* Read the message that the process sent before it ended. Returns 0; -EIO: there is none; the process's -errno. */
static int answer_take(struct fork_as *x, char *buf, struct channel_msg *m, struct answer *a)
{
	static const struct channel_type types[] = {
		[DONE] = { offsetof(struct answer, data), sizeof(struct answer), CHANNEL_FDS_MAX, true } };

	m->nfds = 0;
	memset(a, 0, offsetof(struct answer, data));
	if (channel_recv(x->sock, VERSION, types, ARRAY_SIZE(types), buf, m) != 1) {
		m->head.body_bytes = offsetof(struct answer, data);
		return err_set(&a->e, -EIO, ERR_HOST, "%s: the helper process ended without an answer", x->what);
	}
	memcpy(a, m->body, m->head.body_bytes);
	return a->r;
}

static void answer_deliver(struct fork_as *x)
{
	CLEANUP_FREE char *buf = malloc(CHANNEL_BODY_MAX);
	struct fork_as_result res = { 0 };
	struct channel_msg m;
	struct answer a;
	int r;

	if (!buf)
		abort(); /* otherwise done() would never be called */
	r = answer_take(x, buf, &m, &a);
	res.nfds = m.nfds;
	res.count = a.count;
	res.bytes = a.bytes;
	memcpy(res.fds, m.fds, m.nfds * sizeof(*m.fds));
	memcpy(res.notes, a.notes, sizeof(res.notes));
	memcpy(res.sizes, a.sizes, sizeof(res.sizes));
	res.nheld = MIN(a.nheld, CHANNEL_FDS_MAX);
	memcpy(res.files, a.files, sizeof(res.files));
	res.data = a.data;
	res.ndata = m.head.body_bytes - offsetof(struct answer, data);
	result_deliver(x, r, &res, &a.e);
}

/* The process has nothing left to do. */
static void end_expect(struct fork_as *x)
{
	x->state = MAX(x->state, ENDING);
	loop_timer_arm(x->timer, loop_now_ns() + END_NS);
}

/* Take the answer of a process that now serves its files, and then the end of its socket. */
static void child_answered(void *opaque, unsigned revents)
{
	struct fork_as *x = opaque;

	(void)revents;
	if (x->done) {
		loop_timer_disarm(x->timer);
		x->state = MAX(x->state, SERVING);
		answer_deliver(x);
		return;
	}
	loop_unwatch(x->answered);
	x->answered = NULL;
	end_expect(x);
}

static void child_exited(void *opaque, unsigned revents)
{
	struct fork_as *x = opaque;
	siginfo_t si;

	(void)revents;
	if (waitid(P_PIDFD, (id_t)x->pidfd, &si, WEXITED | WNOHANG) < 0)
		log_warn("files", "%s: %s", x->what, strerror(errno));
	x->reaped = true;
	x->state = MAX(x->state, SERVING); /* with a relay, it may have sent files */
	if (x->done)
		answer_deliver(x);
	x->ended = true;
	if (!x->keep) {
		child_release(x);
		return;
	}
	groups_ask_free(STEAL_PTR(x->ask));
	loop_timer_disarm(x->timer);
	loop_unwatch(STEAL_PTR(x->watch));
	loop_unwatch(STEAL_PTR(x->answered));
}

/* ---- a thread in place of the process ---- */

/* The thread needs nothing more of x. */
static void thread_left(struct fork_as *x)
{
	file_job_free(STEAL_PTR(x->job));
	x->ended = true;
	if (!x->keep)
		child_release(x);
}

static void thread_answered(void *opaque, int r, const struct fork_as_result *res, const struct err *e)
{
	struct fork_as *x = opaque;

	x->job = NULL;
	loop_timer_disarm(x->timer);
	x->state = SERVING;
	result_deliver(x, r, res, e);
	thread_left(x);
}

static void timeout_begin(struct fork_as *x)
{
	if (x->timeout_ns != FORK_AS_NO_TIMEOUT)
		loop_timer_arm(x->timer, loop_now_ns() + x->timeout_ns);
}

static int thread_begin(struct fork_as *x, const struct fork_as_spec *s, struct err *e)
{
	struct file_job_spec t = { .run = s->run, .arg = s->copy(s->arg), .drop = s->drop, .relay = s->relay, .input = s->input,
		.keep = s->keep, .done = thread_answered, .opaque = x };
	int r = file_job_begin(x->all->threads, &t, &x->job, e);

	if (r < 0) {
		s->drop(t.arg);
		return r;
	}
	x->reaped = true;
	timeout_begin(x);
	return 0;
}

/* Kill the process and its process group. The kernel does not reuse the pid before child_exited() has reaped the
 * process. */
static void process_kill(struct fork_as *x)
{
	if (x->reaped)
		return;
	kill(-x->pid, SIGKILL);
	pidfd_send_signal(x->pidfd, SIGKILL, NULL, 0); /* the child may not have created its process group yet */
}

static void child_timed_out(void *opaque)
{
	struct fork_as_result none = { 0 };
	struct fork_as *x = opaque;
	bool thread = x->job;
	struct err e;

	file_job_free(STEAL_PTR(x->job));
	x->state = OVERDUE;
	process_kill(x);
	err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "%s: timed out; a file system does not answer: repair or unmount it, then try again", x->what);
	result_deliver(x, -ETIMEDOUT, &none, &e);
	if (thread)
		thread_left(x);
}

void fork_as_terminate(struct fork_as *x)
{
	if (x->reaped)
		return;
	kill(-x->pid, SIGTERM);
	pidfd_send_signal(x->pidfd, SIGTERM, NULL, 0); /* see process_kill() */
}

void fork_as_kill(struct fork_as *x)
{
	if (x)
		process_kill(x);
}

void fork_as_give_up(struct fork_as *x)
{
	child_timed_out(x);
}

void fork_as_free(struct fork_as *x)
{
	if (!x)
		return;
	x->done = NULL;
	x->keep = false;
	if (x->ended || x->job) {
		child_release(x);
		return;
	}
	groups_ask_free(STEAL_PTR(x->ask));
	process_kill(x);
	end_expect(x);
	/* child_exited() frees the object when the process has ended. */
}

/* ---- starting the process ---- */

static int limits_check(const struct helpers *h, const struct fork_as_spec *s, uid_t uid, struct err *e)
{
	unsigned ending = 0, overdue = 0;

	if (uid_is_root_or_own(uid))
		return 0;
	for (const struct fork_as *x = h->list; x; x = x->next) {
		ending += x->uid == uid && (x->state > SERVING || (x->state == SERVING && x->keep));
		overdue += x->uid == uid && x->state == OVERDUE;
	}
	if (overdue < HELPERS_OVERDUE_MAX && ending < HELPERS_ENDING_MAX)
		return 0;
	return err_set(e, -EBUSY, ERR_BUSY, "%s: %u processes with files of user %u have not ended; a file system of that "
		"user may not answer: repair or unmount it", s->what, ending, uid);
}

static int process_start(struct fork_as *x, const struct fork_as_spec *s, const struct ids *ids)
{
	pid_t parent = getpid();
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	x->sock = pair[0];
	x->pid = fork();
	if (x->pid == 0)
		process_main(pair[1], s, ids, parent);
	close(pair[1]);
	if (x->pid < 0)
		return -errno;
	x->pidfd = pidfd_open(x->pid, 0);
	return x->pidfd < 0 ? -errno : 0;
}

/* Send the rights to the process that waits for them. */
static int rights_send(const struct fork_as *x, const struct rights *now, const char *note)
{
	CLEANUP_FREE struct rights_message *m = must_alloc(calloc(1, sizeof(*m)));
	size_t n = now->ngroups * sizeof(gid_t);

	m->gid = now->gid;
	snprintf(m->note, sizeof(m->note), "%s", note);
	memcpy(m->groups, now->groups, n);
	return channel_send(x->sock, VERSION, RIGHTS, 0, m, offsetof(struct rights_message, groups) + n, NULL, 0);
}

static void rights_found(void *opaque, const struct rights *now, const char *note)
{
	struct fork_as *x = opaque;

	x->ask = NULL;
	if (x->known) { /* the process has not been started yet */
		snprintf(x->known->note, sizeof(x->known->note), "%s", note);
		if (rights_copy(now, &x->known->rights) < 0)
			abort(); /* the process must not continue with the daemon's rights */
		return;
	}
	if (rights_send(x, now, note) < 0)
		process_kill(x); /* done() is called when it has ended */
	timeout_begin(x);
}

/* Find the rights of the process, start it, and let it wait if they are not known yet. */
static int process_begin(struct fork_as *x, const struct fork_as_spec *s)
{
	struct known known = { 0 };
	struct ids ids = { s->rights, "" };
	bool asks = s->rights && !s->of_client;
	int r;

	x->known = &known;
	if (asks)
		groups_ask(x->all->groups, s->rights, rights_found, x, &x->ask);
	x->known = NULL;
	if (asks)
		ids = (struct ids){ known.rights, known.note };
	r = process_start(x, s, x->ask ? NULL : &ids);
	free(known.rights);
	if (!r && !x->ask)
		timeout_begin(x);
	return r;
}

int fork_as_begin(struct helpers *h, const struct fork_as_spec *s, struct fork_as **ret, struct err *e)
{
	uid_t uid = s->rights ? s->rights->uid : geteuid();
	bool threaded = false;
	struct fork_as *x;
	struct err why;
	int r = limits_check(h, s, uid, e);

	if (r < 0)
		return r;
	x = must_alloc(calloc(1, sizeof(*x)));
	*x = (struct fork_as){ .all = h, .uid = uid, .done = s->done, .opaque = s->opaque, .what = s->what, .sock = -1,
		.pidfd = -1, .keep = s->keep, .timeout_ns = s->timeout_ns };
	r = loop_timer_new(h->loop, child_timed_out, x, &x->timer);
	/* Without a thread, a process does it. */
	if (!r && s->copy && !s->rights)
		threaded = !thread_begin(x, s, &why);
	if (!r && !threaded)
		r = process_begin(x, s);
	if (!r && !threaded)
		r = loop_watch(h->loop, x->pidfd, POLLIN, child_exited, x, &x->watch);
	if (!r && !threaded && s->relay)
		r = loop_watch(h->loop, x->sock, POLLIN, child_answered, x, &x->answered);
	if (r < 0) {
		child_release(x);
		return err_set_errno(e, r, "%s: cannot start a helper process", s->what);
	}
	x->next = h->list;
	h->list = x;
	*ret = x;
	return 0;
}

struct loop *helpers_loop(const struct helpers *h)
{
	return h->loop;
}

struct closer *helpers_closer(const struct helpers *h)
{
	return h->closer;
}

bool helpers_are_busy(const struct helpers *h)
{
	for (const struct fork_as *x = h->list; x; x = x->next)
		if (x->state != SERVING)
			return true;
	return false;
}

struct groups *helpers_groups(const struct helpers *h)
{
	return h->groups;
}

struct helpers *helpers_new(struct loop *l, struct closer *closer, const char *groups_program)
{
	struct helpers *h = must_alloc(calloc(1, sizeof(*h)));

	h->loop = l;
	h->closer = closer;
	h->groups = groups_new(l, groups_program);
	h->threads = file_threads_new(l);
	return h;
}

void helpers_free(struct helpers *h)
{
	while (h && h->list)
		child_release(h->list);
	if (h) {
		groups_free(h->groups);
		file_threads_free(h->threads);
	}
	free(h);
}
