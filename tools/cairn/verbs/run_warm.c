#include "tools/cairn/verbs/run_warm.h"
#include "api/definition/vm_config.h"
#include "base/bytes.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "snapshot/first_pages.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/guest_session.h"
#include "tools/cairn/run_definition.h"
#include "tools/cairn/warm_key.h"
#include "tools/cairn/warm_state.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define RENEWAL_MS 10000 /* for the agent to answer */
#define LIST_MS 10000	 /* for the VM's process to list pages */
#define SEQ 2		 /* of the requests; the configuration's is 1 */
/* The guest is idle if its vCPUs have run for less than a tenth of each of some periods in a row. */
#define IDLE_PERIOD_MS 20
#define IDLE_PERIODS 3
#define IDLE_PERIODS_MAX 100

__attribute__((format(printf, 2, 3))) static void note(const struct run_warm *w, const char *fmt, ...)
{
	va_list args;

	if (!w->verbose)
		return;
	va_start(args, fmt);
	fputs("note: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
}

/* ---- beginning from a state ---- */

/* A guest of a definition file is one that the user knows; with --show-console, the user looks at the boot. */
static bool is_wanted(struct cli *c, const struct run_definition *d)
{
	return !d->from_file && !option_flag(c, "cold") && !option_flag(c, "show-console") && !option_flag(c, "no-sandbox") &&
		!option_value(c, "vm-program");
}

void run_warm_find(struct run_warm *w, struct cli *c, const struct run_definition *d, const struct config *config, const char *root,
	const char *program)
{
	const char *level = option_value(c, "log-level"), *why;
	struct err e;

	w->verbose = level && strcmp(level, "error") && strcmp(level, "warning");
	if (!is_wanted(c, d))
		return;
	w->key = warm_key_new(config, root, program, &why);
	if (!w->key) {
		note(w, "the guest boots, because %s", why);
		return;
	}
	w->state = warm_state_open(w->key, &e);
	if (w->state < 0)
		note(w, w->state == -ENOENT ? "the guest boots, because no run has left a state to begin from" :
			"the guest boots, because of the state to begin from: %s", e.msg);
}

static void channel_close(struct run_warm *w)
{
	if (w->channel >= 0)
		close(w->channel);
	w->channel = -1;
}

static void fds_close(struct run_warm *w)
{
	if (w->state >= 0)
		close(w->state);
	w->state = -1;
	channel_close(w);
}

void run_warm_done(struct run_warm *w)
{
	warm_key_free(w->key);
	w->key = NULL;
	fds_close(w);
}

bool run_warm_use(struct run_warm *w, struct config *config)
{
	CLEANUP_FREE uint32_t *list = must_alloc(malloc(FIRST_PAGES_MAX * sizeof(*list)));
	unsigned at = w->state < 0 ? VM_NO_FD : config_add_fd(config, fcntl(w->state, F_DUPFD_CLOEXEC, 3));

	config->vm.restore_fd = (uint16_t)at;
	config->vm.forked = at != VM_NO_FD;
	w->lists = config->vm.forked && first_pages_read(w->state, config->vm.ram_bytes / PAGE_BYTES, list) < 0;
	return config->vm.forked;
}

bool run_warm_check(const struct run_warm *w)
{
	struct err e;
	int r = warm_state_check(w->state, &e);

	if (r < 0)
		note(w, "%s", e.msg);
	return r == 0;
}

void run_warm_drop(struct run_warm *w, const char *why)
{
	note(w, "the guest boots, because %s", why);
	warm_state_drop(w->key);
	fds_close(w);
}

/* ---- leaving a state ---- */

/* Wait for data on fd while the VM runs. Returns 0; -ETIMEDOUT; -ESRCH. */
static int data_await(int fd, int vm_end, uint64_t deadline_ns)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = vm_end, .events = POLLIN } };

	for (;;) {
		uint64_t now = clock_monotonic_ns();
		int ms = now >= deadline_ns ? 0 : (int)MIN((deadline_ns - now) / 1000000 + 1, 1000000ULL);

		if (poll(p, 2, ms) < 0)
			continue;
		if (p[0].revents)
			return 0;
		if (p[1].revents)
			return -ESRCH;
		if (!ms)
			return -ETIMEDOUT;
	}
}

/* Read the agent's frames up to RENEWED. Returns 0; -errno: perhaps the guest's. */
static int renewed_await(int sock, int vm_end, uint64_t deadline_ns)
{
	uint8_t buf[2 * (AGENT_HEADER_BYTES + AGENT_HELLO_BYTES)];
	struct agent_order order = { .renews = true };
	size_t len = 0;

	while (order.renews) {
		struct agent_frame f;
		ssize_t n, used;
		int r = data_await(sock, vm_end, deadline_ns);

		if (r < 0)
			return r;
		n = recv(sock, buf + len, sizeof(buf) - len, MSG_DONTWAIT);
		if (n <= 0)
			return -EPROTO;
		len += (size_t)n;
		while ((used = agent_frame_parse(buf, len, true, &f)) != 0) {
			if (used < 0 || agent_order_check(&order, &f) < 0 || f.type == AGENT_FRAME_FAILED)
				return -EPROTO;
			if (f.type == AGENT_FRAME_RENEWED && load_le32(f.data))
				return -(int)(load_le32(f.data) & 4095);
			len -= (size_t)used;
			memmove(buf, buf + used, len);
		}
	}
	return 0;
}

/* Check that the agent can renew the guest, and end the connection on both sides: no state shall have it. */
static int agent_try(struct guest_link *link, int vm_end, uint64_t deadline_ns)
{
	uint8_t frame[GUEST_RENEWAL_MAX];
	size_t len = guest_renewal_put(link, frame);
	char byte;
	int r;

	if (send(link->sock, frame, len, MSG_NOSIGNAL) != (ssize_t)len)
		return -EPROTO;
	r = renewed_await(link->sock, vm_end, deadline_ns);
	if (r < 0)
		return r;
	shutdown(link->sock, SHUT_WR);
	r = data_await(link->sock, vm_end, deadline_ns);
	return r < 0 ? r : recv(link->sock, &byte, 1, MSG_DONTWAIT) > 0 ? -EPROTO : 0;
}

/* Wait for the answer of the VM's process. buf: CHANNEL_BODY_MAX bytes, in which m then is. */
static int answer_await(int channel, int vm_end, uint64_t deadline_ns, void *buf, struct channel_msg *m)
{
	int r;

	do {
		r = data_await(channel, vm_end, deadline_ns);
		if (!r && channel_recv(channel, VM_MSG_VERSION, vm_msg_from_vm, VM_MSG_TYPE_COUNT, buf, m) <= 0)
			r = -EPROTO;
	} while (!r && m->head.seq != SEQ);
	return r;
}

static int reply_check(const struct channel_msg *m, struct err *e)
{
	const struct vm_reply *reply = m->body;

	if (m->head.type != VM_MSG_REPLY)
		return err_set_errno(e, -EPROTO, "the VM's process");
	return reply->error < 0 ? err_set(e, -EIO, ERR_GENERIC, "%.*s", (int)sizeof(reply->msg), reply->msg) : 0;
}

/* Ask for how long the vCPUs have run. */
static int running_ask(int channel, int vm_end, uint64_t deadline_ns, uint64_t *ret_ns)
{
	CLEANUP_FREE void *buf = must_alloc(malloc(CHANNEL_BODY_MAX));
	const struct vm_info *info;
	struct channel_msg m;
	int r = channel_send(channel, VM_MSG_VERSION, VM_MSG_QUERY, SEQ, NULL, 0, NULL, 0);

	if (!r)
		r = answer_await(channel, vm_end, deadline_ns, buf, &m);
	if (!r && m.head.type != VM_MSG_INFO)
		r = -EPROTO;
	if (r < 0)
		return r;
	info = m.body;
	*ret_ns = 0;
	for (unsigned i = 0; i < MIN(info->vcpus, VM_VCPUS_MAX); i++)
		*ret_ns += info->vcpu_ns[i];
	return 0;
}

/* Wait until the guest is idle: init may continue for a while after it has started the agent, and each run that begins
 * from the state would do that work again. Without success after two seconds. */
static void idle_await(int channel, int vm_end, uint64_t deadline_ns)
{
	unsigned idle = 0;
	uint64_t before, now;
	int r = running_ask(channel, vm_end, deadline_ns, &before);

	for (unsigned i = 0; i < IDLE_PERIODS_MAX && idle < IDLE_PERIODS && !r; i++) {
		struct timespec period = { .tv_nsec = IDLE_PERIOD_MS * 1000000L };

		nanosleep(&period, NULL);
		r = running_ask(channel, vm_end, deadline_ns, &now);
		idle = !r && now - before < IDLE_PERIOD_MS * 1000000ULL / 10 ? idle + 1 : 0;
		before = now;
	}
}

/* Let the VM process write its state, and wait for that. */
static int state_write(int channel, int vm_end, int fd, uint64_t deadline_ns, struct err *e)
{
	CLEANUP_FREE struct vm_fork *what = must_alloc(calloc(1, sizeof(*what)));
	CLEANUP_FREE void *buf = must_alloc(malloc(CHANNEL_BODY_MAX));
	const struct vm_snapshot_done *done;
	struct channel_msg m;
	int r = channel_send(channel, VM_MSG_VERSION, VM_MSG_FORK, SEQ, what, sizeof(*what), &fd, 1);

	if (!r)
		r = answer_await(channel, vm_end, deadline_ns, buf, &m);
	if (r < 0)
		return err_set_errno(e, r, "the VM's process does not answer");
	done = m.body;
	if (m.head.type != VM_MSG_SNAPSHOT_DONE) {
		r = reply_check(&m, e); /* or a late answer to running_ask() */
		return r ? r : err_set_errno(e, -EPROTO, "the VM's process");
	}
	return done->error < 0 ? err_set(e, done->error, ERR_GENERIC, "%.*s", (int)sizeof(done->msg), done->msg) : 0;
}

static int state_save(const struct run_warm *w, int channel, int vm_end, uint64_t deadline_ns, struct err *e)
{
	CLEANUP(warm_file_done) struct warm_file f;
	int r = warm_file_new(&f, e);

	if (!r)
		r = state_write(channel, vm_end, f.fd, deadline_ns, e);
	return r < 0 ? r : warm_file_keep(&f, w->key, e);
}

bool run_warm_save(const struct run_warm *w, int channel, int vm_end, struct guest_link *link, uint64_t deadline_ns)
{
	struct err e;
	int r;

	if (!warm_key_holds(w->key)) {
		note(w, "this run leaves no state to begin from, because a file of it has just changed");
		return false;
	}
	r = agent_try(link, vm_end, MIN(deadline_ns, clock_monotonic_ns() + RENEWAL_MS * 1000000ULL));
	guest_link_close(link);
	if (!r)
		idle_await(channel, vm_end, deadline_ns);
	if (r < 0)
		err_set_errno(&e, r, "cairn-agent cannot give the guest random numbers and a time of its own");
	else
		r = state_save(w, channel, vm_end, deadline_ns, &e);
	note(w, r < 0 ? "this run leaves no state to begin from: %s" : "this run leaves a state to begin from%s", r < 0 ? e.msg : "");
	return r == 0;
}

/* ---- the pages that a guest touches first ---- */

/* Let the VM's process write the list to a file. */
static int pages_ask(const struct run_warm *w, int fd, struct err *e)
{
	CLEANUP_FREE void *buf = must_alloc(malloc(CHANNEL_BODY_MAX));
	struct channel_msg m;
	int r = channel_send(w->channel, VM_MSG_VERSION, VM_MSG_FIRST_PAGES, SEQ, NULL, 0, &fd, 1);

	if (!r)
		r = answer_await(w->channel, w->vm_end, MIN(w->deadline_ns, clock_monotonic_ns() + LIST_MS * 1000000ULL), buf, &m);
	return r < 0 ? err_set_errno(e, r, "the VM's process does not answer") : reply_check(&m, e);
}

void run_warm_list(void *opaque)
{
	struct run_warm *w = opaque;
	CLEANUP_FREE uint32_t *list = must_alloc(malloc(FIRST_PAGES_MAX * sizeof(*list)));
	CLEANUP_CLOSE int fd = memfd_create("pages", MFD_CLOEXEC);
	struct err e;
	ssize_t n = -1;
	int r = fd < 0 ? err_set_errno(&e, -errno, "memfd") : pages_ask(w, fd, &e);

	channel_close(w); /* nobody reads further events, and at its end, the VM's process waits for a peer that reads */
	/* The guest may have got hold of the VM's process. So the list is copied, and each run checks it. */
	if (!r) {
		n = pread(fd, list, FIRST_PAGES_MAX * sizeof(*list), 0);
		r = n < 0 ? -errno : warm_state_put_pages(w->state, list, (size_t)n / sizeof(*list));
		if (r < 0)
			err_set_errno(&e, r, "the list");
	}
	note(w, r < 0 ? "the next run cannot map in advance the pages that the guest touches first: %s" :
		"later runs map in advance the pages that the guest touches first%s", r < 0 ? e.msg : "");
}
