/* console: connect the terminal to a console of the guest, byte for byte. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/signals.h"
#include "base/util.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>

#define ESCAPE 0x1d /* Ctrl-] */
/* More than anybody pastes: while there is room, the terminal is read, and Ctrl-] is seen. */
#define INPUT_BYTES (4 * MIB)

struct console {
	int sock;
	bool terminal, input_open;
	struct termios saved;
	char *input; /* INPUT_BYTES: input that the guest has not taken yet */
	size_t len;
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

/* Read input for the guest. Returns 1 to detach; 0; -errno. */
static int input_read(struct console *k)
{
	char *at = k->input + k->len, *escape;
	ssize_t n = read(0, at, MIN(INPUT_BYTES - k->len, (size_t)4096));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	if (!n) {
		/* At the end of piped input, keep showing the guest's output. */
		k->input_open = false;
		return k->terminal ? 1 : 0;
	}
	escape = k->terminal ? memchr(at, ESCAPE, (size_t)n) : NULL;
	k->len += (size_t)(escape ? escape - at : n);
	return input_send(k) || escape;
}

static int output_move(struct console *k)
{
	char buf[16384];
	ssize_t n = read(k->sock, buf, sizeof(buf));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : errno == ECONNRESET ? 1 : -errno;
	return n ? write_full(1, buf, (size_t)n) : 1;
}

static int console_loop(struct console *k, int signals)
{
	int r = 0;

	while (!r) {
		bool reads = k->input_open && k->len < INPUT_BYTES;
		struct pollfd p[3] = { { .fd = k->sock, .events = k->len ? POLLIN | POLLOUT : POLLIN },
			{ .fd = reads ? 0 : -1, .events = POLLIN },
			{ .fd = signals, .events = POLLIN } };

		if (poll(p, 3, -1) < 0 && errno != EINTR)
			return -errno;
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

static int console_open(struct cli *c, const char *name, const char *kind, int *ret_fd,
	struct err *e)
{
	struct json_object *args = cli_vm_args(name);
	int r;

	js_put_str(args, "kind", kind);
	r = cli_execute(c, "vm-console", args, NULL, ret_fd, e);
	if (!r && *ret_fd < 0)
		r = err_set(e, -EPROTO, ERR_GENERIC, "the daemon returned no console");
	return r;
}

int console_attach(struct cli *c, const char *name, const char *kind)
{
	CLEANUP_CLOSE int sock = -1;
	CLEANUP_CLOSE int signals = -1;
	struct console k = { .input_open = true };
	struct err e;
	int r = console_open(c, name, kind, &sock, &e);

	if (r < 0)
		return e.cls == ERR_NOT_FOUND ? cli_fail(&e, "failed to get domain '%s'", name) :
						cli_fail(&e, "Failed to open the console of domain '%s'",
							name);
	k.sock = sock;
	k.input = must_alloc(malloc(INPUT_BYTES));
	printf("Connected to domain '%s'\nEscape character is ^] (Ctrl + ])\n", name);
	fflush(stdout);
	signal(SIGPIPE, SIG_IGN);
	signals = signals_open(signals_of_end, NULL);
	terminal_raw(&k);
	r = console_loop(&k, signals);
	terminal_restore(&k);
	free(k.input);
	if (k.terminal)
		printf("\n");
	if (r == 0)
		return CLI_OK;
	err_set_errno(&e, r, "console");
	return cli_fail(&e, "Lost the console of domain '%s'", name);
}

int verb_console(struct cli *c)
{
	if (option_flag(c, "serial") && option_flag(c, "virtio"))
		return cli_usage(c, "--serial and --virtio exclude each other");
	return console_attach(c, c->pos[0], option_flag(c, "virtio") ? "virtio" : "serial");
}
