/* fake_vm: a VM process without a VM, for tests of the control plane: it speaks vm_msg,
 * and fails in the way its kernel command line names. Started like cairn-vm.
 *
 * Words of the command line (boot.cmdline of the definition):
 *   die-at-config kill-at-config silent-at-config refuse garbage-at-config
 *   kill-after=MS garbage-after=MS close-after=MS off-after=MS panic-after=MS
 *   exit-after=MS:VALUE (debug exit)  io-error-after=MS  crash-after=MS (preserved)
 *   deaf (ignores the power button)  stubborn (ignores quit)  event-last (replies first)
 *   mute (answers nothing once it runs)  rude-after=MS (panics, in bytes that are no text)
 * FAKE_VM=die-at-start in the environment: ends before it accepts. */
#include "base/err.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONSOLES_MAX 8
static const char banner[] = "fake guest\r\n";

struct fake {
	int listening, sock;
	struct vm_config config;
	int end_fd;
	bool configured, paused;
	enum vm_phase phase;
	enum vm_reason reason;
	uint64_t start_ms, due_ms; /* 0: nothing due */
	const char *due;
	int consoles[CONSOLES_MAX];
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static const char *word(const struct fake *f, const char *name)
{
	const char *at = strstr(f->config.cmdline, name);

	return at ? at + strlen(name) : NULL;
}

static void reply(struct fake *f, uint64_t seq, int error, enum err_class cls, const char *msg)
{
	struct vm_reply r = { .error = error, .cls = cls };

	snprintf(r.msg, sizeof(r.msg), "%s", msg);
	channel_send(f->sock, VM_MSG_VERSION, VM_MSG_REPLY, seq, &r, sizeof(r), NULL, 0);
}

static void event(struct fake *f, struct vm_event ev)
{
	ev.phase = (uint8_t)f->phase;
	if (ev.kind == VM_EVENT_PHASE && ev.phase == VM_PHASE_ENDED && f->end_fd >= 0 &&
		pwrite(f->end_fd, &ev, sizeof(ev), 0) < 0)
		perror("end");
	channel_send(f->sock, VM_MSG_VERSION, VM_MSG_EVENT, 0, &ev, sizeof(ev), NULL, 0);
}

static void phase(struct fake *f, enum vm_phase p, enum vm_reason r, int64_t value,
	const char *detail)
{
	struct vm_event ev = { .kind = VM_EVENT_PHASE, .reason = (uint8_t)r, .value = value };

	snprintf(ev.detail, sizeof(ev.detail), "%s", detail);
	f->phase = p;
	f->reason = r;
	event(f, ev);
}

static void end(struct fake *f, enum vm_reason r, int64_t value, const char *detail, int status)
{
	phase(f, VM_PHASE_ENDED, r, value, detail);
	exit(status);
}

static void garbage(struct fake *f)
{
	char junk[300];

	memset(junk, 0xa5, sizeof(junk));
	send(f->sock, junk, sizeof(junk), MSG_NOSIGNAL);
}

/* What the command line asked for is due. */
static void due(struct fake *f)
{
	const char *what = f->due;

	f->due_ms = 0;
	if (!strcmp(what, "kill-after="))
		raise(SIGKILL);
	else if (!strcmp(what, "garbage-after="))
		garbage(f);
	else if (!strcmp(what, "close-after="))
		close(f->sock), f->sock = -1;
	else if (!strcmp(what, "off-after="))
		end(f, VM_REASON_GUEST_SHUTDOWN, 0, "", VM_EXIT_OK);
	else if (!strcmp(what, "panic-after="))
		end(f, VM_REASON_GUEST_PANICKED, 1, "pvpanic", VM_EXIT_PANICKED);
	else if (!strcmp(what, "rude-after="))
		end(f, VM_REASON_GUEST_PANICKED, 1, "\x1b[2J\xff\xc3(", VM_EXIT_PANICKED);
	else if (!strcmp(what, "exit-after=")) {
		const char *colon = strchr(word(f, what), ':');

		end(f, VM_REASON_DEBUG_EXIT, colon ? atoi(colon + 1) : 0, "",
			colon ? atoi(colon + 1) : 0);
	} else if (!strcmp(what, "crash-after="))
		phase(f, VM_PHASE_CRASHED, VM_REASON_TRIPLE_FAULT, 0, "rip 0x1000");
	else if (!strcmp(what, "io-error-after=")) {
		struct vm_event ev = { .kind = VM_EVENT_IO_ERROR, .value = ENOSPC, .is_write = 1,
			.device = "vda", .detail = "stop" };

		event(f, ev);
		phase(f, VM_PHASE_PAUSED, VM_REASON_IO_ERROR, ENOSPC, "vda: No space left on device");
	}
}

static void schedule(struct fake *f)
{
	static const char *const words[] = { "kill-after=", "garbage-after=", "close-after=",
		"off-after=", "panic-after=", "exit-after=", "crash-after=", "io-error-after=",
		"rude-after=" };

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (word(f, words[i])) {
			f->due = words[i];
			f->due_ms = now_ms() + (uint64_t)atoi(word(f, words[i])) + 1;
		}
}

static void configure(struct fake *f, struct channel_msg *m)
{
	struct err e;

	memcpy(&f->config, m->body, sizeof(f->config));
	if (vm_config_check(&f->config, m->nfds, &e) < 0) {
		reply(f, m->head.seq, -EINVAL, e.cls, e.msg);
		exit(VM_EXIT_CONFIG);
	}
	f->end_fd = f->config.end_fd == VM_NO_FD ? -1 : m->fds[f->config.end_fd];
	fprintf(stderr, "fake_vm %s: %u files\n", f->config.name, m->nfds);
	if (word(f, "die-at-config"))
		exit(5);
	if (word(f, "kill-at-config"))
		raise(SIGKILL);
	if (word(f, "garbage-at-config"))
		garbage(f);
	if (word(f, "silent-at-config"))
		return;
	if (word(f, "refuse")) {
		reply(f, m->head.seq, -EBUSY, ERR_BUSY, "vda: is locked by another process");
		exit(VM_EXIT_CONFIG);
	}
	f->configured = true;
	f->phase = f->config.start_paused ? VM_PHASE_PAUSED : VM_PHASE_RUNNING;
	f->reason = VM_REASON_BOOTED;
	reply(f, m->head.seq, 0, 0, "");
	schedule(f);
}

static void answer_query(struct fake *f, uint64_t seq)
{
	struct vm_info info = { .phase = (uint8_t)f->phase, .reason = (uint8_t)f->reason,
		.host_kind = VM_HOST_PVM, .vcpus = f->config.vcpus, .ram_bytes = f->config.ram_bytes };

	info.vcpus_halted = word(f, "idle") ? info.vcpus : 0;
	for (unsigned i = 0; i < f->config.vcpus; i++)
		info.vcpu_ns[i] = 1500000000;
	channel_send(f->sock, VM_MSG_VERSION, VM_MSG_INFO, seq, &info, sizeof(info), NULL, 0);
}

static void attach(struct fake *f, struct channel_msg *m)
{
	for (unsigned i = 0; i < CONSOLES_MAX && m->nfds; i++)
		if (f->consoles[i] < 0) {
			f->consoles[i] = m->fds[0];
			if (send(m->fds[0], banner, sizeof(banner) - 1, MSG_NOSIGNAL) < 0)
				perror("console");
			return;
		}
	channel_msg_close_fds(m);
}

static void handle(struct fake *f, struct channel_msg *m)
{
	bool late = word(f, "event-last");

	if (f->configured && word(f, "mute"))
		return;
	switch (m->head.type) {
	case VM_MSG_CONFIG:
		configure(f, m);
		return;
	case VM_MSG_QUERY:
		answer_query(f, m->head.seq);
		return;
	case VM_MSG_STOP:
	case VM_MSG_CONT:
		if (late)
			reply(f, m->head.seq, 0, 0, "");
		phase(f, m->head.type == VM_MSG_STOP ? VM_PHASE_PAUSED : VM_PHASE_RUNNING,
			VM_REASON_USER, 0, "");
		if (late)
			return;
		break;
	case VM_MSG_POWERDOWN:
		event(f, (struct vm_event){ .kind = VM_EVENT_POWERDOWN });
		if (!word(f, "deaf")) {
			f->due = "off-after=";
			f->due_ms = now_ms() + 20;
		}
		break;
	case VM_MSG_RESET:
		event(f, (struct vm_event){ .kind = VM_EVENT_RESET, .value = 0 });
		break;
	case VM_MSG_CONSOLE:
		attach(f, m);
		break;
	case VM_MSG_QUIT:
		if (word(f, "stubborn"))
			return;
		reply(f, m->head.seq, 0, 0, "");
		end(f, VM_REASON_USER, 0, "", VM_EXIT_OK);
	}
	reply(f, m->head.seq, 0, 0, "");
}

static void receive(struct fake *f)
{
	static char buf[CHANNEL_BODY_MAX] __attribute__((aligned(16)));
	struct channel_msg m;
	int r = channel_recv(f->sock, VM_MSG_VERSION, vm_msg_to_vm, VM_MSG_TYPE_COUNT, buf, &m);

	if (r == 1) {
		handle(f, &m);
		return;
	}
	close(f->sock);
	f->sock = -1;
	if (f->listening < 0)
		exit(VM_EXIT_OK); /* `cairn run` sends one message and is gone */
}

/* The guest: an echo. */
static void echo(struct fake *f, unsigned i)
{
	char buf[512];
	ssize_t n = read(f->consoles[i], buf, sizeof(buf));

	if (n <= 0 || send(f->consoles[i], buf, (size_t)n, MSG_NOSIGNAL) < 0) {
		close(f->consoles[i]);
		f->consoles[i] = -1;
	}
}

static void turn(struct fake *f)
{
	struct pollfd p[2 + CONSOLES_MAX] = { { .fd = f->listening, .events = POLLIN },
		{ .fd = f->sock, .events = POLLIN } };
	uint64_t now = now_ms();
	int left = f->due_ms ? (int)(f->due_ms > now ? f->due_ms - now : 0) : -1;

	for (unsigned i = 0; i < CONSOLES_MAX; i++)
		p[2 + i] = (struct pollfd){ .fd = f->consoles[i], .events = POLLIN };
	if (poll(p, 2 + CONSOLES_MAX, left) < 0)
		exit(VM_EXIT_FAILURE);
	if (f->due_ms && now_ms() >= f->due_ms)
		due(f);
	if (p[0].revents) {
		int fd = accept4(f->listening, NULL, NULL, SOCK_CLOEXEC);

		/* A newer connection replaces the earlier one. */
		if (fd >= 0 && f->sock >= 0)
			close(f->sock);
		f->sock = fd >= 0 ? fd : f->sock;
		return;
	}
	if (p[1].revents && f->sock >= 0)
		receive(f);
	for (unsigned i = 0; i < CONSOLES_MAX; i++)
		if (p[2 + i].revents)
			echo(f, i);
}

int main(int argc, char **argv)
{
	struct fake f = { .listening = -1, .sock = -1, .end_fd = -1 };
	const char *how = getenv("FAKE_VM");

	if (how && !strcmp(how, "die-at-start"))
		return 9;
	if (argc != 3)
		return VM_EXIT_CONFIG;
	if (!strcmp(argv[1], "--listen"))
		f.listening = atoi(argv[2]);
	else
		f.sock = atoi(argv[2]);
	for (unsigned i = 0; i < CONSOLES_MAX; i++)
		f.consoles[i] = -1;
	for (;;)
		turn(&f);
}
