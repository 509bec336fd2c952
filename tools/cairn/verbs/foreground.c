/* start --foreground: start a VM and stay until it ends, for a service manager that has a unit for each VM. */
#include "api/wire/client.h"
#include "api/wire/json.h"
#include "base/notify.h"
#include "base/signals.h"
#include "tools/cairn/cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* Exit statuses of `cairn run` (enum vm_exit in vmm/vm_msg.h). */
enum { EXIT_ENDED = 0, EXIT_FAILED = 1, EXIT_PANICKED = 10, EXIT_CRASHED = 11, EXIT_TIMEOUT = 12, EXIT_KILLED = 13 };

/* While no daemon answers, connect at this interval. */
#define AGAIN_MS 500

struct foreground {
	struct cli *c;
	const char *name;
	int notify, signals;
	unsigned wanted; /* how often a signal asked for the VM's end */
	unsigned asked;	 /* how often the daemon was asked for it */
	bool connected; /* the daemon answers; false while it restarts */
	bool ready;	/* the service manager knows that the VM runs */
};

/* Return whether the VM is off, and no start of it is under way or due. */
static bool is_off(struct json_object *info)
{
	const char *word = js_get_str_or(info, "word", "");

	return (!strcmp(word, "shutoff") || !strcmp(word, "saved") || !strcmp(word, "crashed")) &&
		!js_get_bool(info, "starting", false) && !js_get(info, "restart-in");
}

/* Tell the service manager the VM's state, which `systemctl status` shows. */
static void state_notify(struct foreground *f, struct json_object *info)
{
	long long in_s = js_get_int(info, "restart-in", -1) / 1000000000;
	char text[400], again[60] = "";

	if (js_get(info, "restart-in"))
		snprintf(again, sizeof(again), "; the daemon restarts it in %lld s", in_s);
	else if (js_get_bool(info, "starting", false))
		snprintf(again, sizeof(again), "; the daemon starts it");
	snprintf(text, sizeof(text), "%s%sSTATUS=%s (%s)%s%s%s", f->ready ? "" : "READY=1\n", f->wanted ? "STOPPING=1\n" : "",
		cli_vm_state(info), js_get_str_or(info, "reason", ""), js_get(info, "detail") ? ": " : "",
		js_get_str_or(info, "detail", ""), again);
	f->ready = true;
	notify_send(f->notify, text);
}

/* The exit status for a VM that is off, with the codes of `cairn run`. */
static int end_status(struct foreground *f, struct json_object *info)
{
	const char *word = js_get_str_or(info, "word", ""), *reason = js_get_str_or(info, "reason", "");

	if (!strcmp(word, "saved"))
		return EXIT_ENDED;
	if (!strcmp(word, "crashed")) {
		fprintf(stderr, "error: Domain '%s' has crashed: %s\n", f->name, reason);
		return js_get_int(info, "exit-status", EXIT_CRASHED) == EXIT_PANICKED ? EXIT_PANICKED : EXIT_CRASHED;
	}
	if (!strcmp(reason, "failed"))
		return EXIT_FAILED;
	if (!strcmp(reason, "shutdown timed out"))
		return EXIT_TIMEOUT;
	return !strcmp(reason, "destroyed") ? EXIT_KILLED : EXIT_ENDED;
}

/* Look at the VM. Returns 1: the VM is off, and *ret_status is set; 0; -errno. */
static int vm_check(struct foreground *f, int *ret_status, struct err *e)
{
	CLEANUP_JS struct json_object *info = NULL;
	int r = cli_vm_info(f->c, f->name, &info, e);

	if (r < 0)
		return r;
	/* A job may start the VM again: a restart of its process by a save, or a revert. */
	if (!is_off(info) || js_get(info, "job")) {
		state_notify(f, info);
		return 0;
	}
	*ret_status = end_status(f, info);
	return 1;
}

/* Returns 1: the event is about the VM; 0; -EREMOTEIO: there is no VM of this name any more. */
static int event_take(struct foreground *f, struct json_object *ev, struct err *e)
{
	const char *event = js_get_str_or(ev, "event", "");

	if (cli_roles_changed(ev))
		return 1;
	if (strcmp(js_get_str_or(js_get(ev, "data"), "vm", ""), f->name))
		return 0;
	if (!strcmp(event, "VM_UNDEFINED"))
		return err_set(e, -EREMOTEIO, ERR_NOT_FOUND, "the VM was undefined or renamed meanwhile");
	return !strcmp(event, "VM_STATE_CHANGE") || !strcmp(event, "RESTART_SCHEDULED") ||
		(!strcmp(event, "JOB_STATUS_CHANGE") && !strcmp(js_get_str_or(js_get(ev, "data"), "status", ""), "concluded"));
}

/* ---- signals ---- */

static int signal_take(struct foreground *f, struct err *e)
{
	struct signalfd_siginfo si;

	if (read(f->signals, &si, sizeof(si)) != (ssize_t)sizeof(si))
		return 0;
	f->wanted++;
	return f->connected ? 0 :
		err_set(e, -ECONNREFUSED, ERR_GENERIC,
			"no daemon answers, so the VM cannot be stopped; start the daemon: systemctl start cairnd");
}

/* The first signal shuts the guest down, a second one destroys the VM. A request whose answer is lost with the daemon
 * is made again. */
static int end_ask(struct foreground *f, struct err *e)
{
	int r = 0;

	while (!r && f->asked < f->wanted) {
		r = cli_execute(f->c, f->asked ? "vm-destroy" : "vm-shutdown", cli_vm_args(f->name), NULL, NULL, e);
		if (!r || r == -EREMOTEIO)
			f->asked++;
	}
	return r;
}

/* ---- the daemon may restart meanwhile ---- */

/* Returns whether an error means that the connection is lost, and closes the connection then. The daemon's own refusals
 * are -EREMOTEIO. */
static bool is_away(struct foreground *f, int r)
{
	if (r >= 0 || r == -EREMOTEIO)
		return false;
	client_free(f->c->client);
	f->c->client = NULL;
	if (f->connected)
		notify_send(f->notify, "STATUS=the VM runs, but the daemon does not answer");
	f->connected = false;
	return true;
}

/* Handle queued events. Returns 1: look at the VM; 0; -errno. */
static int events_take(struct foreground *f, struct err *e)
{
	int look = 0;

	for (;;) {
		CLEANUP_JS struct json_object *ev = NULL;
		int r = cli_next_event(f->c, 0, &ev, e);

		if (r == -ETIMEDOUT)
			return look;
		if (!r)
			r = event_take(f, ev, e);
		if (r < 0)
			return r;
		look |= r;
	}
}

/* Wait for an event or a signal. Returns 1: look at the VM; 0; -errno. */
static int something_wait(struct foreground *f, struct err *e)
{
	struct pollfd fds[] = { { .fd = f->signals, .events = POLLIN },
		{ .fd = f->connected ? client_fd(f->c->client) : -1, .events = POLLIN } };
	int r = f->connected ? events_take(f, e) : 0;

	if (r)
		return r;
	poll(fds, 2, f->connected ? -1 : AGAIN_MS);
	if (!fds[0].revents)
		return !f->connected;
	r = signal_take(f, e);
	return r < 0 ? r : 1;
}

static int follow(struct foreground *f, int *ret_status, struct err *e)
{
	for (;;) {
		int r = vm_check(f, ret_status, e);

		if (!r && f->asked < f->wanted)
			r = end_ask(f, e);
		if (is_away(f, r))
			r = 0;
		else if (r)
			return r;
		else
			f->connected = true;
		do {
			r = something_wait(f, e);
			if (f->connected && is_away(f, r))
				r = 1;
		} while (!r);
		if (r < 0)
			return r;
	}
}

bool foreground_may_start(struct cli *c)
{
	CLEANUP_JS struct json_object *info = NULL;
	struct err e;

	return cli_vm_info(c, c->pos[0], &info, &e) < 0 || is_off(info);
}

int foreground_follow(struct cli *c)
{
	struct foreground f = { .c = c, .name = c->pos[0], .notify = notify_open(), .signals = signals_open(signals_of_end, NULL),
		.connected = true };
	int status = CLI_FAILURE, r;
	struct err e;

	r = f.signals < 0 ? err_set_errno(&e, -errno, "signalfd") : follow(&f, &status, &e);
	if (r < 0)
		status = cli_fail(&e, f.wanted ? "Failed to stop domain '%s'" : "Lost domain '%s'", f.name);
	if (f.signals >= 0)
		close(f.signals);
	if (f.notify >= 0)
		close(f.notify);
	return status;
}
