/* fake_consoles: the consoles of fake_vm; each has one client, and echoes its input. */
#ifndef CAIRN_TESTS_HELPERS_FAKE_CONSOLES_H
#define CAIRN_TESTS_HELPERS_FAKE_CONSOLES_H

#include "vmm/vm_msg.h"

#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONSOLES_MAX 8

struct fake_console {
	int fd; /* -1: free */
	uint32_t user; /* 1 + uid */
};

static void consoles_attach(struct fake_console *list, struct channel_msg *m)
{
	static const char banner[] = "fake guest\r\n";
	const struct vm_console *want = m->body;

	for (unsigned i = 0; i < CONSOLES_MAX && m->nfds; i++) {
		if (list[i].fd >= 0)
			continue;
		list[i].fd = m->fds[0];
		list[i].user = m->head.body_bytes == sizeof(*want) ? want->user : 0;
		if (send(m->fds[0], banner, sizeof(banner) - 1, MSG_NOSIGNAL) < 0)
			perror("console");
		return;
	}
	channel_msg_close_fds(m);
}

static void console_close(struct fake_console *c)
{
	close(c->fd);
	c->fd = -1;
}

/* By user only; the real process looks at groups, too. */
static void consoles_end(struct fake_console *list, const struct vm_console_end *stay)
{
	for (unsigned i = 0; i < CONSOLES_MAX && !(stay->nusers & VM_CONSOLE_END_AGENTS); i++) {
		uint32_t n = stay->nusers;

		while (n && stay->ids[n - 1] + 1 != list[i].user)
			n--;
		if (!n && list[i].fd >= 0)
			console_close(&list[i]);
	}
}

/* Echo input, as the guest. */
static void console_echo(struct fake_console *c)
{
	char buf[512];
	ssize_t n = read(c->fd, buf, sizeof(buf));

	if (n <= 0 || send(c->fd, buf, (size_t)n, MSG_NOSIGNAL) < 0)
		console_close(c);
}

#endif
