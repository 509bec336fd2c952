#include "api/jobs/archiver.h"
#include "api/access/spawn.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "api/wire/wire.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/file.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define READ_BYTES 16384
/* Limit for the reads after the process's end: more than a full pipe of 1 MiB needs. */
#define READS_AT_END 1024
/* Time for removing files after a cancel. */
#define CANCEL_NS (5 * 1000000000ULL)
#define ARCHIVER_FDS_MAX 400
/* Kept bytes of the program's stderr. Its own errors come as messages; this is for a loader or a library. */
#define STDERR_BYTES 256

struct archiver {
	struct loop *loop;
	const struct archiver_ops *ops;
	void *opaque;
	char name[32]; /* "cairn-archive", for errors */
	/* in, out, errors: the daemon's ends of the pipes to the process's stdin and from its stdout and stderr. The
	 * daemon does not read `errors` while the process runs, so a process cannot write more than the pipe holds. */
	int in, out, errors, pidfd;
	pid_t pid;
	struct loop_watch *watch, *gone;
	struct loop_timer *timer; /* kills the process CANCEL_NS after a cancel */
	struct wire wire;
	struct json_object *result;
	bool ended, failed, cancelled;
	struct err e;
};

/* Limits of a message. A stranger wrote the archive, and json-c takes 400 bytes for each brace of its manifest. A
 * message has the files' names beside the definition, which has at most 16384 such characters where a client defines
 * it. */
static const struct wire_limits message_limits = { WIRE_TEXT_MAX, 32768 };

/* ---- running the program ---- */

struct plan {
	const char *program, *verb;
	int death_signal; /* sent when the daemon ends */
	const struct rights *rights;
	bool with_groups;
	const int *fds;
	size_t nfds;
};

static int program_run(const struct plan *p, int in, int out, int errors, int spec, pid_t *ret_pid)
{
	char *argv[] = { (char *)p->program, (char *)p->verb, NULL };
	int fds[ARCHIVER_FD + ARCHIVER_FDS_MAX] = { in, out, errors, spec };
	struct spawn_spec program = { .path = p->program, .argv = argv, .rights = p->rights, .with_groups = p->with_groups, .fds = fds,
		.nfds = ARCHIVER_FD + p->nfds, .death_signal = p->death_signal };

	if (p->nfds > ARCHIVER_FDS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < p->nfds; i++)
		fds[ARCHIVER_FD + i] = p->fds[i];
	return spawn_program(&program, ret_pid);
}

/* ---- reporting the result ---- */

static void archiver_fail(struct archiver *a, const struct err *e)
{
	if (!a->failed)
		a->e = *e;
	a->failed = true;
}

/* Fail with the first line that the process wrote to stderr. */
static void ended_early(struct archiver *a)
{
	char line[STDERR_BYTES];
	ssize_t n = read(a->errors, line, sizeof(line) - 1);

	line[MAX(n, 0)] = 0;
	line[strcspn(line, "\n")] = 0;
	err_set(&a->e, -EIO, ERR_HOST, "%s ended early%s%s", a->name, line[0] ? ": " : "", line);
	a->failed = true;
}

static void archiver_finish(struct archiver *a)
{
	loop_unwatch(a->gone);
	a->gone = NULL;
	loop_unwatch(a->watch);
	a->watch = NULL;
	if (!a->failed && !a->result && a->cancelled) { /* the program ended without a message */
		err_set(&a->e, -ECANCELED, ERR_CANCELLED, "cancelled");
		a->failed = true;
	} else if (!a->failed && !a->result) {
		ended_early(a);
	}
	a->ended = true;
	/* done() may free a. */
	if (a->failed)
		a->ops->done(a->opaque, -EIO, NULL, &a->e);
	else
		a->ops->done(a->opaque, 0, a->result, NULL);
}

/* ---- messages of the process ---- */

static void error_take(struct archiver *a, struct json_object *o)
{
	const char *cls = js_get_str(o, "class"), *message = js_get_str(o, "message");
	enum err_class c = ERR_GENERIC;
	struct err e;

	for (int i = 0; cls && i < ERR_CLASS_COUNT; i++)
		if (!strcmp(err_class_name((enum err_class)i), cls))
			c = (enum err_class)i;
	err_set(&e, -EIO, c, "%s", message ? message : "a helper program failed");
	archiver_fail(a, &e);
}

static void message_take(struct archiver *a, struct json_object *o)
{
	struct json_object *v;

	if ((v = js_get(o, "error"))) {
		error_take(a, v);
	} else if ((v = js_get(o, "result"))) {
		json_object_put(a->result);
		a->result = json_object_get(v);
	} else if ((v = js_get(o, "ready"))) {
		if (a->ops->ready)
			a->ops->ready(a->opaque, v);
	} else if (a->ops->progress) {
		int64_t done = js_get_int(o, "done", 0), total = js_get_int(o, "total", 0), space = js_get_int(o, "space", 0);

		if (done >= 0 && total >= done)
			a->ops->progress(a->opaque, (uint64_t)done, (uint64_t)total);
		if (space > 0 && a->ops->space)
			a->ops->space(a->opaque, (uint64_t)space);
	}
}

static void output_take(struct archiver *a, const char *bytes, size_t n)
{
	while (n) {
		CLEANUP_JS struct json_object *o = NULL;
		struct err e;
		size_t used;
		enum wire_result r = wire_feed(&a->wire, bytes, n, &used, &o, &e);

		if (r == WIRE_TEXT) {
			message_take(a, o);
		} else if (r != WIRE_MORE) {
			err_prefix(&e, "the output of %s", a->name);
			archiver_fail(a, &e);
		}
		if (r == WIRE_FATAL) { /* drop the text */
			wire_done(&a->wire);
			wire_init(&a->wire, &message_limits);
		}
		bytes += used;
		n -= used;
	}
}

/* Read once from the pipe. Returns whether there may be more. */
static bool output_read(struct archiver *a)
{
	char bytes[READ_BYTES];
	ssize_t n = read(a->out, bytes, sizeof(bytes));

	if (n <= 0)
		return false;
	output_take(a, bytes, (size_t)n);
	return true;
}

static void output_ready(void *opaque, unsigned revents)
{
	struct archiver *a = opaque;

	/* The pipe has no writer any more: stop watching it. process_ended() reads the remaining data. */
	if (!output_read(a) && (revents & (POLLHUP | POLLERR)))
		loop_watch_events(a->watch, 0);
}

static void process_ended(void *opaque, unsigned revents)
{
	struct archiver *a = opaque;
	siginfo_t si;

	(void)revents;
	if (waitid(P_PIDFD, (id_t)a->pidfd, &si, WEXITED | WNOHANG) < 0)
		return;
	/* Read only what fits into the pipe: another process may hold the write end and never stop writing. */
	for (unsigned i = 0; i < READS_AT_END && output_read(a); i++)
		;
	archiver_finish(a);
}

/* Kill a cancelled process that does not end, because otherwise the job would never end: the process may block on a
 * pipe, or its user may have sent SIGSTOP. */
static void process_timed_out(void *opaque)
{
	struct archiver *a = opaque;

	if (a->ended)
		return;
	kill(-a->pid, SIGKILL); /* the pid is not reused before process_ended() has reaped the process */
	pidfd_send_signal(a->pidfd, SIGKILL, NULL, 0); /* the child may not have created its process group yet */
}

/* ---- starting the process ---- */

static int spec_file(struct json_object *spec, int *ret_fd)
{
	const char *text = json_object_to_json_string_ext(spec, JSON_C_TO_STRING_PLAIN);
	CLEANUP_CLOSE int fd = memfd_create("spec", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : write_full(fd, text, strlen(text));

	if (!r && lseek(fd, 0, SEEK_SET) < 0)
		r = -errno;
	if (!r)
		*ret_fd = steal_fd(&fd);
	return r;
}

/* Make a pipe. Reads and writes of the daemon never block, because the process may belong to another user and stop.
 * ret_read, ret_write: owned. mine: the daemon's, one of the two. */
static int pipe_new(int *ret_read, int *ret_write, const int *mine)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	*ret_read = ends[0];
	*ret_write = ends[1];
	return fcntl(*mine, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static int process_start(struct archiver *a, struct plan *p, struct json_object *spec)
{
	CLEANUP_CLOSE int spec_fd = -1, in = -1, out = -1, errors = -1;
	int r = spec_file(spec, &spec_fd);

	if (!r)
		r = pipe_new(&in, &a->in, &a->in);
	if (!r)
		r = pipe_new(&a->out, &out, &a->out);
	if (!r)
		r = pipe_new(&a->errors, &errors, &a->errors);
	/* The process does not block either if it writes more to stderr than fits. */
	if (!r && fcntl(errors, F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	if (!r)
		r = program_run(p, in, out, errors, spec_fd, &a->pid);
	if (r < 0)
		return r;
	a->pidfd = pidfd_open(a->pid, 0);
	return a->pidfd < 0 ? -errno : 0;
}

void archiver_free(struct archiver *a)
{
	if (!a)
		return;
	if (!a->ended && a->pidfd >= 0)
		pidfd_send_signal(a->pidfd, SIGTERM, NULL, 0);
	loop_unwatch(a->gone);
	loop_unwatch(a->watch);
	loop_timer_free(a->timer);
	json_object_put(a->result);
	wire_done(&a->wire);
	if (a->in >= 0)
		close(a->in);
	if (a->out >= 0)
		close(a->out);
	if (a->errors >= 0)
		close(a->errors);
	if (a->pidfd >= 0)
		close(a->pidfd);
	free(a);
}

/* Return whether the program opens files of the user by their names. */
static bool opens_files(const char *verb)
{
	return !strcmp(verb, "import") || !strcmp(verb, "clear");
}

int archiver_start(struct loop *l, const char *program, const char *verb, struct json_object *spec,
	const int *fds, size_t nfds, const struct rights *rights, const struct archiver_ops *ops,
	void *opaque, struct archiver **ret_a, struct err *e)
{
	/* SIGTERM lets an import remove its folder. An export has nothing to remove and may block on its pipe. */
	struct plan p = { .program = program, .verb = verb, .rights = rights, .with_groups = opens_files(verb),
		.fds = fds, .nfds = nfds, .death_signal = strcmp(verb, "import") ? SIGKILL : SIGTERM };
	struct archiver *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		abort(); /* otherwise done() would never be called */
	*a = (struct archiver){ .loop = l, .ops = ops, .opaque = opaque, .in = -1, .out = -1, .errors = -1, .pidfd = -1 };
	wire_init(&a->wire, &message_limits);
	snprintf(a->name, sizeof(a->name), "%s", strrchr(program, '/') ? strrchr(program, '/') + 1 : program);
	r = loop_timer_new(l, process_timed_out, a, &a->timer);
	if (!r)
		r = process_start(a, &p, spec);
	if (!r)
		r = loop_watch(l, a->out, POLLIN, output_ready, a, &a->watch);
	if (!r)
		r = loop_watch(l, a->pidfd, POLLIN, process_ended, a, &a->gone);
	if (r < 0) {
		err_set_errno(e, r, "cannot start %s", a->name);
		archiver_free(a);
		return r;
	}
	*ret_a = a;
	return 0;
}

struct json_object *archiver_layers(const struct definition_disk *d, const struct vm_disk *v, int first)
{
	struct json_object *layers = json_object_new_array();

	for (unsigned k = 0; k < d->nlayers; k++) {
		struct json_object *y = json_object_new_object();

		js_put_int(y, "fd", first + v->fd[k]);
		js_put_str(y, "format", definition_format_name(d->layers[k].format));
		if (d->layers[k].data_file)
			js_put_int(y, "data_fd", first + v->data_fd[k]);
		json_object_array_add(layers, y);
	}
	return layers;
}

void archiver_keep(struct archiver *a)
{
	static const char word[] = "keep\n";

	if (write(a->in, word, sizeof(word) - 1) < 0)
		archiver_cancel(a);
}

void archiver_cancel(struct archiver *a)
{
	if (!a->ended && !a->cancelled) {
		pidfd_send_signal(a->pidfd, SIGTERM, NULL, 0);
		loop_timer_arm(a->timer, loop_now_ns() + CANCEL_NS);
	}
	a->cancelled = true;
}
