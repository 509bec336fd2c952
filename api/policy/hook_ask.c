#include "api/policy/hook_ask.h"
#include "api/policy/hooks.h"
#include "api/vm/observer.h"
#include "api/vm/vm.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/utf8.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

struct hook_ask {
	struct hook_ask *next;
	struct vm_host *host;
	struct vm *vm; /* NULL: it is gone */
	const char *event; /* static */
	bool reboot; /* with HOOK_SHUTDOWN */
	int pidfd, out; /* owned; -1: none */
	struct loop_watch *watch;
	bool cancelled;
	void (*answered)(struct vm *vm, const struct hook_answer *a, void *opaque);
	void *opaque; /* owned */
};

/* ---- asking ---- */

static void ask_free(struct hook_ask *a)
{
	loop_unwatch(a->watch);
	if (a->pidfd >= 0)
		close(a->pidfd);
	if (a->out >= 0)
		close(a->out);
	free(a->opaque);
	free(a);
}

/* Read the line that cairn-hook has written. */
static void answer_read(int fd, struct hook_answer *ans)
{
	ssize_t n = read(fd, ans->reason, HOOK_REASON_MAX);
	unsigned long seconds;
	char *end;

	ans->reason[MAX(n, 0)] = 0;
	ans->reason[strcspn(ans->reason, "\n")] = 0;
	utf8_clean(ans->reason);
	if (ans->says == HOOK_LATER) {
		seconds = strtoul(ans->reason, &end, 10);
		ans->delay_s = (unsigned)MIN(MAX(seconds, 1UL), HOOK_DELAY_MAX_S + 0UL);
		end += strspn(end, " ");
		memmove(ans->reason, end, strlen(end) + 1);
	}
	if (!ans->reason[0])
		snprintf(ans->reason, sizeof(ans->reason), "cairn-hook failed");
}

static void ask_unlink(struct hook_ask *a)
{
	struct hook_ask **at = &a->host->hook_asks;

	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
}

static void ask_ended(void *opaque, unsigned revents)
{
	struct hook_ask *a = opaque;
	struct hook_answer ans = { HOOK_NO, 0, "" };
	siginfo_t si = { 0 };

	(void)revents;
	if (waitid(P_PIDFD, (id_t)a->pidfd, &si, WEXITED | WNOHANG) < 0 || !si.si_pid)
		return;
	if (a->cancelled)
		ans.says = HOOK_CANCELLED;
	else if (si.si_code == CLD_EXITED && !si.si_status)
		ans.says = HOOK_YES;
	else if (si.si_code == CLD_EXITED && si.si_status == EX_TEMPFAIL)
		ans.says = HOOK_LATER;
	answer_read(a->out, &ans);
	ask_unlink(a);
	a->answered(a->vm, &ans, a->opaque);
	ask_free(a);
}

static struct json_object *event_make(const struct vm *vm, const char *event, bool reboot)
{
	struct json_object *o = json_object_new_object(), *data = json_object_new_object();

	js_put_str(data, "vm", vm->def->name);
	js_put_uuid(data, VM_UUID_KEY, vm->def->uuid);
	if (!strcmp(event, HOOK_SHUTDOWN))
		js_put_bool(data, "reboot", reboot);
	js_put_str(o, "event", event);
	js_put(o, "data", data);
	return o;
}

int hook_ask(struct vm *vm, const char *event, bool reboot, void (*answered)(struct vm *vm, const struct hook_answer *a, void *opaque),
	void *opaque, struct err *e)
{
	CLEANUP_JS struct json_object *o = NULL;
	CLEANUP_CLOSE int theirs = -1;
	struct hooks *h = vm->host->hooks;
	struct hook_ask *a;
	int fds[2], r;

	if (!h || !hooks_exist(h, event))
		return 0;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_set_errno(e, -errno, "the hooks of %s", event);
	theirs = fds[1];
	o = event_make(vm, event, reboot);
	a = must_alloc(calloc(1, sizeof(*a)));
	*a = (struct hook_ask){ .host = vm->host, .vm = vm, .event = event, .reboot = reboot, .pidfd = -1, .out = fds[0], .answered = answered };
	r = hooks_start(h, event, o, theirs, ask_ended, a, &a->pidfd, &a->watch);
	if (r < 0) {
		ask_free(a);
		return err_set_errno(e, r, "the hooks of %s", event);
	}
	a->opaque = opaque;
	a->next = vm->host->hook_asks;
	vm->host->hook_asks = a;
	return 1;
}

static struct hook_ask *ask_of(const struct vm *vm, const char *event)
{
	struct hook_ask *a = vm->host->hook_asks;

	while (a && (a->vm != vm || strcmp(a->event, event) != 0))
		a = a->next;
	return a;
}

bool hook_ask_is_under_way(const struct vm *vm, const char *event)
{
	return ask_of(vm, event);
}

/* The hook ends with its process, and ask_ended() follows. */
static void ask_cancel(struct hook_ask *a)
{
	a->cancelled = true;
	pidfd_send_signal(a->pidfd, SIGKILL, NULL, 0);
}

void hook_ask_cancel(const struct vm *vm, const char *event)
{
	struct hook_ask *a = ask_of(vm, event);

	if (a)
		ask_cancel(a);
}

void hook_delays_add(struct hook_delays *d, struct hook_answer *a)
{
	size_t len = strlen(a->reason);

	if (d->n >= HOOK_DELAYS_MAX || d->sum_s + a->delay_s > HOOK_DELAY_MAX_S) {
		a->says = HOOK_NO;
		snprintf(a->reason + len, sizeof(a->reason) - len, " (it was delayed %u times, by %u s)", d->n, d->sum_s);
		return;
	}
	d->n++;
	d->sum_s += a->delay_s;
}

/* ---- before a start ---- */

struct start_delay {
	struct hook_delays delays;
	struct loop_timer *timer;
	int64_t at_s; /* UTC: the next try */
	char reason[HOOK_REASON_MAX + 1];
};

struct start_ask {
	void (*ready)(struct vm *vm, int r, const struct err *e);
};

static void delay_drop(struct vm *vm)
{
	if (vm->start_delay)
		loop_timer_free(vm->start_delay->timer);
	free(STEAL_PTR(vm->start_delay));
}

static void delay_over(void *opaque)
{
	struct vm *vm = opaque;

	vm->start_delay->at_s = 0;
	vm_start_resume(vm);
}

/* Return whether the start can begin anew: a state that is handed to it, and a job that runs it, cannot wait. */
static bool can_wait(const struct vm *vm)
{
	const struct vm_start_opts *o = &vm->start.opts;

	return !o->by_job && !o->forked && !o->state_file && !o->called_off;
}

static void start_delay(struct vm *vm, struct hook_answer *a)
{
	struct start_delay *d = vm->start_delay;
	struct json_object *data;

	if (!d) {
		d = vm->start_delay = must_alloc(calloc(1, sizeof(*d)));
		if (loop_timer_new(vm->host->loop, delay_over, vm, &d->timer) < 0)
			abort();
	}
	hook_delays_add(&d->delays, a);
	if (a->says == HOOK_NO)
		return;
	d->at_s = (int64_t)(clock_realtime_ns() / CLOCK_NS_PER_S) + a->delay_s;
	snprintf(d->reason, sizeof(d->reason), "%s", a->reason);
	loop_timer_arm(d->timer, loop_now_ns() + a->delay_s * CLOCK_NS_PER_S);
	log_info("hook", "VM '%s': its start is delayed by %u s: %s", vm->def->name, a->delay_s, a->reason);
	data = json_object_new_object();
	js_put_int(data, "at", d->at_s * (int64_t)CLOCK_NS_PER_S);
	js_put_str(data, "detail", d->reason);
	vm_emit(vm, EVENT_START_DELAYED, data);
}

static void start_answered(struct vm *vm, const struct hook_answer *ans, void *opaque)
{
	struct start_ask *s = opaque;
	struct hook_answer a = *ans;
	struct err e;
	int r = 0;

	if (!vm)
		return;
	if (a.says == HOOK_LATER && can_wait(vm))
		start_delay(vm, &a);
	else if (a.says == HOOK_LATER)
		a.says = HOOK_NO;
	if (a.says == HOOK_LATER)
		r = err_set(&e, -EAGAIN, ERR_BUSY, "%s", a.reason);
	else if (a.says != HOOK_YES)
		r = err_set(&e, -EPERM, ERR_PERMISSION, "the host's admin does not let VM '%.200s' start: %s", vm->def->name, a.reason);
	s->ready(vm, r, &e);
}

static int start_prepare(struct vm *vm, const struct config *c, void (*ready)(struct vm *vm, int r, const struct err *e), struct err *e)
{
	struct start_ask *s = must_alloc(malloc(sizeof(*s)));
	int r;

	(void)c;
	s->ready = ready;
	r = hook_ask(vm, HOOK_START, false, start_answered, s, e);
	if (r <= 0)
		free(s);
	return r;
}

const char *hook_ask_waits(const struct vm *vm)
{
	const struct hook_ask *a = ask_of(vm, HOOK_SHUTDOWN);

	if (a)
		return a->reboot ? "reboot" : "shutdown";
	return (vm->start_delay && vm->start_delay->at_s) || ask_of(vm, HOOK_START) ? "start" : NULL;
}

void hook_ask_put(const struct vm *vm, struct json_object *o)
{
	const struct start_delay *d = vm->start_delay;

	if (!d || !d->at_s)
		return;
	js_put_int(o, "start-at", d->at_s * (int64_t)CLOCK_NS_PER_S);
	js_put_str(o, "delayed", d->reason);
}

static void start_called_off(struct vm *vm)
{
	hook_ask_cancel(vm, HOOK_START);
}

static void ask_removed(struct vm *vm)
{
	delay_drop(vm);
	for (struct hook_ask *a = vm->host->hook_asks; a; a = a->next)
		if (a->vm == vm) {
			a->vm = NULL;
			ask_cancel(a);
		}
}

void hook_asks_free(struct vm_host *host)
{
	struct hook_ask *a;

	while ((a = host->hook_asks)) {
		host->hook_asks = a->next;
		ask_free(a);
	}
}

const struct vm_observer hook_ask_observer = { .removed = ask_removed, .start_prepare = start_prepare,
	.start_called_off = start_called_off, .started = delay_drop, .start_failed = delay_drop };
