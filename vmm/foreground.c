#include "vmm/foreground.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/notify.h"
#include "base/signals.h"
#include "devices/console.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/vm.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#define DEADLINE_DEFAULT_S 30
#define DRAIN_NS 1000000000ULL
#define CTRL_BRACKET 0x1d
/* Signals within this interval count as one: timeout(1) signals its child and then its whole
 * process group. */
#define SAME_WISH_NS 200000000ULL

struct foreground {
	struct loop *loop;
	struct vm *vm;
	int signal_fd, notify_fd;
	struct loop_watch *signal_watch;
	struct loop_timer *deadline, *watchdog;
	uint64_t deadline_ns, watchdog_ns;
	bool terminating;
	uint64_t terminating_since_ns;
	bool raw; /* the terminal is in raw mode */
	struct termios saved;
};

/* ---- the service manager ---- */

static void watchdog_fire(void *opaque)
{
	struct foreground *f = opaque;

	notify_send(f->notify_fd, "WATCHDOG=1");
	loop_timer_arm(f->watchdog, loop_now_ns() + f->watchdog_ns);
}

static int watchdog_setup(struct foreground *f)
{
	const char *usec = getenv("WATCHDOG_USEC");
	unsigned long long v = usec ? strtoull(usec, NULL, 10) : 0;
	int r;

	if (f->notify_fd < 0 || !v || v > UINT64_MAX / 1000)
		return 0;
	f->watchdog_ns = v * 1000 / 2;
	r = loop_timer_new(f->loop, watchdog_fire, f, &f->watchdog);
	if (!r)
		loop_timer_arm(f->watchdog, loop_now_ns() + f->watchdog_ns);
	return r;
}

/* ---- signals and the shutdown deadline ---- */

static void deadline_fire(void *opaque)
{
	struct foreground *f = opaque;

	vm_end(f->vm, VM_REASON_SHUTDOWN_TIMEOUT, 0, "the guest did not shut down in time");
}

static void signal_terminate(struct foreground *f)
{
	struct err e = { 0 };

	if (f->terminating && loop_now_ns() - f->terminating_since_ns < SAME_WISH_NS)
		return;
	if (f->terminating) {
		vm_end(f->vm, VM_REASON_KILLED, 0, "second signal");
		return;
	}
	f->terminating = true;
	f->terminating_since_ns = loop_now_ns();
	notify_send(f->notify_fd, "STOPPING=1\nSTATUS=waiting for the guest to shut down");
	log_info(NULL, "pressing the power button; a second signal stops at once");
	if (vm_phase(f->vm) == VM_PHASE_PAUSED)
		vm_cont(f->vm, VM_REASON_USER, &e);
	if (vm_powerdown(f->vm, &e) < 0) {
		vm_end(f->vm, VM_REASON_USER, 0, e.msg);
		return;
	}
	loop_timer_arm(f->deadline, loop_now_ns() + f->deadline_ns);
}

static void signal_ready(void *opaque, unsigned revents)
{
	struct foreground *f = opaque;
	struct signalfd_siginfo si;

	(void)revents;
	while (read(f->signal_fd, &si, sizeof(si)) == sizeof(si))
		signal_terminate(f);
}

static int signals_setup(struct foreground *f)
{
	f->signal_fd = signals_open(signals_of_end, NULL);
	if (f->signal_fd < 0)
		return f->signal_fd;
	return loop_watch(f->loop, f->signal_fd, POLLIN, signal_ready, f, &f->signal_watch);
}

/* ---- the terminal ---- */

static void terminal_raw(struct foreground *f)
{
	struct termios t;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &f->saved) < 0)
		return;
	t = f->saved;
	cfmakeraw(&t);
	t.c_oflag = f->saved.c_oflag;
	t.c_lflag |= ISIG; /* let one key send a signal: Ctrl-] */
	t.c_cc[VINTR] = CTRL_BRACKET;
	t.c_cc[VQUIT] = t.c_cc[VSUSP] = _POSIX_VDISABLE;
	f->raw = tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
}

int foreground_new(struct loop *l, struct vm *vm, uint32_t deadline_s, int notify_fd,
	struct foreground **ret_f, struct err *e)
{
	struct foreground *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return err_set_errno(e, -ENOMEM, "foreground");
	f->loop = l;
	f->vm = vm;
	f->signal_fd = -1;
	f->deadline_ns = (deadline_s ? deadline_s : DEADLINE_DEFAULT_S) * 1000000000ULL;
	f->notify_fd = notify_fd;
	r = loop_timer_new(l, deadline_fire, f, &f->deadline);
	if (!r)
		r = signals_setup(f);
	if (!r)
		r = watchdog_setup(f);
	if (!r)
		r = console_attach_stdio(vm_machine(vm)->consoles[VM_CONSOLE_SERIAL], STDIN_FILENO,
			STDOUT_FILENO, NULL);
	if (r < 0) {
		foreground_free(f);
		return err_set_errno(e, r, "cannot set up the foreground");
	}
	terminal_raw(f);
	*ret_f = f;
	return 0;
}

void foreground_started(struct foreground *f)
{
	notify_send(f->notify_fd, "READY=1\nSTATUS=running");
}

void foreground_free(struct foreground *f)
{
	if (!f)
		return;
	console_drain(vm_machine(f->vm)->consoles[VM_CONSOLE_SERIAL], DRAIN_NS);
	if (f->raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &f->saved);
	loop_unwatch(f->signal_watch);
	loop_timer_free(f->deadline);
	loop_timer_free(f->watchdog);
	if (f->signal_fd >= 0)
		close(f->signal_fd);
	if (f->notify_fd >= 0)
		close(f->notify_fd);
	free(f);
}
