#include "tools/web/links.h"
#include "api/wire/client.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static int delegate_gone(struct err *e)
{
	return err_set(e, -EPIPE, ERR_PERMISSION, "your login has ended; log in again");
}

/* Read the delegate's answer. Returns 0; -errno with its sentence. */
static int answer_read(int fd, struct err *e)
{
	struct link_answer a;
	ssize_t n;

	do {
		n = recv(fd, &a, sizeof(a), MSG_WAITALL);
	} while (n < 0 && errno == EINTR);
	if (n != sizeof(a))
		return delegate_gone(e);
	if (!a.r)
		return 0;
	if (a.r > 0 || a.cls >= ERR_CLASS_COUNT || !memchr(a.why, 0, sizeof(a.why)))
		return err_set(e, -EPROTO, ERR_GENERIC, "the process of this login gave a malformed answer");
	return err_set(e, a.r, a.cls, "%s", a.why);
}

int links_open(const struct links *l, enum link_kind kind, const char *vm, int *ret_fd, struct err *e)
{
	struct link_open q = { .kind = kind };
	CLEANUP_CLOSE int here = -1, there = -1;
	int sv[2], r;

	if (l->delegate < 0)
		return link_connect(l->daemon, kind, vm, ret_fd, e);
	if (snprintf(q.vm, sizeof(q.vm), "%s", vm) >= (int)sizeof(q.vm))
		return err_set(e, -ENOENT, ERR_NOT_FOUND, "there is no VM of such a long name");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return err_set_errno(e, -errno, "cannot make a socket");
	here = sv[0];
	there = sv[1];
	if (channel_send(l->delegate, LINK_VERSION, LINK_OPEN, 0, &q, sizeof(q), &there, 1) < 0)
		return delegate_gone(e);
	close(steal_fd(&there)); /* so that the delegate's end is seen */
	r = answer_read(here, e);
	if (!r)
		*ret_fd = steal_fd(&here);
	return r;
}

int links_client(const struct links *l, struct client **ret_c, struct err *e)
{
	int fd, r;

	if (l->delegate < 0)
		return client_connect(l->daemon, ret_c, e);
	r = links_open(l, LINK_DAEMON, "", &fd, e);
	return r < 0 ? r : client_attach(fd, ret_c, e);
}
