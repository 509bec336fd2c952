/* exec with cairn-agent: the streams of the program are those of this process. */
#include "tools/cairn/verbs/exec.h"
#include "api/wire/json.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/signals.h"
#include "base/utf8.h"
#include "base/util.h"
#include "tools/cairn/guest_session.h"
#include "tools/cairn/guest_stream.h"
#include "tools/cairn/output.h"
#include "tools/cairn/run_root.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define KEPT_BYTES (16 * MIB) /* of each stream, for a result in JSON; as the other agent has it */

static const int end_signals[] = { SIGINT, SIGTERM, SIGHUP, 0 };

struct kept {
	char *data;
	size_t len;
	bool cut;
};

struct run {
	struct cli *c;
	struct exec_outcome *outcome;
	bool terminal, hides[2], reader_gone;
	struct utf8_stream shown[2];
	struct kept kept[2];
	struct termios saved;
	bool raw;
};

/* ---- output ---- */

static void keep(struct kept *k, const uint8_t *data, size_t len)
{
	size_t n = MIN(len, KEPT_BYTES - k->len);

	k->cut |= n < len;
	k->data = must_alloc(realloc(k->data, k->len + n + 1));
	memcpy(k->data + k->len, data, n);
	k->len += n;
	k->data[k->len] = 0;
}

static void interrupted(int sig)
{
	(void)sig;
}

/* Write output to a file, or to a pipe or terminal that may take none for long: a signal ends the wait.
 * Returns 0; -EINTR; -errno. */
static int output_write(int fd, const uint8_t *data, size_t len)
{
	sigset_t open;

	sigprocmask(SIG_SETMASK, NULL, &open);
	for (const int *sig = end_signals; *sig; sig++)
		sigdelset(&open, *sig);
	while (len) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };
		ssize_t n;

		if (poll(&p, 1, 0) == 0 && ppoll(&p, 1, NULL, &open) < 0 && errno == EINTR)
			return -EINTR;
		n = write(fd, data, MIN(len, (size_t)PIPE_BUF)); /* a pipe that is ready takes so many bytes */
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
		data += MAX(n, 0);
		len -= (size_t)MAX(n, 0);
	}
	return 0;
}

static int output_take(void *opaque, bool is_error, uint8_t *data, size_t len, struct err *e)
{
	struct run *x = opaque;
	int r;

	if (x->c->format != CLI_TABLE) {
		keep(&x->kept[is_error], data, len);
		return 0;
	}
	if (x->hides[is_error])
		guest_stream_hide_controls((char *)data, len, &x->shown[is_error]);
	r = output_write(is_error ? 2 : 1, data, len);
	if (r == -EINTR)
		return err_set(e, r, ERR_CANCELLED, "a signal ended cairn, which waited for the reader of the program's output");
	x->reader_gone |= r == -EPIPE;
	return r < 0 ? err_set_errno(e, r, "cannot write the program's output") : 0;
}

/* ---- the request ---- */

/* Return the place of the variable with the name of var; NULL: there is none. */
static const char **variable_find(struct agent_start *s, const char *var)
{
	size_t len = strcspn(var, "=") + 1, end = MIN(s->nargs + s->nvars, (size_t)AGENT_WORDS_MAX);

	for (size_t i = s->nargs; i < end; i++)
		if (!strncmp(s->words[i], var, len))
			return &s->words[i];
	return NULL;
}

/* Add a word behind the others. Words beyond the agent's limit count, so that agent_start_put() refuses them. */
static void word_add(struct agent_start *s, size_t *count, const char *word)
{
	size_t n = s->nargs + s->nvars;

	if (n < AGENT_WORDS_MAX)
		s->words[n] = word;
	++*count;
}

/* Add a variable in place of an earlier one of its name. */
static void variable_add(struct agent_start *s, const char *var)
{
	const char **place = variable_find(s, var);

	if (place)
		*place = var;
	else
		word_add(s, &s->nvars, var);
}

/* Add the image's settings: variables, user and folder. */
static void root_fill(struct cli *c, const struct run_root *root, struct agent_start *s)
{
	const char *user = option_value(c, "user"), *var;

	s->flags |= AGENT_START_USER;
	s->user = user ? user : *root->user ? root->user : "0";
	if (!option_value(c, "workdir"))
		s->folder = root->folder;
	for (size_t i = 0; (var = run_root_variable(root, i)); i++)
		if (strchr(var, '=') && var[0] != '=')
			variable_add(s, var);
}

/* Fill in the words. s: all 0. Returns 0; a usage error's status. */
static int start_fill(struct cli *c, const struct run_root *root, struct agent_start *s)
{
	const char *vars[CLI_GIVEN_MAX], *term = getenv("TERM");
	struct winsize size = { .ws_row = 24, .ws_col = 80 };
	static char term_var[64];
	size_t nvars;
	int r = exec_variables(c, vars, &nvars);

	if (r)
		return r;

	s->folder = option_value(c, "workdir") ?: "";
	if (option_flag(c, "interactive") || option_flag(c, "tty"))
		s->flags |= AGENT_START_INPUT;
	s->nargs = root ? 0 : exec_user_words(c, s->words);
	for (size_t i = 1; i < c->npos; i++)
		word_add(s, &s->nargs, c->pos[i]);
	if (root)
		root_fill(c, root, s);
	for (size_t i = 0; i < nvars; i++)
		variable_add(s, vars[i]);
	if (!option_flag(c, "tty"))
		return 0;
	ioctl(0, TIOCGWINSZ, &size);
	s->flags |= AGENT_START_TERMINAL;
	s->rows = size.ws_row;
	s->columns = size.ws_col;
	if (variable_find(s, "TERM="))
		term = NULL;
	if (term && strlen(term) < sizeof(term_var) - 5) {
		snprintf(term_var, sizeof(term_var), "TERM=%s", term);
		variable_add(s, term_var);
	}
	return 0;
}

/* ---- the terminal and signals ---- */

static void terminal_raw(struct run *x)
{
	struct termios t;

	x->raw = x->terminal && tcgetattr(0, &x->saved) == 0;
	if (!x->raw)
		return;
	t = x->saved;
	cfmakeraw(&t);
	tcsetattr(0, TCSANOW, &t);
}

static int wanted_open(void)
{
	int wanted[ARRAY_SIZE(end_signals) + 1] = { SIGWINCH };
	size_t n = 1;

	for (const int *sig = end_signals; *sig; sig++) {
		struct sigaction before;

		sigaction(*sig, NULL, &before);
		if (before.sa_handler == SIG_IGN) /* nohup(1); a signal that is blocked would come though it is ignored */
			continue;
		wanted[n++] = *sig;
		sigaction(*sig, &(struct sigaction){ .sa_handler = interrupted }, NULL);
	}
	wanted[n] = 0;
	signal(SIGPIPE, SIG_IGN);
	return signals_open(wanted, NULL);
}

/* ---- the result ---- */

/* Print why the program has no status of its own. Returns the status. */
static int cairn_failed(struct run *x, int status, const char *reason, const struct err *e)
{
	cli_fail(e, "Failed to run a program in domain '%s'", x->c->pos[0]);
	*x->outcome = (struct exec_outcome){ .reason = reason, .err = *e };
	return status;
}

/* Print why the program was not started. Returns the exit status. */
static int failed_show(struct run *x, const struct guest_session *s, const struct guest_link *link)
{
	struct err e;

	if (s->step >= AGENT_STEP_MOUNT && (size_t)s->step - AGENT_STEP_MOUNT < link->nmounts)
		err_set(&e, -s->failed, ERR_GENERIC, "--volume %s: the guest cannot mount it: %s%s", link->mounts[s->step - AGENT_STEP_MOUNT].option,
			strerror(s->failed), s->failed == ENODEV ? "; its kernel needs CONFIG_VIRTIO_FS" : "");
	else if (s->step == AGENT_STEP_TERMINAL)
		err_set(&e, -s->failed, ERR_GENERIC, "the guest has no pseudo terminal: %s; mount devpts on /dev/pts there, or run without --tty",
			strerror(s->failed));
	else if (s->step == AGENT_STEP_FOLDER)
		err_set(&e, -s->failed, ERR_GENERIC, "the folder %s: %s", *s->start->folder ? s->start->folder : "/", strerror(s->failed));
	else if (s->step == AGENT_STEP_PROGRAM)
		err_set(&e, -s->failed, ERR_GENERIC, "%s: %s", s->start->words[0], strerror(s->failed)); /* runuser, with --user */
	else if (s->step == AGENT_STEP_USER && s->failed == ENOENT)
		err_set(&e, -s->failed, ERR_GENERIC, "the root has no user or group %s; choose another one with --user", s->start->user);
	else if (s->step == AGENT_STEP_USER)
		err_set(&e, -s->failed, ERR_GENERIC, "cannot become the user %s: %s", s->start->user, strerror(s->failed));
	else if (s->failed == AGENT_ERROR_BUSY)
		err_set(&e, -EBUSY, ERR_BUSY, AGENT_BUSY_TEXT);
	else
		err_set(&e, -s->failed, ERR_GENERIC, "cairn-agent cannot start a program: %s", strerror(s->failed));
	if (s->step != AGENT_STEP_PROGRAM)
		return cairn_failed(x, EXEC_CAIRN, "failed", &e);
	return s->failed == ENOENT ? cairn_failed(x, EXEC_MISSING, "not-found", &e) : cairn_failed(x, EXEC_NOT_EXECUTABLE, "not-executable", &e);
}

static int result_show(struct run *x, const struct guest_session *s)
{
	CLEANUP_JS struct json_object *o = NULL;
	int code = s->timed_out ? EXEC_TIMEOUT : s->signal ? EXEC_SIGNAL + s->signal : s->status;

	x->outcome->signal = s->signal;
	if (s->timed_out) {
		x->outcome->reason = "timeout";
		err_set(&x->outcome->err, -ETIMEDOUT, ERR_TIMEOUT, "the program was killed, because its time limit passed");
	}
	if (s->timed_out && x->c->format == CLI_TABLE)
		fprintf(stderr, "error: %s\n", x->outcome->err.msg);
	if (x->c->format == CLI_TABLE)
		return code;
	o = json_object_new_object();
	js_put_int(o, "status", code);
	js_put(o, "signal", s->signal ? json_object_new_int(s->signal) : NULL);
	guest_stream_put(o, "stdout", x->kept[0].data ?: "", x->kept[0].len);
	guest_stream_put(o, "stderr", x->kept[1].data ?: "", x->kept[1].len);
	js_put_bool(o, "truncated", x->kept[0].cut || x->kept[1].cut);
	output_print(stdout, x->c->format, o);
	return code;
}

/* A session that was ended by a signal ends a VM that exists only for it. If the reader of the output is gone, as
 * behind head, end as a program that SIGPIPE ends: without a message. */
static int session_failed(struct run *x, const struct guest_session *s, bool ends_vm, struct err *e)
{
	if (x->reader_gone) {
		*x->outcome = (struct exec_outcome){ .reason = "failed", .err = *e };
		return EXEC_SIGNAL + SIGPIPE;
	}
	if (!ends_vm || !s->ended_by)
		return cairn_failed(x, EXEC_CAIRN, "failed", e);
	err_set(e, -EINTR, ERR_CANCELLED, "signal %d ended the VM", s->ended_by);
	return cairn_failed(x, EXEC_SIGNAL + s->ended_by, "interrupted", e);
}

int exec_by_agent(struct cli *c, const struct guest_link *link, const struct run_root *root, uint64_t limit_ns,
	struct exec_outcome *ret)
{
	static struct agent_start start;
	struct exec_outcome ignored;
	struct run x = { .c = c, .outcome = ret ?: &ignored, .terminal = option_flag(c, "tty") };
	struct guest_session s = { .start = &start, .output = output_take, .opaque = &x, .ends_vm = ret };
	struct err e;
	int r = start_fill(c, root, &start);

	*x.outcome = (struct exec_outcome){ .reason = r ? "usage" : NULL };
	if (r) /* an error was printed */
		return EXEC_CAIRN;
	for (int i = 0; i < 2; i++)
		x.hides[i] = !x.terminal && isatty(1 + i);
	s.deadline_ns = limit_ns ? clock_monotonic_ns() + limit_ns : UINT64_MAX;
	s.signals = wanted_open();
	terminal_raw(&x);
	r = guest_session_run(&s, link, &e);
	if (x.raw)
		tcsetattr(0, TCSANOW, &x.saved);
	close(s.signals);
	if (r < 0)
		r = session_failed(&x, &s, ret, &e);
	else
		r = s.failed ? failed_show(&x, &s, link) : result_show(&x, &s);
	free(x.kept[0].data);
	free(x.kept[1].data);
	return r;
}
