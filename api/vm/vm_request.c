#include "api/vm/vm_request.h"
#include "api/access/client_file.h"
#include "api/vm/vm_compat.h"
#include "base/channel.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/relay.h"
#include "base/util.h"
#include "vmm/vm_page.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CANCEL_TIMEOUT_NS (10 * 1000000000ULL)

void vm_shown_free(struct vm_shown *s)
{
	if (s && s->page)
		munmap(s->page, sizeof(*s->page));
	free(s);
}

void vm_shown_raise(struct vm_shown *s, struct vm_info *info)
{
	for (uint32_t i = 0; s && i < MIN(info->vcpus, VM_VCPUS_MAX); i++)
		info->vcpu_ns[i] = s->told_ns[i] = MAX(s->told_ns[i], info->vcpu_ns[i]);
}

void vm_requests_timer(struct vm_process *p)
{
	uint64_t first = UINT64_MAX;

	for (struct vm_request *r = p->first; r; r = r->next)
		first = MIN(first, r->deadline_ns);
	if (first == UINT64_MAX)
		loop_timer_disarm(p->timer);
	else
		loop_timer_arm(p->timer, first);
}

static void request_remove(struct vm_process *p, struct vm_request *r)
{
	struct vm_request **at = &p->first;

	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	if (!r->next)
		p->last = at;
}

static void fds_close(struct vm_request *r)
{
	while (r->nfds)
		close(r->fds[--r->nfds]);
	free(STEAL_PTR(r->fds));
}

static void request_free(struct vm_request *r)
{
	client_file_free(r->file);
	fds_close(r);
	free(r->body);
	free(r);
}

void vm_requests_free(struct vm_process *p)
{
	while (p->first) {
		struct vm_request *r = p->first;

		p->first = r->next;
		request_free(r);
	}
}

void vm_request_finish(struct vm_process *p, struct vm_request *r, int res,
	const struct vm_answer *a, const struct err *e)
{
	static const struct vm_answer none;

	request_remove(p, r);
	vm_requests_send_waiting(p);
	vm_requests_timer(p);
	if (r->done)
		r->done(r->opaque, res, a ? a : &none, e);
	request_free(r);
}

static void request_append(struct vm_process *p, struct vm_request *r)
{
	r->seq = ++p->seq;
	r->next = NULL;
	*p->last = r;
	p->last = &r->next;
}

static struct vm_request *request_add(struct vm_process *p, enum vm_msg_type type,
	uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque)
{
	struct vm_request *r = calloc(1, sizeof(*r));

	if (!r)
		abort(); /* otherwise done() would never be called */
	r->process = p;
	r->type = type;
	r->deadline_ns = timeout_ns == VM_PROCESS_NO_TIMEOUT ? UINT64_MAX : loop_now_ns() + timeout_ns;
	r->done = done;
	r->opaque = opaque;
	request_append(p, r);
	vm_requests_timer(p);
	return r;
}

bool vm_request_may_repeat(enum vm_msg_type type)
{
	return type == VM_MSG_QUERY || type == VM_MSG_SNAPSHOT_LIST || type == VM_MSG_SNAPSHOT_SIZE || type == VM_MSG_SPACE ||
		type == VM_MSG_ADDRESSES || type == VM_MSG_CONSOLE_END || type == VM_MSG_QUIT ||
		type == VM_MSG_INTERFACE_SET;
}

static void request_send(struct vm_request *r, const void *body, size_t len, const int *fds, unsigned nfds);

/* Handle that the request was sent, or could not be. */
static void request_sent(struct vm_request *r, int error)
{
	struct vm_process *p = r->process;

	r->send_error = error;
	/* The process is ending: its end fails the request with -ESRCH, unless another process has the VM. ECONNRESET:
	 * it had not read all earlier messages. */
	if ((r->send_error == -EPIPE || r->send_error == -ECONNRESET) && (p->sock >= 0 || p->lost)) {
		r->send_error = 0;
		r->unsent = true;
	}
	if (r->send_error) {
		r->deadline_ns = 0; /* the timer reports the error from the loop */
		vm_requests_timer(p);
	}
}

static void file_sent(void *opaque, int error)
{
	struct vm_request *r = opaque;
	struct vm_process *p = r->process;

	client_file_free(STEAL_PTR(r->file));
	request_sent(r, error);
	/* The request may have been sent nevertheless. */
	if (error == -EIO || error == -ETIMEDOUT)
		request_send(request_add(p, VM_MSG_CANCEL, CANCEL_TIMEOUT_NS, NULL, NULL), NULL, 0, NULL, 0);
	vm_requests_send_waiting(p);
}

static void body_keep(struct vm_request *r, const void *body, size_t len)
{
	if (len && !r->body)
		r->body = memcpy(must_alloc(malloc(len)), body, len);
	r->len = len;
}

/* Keep what the request carries, to send it later. Returns 0; -errno. */
static int request_keep(struct vm_request *r, const void *body, size_t len, const int *fds, unsigned nfds)
{
	body_keep(r, body, len);
	if (!nfds || fds == r->fds)
		return 0;
	r->fds = must_alloc(calloc(nfds, sizeof(*fds)));
	for (; r->nfds < nfds; r->nfds++) {
		r->fds[r->nfds] = fcntl(fds[r->nfds], F_DUPFD_CLOEXEC, 3);
		if (r->fds[r->nfds] < 0)
			return -errno;
	}
	return 0;
}

/* Send the request, or let the process that holds its file send it. */
static void request_send(struct vm_request *r, const void *body, size_t len, const int *fds, unsigned nfds)
{
	struct vm_process *p = r->process;
	size_t sent = len;

	r->unsent = p->lost;
	if (p->lost) {
		/* vm_requests_resume() or the end of the VM's process follows. */
		r->kept = !r->file && request_keep(r, body, len, fds, nfds) == 0;
		client_file_free(STEAL_PTR(r->file));
		return;
	}
	if (!vm_compat_fit(p->version, r->type, &sent)) {
		request_sent(r, -ENOTSUP);
	} else if (p->sock < 0) {
		request_sent(r, -EPIPE);
	} else if (r->file) {
		struct relay_message m = { .to = p->sock, .version = p->version, .type = (uint16_t)r->type, .seq = r->seq,
			.body = body, .len = sent, .fds = fds, .nfds = nfds };

		client_file_send(r->file, &m, file_sent, r);
	} else {
		request_sent(r, channel_send(p->sock, p->version, (uint16_t)r->type, r->seq, body, sent, fds, nfds));
		r->kept = r->unsent && request_keep(r, body, len, fds, nfds) == 0;
	}
}

/* Whether an earlier request is still to be sent by the process that holds its file: a cancel, for instance, must not
 * overtake the request that it cancels. Requests that may be repeated overtake others, because a user can stop that
 * process. */
static bool request_must_wait(const struct vm_request *r)
{
	const struct vm_request *q = r->process->first;

	while (q != r && !q->file)
		q = q->next;
	return q != r && !vm_request_may_repeat(r->type);
}

/* Keep the request until those before it have been sent, and the process is connected. */
static void request_hold(struct vm_request *r, const void *body, size_t len, const int *fds, unsigned nfds)
{
	int kept = request_keep(r, body, len, fds, nfds);

	r->waits = r->unsent = !kept;
	if (kept < 0)
		request_sent(r, kept);
}

static void request_begin(struct vm_request *r, const void *body, size_t len, const int *fds, unsigned nfds)
{
	if (r->process->adopt_wait || request_must_wait(r))
		request_hold(r, body, len, fds, nfds);
	else
		request_send(r, body, len, fds, nfds);
}

void vm_requests_send_waiting(struct vm_process *p)
{
	for (struct vm_request *r = p->adopt_wait ? NULL : p->first; r; r = r->next) {
		if (r->waits) {
			r->waits = false;
			request_send(r, r->body, r->len, r->fds, r->nfds);
			if (!r->kept)
				fds_close(r);
		}
		if (r->file)
			break;
	}
}

void vm_process_request_with(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len, struct client_file *file,
	const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque)
{
	struct vm_request *r = request_add(p, type, timeout_ns, done, opaque);

	r->file = file;
	if (vm_request_may_repeat(type))
		body_keep(r, body, len);
	request_begin(r, body, len, fds, nfds);
}

void vm_process_request_fds(struct vm_process *p, enum vm_msg_type type, const void *body,
	size_t len, const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque)
{
	vm_process_request_with(p, type, body, len, NULL, fds, nfds, timeout_ns, done, opaque);
}

/* Whether the request may be sent on another connection: nobody has got it, or it does no harm twice. */
static bool request_passes(const struct vm_request *r)
{
	return vm_request_may_repeat(r->type) || r->kept;
}

/* Send a request with its copy of the body, under a new number. */
static void request_repeat(struct vm_process *p, struct vm_request *r)
{
	request_append(p, r);
	r->process = p;
	r->waits = r->kept = false;
	request_begin(r, r->body, r->len, r->fds, r->nfds);
	if (!r->waits && !r->kept)
		fds_close(r);
}

void vm_process_pass_requests(struct vm_process *from, struct vm_process *p)
{
	struct vm_request *next;

	for (struct vm_request *r = from->first; r; r = next) {
		next = r->next;
		if (!request_passes(r))
			continue;
		request_remove(from, r);
		request_repeat(p, r);
	}
	vm_requests_timer(from);
	vm_requests_timer(p);
}

/* Fail a request whose answer was lost with the connection. */
static void request_lose(struct vm_process *p, struct vm_request *r)
{
	struct err e;

	err_set(&e, -ECONNRESET, ERR_GENERIC, "the connection to the VM's process was lost before the request was answered; "
		"it may have been carried out: look, and repeat it if it was not");
	vm_request_finish(p, r, -ECONNRESET, NULL, &e);
}

/* Work has no time limit, and its end is its answer. */
static bool request_is_work(const struct vm_request *r)
{
	return r->deadline_ns == UINT64_MAX && !vm_request_may_repeat(r->type);
}

static void work_cancelled(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct vm_process *p = opaque;

	(void)a;
	(void)e;
	/* On success the work's own answer follows. */
	if (r != -EREMOTEIO)
		return;
	for (struct vm_request *w = p->first, *next; w && !p->freed; w = next) {
		next = w->next;
		if (w->seq > p->lost_seq || !request_is_work(w))
			continue;
		request_lose(p, w);
		next = p->freed ? NULL : p->first; /* as in requests_expire() */
	}
}

void vm_requests_resume(struct vm_process *p)
{
	bool works = false;

	for (struct vm_request *r = p->first, *next; r && !p->freed; r = next) {
		next = r->next;
		if (r->seq > p->lost_seq || r->send_error)
			continue;
		if (request_passes(r)) {
			request_remove(p, r);
			request_repeat(p, r);
		} else if (request_is_work(r) && !r->unsent) {
			works = true;
		} else {
			request_lose(p, r);
			next = p->freed ? NULL : p->first; /* as in requests_expire() */
		}
	}
	if (works && !p->freed)
		vm_process_request(p, VM_MSG_CANCEL, NULL, 0, -1, CANCEL_TIMEOUT_NS, work_cancelled, p);
}

void vm_process_request(struct vm_process *p, enum vm_msg_type type, const void *body, size_t len,
	int fd, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque)
{
	vm_process_request_fds(p, type, body, len, &fd, fd >= 0, timeout_ns, done, opaque);
}
