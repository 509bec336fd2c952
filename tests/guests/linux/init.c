/* Startup of the guest, its command port, and the loop that serves the port. One thread; only
 * run-cpus, dirty-ram and agent start others. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>

#define LINE_BYTES 4096
#define ANSWER_BYTES (1024 * 1024)
#define ARGS_MAX 32
#define PORT_NAME "org.cairn.test"

struct port {
	int fd;
	char line[LINE_BYTES];
	size_t used;
	int overlong; /* dropping the rest of a line that was too long */
};

uint8_t guest_io[GUEST_IO_BYTES] __attribute__((aligned(4096)));

static char answer[ANSWER_BYTES];
static size_t answer_used;
static char sentence[256];

void say_bytes(const void *data, size_t len)
{
	if (len > ANSWER_BYTES - answer_used)
		len = ANSWER_BYTES - answer_used;
	memcpy(answer + answer_used, data, len);
	answer_used += len;
}

void say(const char *fmt, ...)
{
	size_t room = ANSWER_BYTES - answer_used;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(answer + answer_used, room, fmt, ap);
	va_end(ap);
	answer_used += (size_t)n < room ? (size_t)n : room;
}

int fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	return -1;
}

int say_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	while ((n = read(fd, guest_io, sizeof(guest_io))) > 0)
		say_bytes(guest_io, (size_t)n);
	close(fd);
	return n < 0 ? -errno : 0;
}

const char *line_of(char *buf, size_t size, const char *fmt, ...)
{
	char path[512];
	va_list ap;
	ssize_t n = 0;
	int fd;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, buf, size - 1);
		close(fd);
	}
	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

int number(const char *text, uint64_t *ret)
{
	char *end;
	uint64_t v;
	int shift = 0;

	errno = 0;
	v = strtoull(text, &end, 0);
	if (end == text || errno || *text == '-')
		return fail("'%s' is not a number", text);
	if (*end == 'K' || *end == 'M' || *end == 'G') {
		shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30;
		end++;
	}
	if (*end || v > UINT64_MAX >> shift)
		return fail("'%s' is not a number (decimal or 0x, with K, M or G)", text);
	*ret = v << shift;
	return 0;
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void console_line(const char *text)
{
	char buf[256];
	int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	int n = snprintf(buf, sizeof(buf), "%s\n", text);

	if (fd < 0)
		return;
	if (write(fd, buf, (size_t)n) < 0) {
		/* There is no other place to report this error. */
	}
	close(fd);
}

static int help_run(int argc, char **argv);

static const struct command help_commands[] = {
	{"help", 0, 0, help_run, "help"},
	{0},
};

static const struct command *const tables[] = {
	help_commands, file_commands, disk_commands, ram_commands, info_commands, power_commands,
	agent_commands, net_commands, vectors_commands,
};

static int help_run(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (size_t t = 0; t < sizeof(tables) / sizeof(*tables); t++)
		for (const struct command *c = tables[t]; c->name; c++)
			say("%s\n", c->usage);
	return 0;
}

static const struct command *command_find(const char *name)
{
	for (size_t t = 0; t < sizeof(tables) / sizeof(*tables); t++)
		for (const struct command *c = tables[t]; c->name; c++)
			if (!strcmp(c->name, name))
				return c;
	return NULL;
}

/* Split a line. `write` and `echo` take the rest of the line as one argument, so the last slot
 * keeps its spaces. */
static int line_split(char *line, char **argv, int slots)
{
	int n = 0;

	for (;;) {
		line += strspn(line, " \t");
		if (!*line)
			return n;
		argv[n++] = line;
		if (n == slots)
			return n;
		line += strcspn(line, " \t");
		if (*line)
			*line++ = '\0';
	}
}

static void command_run(char *line)
{
	char *argv[ARGS_MAX + 2] = {0}, *rest;
	const struct command *c;
	int argc, rc;

	rest = line + strcspn(line, " \t");
	if (*rest)
		*rest++ = '\0';
	answer_used = 0;
	sentence[0] = '\0';
	c = command_find(line);
	if (!c) {
		say("error: no command '%s'; 'help' lists them\n", line);
		return;
	}
	argv[0] = line;
	argc = c->max_args ? line_split(rest, argv + 1, c->max_args) : 0;
	if (argc < c->min_args) {
		say("error: usage: %s\n", c->usage);
		return;
	}
	rc = c->run(argc + 1, argv);
	/* The last line has to start at column 0, also after a file without a final newline. */
	if (answer_used && answer[answer_used - 1] != '\n')
		say("\n");
	if (rc == 0)
		say("ok\n");
	else
		say("error: %s\n", rc == -1 && sentence[0] ? sentence : strerror(-rc));
}

static void port_send(struct port *p, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(p->fd, data, len);

		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			struct pollfd pfd = {.fd = p->fd, .events = POLLOUT};

			poll(&pfd, 1, 100);
		} else if (errno != EINTR) {
			return; /* the host closed the port: drop the answer */
		}
	}
}

/* Read available input and run each complete line. */
static void port_read(struct port *p)
{
	ssize_t n = read(p->fd, p->line + p->used, sizeof(p->line) - p->used);
	char *nl;

	if (n <= 0) {
		usleep(20000); /* a port that the host has not opened is always readable */
		return;
	}
	p->used += (size_t)n;
	while ((nl = memchr(p->line, '\n', p->used))) {
		size_t len = (size_t)(nl - p->line) + 1;

		*nl = '\0';
		if (nl > p->line && nl[-1] == '\r')
			nl[-1] = '\0';
		if (!p->overlong && p->line[0]) {
			command_run(p->line);
			port_send(p, answer, answer_used);
		}
		p->overlong = 0;
		memmove(p->line, p->line + len, p->used - len);
		p->used -= len;
	}
	if (p->used == sizeof(p->line)) {
		static const char text[] = "error: line too long\n";

		if (!p->overlong)
			port_send(p, text, sizeof(text) - 1);
		p->overlong = 1;
		p->used = 0;
	}
}

/* Find the virtio port org.cairn.test as a path in /dev. */
static int vport_find(char *path, size_t size)
{
	DIR *d = opendir("/sys/class/virtio-ports");
	struct dirent *e;
	int found = 0;

	while (d && !found && (e = readdir(d))) {
		char name[64];

		line_of(name, sizeof(name), "/sys/class/virtio-ports/%s/name", e->d_name);
		if (!strcmp(name, PORT_NAME)) {
			snprintf(path, size, "/dev/%s", e->d_name);
			found = 1;
		}
	}
	if (d)
		closedir(d);
	return found;
}

/* Open a port. kind: vport, hvc0, ttyS0, or terminal: ttyS0 for people, with echo, line editing and CR as line end. */
static int port_try(const char *kind)
{
	bool is_terminal = !strcmp(kind, "terminal");
	char path[300] = "/dev/ttyS0";
	struct termios t;
	int fd;

	if (!strcmp(kind, "vport") && !vport_find(path, sizeof(path)))
		return -1;
	if (!strcmp(kind, "hvc0"))
		strcpy(path, "/dev/hvc0");
	fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0 && !tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		t.c_oflag = is_terminal ? OPOST | ONLCR : 0;
		if (is_terminal) {
			t.c_iflag |= ICRNL;
			t.c_lflag |= ICANON | ECHO | ECHOE | ECHOK;
		}
		t.c_cflag |= CLOCAL | CREAD;
		tcsetattr(fd, TCSANOW, &t);
	}
	return fd;
}

/* A virtio console announces its ports by messages, which may arrive after init starts. Wait for
 * them only if there is such a device. */
static int vconsole_present(void)
{
	DIR *d = opendir("/sys/bus/virtio/drivers/virtio_console");
	struct dirent *e;
	int found = 0;

	while (d && (e = readdir(d)))
		found |= !strncmp(e->d_name, "virtio", 6);
	if (d)
		closedir(d);
	return found;
}

static int port_open(const char *want)
{
	for (int tries = 0; tries < 250; tries++) {
		int fd = -1;

		if (want[0]) {
			fd = port_try(want);
		} else {
			fd = port_try("vport");
			/* hvc0 may appear before the named port. */
			if (fd < 0 && tries > 10)
				fd = port_try("hvc0");
			if (fd < 0 && !vconsole_present())
				fd = port_try("ttyS0");
		}
		if (fd >= 0)
			return fd;
		usleep(20000);
	}
	return port_try("ttyS0");
}

static void cmdline_option(const char *key, char *ret, size_t size)
{
	char text[2048], *p;

	line_of(text, sizeof(text), "/proc/cmdline");
	ret[0] = '\0';
	for (p = strtok(text, " "); p; p = strtok(NULL, " "))
		if (!strncmp(p, key, strlen(key)))
			snprintf(ret, size, "%s", p + strlen(key));
}

static void mounts_make(void)
{
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	/* Tests may mount on /mnt; /tmp is writable without a disk. */
	mkdir("/mnt", 0755);
	mkdir("/tmp", 01777);
}

int main(void)
{
	struct port port = {0};
	struct pollfd pfd[2];
	char want[32];

	signal(SIGPIPE, SIG_IGN);
	mounts_make();
	cmdline_option("cairn.port=", want, sizeof(want));
	port.fd = port_open(want);
	pfd[0] = (struct pollfd){.fd = port.fd, .events = POLLIN};
	pfd[1] = (struct pollfd){.fd = button_open(), .events = POLLIN};
	/* Print this last, so that a reader can send a command at once. */
	console_line("cairn-guest: ready");
	for (;;) {
		poll(pfd, 2, -1);
		if (pfd[1].revents)
			button_read(pfd[1].fd);
		if (pfd[0].revents)
			port_read(&port);
	}
}
