/* console: connect the terminal to a console of the guest, byte for byte. */
#include "tools/cairn/cli.h"
#include "api/wire/json.h"
#include "base/cleanup.h"
#include "base/file.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>

#define ESCAPE 0x1d /* Ctrl-] */

struct console {
	int sock;
	bool terminal, input_open;
	struct termios saved;
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

/* Move input to the guest. Returns 1 to detach; 0; -errno. */
static int input_move(struct console *k)
{
	char buf[4096], *escape;
	ssize_t n = read(0, buf, sizeof(buf));

	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	if (!n) {
		/* At the end of piped input, keep showing the guest's output. */
		k->input_open = false;
		return k->terminal ? 1 : 0;
	}
	escape = k->terminal ? memchr(buf, ESCAPE, (size_t)n) : NULL;
	if (escape)
		n = escape - buf;
	if (write_full(k->sock, buf, (size_t)n) < 0)
		return 1;
	return escape != NULL;
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
		struct pollfd p[3] = { { .fd = k->sock, .events = POLLIN },
			{ .fd = k->input_open ? 0 : -1, .events = POLLIN },
			{ .fd = signals, .events = POLLIN } };

		if (poll(p, 3, -1) < 0 && errno != EINTR)
			return -errno;
		if (p[0].revents)
			r = output_move(k);
		if (!r && p[1].revents)
			r = input_move(k);
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
	sigset_t set;
	struct err e;
	int r = console_open(c, name, kind, &sock, &e);

	if (r < 0)
		return e.cls == ERR_NOT_FOUND ? cli_fail(&e, "failed to get domain '%s'", name) :
						cli_fail(&e, "Failed to open the console of domain '%s'",
							name);
	k.sock = sock;
	printf("Connected to domain '%s'\nEscape character is ^] (Ctrl + ])\n", name);
	fflush(stdout);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &set, SFD_CLOEXEC);
	terminal_raw(&k);
	r = console_loop(&k, signals);
	terminal_restore(&k);
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
