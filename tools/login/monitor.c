#include "tools/login/monitor.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/util.h"
#include "tools/login/delegate.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A check that takes longer is ended. */
#define CHECK_NS (20 * CLOCK_NS_PER_S)
/* Each refusal takes this long, whether there is such a user or not. */
#define REFUSAL_NS (2 * CLOCK_NS_PER_S)

/* ---- answers ---- */

static void answer_send(struct monitor *m, uint64_t session, const struct login_answer *a, int fd)
{
	int r = m->channel < 0 ? 0 : channel_send(m->channel, LOGIN_VERSION, LOGIN_ANSWER, session, a, sizeof(*a), &fd, fd >= 0);

	if (r < 0) { /* cairn-web reads each answer at once */
		log_error("login", "cairn-web takes no answer: %s", strerror(-r));
		m->ended = 1;
	}
}

static void refuse(struct monitor *m, uint64_t session, enum login_verdict why, unsigned wait_s)
{
	answer_send(m, session, &(struct login_answer){ .verdict = why, .wait_s = wait_s }, -1);
}

static const char *origin(const struct monitor_check *c)
{
	return c->ask.address[0] ? c->ask.address : "this host";
}

/* A name that nobody has may be a password in the wrong field, so it is not logged. */
static void refusal_log(const struct monitor_check *c)
{
	static struct ratelimit limit;

	if (!log_ratelimit_pass(&limit))
		return;
	if (c->result.known)
		log_warn("login", "a login of user '%s' from %s is refused: %s", c->ask.user, origin(c), c->result.why);
	else
		log_warn("login", "a login from %s is refused: %s", origin(c), c->result.why);
}

/* ---- checks ---- */

static struct monitor_check *check_find(struct monitor *m, uint64_t session)
{
	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
		if (m->checks[i].session == session)
			return &m->checks[i];
	return NULL;
}

/* Find a free row whose process has ended, too. */
static struct monitor_check *check_room(struct monitor *m)
{
	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
		if (!m->checks[i].session && !m->checks[i].pid)
			return &m->checks[i];
	return NULL;
}

/* Return whether an address has all the rows that it may have, so that its logins leave room for others'. */
static bool origin_is_full(const struct monitor *m, const char *address)
{
	unsigned n = 0;

	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
		n += m->checks[i].session && !strcmp(m->checks[i].ask.address, address);
	return n >= LOGIN_ORIGIN_WAITS_MAX;
}

static struct monitor_delegate *delegate_find(struct monitor *m, uint64_t session)
{
	for (size_t i = 0; i < LOGIN_SESSIONS_MAX; i++)
		if (m->delegates[i].session == session)
			return &m->delegates[i];
	return NULL;
}

static void check_stop(struct monitor_check *c)
{
	if (c->pid)
		kill(-c->pid, SIGKILL); /* with all that modules have started */
	if (c->out >= 0)
		close(c->out);
	c->out = -1;
}

static void check_accept(struct monitor *m, struct monitor_check *c)
{
	struct monitor_delegate *d = delegate_find(m, 0);
	struct login_answer a = { .verdict = LOGIN_OK };
	CLEANUP_CLOSE int fd = -1;
	int r = d ? delegate_start(m->program, m->socket, &c->result, &d->pid, &fd) : -EBUSY;

	if (r < 0) {
		log_error("login", "user '%s' cannot be served: %s", c->result.user, d ? strerror(-r) : "there are too many sessions");
		refuse(m, c->session, d ? LOGIN_FAILED : LOGIN_BUSY, 0);
		return;
	}
	d->session = c->session;
	d->ending = false;
	limits_return(&m->limits, c->ask.user, c->ask.address, clock_monotonic_ns());
	snprintf(a.user, sizeof(a.user), "%s", c->result.user);
	log_info("login", "user '%s' (%u) has logged in from %s, session %llu", c->result.user, (unsigned)c->result.uid,
		origin(c), (unsigned long long)c->session);
	answer_send(m, c->session, &a, fd);
}

/* The process has sent its result, or has ended without one. Refusals are answered later (checks_run()). */
static void check_finish(struct monitor *m, struct monitor_check *c)
{
	bool valid = check_result_is_valid(&c->result, c->got);

	check_stop(c);
	if (!valid) {
		c->result = (struct check_result){ .verdict = LOGIN_FAILED };
		snprintf(c->result.why, sizeof(c->result.why), clock_monotonic_ns() - c->begin_ns >= CHECK_NS ? "a module of PAM took too long" :
			"a module of PAM or of the user database has crashed");
		refusal_log(c);
	} else if (c->result.verdict == LOGIN_OK) {
		check_accept(m, c);
		c->session = 0;
	} else {
		refusal_log(c);
	}
}

static void check_read(struct monitor *m, struct monitor_check *c)
{
	char more;
	ssize_t n = c->got < sizeof(c->result) ? read(c->out, (char *)&c->result + c->got, sizeof(c->result) - c->got) : read(c->out, &more, 1);

	if (n > 0)
		c->got += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		check_finish(m, c);
}

static void check_begin(struct monitor *m, struct monitor_check *c)
{
	int r = check_start(&c->ask, m->allow_root, &c->pid, &c->out);

	explicit_bzero(c->ask.password, sizeof(c->ask.password));
	c->waits = false;
	c->begin_ns = clock_monotonic_ns();
	if (r < 0) {
		log_error("login", "a login cannot be checked: %s", strerror(-r));
		c->result.verdict = LOGIN_FAILED;
	}
}

/* Begin checks that wait, the oldest first. */
static void checks_begin(struct monitor *m)
{
	for (;;) {
		struct monitor_check *oldest = NULL;
		unsigned running = 0;

		for (size_t i = 0; i < LOGIN_WAITS_MAX; i++) {
			struct monitor_check *c = &m->checks[i];

			running += c->pid != 0;
			if (c->session && c->waits && (!oldest || c->session < oldest->session))
				oldest = c;
		}
		if (!oldest || running >= LOGIN_CHECKS_MAX)
			return;
		check_begin(m, oldest);
	}
}

/* Begin checks that wait, end checks that take too long, and answer refusals whose delay is over. Returns the time of
 * the next such end or answer. */
static uint64_t checks_run(struct monitor *m)
{
	uint64_t now, next = UINT64_MAX;

	checks_begin(m);
	now = clock_monotonic_ns();
	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++) {
		struct monitor_check *c = &m->checks[i];
		uint64_t at = c->out >= 0 ? c->begin_ns + CHECK_NS : c->asked_ns + REFUSAL_NS;

		if (c->session && now >= at && c->out >= 0) {
			check_finish(m, c);
			at = c->asked_ns + REFUSAL_NS;
		}
		if (!c->session || c->waits)
			continue;
		if (now >= at) {
			refuse(m, c->session, c->result.verdict, 0);
			c->session = 0;
		} else {
			next = MIN(next, at);
		}
	}
	return next;
}

/* ---- messages of cairn-web ---- */

/* Returns false for a message that a cairn-web which is itself would not send. */
static bool ask_take(struct monitor *m, uint64_t session, const struct login_ask *a)
{
	struct monitor_check *c = check_room(m);
	uint64_t now = clock_monotonic_ns();
	unsigned wait_s;

	if (!session || check_find(m, session) || delegate_find(m, session) || !login_ask_is_valid(a))
		return false;
	wait_s = limits_wait(&m->limits, a->user, a->address, now);
	if (wait_s || !c || origin_is_full(m, a->address)) {
		refuse(m, session, wait_s ? LOGIN_LIMITED : LOGIN_BUSY, wait_s);
		return true;
	}
	limits_take(&m->limits, a->user, a->address, now);
	*c = (struct monitor_check){ .session = session, .waits = true, .out = -1, .asked_ns = now, .ask = *a };
	return true;
}

static void session_end(struct monitor *m, uint64_t session)
{
	struct monitor_delegate *d = session ? delegate_find(m, session) : NULL;

	if (d && !d->ending)
		kill(d->pid, SIGKILL);
	if (d)
		d->ending = true;
}

static void message_take(struct monitor *m)
{
	static _Alignas(16) char buf[CHANNEL_BODY_MAX];
	struct channel_msg msg;
	int r = channel_recv(m->channel, LOGIN_VERSION, login_messages, ARRAY_SIZE(login_messages), buf, &msg);
	bool fits = r > 0;

	if (r == -EAGAIN || r == -EINTR)
		return;
	if (r == 0) { /* it has ended, and its exit status is still to come; otherwise it must */
		m->channel = -1;
		if (m->web)
			kill(m->web, SIGKILL);
		return;
	}
	if (r > 0) {
		channel_msg_close_fds(&msg);
		if (msg.head.type == LOGIN_READY)
			notify_send(m->notify, "READY=1");
		else if (msg.head.type == LOGIN_ASK)
			fits = ask_take(m, msg.head.seq, msg.body);
		else if (msg.head.type == LOGIN_END)
			session_end(m, msg.head.seq);
		else
			fits = false;
	}
	explicit_bzero(buf, sizeof(struct login_ask));
	if (!fits) {
		log_error("login", "cairn-web sent an invalid message, so it may be compromised; ending it");
		m->ended = 1;
	}
}

/* ---- processes ---- */

static void process_gone(struct monitor *m, pid_t pid, int status)
{
	if (pid == m->web) {
		m->web = 0;
		m->ended = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
		if (WIFSIGNALED(status))
			log_error("login", "cairn-web was ended by signal %d", WTERMSIG(status));
	}
	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
		if (m->checks[i].pid == pid)
			m->checks[i].pid = 0;
	for (size_t i = 0; i < LOGIN_SESSIONS_MAX; i++) {
		struct monitor_delegate *d = &m->delegates[i];

		if (!d->session || d->pid != pid)
			continue;
		log_info("login", "session %llu has ended%s", (unsigned long long)d->session, d->ending || WIFEXITED(status) ? "" : ": its process was killed");
		d->session = 0;
	}
}

static void signals_take(struct monitor *m)
{
	struct signalfd_siginfo s;
	siginfo_t ended = { 0 };
	int status;

	while (read(m->signals, &s, sizeof(s)) == sizeof(s))
		if (s.ssi_signo != SIGCHLD)
			m->ended = 0;
	for (; waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid; ended.si_pid = 0) {
		/* While it is not reaped, no other group has its number. */
		if (ended.si_pid != m->web)
			kill(-ended.si_pid, SIGKILL);
		waitpid(ended.si_pid, &status, 0);
		process_gone(m, ended.si_pid, status);
	}
}

static void all_end(struct monitor *m)
{
	if (m->web)
		kill(m->web, SIGKILL);
	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
		check_stop(&m->checks[i]);
	for (size_t i = 0; i < LOGIN_SESSIONS_MAX; i++)
		session_end(m, m->delegates[i].session);
}

int monitor_run(struct monitor *m)
{
	struct pollfd p[LOGIN_WAITS_MAX + 2];

	m->ended = -1;
	for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
		m->checks[i].out = -1;
	while (m->ended < 0) {
		uint64_t next = checks_run(m), now = clock_monotonic_ns();
		int wait_ms = next == UINT64_MAX ? -1 : next <= now ? 0 : (int)((next - now) / 1000000 + 1);

		p[0] = (struct pollfd){ .fd = m->signals, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = m->channel, .events = POLLIN };
		for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
			p[i + 2] = (struct pollfd){ .fd = m->checks[i].out, .events = POLLIN };
		if (poll(p, ARRAY_SIZE(p), wait_ms) < 0 && errno != EINTR)
			break;
		signals_take(m);
		if (p[1].revents)
			message_take(m);
		for (size_t i = 0; i < LOGIN_WAITS_MAX; i++)
			if (m->checks[i].out >= 0 && p[i + 2].revents)
				check_read(m, &m->checks[i]);
	}
	all_end(m);
	return m->ended < 0 ? 1 : m->ended;
}
