#include "api/jobs/exec.h"
#include "api/access/rights.h"
#include "api/jobs/job.h"
#include "api/jobs/job_owner.h"
#include "api/vm/consoles.h"
#include "api/vm/vm.h"
#include "api/vm/vm_process.h"
#include "api/wire/conn.h"
#include "api/wire/json.h"
#include "base/base64.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/loop.h"
#include "base/utf8.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_NS (20 * 1000000000ULL) /* the VM's process waits 10 s for the guest */
#define ANSWER_NS (30 * 1000000000ULL)	/* for the agent to start the program */
#define INPUT_FRAME_BYTES 32768u
#define FLOOD_BYTES (256u * 1024) /* from the guest, after which the daemon rests */
#define REST_NS 10000000ULL /* after each further read */

/* The output outlives the work: it stays until the job is dismissed. */
struct exec_kept {
	struct {
		char *data;
		size_t len;
	} streams[2];
	bool cut, ended;
	int status, signal;
};

struct exec_work {
	struct job *j; /* NULL: the job has ended, and the connection's answer is awaited */
	struct rights *who; /* owned */
	bool connecting;
	int fd;
	struct loop_watch *watch;
	struct loop_timer *timer, *rest;
	bool rests; /* does not read until `rest` fires */
	uint64_t received;
	uint64_t timeout_ns;
	struct agent_order order;
	uint8_t *tx;
	size_t tx_at, tx_len, rx_len;
	uint8_t rx[AGENT_FRAME_MAX];
};

/* ---- the output ---- */

static void kept_add(struct exec_kept *k, bool is_error, const uint8_t *data, size_t len)
{
	size_t had = k->streams[is_error].len, n = MIN(len, EXEC_KEPT_BYTES - had);

	k->cut |= n < len;
	k->streams[is_error].data = must_alloc(realloc(k->streams[is_error].data, had + n + 1));
	memcpy(k->streams[is_error].data + had, data, n);
	k->streams[is_error].len += n;
	k->streams[is_error].data[had + n] = 0;
}

static void kept_free(struct job *j)
{
	struct exec_kept *k = j->output;

	for (unsigned i = 0; k && i < 2; i++)
		free(k->streams[i].data);
	free(k);
	j->output = NULL;
}

static bool is_text(const char *data, size_t len)
{
	CLEANUP_FREE char *copy = must_alloc(strndup(data, len));

	for (char *p = copy; *p; p++)
		if (strchr("\n\t\r", *p))
			*p = ' ';
	return strlen(copy) == len && utf8_is_clean(copy);
}

/* Add a page of a stream to an answer. A page of text ends between two characters. Returns whether more follows. */
static bool stream_put(struct json_object *o, const struct exec_kept *k, unsigned i, uint64_t from)
{
	static const char *const names[2][3] = { { "stdout", "stdout-base64", "stdout-next" }, { "stderr", "stderr-base64", "stderr-next" } };
	size_t len = k->streams[i].len, at = MIN(from, len), n = MIN(len - at, EXEC_PAGE_BYTES);
	const char *data = len ? k->streams[i].data + at : "";
	CLEANUP_FREE char *coded = NULL;

	for (unsigned back = 0; back < 3 && n > 3 && at + n < len && ((uint8_t)data[n] & 0xc0) == 0x80; back++)
		n--;
	if (is_text(data, n)) {
		js_put(o, names[i][0], json_object_new_string_len(data, (int)n));
	} else {
		coded = base64_encode(data, n);
		js_put_str(o, names[i][1], coded);
	}
	js_put_uint(o, names[i][2], at + n);
	return at + n < len;
}

static void end_put(struct json_object *o, const struct exec_kept *k)
{
	js_put_int(o, "exit-status", k->status);
	if (k->signal)
		js_put_int(o, "signal", k->signal);
}

struct json_object *exec_output(const struct job *j, const uint64_t from[2])
{
	const struct exec_kept *k = j->output;
	struct json_object *o;
	bool more;

	if (!k)
		return NULL;
	o = json_object_new_object();
	js_put_bool(o, "ended", k->ended);
	if (k->ended)
		end_put(o, k);
	more = stream_put(o, k, 0, from[0]);
	more |= stream_put(o, k, 1, from[1]);
	js_put_bool(o, "more", more);
	js_put_bool(o, "truncated", k->cut);
	return o;
}

/* ---- the end ---- */

static void work_free(struct exec_work *w)
{
	loop_unwatch(w->watch);
	loop_timer_free(w->timer);
	loop_timer_free(w->rest);
	if (w->fd >= 0)
		close(w->fd);
	free(w->who);
	free(w->tx);
	free(w);
}

static void work_release(struct job *j)
{
	struct exec_work *w = j->opaque;

	w->j = NULL;
	if (!w->connecting)
		work_free(w);
}

static void fail(struct exec_work *w, const struct err *e)
{
	struct job *j = w->j;

	j->cancel = NULL;
	job_fail(j, e);
}

static void cancelled(struct job *j)
{
	struct err e;

	err_set(&e, -ECANCELED, ERR_CANCELLED, "the program was killed, because the job was cancelled");
	fail(j->opaque, &e);
}

static void time_over(void *opaque)
{
	struct exec_work *w = opaque;
	struct err e;

	if (w->order.step < 2)
		err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "cairn-agent in the guest did not start the program within %llu s; restart cairn-agent there",
			ANSWER_NS / 1000000000);
	else
		err_set(&e, -ETIMEDOUT, ERR_TIMEOUT, "the program was killed, because its time limit passed");
	fail(w, &e);
}

static void malformed(struct exec_work *w)
{
	struct err e;

	err_set(&e, -EPROTO, ERR_GENERIC, "the program on vsock port %d of the guest is no cairn-agent, or sent a malformed answer; restart "
		"cairn-agent in the guest", AGENT_PORT);
	fail(w, &e);
}

static void connection_lost(struct exec_work *w)
{
	struct err e;

	err_set(&e, -ECONNRESET, ERR_GENERIC, "the connection to cairn-agent in the guest has ended, so the program was killed, or has "
		"never run: the VM or the agent ended, the VM was reverted, or the user lost the role");
	fail(w, &e);
}

static void not_started(struct exec_work *w, const struct agent_frame *f)
{
	static const char *const steps[] = { [AGENT_STEP_TERMINAL] = "the terminal", [AGENT_STEP_FOLDER] = "the working folder",
		[AGENT_STEP_PROGRAM] = "the program" };
	uint32_t number = load_le32(f->data), step = load_le32(f->data + 4);
	struct err e;

	if (step == AGENT_STEP_AGENT && number == AGENT_ERROR_BUSY)
		err_set(&e, -EBUSY, ERR_BUSY, AGENT_BUSY_TEXT);
	else
		err_set(&e, -EIO, ERR_GENERIC, "the program was not started: %s: %s", step < ARRAY_SIZE(steps) && steps[step] ? steps[step] : "cairn-agent",
		number < 4096 ? strerror((int)number) : "unknown error");
	fail(w, &e);
}

static void ended(struct exec_work *w, const struct agent_frame *f)
{
	struct job *j = w->j;
	struct exec_kept *k = j->output;
	struct json_object *result = json_object_new_object();

	k->ended = true;
	k->status = (int)(load_le32(f->data) & 255);
	k->signal = (int)(load_le32(f->data + 4) & 127);
	end_put(result, k);
	js_put_bool(result, "truncated", k->cut);
	j->cancel = NULL;
	job_succeed(j, result);
}

/* ---- frames ---- */

/* Handle a frame. Returns whether the work continues. */
static bool frame_handle(struct exec_work *w, const struct agent_frame *f)
{
	switch (f->type) {
	case AGENT_FRAME_STARTED:
		loop_timer_arm(w->timer, w->timeout_ns ? loop_now_ns() + w->timeout_ns : UINT64_MAX);
		return true;
	case AGENT_FRAME_STDOUT:
	case AGENT_FRAME_STDERR:
		kept_add(w->j->output, f->type == AGENT_FRAME_STDERR, f->data, f->len);
		w->j->done += f->len;
		w->j->total = w->j->done;
		return true;
	case AGENT_FRAME_FAILED:
		not_started(w, f);
		return false;
	case AGENT_FRAME_EXIT:
		ended(w, f);
		return false;
	default:
		return true;
	}
}

/* Handle the frames that have come. Returns whether the work continues. */
static bool frames_take(struct exec_work *w)
{
	struct agent_frame f;
	size_t at = 0;
	ssize_t n;

	while ((n = agent_frame_parse(w->rx + at, w->rx_len - at, true, &f)) > 0) {
		if (agent_order_check(&w->order, &f) < 0)
			n = -EPROTO;
		if (n < 0)
			break;
		if (!frame_handle(w, &f))
			return false;
		at += (size_t)n;
	}
	if (n < 0) {
		malformed(w);
		return false;
	}
	w->rx_len -= at;
	memmove(w->rx, w->rx + at, w->rx_len);
	return true;
}

static void events_set(struct exec_work *w)
{
	loop_watch_events(w->watch, (w->rests ? 0 : POLLIN) | (w->tx_at < w->tx_len ? POLLOUT : 0));
}

static void rest_over(void *opaque)
{
	struct exec_work *w = opaque;

	w->rests = false;
	events_set(w);
}

/* A guest that sends without end must not keep the daemon busy. */
static void rest(struct exec_work *w)
{
	w->rests = true;
	events_set(w);
	loop_timer_arm(w->rest, loop_now_ns() + REST_NS);
}

static void send_more(struct exec_work *w)
{
	ssize_t n = w->tx_at < w->tx_len ? send(w->fd, w->tx + w->tx_at, w->tx_len - w->tx_at, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	w->tx_at += (size_t)MAX(n, 0);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		w->tx_at = w->tx_len; /* a read shows the agent's last frame, or the end */
	if (w->tx_at == w->tx_len)
		free(STEAL_PTR(w->tx)); /* the program may run for days */
	events_set(w);
}

static void ready(void *opaque, unsigned revents)
{
	struct exec_work *w = opaque;
	ssize_t n;

	if (revents & POLLOUT)
		send_more(w);
	if (!(revents & ~(unsigned)POLLOUT))
		return;
	n = recv(w->fd, w->rx + w->rx_len, sizeof(w->rx) - w->rx_len, MSG_DONTWAIT);
	if (n > 0) {
		w->rx_len += (size_t)n;
		w->received += (uint64_t)n;
		if (frames_take(w) && w->received > FLOOD_BYTES)
			rest(w);
	} else if (!n || (errno != EAGAIN && errno != EINTR)) {
		connection_lost(w);
	}
}

/* ---- the begin ---- */

static void connected(void *opaque, int r, const struct vm_answer *a, const struct err *e)
{
	struct exec_work *w = opaque;
	struct err own;

	(void)a;
	w->connecting = false;
	if (!w->j) {
		work_free(w);
		return;
	}
	if (!r)
		r = loop_watch(w->j->host->loop, w->fd, POLLIN | POLLOUT, ready, w, &w->watch);
	if (r < 0 && !w->watch) {
		if (!e)
			err_set_errno(&own, r, "exec");
		fail(w, e ? e : &own);
		return;
	}
	loop_timer_arm(w->timer, loop_now_ns() + ANSWER_NS);
}

/* Write the header of a frame whose data follows it. Returns the frame's length. */
static size_t header_put(uint8_t *at, enum agent_frame_type type, size_t len)
{
	agent_header_put(at, type, len);
	return AGENT_HEADER_BYTES + len;
}

/* Make all frames for the guest: the start, the input and its end. */
static int frames_make(struct exec_work *w, const struct exec_request *q, struct err *e)
{
	struct agent_start start = *q->start;
	ssize_t n;

	if (q->input_bytes > EXEC_INPUT_BYTES)
		return err_set(e, -E2BIG, ERR_INVALID, "input-data has more than %u bytes; copy it into the guest first, with cairn cp", EXEC_INPUT_BYTES);
	w->tx = must_alloc(malloc(AGENT_FRAME_MAX + q->input_bytes + (q->input_bytes / INPUT_FRAME_BYTES + 2) * AGENT_HEADER_BYTES));
	start.flags |= q->input ? AGENT_START_INPUT : 0;
	n = agent_start_put(&start, w->tx + AGENT_HEADER_BYTES);
	if (n < 0)
		return err_set(e, -E2BIG, ERR_INVALID, "the command and its environment have more than %u bytes or %d words; "
			"pass the rest in a file, or on the standard input (xargs)", AGENT_DATA_MAX - 1024, AGENT_WORDS_MAX);
	w->tx_len = header_put(w->tx, AGENT_FRAME_START, (size_t)n);
	for (size_t at = 0, part; q->input && at < q->input_bytes; at += part) {
		part = MIN(q->input_bytes - at, (size_t)INPUT_FRAME_BYTES);
		memcpy(w->tx + w->tx_len + AGENT_HEADER_BYTES, (const uint8_t *)q->input + at, part);
		w->tx_len += header_put(w->tx + w->tx_len, AGENT_FRAME_STDIN, part);
	}
	if (q->input)
		w->tx_len += header_put(w->tx + w->tx_len, AGENT_FRAME_STDIN, 0);
	w->order.in_flight = q->input_bytes;
	return 0;
}

static int count_check(const struct vm *vm, const struct peer *who, struct err *e)
{
	unsigned n = 0, of_user = 0;

	for (const struct job *j = vm->host->jobs; j; j = j->next) {
		bool counts = !strcmp(j->type, "exec") && j->status != JOB_CONCLUDED;

		n += counts && job_is_of(j, vm);
		of_user += counts && j->uid == who->uid;
	}
	if (of_user >= EXEC_USER_JOBS_MAX && !uid_is_root_or_own(who->uid))
		return err_set(e, -EBUSY, ERR_BUSY, "user %u has %u programs under way; wait for one, or cancel its job (cairn jobs)",
			(unsigned)who->uid, of_user);
	return n < EXEC_JOBS_MAX ? 0 : err_set(e, -EBUSY, ERR_BUSY, "VM '%.200s' has %u programs under way; wait for one, or cancel its job (cairn jobs)",
		vm->def->name, n);
}

static int work_begin(struct exec_work *w, struct vm *vm, const struct peer *who, struct err *e)
{
	struct vm_vsock body = { .port = AGENT_PORT, .agent = true };
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set_errno(e, -errno, "socket");
	w->fd = pair[0];
	w->connecting = true;
	consoles_give_vsock(vm, who, &body);
	vm_process_request(vm->proc, VM_MSG_VSOCK, &body, sizeof(body), pair[1], CONNECT_NS, connected, w);
	close(pair[1]);
	return 0;
}

int exec_begin(struct vm *vm, const struct peer *who, const struct exec_request *q, struct job **ret_j, struct err *e)
{
	struct exec_work *w;
	struct job *j;
	int r = count_check(vm, who, e);

	if (r < 0)
		return r;
	w = must_alloc(calloc(1, sizeof(*w)));
	w->fd = -1;
	w->who = must_alloc(rights_of_ids(who));
	w->timeout_ns = q->timeout_ns;
	r = frames_make(w, q, e);
	if (!r && (loop_timer_new(vm->host->loop, time_over, w, &w->timer) < 0 || loop_timer_new(vm->host->loop, rest_over, w, &w->rest) < 0))
		r = err_set_errno(e, -ENOMEM, "exec");
	if (!r)
		r = job_new_beside(vm, "exec", &q->name, &j, e);
	if (r < 0) {
		work_free(w);
		return r;
	}
	j->opaque = w;
	j->release = work_release;
	j->cancel = cancelled;
	j->output = must_alloc(calloc(1, sizeof(struct exec_kept)));
	j->output_free = kept_free;
	w->j = j;
	*ret_j = j;
	if (work_begin(w, vm, who, e) < 0)
		fail(w, e);
	return 0;
}

/* Cancel the first job whose user has lost the role. Returns false if there is no such job; true: the list may have
 * changed. */
static bool denied_job_cancel(struct vm_host *host)
{
	for (struct job *j = host->jobs; j; j = j->next) {
		struct exec_work *w = j->opaque;
		char why[96];
		struct peer who;

		if (strcmp(j->type, "exec") || !w || !j->cancel || j->cancelling)
			continue;
		who = rights_peer(w->who);
		if (server_role(host->server, &who, job_vm_uuid(j)) >= ROLE_GUEST)
			continue;
		snprintf(why, sizeof(why), "user %u, who began the job, has lost the role guest for the VM", (unsigned)who.uid);
		job_denial_audit(host, j->vm_name, j->id, who.uid, why);
		job_deny(j, why, NULL);
		return true;
	}
	return false;
}

void exec_check_roles(struct vm_host *host)
{
	while (host->server && denied_job_cancel(host))
		;
}
