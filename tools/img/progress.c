#include "img.h"

#include "base/program.h"
#include "base/signals.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Minimum interval of progress lines in JSON. */
#define JSON_STEP_NS 200000000ULL

static atomic_int interrupted; /* the signal, or 0; read by several threads */
static int interrupt_fd = -1;
static atomic_bool asked; /* by SIGUSR1 for a line of progress, as qemu-img and dd take it */

static void on_signal(int sig)
{
	int error = errno;

	atomic_store(&interrupted, sig);
	if (interrupt_fd >= 0)
		(void)!eventfd_write(interrupt_fd, 1);
	errno = error;
}

/* Prints the message of img_fail() after img_check_interrupted(); may run in a signal handler. */
static void on_signal_end(int sig)
{
	static const char words[] = ": interrupted\n";
	const char *name = program_invocation_short_name;

	(void)!write(STDERR_FILENO, name, strlen(name));
	(void)!write(STDERR_FILENO, words, sizeof(words) - 1);
	if (sig == SIGINT)
		signals_end_process(sig);
	_exit(1);
}

static void signals_handle(void (*handler)(int))
{
	struct sigaction sa = { .sa_handler = handler };

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

static void on_question(int sig)
{
	(void)sig;
	atomic_store(&asked, true);
}

void img_signals_catch(void)
{
	struct sigaction sa = { .sa_handler = on_question, .sa_flags = SA_RESTART };

	sigaction(SIGUSR1, &sa, NULL);
	if (interrupt_fd < 0)
		interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	signals_handle(on_signal);
}

void img_signals_end(void)
{
	signals_handle(on_signal_end);
	if (img_interrupted()) /* between the last look and here */
		on_signal_end(atomic_load(&interrupted));
}

bool img_interrupted(void)
{
	return atomic_load(&interrupted);
}

int img_exit(int status)
{
	status = program_end("cairn-img", status);
	if (status && atomic_load(&interrupted) == SIGINT)
		signals_end_process(SIGINT);
	return status;
}

int img_interrupt_fd(void)
{
	return interrupt_fd;
}

int img_check_interrupted(struct err *e)
{
	if (!img_interrupted())
		return 0;
	return err_set(e, -EINTR, ERR_CANCELLED, "interrupted");
}

static void json_line(const struct img_progress *p, const char *event)
{
	fprintf(p->to, "{\"event\": \"%s\", \"done\": %llu, \"total\": %llu}\n", event,
		(unsigned long long)p->done, (unsigned long long)p->total);
	fflush(p->to);
}

void img_progress_set(struct img_progress *p, uint64_t done, uint64_t total)
{
	int now = total ? (int)((double)done * 1000 / (double)total) : 1000;
	uint64_t t;

	p->done = done;
	p->total = total;
	if (atomic_load(&asked) && atomic_exchange(&asked, false))
		fprintf(stderr, "    (%d.%d0/100%%)\n", now / 10, now % 10);
	if (p->mode == IMG_PROGRESS_BAR) {
		/* As in qemu-img: steps of one percent. */
		if (p->shown >= 0 && now < p->shown + 10 && (now < 1000 || p->shown == 1000))
			return;
		fprintf(p->to, "    (%d.%02d/100%%)\r", now / 10, now % 10 * 10);
		fflush(p->to);
	} else if (p->mode == IMG_PROGRESS_JSON) {
		t = loop_now_ns();
		if (t < p->next_ns)
			return;
		p->next_ns = t + JSON_STEP_NS;
		json_line(p, "progress");
	}
	p->shown = now;
}

void img_progress_end(struct img_progress *p, bool ok)
{
	if (p->mode == IMG_PROGRESS_BAR) {
		p->shown = -1;
		if (ok)
			img_progress_set(p, 1, 1);
		fputc('\n', p->to);
	} else if (p->mode == IMG_PROGRESS_JSON && ok) {
		p->done = p->total;
		json_line(p, "done");
	}
	fflush(p->to);
}

/* ---- options of many verbs ---- */

const struct option img_common_longs[] = { IMG_COMMON_LONGS, { NULL, 0, NULL, 0 } };

int img_object_refuse(const char *verb)
{
	return img_usage(verb, "--object is not supported: its secrets serve encrypted images and TLS, and Cairn has "
		"neither; use qemu-img");
}

void img_common_init(struct img_common *x, const char *verb)
{
	x->verb = verb;
	x->progress = (struct img_progress){ .to = stdout, .shown = -1 };
}

static int format_option(struct img_common *x, const char *arg)
{
	if (!strcmp(arg, "json"))
		x->json = true;
	else if (strcmp(arg, "human"))
		return img_usage(x->verb, "unknown output format '%s'; use human or json", arg);
	return 0;
}

int img_common_option(struct img_common *x, int c, const char *arg)
{
	switch (c) {
	case 'f':
		x->o.format = arg;
		return 0;
	case 'U':
		x->o.no_lock = true;
		return 0;
	case 'p':
		x->bar = true;
		return 0;
	case 'q':
		x->quiet = true;
		return 0;
	case IMG_OPT_ALLOW:
		if (x->o.nallow == IMG_ALLOW_MAX)
			return img_usage(x->verb, "--allow can be given at most %d times", IMG_ALLOW_MAX);
		x->o.allow[x->o.nallow++] = arg;
		return 0;
	case IMG_OPT_OUTPUT:
		return format_option(x, arg);
	case IMG_OPT_IMAGE_OPTS:
		x->image_opts = true;
		return 0;
	case IMG_OPT_TRUST:
		x->o.trust = img_backing_name;
		return 0;
	case IMG_OPT_OBJECT:
		return img_object_refuse(x->verb);
	default:
		return img_bad_option(x->verb, arg);
	}
}

int img_fd_option(const char *verb, const char *arg)
{
	char *end;
	long fd = strtol(arg, &end, 10);

	if (*arg < '0' || *arg > '9' || *end != '=' || !end[1] || fd > INT_MAX || fcntl((int)fd, F_GETFD) < 0)
		return img_usage(verb, "--fd takes the number of an open file and its name, such as 3=disk.qcow2, not '%s'", arg);
	return img_fd_give((int)fd, end + 1) < 0 ? img_usage(verb, "--fd can be given at most %d times", IMG_FDS_MAX) : 0;
}

int img_cache_option(const char *verb, const char *mode)
{
	static const char *const modes[] = { "none", "writeback", "writethrough", "directsync", "unsafe" };

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (!strcmp(modes[i], mode))
			return 0;
	return img_usage(verb, "unknown cache mode '%s'; use none, writeback, writethrough, directsync or unsafe", mode);
}

void img_common_open(const struct img_common *x, struct img_open *o)
{
	o->no_lock = x->o.no_lock;
	o->trust = x->o.trust;
	memcpy(o->allow, x->o.allow, sizeof(o->allow));
	o->nallow = x->o.nallow;
}

void img_common_progress(struct img_common *x)
{
	x->progress.mode = x->quiet ? IMG_PROGRESS_NONE : x->json ? IMG_PROGRESS_JSON
		: x->bar ? IMG_PROGRESS_BAR : IMG_PROGRESS_NONE;
}
