/* console: connect the terminal, or a script, to a console of the guest, byte for byte. */
#include "tools/cairn/cli.h"
#include "tools/cairn/output.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/loop.h"
#include "base/shell_word.h"
#include "base/signals.h"
#include "base/util.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE 0x1d /* Ctrl-] */
/* More than anybody pastes: while there is room, the terminal is read, and Ctrl-] is seen. */
#define INPUT_BYTES (4 * MIB)
#define UNTIL_BYTES 256
#define OUTPUT_BYTES 16384

struct console {
	int sock;
	bool terminal, input_open;
	bool input_told; /* the guest's side knows that the input has ended */
	struct termios saved;
	char *input; /* INPUT_BYTES: input that the guest has not taken yet */
	size_t len;
	const char *until; /* NULL: no text ends the console */
	bool until_seen;
	char recent[UNTIL_BYTES]; /* the last output, shorter than until: the text may come in pieces */
	size_t recent_len;
	uint64_t deadline_ns;
};

static void terminal_raw(struct console *k)
{
	struct termios t;

	k->terminal = tcgetattr(0, &k->saved) == 0;
	if (!k->terminal)
		return;
	t = k->saved;
	cfmakeraw(&t);
	tcsetattr(0, TCSANOW, &t);
}

static void terminal_restore(struct console *k)
{
	if (k->terminal)
		tcsetattr(0, TCSANOW, &k->saved);
}

/* Send as much input as the guest's side takes now: a guest may stop reading for any time. Returns 0; 1: it is gone. */
static int input_send(struct console *k)
{
	ssize_t n = k->len ? send(k->sock, k->input, k->len, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

	if (n < 0)
		return errno != EINTR && errno != EAGAIN;
	k->len -= (size_t)n;
	memmove(k->input, k->input + n, k->len);
	return 0;
}

/* After the end of the input and without --until, ask the guest's side for the output so far and for an end. */
static void input_end(struct console *k)
{
	if (k->input_open || k->len || k->until || k->input_told)
		return;
	k->input_told = true;
	shutdown(k->sock, SHUT_WR);
}

/* Read input for the guest. Returns 1 to detach; 0; -errno. */
static int input_read(struct console *k)
{
	char *at = k->input + k->len, *escape;
	ssize_t n = read(0, at, MIN(INPUT_BYTES - k->len, (size_t)4096));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	if (!n) {
		k->input_open = false;
		return k->terminal ? 1 : 0;
	}
	escape = k->terminal ? memchr(at, ESCAPE, (size_t)n) : NULL;
	k->len += (size_t)(escape ? escape - at : n);
	return input_send(k) || escape;
}

/* Returns how many bytes of the output end with the text of --until; len if it is not there. */
static size_t until_find(struct console *k, const char *buf, size_t len)
{
	char joined[UNTIL_BYTES + OUTPUT_BYTES];
	size_t want = strlen(k->until), had = k->recent_len, all = had + len, at;
	const char *found;

	memcpy(joined, k->recent, had);
	memcpy(joined + had, buf, len);
	found = memmem(joined, all, k->until, want);
	if (found) {
		k->until_seen = true;
		at = (size_t)(found - joined) + want;
		return at - had;
	}
	k->recent_len = MIN(all, want - 1);
	memcpy(k->recent, joined + all - k->recent_len, k->recent_len);
	return len;
}

static int output_move(struct console *k)
{
	char buf[OUTPUT_BYTES];
	ssize_t n = read(k->sock, buf, sizeof(buf));
	size_t shown;
	int r;

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : errno == ECONNRESET ? 1 : -errno;
	shown = k->until ? until_find(k, buf, (size_t)n) : (size_t)n;
	r = n ? write_full(1, buf, shown) : 1;
	return r < 0 ? r : r || k->until_seen;
}

static int wait_ms(const struct console *k)
{
	uint64_t now = loop_now_ns();

	if (k->deadline_ns == UINT64_MAX)
		return -1;
	return now >= k->deadline_ns ? 0 : (int)MIN((k->deadline_ns - now) / 1000000 + 1, (uint64_t)INT_MAX);
}

static int console_loop(struct console *k, int signals)
{
	int r = 0;

	while (!r) {
		bool reads = k->input_open && k->len < INPUT_BYTES;
		struct pollfd p[3] = { { .fd = k->sock, .events = k->len ? POLLIN | POLLOUT : POLLIN },
			{ .fd = reads ? 0 : -1, .events = POLLIN },
			{ .fd = signals, .events = POLLIN } };
		int n;

		input_end(k);
		n = poll(p, 3, wait_ms(k));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n < 0)
			continue;
		if (!n && !wait_ms(k))
			return k->until ? -ETIMEDOUT : 0;
		if (p[0].revents & ~POLLOUT)
			r = output_move(k);
		if (!r && p[0].revents & POLLOUT)
			r = input_send(k);
		if (!r && p[1].revents)
			r = input_read(k);
		if (!r && p[2].revents)
			r = 1; /* end in order, to restore the terminal */
	}
	return r < 0 ? r : 0;
}

static int console_open(struct cli *c, const char *name, const struct console_opts *opts, int *ret_fd, struct err *e)
{
	struct json_object *args = cli_vm_args(name);
	int r;

	js_put_str(args, "kind", opts->kind);
	if (opts->no_history)
		js_put_bool(args, "history", false);
	r = cli_execute(c, "vm-console", args, NULL, ret_fd, e);
	if (!r && *ret_fd < 0)
		r = err_set(e, -EPROTO, ERR_GENERIC, "the daemon returned no console");
	return r;
}

static int console_ended(const char *name, const struct console *k, int r)
{
	struct err e;

	if (r == -ETIMEDOUT) {
		err_set(&e, r, ERR_TIMEOUT, "timeout: the guest has not written \"%s\"; see cairn domstate --reason %s", k->until, shell_word(name).s);
		return cli_fail(&e, "No such output from domain '%s'", name);
	}
	if (r < 0) {
		err_set_errno(&e, r, "console");
		return cli_fail(&e, "Lost the console of domain '%s'", name);
	}
	if (!k->until || k->until_seen)
		return CLI_OK;
	err_set(&e, -EPIPE, ERR_GENERIC, "the console ended before the guest wrote \"%s\"; see cairn domstate --reason %s", k->until, shell_word(name).s);
	return cli_fail(&e, "No such output from domain '%s'", name);
}

int console_attach(struct cli *c, const char *name, const struct console_opts *opts)
{
	CLEANUP_CLOSE int sock = -1;
	CLEANUP_CLOSE int signals = -1;
	struct console k = { .input_open = !opts->no_input, .until = opts->until, .deadline_ns = opts->deadline_ns };
	struct err e;
	int r = console_open(c, name, opts, &sock, &e);

	if (r < 0)
		return e.cls == ERR_NOT_FOUND ? cli_fail(&e, "failed to get domain '%s'", name) :
						cli_fail(&e, "Failed to open the console of domain '%s'",
							name);
	k.sock = sock;
	k.input = must_alloc(malloc(INPUT_BYTES));
	signal(SIGPIPE, SIG_IGN);
	signals = signals_open(signals_of_end, NULL);
	if (k.input_open && isatty(0)) {
		say("Connected to domain '%s'\nEscape character is ^] (Ctrl + ])\n", name);
		fflush(stdout);
		terminal_raw(&k);
	}
	/* Only --timeout or a signal ends a console without input. */
	k.input_told = opts->no_input;
	r = console_loop(&k, signals);
	terminal_restore(&k);
	free(k.input);
	if (k.terminal)
		printf("\n");
	return console_ended(name, &k, r);
}

int verb_console(struct cli *c)
{
	struct console_opts opts = { .kind = option_flag(c, "virtio") ? "virtio" : "serial", .no_history = option_flag(c, "no-history"),
		.no_input = option_flag(c, "no-input"), .until = option_value(c, "until") };
	uint64_t timeout_ns;
	int r = option_seconds(c, "timeout", UINT64_MAX, &timeout_ns);

	if (r)
		return r;
	if (option_flag(c, "serial") && option_flag(c, "virtio"))
		return cli_usage(c, "--serial and --virtio exclude each other");
	if (opts.until && (!*opts.until || strlen(opts.until) > UNTIL_BYTES))
		return cli_usage(c, "--until needs a text of 1 to %d bytes", UNTIL_BYTES);
	opts.deadline_ns = timeout_ns == UINT64_MAX ? UINT64_MAX : loop_now_ns() + timeout_ns;
	return console_attach(c, c->pos[0], &opts);
}
