#include "vmm/machine/display_link.h"
#include "base/display.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "devices/legacy/bochs_display.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_screen.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_PER_TURN 64

struct display_link {
	struct machine *m;
	struct loop_watch *watch;
	int fd; /* owned; -1: the process has ended */
};

static void link_close(struct display_link *l)
{
	loop_unwatch(l->watch);
	l->watch = NULL;
	if (l->fd < 0)
		return;
	close(l->fd);
	l->fd = -1;
	machine_input_release(l->m);
}

static void link_ready(void *opaque, unsigned revents)
{
	struct display_link *l = opaque;
	struct input_event ev;
	ssize_t n = 1;

	(void)revents;
	for (unsigned i = 0; i < EVENTS_PER_TURN && n > 0; i++) {
		n = recv(l->fd, &ev, sizeof(ev), MSG_DONTWAIT | MSG_TRUNC);
		if (n == (ssize_t)sizeof(ev) && input_event_ok(&ev))
			machine_input(l->m, &ev);
		else if (n > 0)
			n = -EPROTO;
		else if (n < 0)
			n = errno == EAGAIN || errno == EINTR ? 0 : -errno;
		else
			n = -EPIPE;
	}
	if (n >= 0)
		return;
	log_warn("screen0", "the process that shows the screen %s; the VM's next start begins a new one",
		n == -EPROTO ? "sent malformed input" : "has ended");
	link_close(l);
}

static int memory_send(int fd, const struct machine *m)
{
	struct display_hello hello = { .version = DISPLAY_HELLO_VERSION, .bytes = BOCHS_DISPLAY_BYTES };
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { &hello, sizeof(hello) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	int memory = bochs_display_fd(m->screen);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &memory, sizeof(int));
	return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

int display_link_new(struct machine *m, int fd, struct display_link **ret, struct err *e)
{
	struct display_link *l;
	int r;

	if (!m->screen)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM has no screen");
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_set_errno(e, -ENOMEM, "screen");
	*l = (struct display_link){ .m = m, .fd = -1 };
	r = memory_send(fd, m);
	if (!r)
		r = loop_watch(m->host.loop, fd, POLLIN, link_ready, l, &l->watch);
	if (r < 0) {
		free(l);
		return err_set_errno(e, r, "the process that shows the screen");
	}
	l->fd = fd;
	*ret = l;
	return 0;
}

void display_link_free(struct display_link *l)
{
	if (l)
		link_close(l);
	free(l);
}

int display_link_fd(const struct display_link *l)
{
	return l->fd;
}
